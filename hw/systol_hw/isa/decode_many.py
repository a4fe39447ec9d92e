"""Decodes whole programs at once: what `isa.decode` and `isa.decode_fault` say, as arrays."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES, Arch
from systol_hw.isa.codec import OPERATION_BY_OPCODE
from systol_hw.isa.encoding import Operation
from systol_hw.isa.operations import OPERATIONS
from systol_hw.tables.faults import FaultCause

__all__ = ["Decoded", "decode_many"]

_WORDS = INSTRUCTION_BYTES // 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """All instructions of a program that have one opcode.

    Parameters
    ----------
    operation
    pcs
        Their places in the program, ascending: int64 (instructions,).
    values
        Their fields, in the order of `operation.fields`: int64 (fields, instructions).
    reserved
        Whether a reserved bit is set: bool (instructions,).
    """

    operation: Operation
    pcs: np.ndarray
    values: np.ndarray
    reserved: np.ndarray

    def get(self, name: str) -> np.ndarray:
        """Field `name`, zeros where the operation has no such field: int64 (instructions,)."""
        place = _layout(self.operation.opcode).place.get(name)
        return np.zeros(len(self.pcs), np.int64) if place is None else self.values[place]

    def refusals(self, arch: Arch) -> np.ndarray:
        """0, or the `FaultCause` that `isa.decode_fault` gives on `arch`: int64 (instructions,)."""
        operation = self.operation
        illegal = self.reserved.copy()
        unsupported = np.full(len(self.pcs), not operation.supported)
        for field in operation.checked_fields:
            value = self.get(field.name)
            low, high = field.bounds(arch)
            illegal |= (value < low) | (value > high) | ((value & field.forbidden_bits) != 0)
            if field.supported_maximum is not None:
                unsupported |= value > field.supported_maximum
        causes = np.where(unsupported, int(FaultCause.UNSUPPORTED), 0)
        causes[illegal] = int(FaultCause.ILLEGAL_INSTRUCTION)
        return causes


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Where an operation's fields lie in eight words of 64 bits; arrays have a row for each."""

    place: dict[str, int]
    word: np.ndarray
    shift: np.ndarray
    mask: np.ndarray
    sign: np.ndarray
    unused: np.ndarray


@functools.cache
def _layout(opcode: int) -> _Layout:
    operation = OPERATION_BY_OPCODE[opcode]
    fields = operation.fields
    unused = ~operation.used_bits & ((1 << 8 * INSTRUCTION_BYTES) - 1)
    return _Layout(
        place={field.name: place for place, field in enumerate(fields)},
        word=np.array([field.lsb // 64 for field in fields], np.int64),
        shift=np.array([[field.lsb % 64] for field in fields], np.uint64).reshape(-1, 1),
        mask=np.array([(1 << field.width) - 1 for field in fields], np.uint64).reshape(-1, 1),
        sign=np.array(
            [1 << (field.width - 1) if field.signed else 0 for field in fields], np.int64
        ).reshape(-1, 1),
        unused=np.frombuffer(unused.to_bytes(INSTRUCTION_BYTES, "little"), "<u8").reshape(-1, 1),
    )


def decode_many(code: np.ndarray) -> Iterator[Decoded]:
    """The instructions of `code`, uint8 (instructions, 64), by operation; unknown opcodes are
    left out."""
    words = np.ascontiguousarray(code).view("<u8")
    opcodes = code[:, 0]
    present = np.bincount(opcodes, minlength=256)
    for operation in OPERATIONS:
        if not present[operation.opcode]:
            continue
        layout = _layout(operation.opcode)
        pcs = np.flatnonzero(opcodes == operation.opcode)
        # One word more, of zeros: a field in the last word has nothing beyond it.
        mine = np.zeros((_WORDS + 1, len(pcs)), np.uint64)
        mine[:_WORDS] = words[pcs].T
        beyond = (mine[layout.word + 1] << np.uint64(1)) << (np.uint64(63) - layout.shift)
        values = ((mine[layout.word] >> layout.shift | beyond) & layout.mask).astype(np.int64)
        yield Decoded(
            operation=operation,
            pcs=pcs,
            values=(values ^ layout.sign) - layout.sign,
            reserved=(mine[:_WORDS] & layout.unused).any(axis=0),
        )


