"""What an entry of the instruction table means: operations and their bit fields."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from systol_hw.arch import INSTRUCTION_BYTES, Arch
from systol_hw.isa.choices import Choice
from systol_hw.tables.faults import Unit

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES


@dataclass(frozen=True, kw_only=True)
class Field:
    """One bit field of an operation.

    Parameters
    ----------
    name
        Name in the assembler and as a key of `Instruction.fields`.
    lsb, width
        Place: bits `lsb .. lsb + width - 1` of the 512.
    signed
        Two's complement if true.
    minimum, maximum
        Legal range; `maximum` may name an integer attribute of `Arch` (such as `"rows"`). None
        stands for what the width holds. Outside it the machine faults ILLEGAL_INSTRUCTION.
    supported_maximum
        Greatest value that the machines built so far support; above it (and within the legal
        range) they fault UNSUPPORTED.
    forbidden_bits
        Bits of the value that must be zero (a unit's own bit in its token masks); otherwise the
        machine faults ILLEGAL_INSTRUCTION.
    default
        Value that the assembler supplies and the disassembler leaves out.
    doc
        Meaning and unit.
    values
        What each value stands for, where they are a few names; those above `maximum` are not this
        operation's.
    """

    name: str
    lsb: int
    width: int
    signed: bool = False
    minimum: int | None = None
    maximum: int | str | None = None
    supported_maximum: int | None = None
    forbidden_bits: int = 0
    default: int = 0
    doc: str
    values: type[Choice] | None = None

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The values that have a name and that the operation takes, in ascending order."""
        return tuple(value for value in self.values or () if value < self.count)

    @property
    def count(self) -> int:
        """How many values from 0 on the operation takes, whatever the machine."""
        most = (1 << self.width) - 1
        return 1 + (self.maximum if isinstance(self.maximum, int) else most)

    def bounds(self, arch: Arch) -> tuple[int, int]:
        """The legal range on `arch`, both ends included."""
        low = -(1 << (self.width - 1)) if self.signed else 0
        high = (1 << (self.width - self.signed)) - 1
        if self.minimum is not None:
            low = self.minimum
        if isinstance(self.maximum, str):
            high = min(high, int(getattr(arch, self.maximum)))
        elif self.maximum is not None:
            high = self.maximum
        return low, high

    def extract(self, word: int) -> int:
        """The field's value in the 512-bit number `word`."""
        value = (word >> self.lsb) & ((1 << self.width) - 1)
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the table.

    `supported` is False for what the table declares and no machine does yet: it faults
    UNSUPPORTED. `tpu_v1` names the counterpart in the ISCA 2017 paper.
    """

    name: str
    opcode: int
    unit: Unit
    fields: tuple[Field, ...]
    supported: bool = True
    tpu_v1: str
    doc: str

    def field(self, name: str) -> Field:
        """The field called `name`; raises `KeyError` if the operation has none."""
        return self._field_by_name[name]

    @cached_property
    def _field_by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    @cached_property
    def checked_fields(self) -> tuple[Field, ...]:
        """The fields whose width can hold what the machine refuses."""
        return tuple(
            field for field in self.fields
            if field.minimum is not None or field.maximum is not None
            or field.supported_maximum is not None or field.forbidden_bits
        )

    @cached_property
    def defaults(self) -> dict[str, int]:
        """The default of each field, by name and in the order of `fields`."""
        return {field.name: field.default for field in self.fields}

    @cached_property
    def used_bits(self) -> int:
        """Mask of the 512 bits that the opcode and the fields occupy."""
        mask = 0xFF
        for field in self.fields:
            mask |= ((1 << field.width) - 1) << field.lsb
        return mask


def check_table(operations: Iterable[Operation]) -> None:
    """Raise `ValueError` if fields overlap or leave the 512 bits, or names or opcodes repeat."""
    names: set[str] = set()
    opcodes: set[int] = set()
    for operation in operations:
        if operation.name in names or operation.opcode in opcodes:
            raise ValueError(f"{operation.name} ({operation.opcode:#04x}) is declared twice")
        names.add(operation.name)
        opcodes.add(operation.opcode)
        mask = 0xFF
        for field in operation.fields:
            bits = ((1 << field.width) - 1) << field.lsb
            if mask & bits or field.lsb + field.width > INSTRUCTION_BITS:
                raise ValueError(f"{operation.name}.{field.name} overlaps or leaves the word")
            if field.values is not None and list(field.choices) != list(range(field.count)):
                raise ValueError(f"{operation.name}.{field.name} takes values without a name")
            mask |= bits
