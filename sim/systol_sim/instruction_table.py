"""A program's instructions as one integer table, the form that the compiled stepper reads."""

from dataclasses import dataclass

import numpy as np

from systol_hw.arch import WINDOWS
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, decode, decode_fault
from systol_hw.operations import PLANE_UNIT_BYTES
from systol_hw.program import Program
from systol_sim.instruction_bounds import bounds_of
from systol_sim.instruction_columns import (
    ACCESSES,
    B_FROM_ACCESS,
    B_PLANE_BYTES,
    BANKS,
    BARRIER,
    BINARY,
    COLUMNS,
    COPY,
    DRAIN,
    FIELDS,
    FILL,
    FIRST,
    HALT,
    HOST_PORT,
    INTERRUPT,
    KIND,
    NOP,
    OUT_PLANE_BYTES,
    PARAMETERS,
    PASSES,
    PORT,
    REFUSED,
    REGISTER,
    REQUANTIZE,
    SAFE,
    SET_CONFIG,
    SIGNAL,
    SOURCE_PLANE_BYTES,
    SYNC_HOST,
    TABLE,
    TABLE_BYTES,
    TAG,
    TRANSFER_FIELDS,
    UNIFIED_BUFFER,
    UNIT,
    VALUE,
    VECTOR_FIELDS,
    WAIT,
    WEIGHT_PORT,
    WRITES,
)

_MEAN = 2
"""`reduce` of a mean."""
_CONTROL_KINDS = {
    "nop": NOP, "halt": HALT, "tag": TAG, "interrupt": INTERRUPT, "barrier": BARRIER,
    "sync_host": SYNC_HOST, "set_config": SET_CONFIG,
}
_VECTOR_KINDS = {
    "requantize": REQUANTIZE, "copy": COPY, "fill": FILL, "binary": BINARY, "table": TABLE,
}
_TABLE_BYTES = (256, 2 * 257)


@dataclass(frozen=True, kw_only=True, eq=False)
class InstructionTable:
    """The table of one program.

    Parameters
    ----------
    rows
        int64 (instructions, COLUMNS). REFUSED is 0 or the `FaultCause` with which control refuses
        the instruction.
    order
        int64 (6, instructions): for each unit the indices of its instructions in program order.
    """

    rows: np.ndarray
    order: np.ndarray


def build_table(program: Program) -> InstructionTable:
    """Decode all of `program`; what does not decode becomes a refused row, never an error."""
    count = len(program.code)
    rows = np.zeros((count, COLUMNS), np.int64)
    order = np.zeros((len(Unit), max(count, 1)), np.int64)
    lengths = [0] * len(Unit)
    for pc in range(count):
        data = program.code[pc].tobytes()
        refused = decode_fault(data, program.arch)
        if refused is not None:
            rows[pc, REFUSED] = refused[0]
            continue
        decoded = decode(data)
        unit, name, row = decoded.unit, decoded.operation.name, rows[pc]
        row[UNIT] = unit
        if unit is Unit.CONTROL:
            row[KIND] = _CONTROL_KINDS[name]
            row[VALUE] = decoded.get("tag") + decoded.get("value")
            row[REGISTER] = decoded.get("register")
            continue
        row[WAIT], row[SIGNAL], row[DRAIN] = decoded["wait"], decoded["signal"], decoded["drain"]
        row[PORT] = _port(name)
        fields = FIELDS[unit]
        row[FIRST : FIRST + len(fields)] = [decoded.get(field) for field in fields]
        if name.endswith("_alternate"):
            row[FIRST + TRANSFER_FIELDS.index("window")] += WINDOWS
        if unit is Unit.VECTOR:
            _complete_vector(row, decoded)
        row[SAFE], row[BANKS], row[WRITES] = bounds_of(row, program)
        order[unit, lengths[unit]] = pc
        lengths[unit] += 1
    return InstructionTable(rows=rows, order=order)


def _port(name: str) -> int:
    if name == "read_weights_ub":
        return UNIFIED_BUFFER
    return WEIGHT_PORT if name == "read_weights" or name.endswith("weight_memory") else HOST_PORT


def _complete_vector(row: np.ndarray, decoded: Instruction) -> None:
    """Fill in KIND and the columns that follow from the fields."""
    kind = _VECTOR_KINDS[decoded.operation.name]
    row[KIND] = kind
    if kind in (BINARY, TABLE):
        for field in ("source_ub", "ky_count", "kx_count"):
            row[FIRST + VECTOR_FIELDS.index(field)] = 1
    in_buffer = kind != FILL and row[FIRST + VECTOR_FIELDS.index("source_ub")] != 0
    wide = bool(decoded.get("a_width")) and in_buffer
    row[ACCESSES] = 2 if wide or decoded.get("b_width") else 1
    row[PASSES] = (0, 1, 3)[decoded["width"]]
    row[SOURCE_PLANE_BYTES] = PLANE_UNIT_BYTES * decoded["a_plane_step"] if wide else -1
    row[B_PLANE_BYTES] = PLANE_UNIT_BYTES * decoded.get("b_plane_step")
    row[OUT_PLANE_BYTES] = PLANE_UNIT_BYTES * decoded["out_plane_step"]
    row[B_FROM_ACCESS] = 0 if decoded.get("b_width") else row[ACCESSES] - 1
    if kind == REQUANTIZE and decoded["reduce"] == _MEAN:
        row[PARAMETERS] = decoded["parameter_count"]
    if kind == TABLE:
        row[TABLE_BYTES] = _TABLE_BYTES[decoded["table_width"]]
