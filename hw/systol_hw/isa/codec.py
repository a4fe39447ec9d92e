"""The instruction set: one table of operations and bit fields.

Encoder, decoder, range checks, assembler, disassembler, the RTL's decoder and docs/isa.md all come
from `OPERATIONS`. An instruction is 64 bytes, a little-endian 512-bit number. Bits 0..7 are the
opcode; instructions of the five units then carry the token masks and the drain bit of
`UNIT_HEADER`; every bit that no field of the operation names is reserved and must be zero.

`operations.py` holds the table, `encoding.py` says what its entries mean; this module encodes and
decodes with it.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES, Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.isa.encoding import Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.tables.faults import FaultCause, Unit

OPERATION_BY_NAME: Mapping[str, Operation] = MappingProxyType({o.name: o for o in OPERATIONS})
OPERATION_BY_OPCODE: Mapping[int, Operation] = MappingProxyType({o.opcode: o for o in OPERATIONS})


@dataclass(frozen=True)
class Instruction:
    """One instruction: an operation and the values of all its fields.

    Make it with `instruction()`, which fills in defaults and checks names and widths.
    """

    operation: Operation
    fields: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.fields[name]

    def get(self, name: str, default: int = 0) -> int:
        """The value of field `name`, or `default` where the operation has no such field."""
        return self.fields.get(name, default)

    @functools.cached_property
    def word(self) -> int:
        """The 512-bit number that encodes it."""
        word = self.operation.opcode
        for field in self.operation.fields:
            word |= (self.fields[field.name] & ((1 << field.width) - 1)) << field.lsb
        return word

    @property
    def unit(self) -> Unit:
        """The unit that executes it."""
        return self.operation.unit

    @property
    def waits(self) -> tuple[Unit, ...]:
        """Units whose token it consumes before it starts."""
        return units_of_mask(self.get("wait"))

    @property
    def signals(self) -> tuple[Unit, ...]:
        """Units that it gives a token when it ends."""
        return units_of_mask(self.get("signal"))

    def __hash__(self) -> int:
        return hash(self.word)

    def __repr__(self) -> str:
        defaults = self.operation.defaults
        set_fields = (f", {n}={v}" for n, v in self.fields.items() if v != defaults[n])
        return f"instruction({self.operation.name!r}{''.join(set_fields)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instruction) and self.word == other.word


def mask_of_units(units: Iterable[Unit]) -> int:
    """The wait or signal mask of `units`: bit `unit - 1` for each."""
    mask = 0
    for unit in units:
        mask |= 1 << (unit - 1)
    return mask


def units_of_mask(mask: int) -> tuple[Unit, ...]:
    """The inverse of `mask_of_units`, in ascending order."""
    return _UNITS_OF_MASK[mask]


_UNITS_OF_MASK = tuple(
    tuple(unit for unit in Unit if unit and mask >> (unit - 1) & 1)
    for mask in range(1 << (len(Unit) - 1))
)


def instruction(operation: str | Operation, /, **values: int) -> Instruction:
    """Build an instruction; fields that are not given take their defaults.

    Raises
    ------
    InvalidProgramError
        For an unknown operation or field, or a value that the field's width cannot hold. Ranges
        that depend on a machine are `check_instruction`'s.
    """
    if isinstance(operation, str):
        if operation not in OPERATION_BY_NAME:
            raise InvalidProgramError(
                f"unknown operation {operation!r}; known: {', '.join(OPERATION_BY_NAME)}"
            )
        operation = OPERATION_BY_NAME[operation]
    fields = dict(operation.defaults)
    for name, value in values.items():
        if name not in fields:
            raise InvalidProgramError(
                f"{operation.name} has no field {name!r}; it has {', '.join(fields)}"
            )
        field = operation.field(name)
        value = int(value)
        low = -(1 << (field.width - 1)) if field.signed else 0
        high = (1 << (field.width - field.signed)) - 1
        if not low <= value <= high:
            raise InvalidProgramError(
                f"{operation.name}: {name} = {value} does not fit its {field.width} bits "
                f"({low}..{high})"
            )
        fields[name] = value
    return Instruction(operation, MappingProxyType(fields))


def encode(instruction: Instruction) -> bytes:
    """The 64 bytes of `instruction`."""
    return instruction.word.to_bytes(INSTRUCTION_BYTES, "little")


@functools.lru_cache(maxsize=4096)
def decode(data: bytes) -> Instruction:
    """The inverse of `encode`. Many parts decode the same program: results are kept.

    Raises
    ------
    InvalidProgramError
        For an unknown opcode, reserved bits that are set, or a wrong number of bytes.
    """
    if len(data) != INSTRUCTION_BYTES:
        raise InvalidProgramError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    operation = OPERATION_BY_OPCODE.get(word & 0xFF)
    if operation is None:
        raise InvalidProgramError(f"unknown opcode {word & 0xFF:#04x}")
    if word & ~operation.used_bits:
        bit = (word & ~operation.used_bits).bit_length() - 1
        raise InvalidProgramError(f"{operation.name}: reserved bit {bit} is set")
    fields = {field.name: field.extract(word) for field in operation.fields}
    return Instruction(operation, MappingProxyType(fields))


def decode_fault(data: bytes, arch: Arch) -> tuple[FaultCause, str] | None:
    """What control on `arch` says of these 64 bytes at dispatch: None, or cause and reason.

    Order of the checks: opcode, reserved bits, field ranges (all ILLEGAL_INSTRUCTION), then
    support (UNSUPPORTED). Only whether any check of a class fails decides, never which.
    """
    try:
        decoded = decode(data)
    except InvalidProgramError as error:
        return FaultCause.ILLEGAL_INSTRUCTION, str(error)
    operation = decoded.operation
    for field in operation.checked_fields:
        low, high = field.bounds(arch)
        value = decoded[field.name]
        if not low <= value <= high:
            return (
                FaultCause.ILLEGAL_INSTRUCTION,
                f"{operation.name}: {field.name} = {value} is outside {low}..{high}",
            )
        if value & field.forbidden_bits:
            return (
                FaultCause.ILLEGAL_INSTRUCTION,
                f"{operation.name}: {field.name} = {value:#x} names its own unit",
            )
    if not operation.supported:
        return FaultCause.UNSUPPORTED, f"{operation.name} is not supported by this machine"
    for field in operation.checked_fields:
        if field.supported_maximum is not None and decoded[field.name] > field.supported_maximum:
            return (
                FaultCause.UNSUPPORTED,
                f"{operation.name}: {field.name} = {decoded[field.name]} is not supported",
            )
    return None


def encode_program(program: Iterable[Instruction]) -> np.ndarray:
    """The code of `program`: uint8, shape (instructions, 64)."""
    data = b"".join(encode(item) for item in program)
    return np.frombuffer(data, np.uint8).reshape(-1, INSTRUCTION_BYTES)
