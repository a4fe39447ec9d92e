"""The modes of each operation: every combination of its fields of few values, from the table."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product

from systol_hw.isa.encoding import Field, Operation
from systol_hw.isa.operations import OPERATIONS

MOST_VALUES = 4
"""Legal values that a field has at most to count as a mode."""


def mode_values(field: Field) -> range:
    """The legal values of `field` if it is a mode, otherwise nothing."""
    if field.name == "drain" or field.signed or isinstance(field.maximum, str):
        return range(0)
    low = field.minimum or 0
    high = (1 << field.width) - 1 if field.maximum is None else field.maximum
    return range(low, high + 1) if 1 < high + 1 - low <= MOST_VALUES else range(0)


@cache
def _mode_fields(operation: Operation) -> tuple[Field, ...]:
    return tuple(field for field in operation.fields if mode_values(field))


def _name(operation: Operation, values: Iterable[int]) -> str:
    settings = zip(_mode_fields(operation), values, strict=True)
    return f"mode {operation.name} " + " ".join(f"{f.name}={value}" for f, value in settings)


def mode_names() -> Iterator[str]:
    """Every mode of every operation that has some."""
    for operation in OPERATIONS:
        fields = _mode_fields(operation)
        if fields:
            for values in product(*(mode_values(field) for field in fields)):
                yield _name(operation, values)


_MASKS = {
    operation.opcode: sum(
        ((1 << field.width) - 1) << field.lsb for field in _mode_fields(operation)
    )
    for operation in OPERATIONS
}
_OPERATIONS = {operation.opcode: operation for operation in OPERATIONS}
_NAMES: dict[tuple[int, int], str] = {}


def mode_of(data: bytes) -> str | None:
    """The mode of an encoded instruction that decodes; None if its operation has none."""
    word = int.from_bytes(data, "little")
    opcode = word & 0xFF
    mask = _MASKS[opcode]
    if not mask:
        return None
    key = (opcode, word & mask)
    if key not in _NAMES:
        operation = _OPERATIONS[opcode]
        _NAMES[key] = _name(operation, (f.extract(word) for f in _mode_fields(operation)))
    return _NAMES[key]
