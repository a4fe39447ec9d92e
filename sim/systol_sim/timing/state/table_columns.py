"""The columns of the instruction table, by the names of the fields that stand in them.

numba takes a named tuple of plain numbers for constants: `row[TAPS.a_y_step]` is one load.
"""

from collections import namedtuple
from typing import Any

from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.isa.choices import ConfigRegister
from systol_hw.tables.faults import Unit

# Columns that every instruction has.
UNIT, KIND, REFUSED, WAIT, SIGNAL, DRAIN, PORT, SAFE, BANKS, WRITES = range(10)
# SAFE: no access can be out of range. BANKS: of a safe instruction, mask of the banks of the
# unified buffer that its reads may touch; WRITES: that its writes may touch.

# KIND: the operation, by its opcode.
HALT, TAG, INTERRUPT, BARRIER, SYNC_HOST, SET_CONFIG = (
    OPERATION_BY_NAME[name].opcode
    for name in ("halt", "tag", "interrupt", "barrier", "sync_host", "set_config")
)
REQUANTIZE, COPY, FILL, BINARY, TABLE = (
    OPERATION_BY_NAME[name].opcode for name in ("requantize", "copy", "fill", "binary", "table")
)

HOST_PORT, WEIGHT_PORT, UNIFIED_BUFFER = 0, 1, 2
"""PORT: where LOAD and STORE meet memory, and where WEIGHTS reads."""
VALUE, REGISTER = 10, 11
"""Of control instructions: the tag, the interrupt's or the register's value; the register."""
STATUS_REGISTER = int(ConfigRegister.STATUS)

_FIRST = 10
"""Column of a unit instruction's first own field."""


def _columns(name: str, fields: tuple[str, ...]) -> Any:
    """The columns of `fields`, side by side from `_FIRST` on, by name."""
    # mypy wants the names written out; here they are the instruction set's.
    columns = namedtuple(name, fields)  # type: ignore[misc]
    return columns(*range(_FIRST, _FIRST + len(fields)))


TRANSFERS = _columns("Transfers", (
    "memory_address", "ub_address", "run_bytes", "count0", "count1",
    "memory_stride0", "memory_stride1", "ub_stride0", "ub_stride1", "window",
))
TILES = _columns("Tiles", (
    "address", "row_pitch", "n_count", "outer_count", "inner_count",
    "n_stride", "outer_stride", "inner_stride", "k_last", "n_last", "transpose",
))
ROWS = _columns("Rows", (
    "ub_address", "p_start", "p_limit", "y_start", "y_limit", "x_count", "y_count",
    "k2_count", "k1_count", "k0_count", "n_count", "x_step", "k2_step", "k1_step", "n_step",
    "y_step", "k0_step", "y_address_step", "k0_address_step", "k_last", "acc_address",
    "acc_n_step",
))
TAPS = _columns("Taps", (
    "source_ub", "a_address", "a_n_step", "a_y_step", "a_x_step", "a_ky_step", "a_kx_step",
    "y_start", "x_start", "y_limit", "x_limit", "y_step", "x_step", "ky_step", "kx_step",
    "ky_count", "kx_count", "y_count", "x_count", "n_count", "n_last", "out_address",
    "out_n_step", "out_y_step", "out_x_step", "parameter_address", "b_address", "b_n_step",
    "b_y_step", "b_x_step", "table_address",
))
(
    ACCESSES, PASSES, SOURCE_PLANE_BYTES, B_PLANE_BYTES, OUT_PLANE_BYTES, B_FROM_ACCESS,
    PARAMETERS, TABLE_BYTES,
) = range(max(TAPS) + 1, max(TAPS) + 9)
"""What follows from VECTOR's fields (docs/timing.md 7.1): accesses of a tap; passes of a row; bytes
from plane to plane, -1 for an A of 8 bits; the first access that reads B; the parameters of mean, 0
of others; bytes of the table."""
COLUMNS_OF = {
    Unit.LOAD: TRANSFERS, Unit.STORE: TRANSFERS, Unit.WEIGHTS: TILES, Unit.MATRIX: ROWS,
    Unit.VECTOR: TAPS,
}
"""Of each unit, the columns of its fields."""
COLUMNS = TABLE_BYTES + 1
