"""Generates docs/isa.md from the instruction table and the fault table."""

import inspect
import itertools
from collections.abc import Iterator, Sequence

from systol_hw.arch import INSTRUCTION_BYTES
from systol_hw.isa.encoding import Field, Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.tables.faults import FaultCause, Unit

_HEADER_FIELDS = ("wait", "signal", "drain")

INTRODUCTION = f"""\
# The instruction set

<!-- Generated from hw/systol_hw by `python -m systol.docs_check --write`: do not edit. -->

An instruction is {INSTRUCTION_BYTES} bytes, one little-endian number: bit 0 is the lowest bit of
the first byte. Bits 0..7 are the opcode. Bits that no field names are reserved and must be zero.
[timing.md](timing.md) says what happens in which cycle, and which programs are valid.

In assembler, an instruction is a line `name field=value ...`; fields that are left out have their
defaults. `range` is what a program may say without the fault ILLEGAL_INSTRUCTION; a name in it is a
parameter of the machine (`Arch`). What the table declares and a machine does not do would be marked
*not built yet*, and fault UNSUPPORTED: there is nothing of the kind. [Beside the TPU v1](tpu-v1.md)
compares operation by operation.

"""

HEADER = """\
## Fields of every unit's instructions

Instructions of LOAD, STORE, WEIGHTS, MATRIX and VECTOR begin with these fields. A mask has one bit
for each unit: bit `unit - 1`. In assembler it is a list of names: `wait=load,vector`.

"""


def isa_page() -> str:
    """The text of docs/isa.md."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield INTRODUCTION
    yield _summary()
    yield HEADER
    sample = next(o for o in OPERATIONS if o.unit is not Unit.CONTROL)
    yield _fields([f for f in sample.fields if f.name in _HEADER_FIELDS], ranges=False)
    yield "A unit's own bit in its masks is an illegal instruction.\n\n"
    for unit, operations in itertools.groupby(OPERATIONS, key=lambda o: o.unit):
        yield f"## {unit.name}\n\n"
        for operation in operations:
            yield _operation(operation)
    yield _faults()


def _summary() -> str:
    rows = [
        (
            f"[`{o.name}`](#{o.name})",
            f"`{o.opcode:#04x}`",
            o.unit.name,
            o.tpu_v1,
            "" if o.supported else "not built yet",
        )
        for o in OPERATIONS
    ]
    table = markdown_table(("operation", "opcode", "unit", "TPU v1 counterpart", ""), rows)
    return f"## Operations\n\n{table}\n"


def _operation(operation: Operation) -> str:
    own = [field for field in operation.fields if field.name not in _HEADER_FIELDS]
    state = "" if operation.supported else " *Not built yet.*"
    text = f"### {operation.name}\n\n"
    text += f"Opcode `{operation.opcode:#04x}`. TPU v1: {operation.tpu_v1}.{state}\n\n"
    text += f"{_prose(operation.doc)}\n\n"
    return text + (_fields(own) if own else "")


def _prose(doc: str) -> str:
    """A table entry's `doc` as Markdown: names with `_` and products with `*` are no emphasis."""
    text = " ".join(doc.split())
    for character in "*_<[":
        text = text.replace(character, f"\\{character}")
    return text


def _fields(fields: Sequence[Field], *, ranges: bool = True) -> str:
    rows = []
    for field in fields:
        note = field.doc
        if field.choices:
            note += f": {', '.join(f'{int(c)} = {c.text}' for c in field.choices)}"
        if field.supported_maximum is not None:
            note += f" (above {field.supported_maximum}: not built yet)"
        kind = "signed" if field.signed else "unsigned"
        row = [f"`{field.name}`", f"{field.lsb}..{field.lsb + field.width - 1}", kind]
        rows.append((*row, *([_range(field)] if ranges else []), str(field.default), note))
    headings = ["field", "bits", "", *(["range"] if ranges else []), "default", "meaning"]
    return markdown_table(headings, rows) + "\n"


def _range(field: Field) -> str:
    low = -(1 << (field.width - 1)) if field.signed else 0
    high: int | str = (1 << (field.width - field.signed)) - 1
    if field.minimum is not None:
        low = field.minimum
    if field.maximum is not None:
        high = f"`{field.maximum}`" if isinstance(field.maximum, str) else int(field.maximum)
    return f"{_power(low)}..{high if isinstance(high, str) else _power(high)}"


def _power(value: int) -> str:
    """A bound as people write it: large ones as powers of two."""
    if value > 1 << 12 and value & (value + 1) == 0:
        return f"2^{value.bit_length()}-1"
    if value < -(1 << 12) and value & -value == -value:
        return f"-2^{(-value).bit_length() - 1}"
    return str(value)


def _faults() -> str:
    docs = _member_docs()
    text = (
        "## Faults\n\nA fault stops the machine. It reports cause, unit, program counter and "
        "cycle, which are equal on every executor that counts cycles; memories are then undefined. "
        "Data never causes a fault.\n\n"
    )
    rows = [(str(cause.value), f"`{cause.name}`", docs[cause.name]) for cause in FaultCause]
    text += markdown_table(("code", "cause", "meaning"), rows)
    units = ", ".join(f"{unit.value} {unit.name}" for unit in Unit)
    return text + f"\nUnit numbers: {units}.\n"


def _member_docs() -> dict[str, str]:
    """The strings below the members of `FaultCause`, which only the source holds."""
    docs: dict[str, str] = {}
    name = ""
    for line in inspect.getsource(FaultCause).splitlines():
        text = line.strip()
        if " = " in text and text.split(" = ")[0] in FaultCause.__members__:
            name = text.split(" = ")[0]
        elif name:
            docs[name] = f"{docs.get(name, '')} {text.strip(chr(34))}".strip()
    return docs


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
