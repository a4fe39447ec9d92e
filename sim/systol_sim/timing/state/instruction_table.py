"""A program's instructions as one integer table, the form that the compiled stepper reads."""

from dataclasses import dataclass

import numpy as np

from systol_hw.arch import WINDOWS
from systol_hw.isa.choices import Reduce, ResultWidth, TableWidth
from systol_hw.isa.decode_many import Decoded, decode_many
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_hw.program import Program
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim.timing.state.instruction_bounds import bounds_of
from systol_sim.timing.state.table_columns import (
    ACCESSES,
    B_FROM_ACCESS,
    B_PLANE_BYTES,
    BANKS,
    BINARY,
    COLUMNS,
    COLUMNS_OF,
    DRAIN,
    FILL,
    HOST_PORT,
    KIND,
    OUT_PLANE_BYTES,
    PARAMETERS,
    PASSES,
    PORT,
    REFUSED,
    REGISTER,
    REQUANTIZE,
    SAFE,
    SIGNAL,
    SOURCE_PLANE_BYTES,
    TABLE,
    TABLE_BYTES,
    TAPS,
    TRANSFERS,
    UNIFIED_BUFFER,
    UNIT,
    VALUE,
    WAIT,
    WEIGHT_PORT,
    WRITES,
)

_TABLE_BYTES = [width.table_bytes for width in TableWidth]
# Of the planes behind the first, by `width`; widths beyond the last are refused.
_PASSES = [*(width.planes - 1 for width in ResultWidth), 0]


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
    # What no operation claims has an unknown opcode.
    rows[:, REFUSED] = FaultCause.ILLEGAL_INSTRUCTION
    for decoded in decode_many(program.code):
        rows[decoded.pcs, REFUSED] = decoded.refusals(program.arch)
        _fill_in(rows, decoded)
    refused = rows[:, REFUSED] != 0
    rows[np.ix_(refused, np.arange(COLUMNS) != REFUSED)] = 0
    order = np.zeros((len(Unit), max(count, 1)), np.int64)
    for unit in COLUMNS_OF:
        pcs = np.flatnonzero((rows[:, UNIT] == unit) & ~refused)
        order[unit, : len(pcs)] = pcs
        bounds = bounds_of(rows[pcs], unit, program)
        rows[pcs, SAFE], rows[pcs, BANKS], rows[pcs, WRITES] = bounds
    return InstructionTable(rows=rows, order=order)


def _fill_in(rows: np.ndarray, decoded: Decoded) -> None:
    """The columns that follow from the fields alone."""
    unit, name, pcs = decoded.operation.unit, decoded.operation.name, decoded.pcs
    rows[pcs, UNIT] = unit
    rows[pcs, KIND] = decoded.operation.opcode
    if unit is Unit.CONTROL:
        rows[pcs, VALUE] = decoded.get("tag") + decoded.get("value")
        rows[pcs, REGISTER] = decoded.get("register")
        return
    for column, field in ((WAIT, "wait"), (SIGNAL, "signal"), (DRAIN, "drain")):
        rows[pcs, column] = decoded.get(field)
    rows[pcs, PORT] = _port(name)
    for field, column in COLUMNS_OF[unit]._asdict().items():
        rows[pcs, column] = decoded.get(field)
    if name.endswith("_alternate"):
        rows[pcs, TRANSFERS.window] += WINDOWS
    if unit is Unit.VECTOR:
        _complete_vector(rows, decoded)


def _port(name: str) -> int:
    if name == "read_weights_ub":
        return UNIFIED_BUFFER
    return WEIGHT_PORT if name == "read_weights" or name.endswith("weight_memory") else HOST_PORT


def _complete_vector(rows: np.ndarray, decoded: Decoded) -> None:
    """Fill in the columns that follow from VECTOR's fields."""
    pcs, kind = decoded.pcs, decoded.operation.opcode
    if kind in (BINARY, TABLE):
        for column in (TAPS.source_ub, TAPS.ky_count, TAPS.kx_count):
            rows[pcs, column] = 1
    in_buffer = rows[pcs, TAPS.source_ub] != 0
    wide = (decoded.get("a_width") != 0) & in_buffer & (kind != FILL)
    wide_b = decoded.get("b_width") != 0
    rows[pcs, ACCESSES] = 1 + (wide | wide_b)
    rows[pcs, PASSES] = np.array(_PASSES)[decoded.get("width")]
    rows[pcs, SOURCE_PLANE_BYTES] = np.where(
        wide, PLANE_UNIT_BYTES * decoded.get("a_plane_step"), -1
    )
    rows[pcs, B_PLANE_BYTES] = PLANE_UNIT_BYTES * decoded.get("b_plane_step")
    rows[pcs, OUT_PLANE_BYTES] = PLANE_UNIT_BYTES * decoded.get("out_plane_step")
    rows[pcs, B_FROM_ACCESS] = np.where(wide_b, 0, rows[pcs, ACCESSES] - 1)
    if kind == REQUANTIZE:
        rows[pcs, PARAMETERS] = np.where(
            decoded.get("reduce") == Reduce.MEAN, decoded.get("parameter_count"), 0
        )
    if kind == TABLE:
        rows[pcs, TABLE_BYTES] = np.array(_TABLE_BYTES)[decoded.get("table_width")]
