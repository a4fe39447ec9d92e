"""The columns of the instruction table."""

from systol_hw.tables.faults import Unit

# Columns that every instruction has.
UNIT, KIND, REFUSED, WAIT, SIGNAL, DRAIN, PORT, SAFE, BANKS, WRITES = range(10)
# SAFE: no access can be out of range. BANKS: of a safe instruction, mask of the banks of the
# unified buffer that its reads may touch; WRITES: that its writes may touch.
# KIND of control instructions and of VECTOR's.
NOP, HALT, TAG, INTERRUPT, BARRIER, SYNC_HOST, SET_CONFIG = range(7)
REQUANTIZE, COPY, FILL, BINARY, TABLE = range(5)
HOST_PORT, WEIGHT_PORT, UNIFIED_BUFFER = 0, 1, 2
"""PORT: where LOAD and STORE meet memory, and where WEIGHTS reads."""
VALUE, REGISTER = 10, 11
"""Of control instructions: the tag, the interrupt's or the register's value; the register."""
WATCHDOG_REGISTER, STATUS_REGISTER = 0, 1

FIRST = 10
"""Column of a unit instruction's first own field."""
TRANSFER_FIELDS = (
    "memory_address", "ub_address", "run_bytes", "count0", "count1",
    "memory_stride0", "memory_stride1", "ub_stride0", "ub_stride1", "window",
)
TILE_FIELDS = (
    "address", "row_pitch", "n_count", "outer_count", "inner_count",
    "n_stride", "outer_stride", "inner_stride", "k_last", "n_last", "transpose",
)
MATMUL_FIELDS = (
    "ub_address", "p_start", "p_limit", "y_start", "y_limit", "x_count", "y_count",
    "k2_count", "k1_count", "k0_count", "n_count", "x_step", "k2_step", "k1_step", "n_step",
    "y_step", "k0_step", "y_address_step", "k0_address_step", "k_last", "acc_address",
    "acc_n_step",
)
VECTOR_FIELDS = (
    "source_ub", "a_address", "a_n_step", "a_y_step", "a_x_step", "a_ky_step", "a_kx_step",
    "y_start", "x_start", "y_limit", "x_limit", "y_step", "x_step", "ky_step", "kx_step",
    "ky_count", "kx_count", "y_count", "x_count", "n_count", "n_last", "out_address",
    "out_n_step", "out_y_step", "out_x_step", "parameter_address", "b_address", "b_n_step",
    "b_y_step", "b_x_step", "table_address",
)
B_ADDRESS = FIRST + VECTOR_FIELDS.index("b_address")
TABLE_ADDRESS = FIRST + VECTOR_FIELDS.index("table_address")
(
    ACCESSES, PASSES, SOURCE_PLANE_BYTES, B_PLANE_BYTES, OUT_PLANE_BYTES, B_FROM_ACCESS,
    PARAMETERS, TABLE_BYTES,
) = range(FIRST + len(VECTOR_FIELDS), FIRST + len(VECTOR_FIELDS) + 8)
"""What follows from VECTOR's fields (docs/timing.md 7.1): accesses of a tap; passes of a row; bytes
from plane to plane, -1 for an A of 8 bits; the first access that reads B; the parameters of mean, 0
of others; bytes of the table."""
FIELDS = {
    Unit.LOAD: TRANSFER_FIELDS,
    Unit.STORE: TRANSFER_FIELDS,
    Unit.WEIGHTS: TILE_FIELDS,
    Unit.MATRIX: MATMUL_FIELDS,
    Unit.VECTOR: VECTOR_FIELDS,
}
COLUMNS = TABLE_BYTES + 1
