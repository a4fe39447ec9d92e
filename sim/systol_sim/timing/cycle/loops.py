"""The loops of transfers, tiles and matrix rows, one access at a time, for the compiled stepper.

A walker is a row `w` of int64 that belongs to a unit. `start_*` sets it to the first access of the
instruction in table row `row`; `advance_*` moves it to the next and returns True after the last.
Addresses are modulo 2**32 (docs/timing.md 1.3).
"""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.state.machine_state import MASK
from systol_sim.timing.state.table_columns import (
    ROWS,
    TILES,
    TRANSFERS,
)

# Transfers (LOAD, STORE): walker places.
T_INNER, T_OUTER, T_DONE, T_MEMORY, T_UB, T_MEMORY_OUTER, T_UB_OUTER = range(7)
# Tiles (WEIGHTS). A tile has W_LINES lines of W_LINE bytes.
W_N, W_OUTER, W_INNER, W_ROW, W_DONE, W_ADDRESS, W_TILE, W_OUTER_BASE, W_N_BASE = range(9)
W_LINES, W_LINE, W_N_LIVE = 9, 10, 11
# Rows (MATRIX).
M_N, M_K0, M_K1, M_K2, M_Y, M_X = range(6)
M_A_N, M_A_K0, M_A_K1, M_A_K2, M_A_Y, M_A_X = range(6, 12)
M_P_N, M_P_K1, M_P_K2, M_P_X = range(12, 16)
M_LINE_K0, M_LINE_Y, M_ACC_N, M_ACC = range(16, 20)


@compiled
def signed32(value):  # type: ignore[no-untyped-def]
    """The signed 32-bit number with the low 32 bits of `value`."""
    value &= MASK
    return value - (1 << 32) if value & 0x80000000 else value


@compiled
def start_transfer(row, w):  # type: ignore[no-untyped-def]
    w[T_INNER] = w[T_OUTER] = w[T_DONE] = 0
    w[T_MEMORY] = w[T_MEMORY_OUTER] = row[TRANSFERS.memory_address]
    w[T_UB] = w[T_UB_OUTER] = row[TRANSFERS.ub_address]


@compiled
def advance_transfer(row, w, live):  # type: ignore[no-untyped-def]
    w[T_DONE] += live
    if w[T_DONE] < row[TRANSFERS.run_bytes]:
        return False
    w[T_DONE] = 0
    w[T_INNER] += 1
    if w[T_INNER] < row[TRANSFERS.count0]:
        w[T_MEMORY] = (w[T_MEMORY] + row[TRANSFERS.memory_stride0]) & MASK
        w[T_UB] = (w[T_UB] + row[TRANSFERS.ub_stride0]) & MASK
        return False
    w[T_INNER] = 0
    w[T_OUTER] += 1
    w[T_MEMORY_OUTER] = (w[T_MEMORY_OUTER] + row[TRANSFERS.memory_stride1]) & MASK
    w[T_UB_OUTER] = (w[T_UB_OUTER] + row[TRANSFERS.ub_stride1]) & MASK
    w[T_MEMORY] = w[T_MEMORY_OUTER]
    w[T_UB] = w[T_UB_OUTER]
    return w[T_OUTER] >= row[TRANSFERS.count1]


@compiled
def start_tiles(row, w, rows, columns):  # type: ignore[no-untyped-def]
    for place in range(5):
        w[place] = 0
    w[W_ADDRESS] = w[W_TILE] = w[W_OUTER_BASE] = w[W_N_BASE] = row[TILES.address]
    tile_sizes(row, w, rows, columns)


@compiled
def tile_sizes(row, w, rows, columns):  # type: ignore[no-untyped-def]
    """Lines of the tile that the walker is at, bytes of a line, live columns."""
    k_live = row[TILES.k_last] if w[W_INNER] == row[TILES.inner_count] - 1 else rows
    n_live = row[TILES.n_last] if w[W_N] == row[TILES.n_count] - 1 else columns
    w[W_N_LIVE] = n_live
    w[W_LINES] = n_live if row[TILES.transpose] else k_live
    w[W_LINE] = k_live if row[TILES.transpose] else n_live


@compiled
def advance_tiles(row, w, live, rows, columns):  # type: ignore[no-untyped-def]
    w[W_DONE] += live
    if w[W_DONE] < w[W_LINE]:
        return False
    w[W_DONE] = 0
    w[W_ROW] += 1
    if w[W_ROW] < w[W_LINES]:
        w[W_ADDRESS] = (w[W_ADDRESS] + row[TILES.row_pitch]) & MASK
        return False
    w[W_ROW] = 0
    w[W_INNER] += 1
    if w[W_INNER] < row[TILES.inner_count]:
        w[W_TILE] = (w[W_TILE] + row[TILES.inner_stride]) & MASK
    else:
        w[W_INNER] = 0
        w[W_OUTER] += 1
        if w[W_OUTER] < row[TILES.outer_count]:
            w[W_OUTER_BASE] = (w[W_OUTER_BASE] + row[TILES.outer_stride]) & MASK
        else:
            w[W_OUTER] = 0
            w[W_N] += 1
            if w[W_N] >= row[TILES.n_count]:
                return True
            w[W_N_BASE] = (w[W_N_BASE] + row[TILES.n_stride]) & MASK
            w[W_OUTER_BASE] = w[W_N_BASE]
        w[W_TILE] = w[W_OUTER_BASE]
    w[W_ADDRESS] = w[W_TILE]
    tile_sizes(row, w, rows, columns)
    return False


@compiled
def start_rows(row, w):  # type: ignore[no-untyped-def]
    for place in range(20):
        w[place] = 0


@compiled
def advance_rows(row, w):  # type: ignore[no-untyped-def]
    w[M_ACC] += 1
    w[M_X] += 1
    if w[M_X] < row[ROWS.x_count]:
        w[M_A_X] += row[ROWS.x_step]
        w[M_P_X] += row[ROWS.x_step]
        return False
    w[M_X] = w[M_A_X] = w[M_P_X] = 0
    w[M_Y] += 1
    if w[M_Y] < row[ROWS.y_count]:
        w[M_A_Y] += row[ROWS.y_address_step]
        w[M_LINE_Y] += row[ROWS.y_step]
        return False
    w[M_Y] = w[M_A_Y] = w[M_LINE_Y] = w[M_ACC] = 0
    w[M_K2] += 1
    if w[M_K2] < row[ROWS.k2_count]:
        w[M_A_K2] += row[ROWS.k2_step]
        w[M_P_K2] += row[ROWS.k2_step]
        return False
    w[M_K2] = w[M_A_K2] = w[M_P_K2] = 0
    w[M_K1] += 1
    if w[M_K1] < row[ROWS.k1_count]:
        w[M_A_K1] += row[ROWS.k1_step]
        w[M_P_K1] += row[ROWS.k1_step]
        return False
    w[M_K1] = w[M_A_K1] = w[M_P_K1] = 0
    w[M_K0] += 1
    if w[M_K0] < row[ROWS.k0_count]:
        w[M_A_K0] += row[ROWS.k0_address_step]
        w[M_LINE_K0] += row[ROWS.k0_step]
        return False
    w[M_K0] = w[M_A_K0] = w[M_LINE_K0] = 0
    w[M_N] += 1
    w[M_A_N] += row[ROWS.n_step]
    w[M_P_N] += row[ROWS.n_step]
    w[M_ACC_N] += row[ROWS.acc_n_step]
    return w[M_N] >= row[ROWS.n_count]


@compiled
def matrix_row(row, w, rows):  # type: ignore[no-untyped-def]
    """The current row: (live bytes, first address inside the window, bytes inside, acc row)."""
    live = row[ROWS.k_last] if w[M_K2] == row[ROWS.k2_count] - 1 else rows
    accumulator = (row[ROWS.acc_address] + w[M_ACC_N] + w[M_ACC]) & MASK
    line = signed32(row[ROWS.y_start] + w[M_LINE_K0] + w[M_LINE_Y])
    if line < 0 or line >= row[ROWS.y_limit]:
        return live, 0, 0, accumulator
    p = signed32(row[ROWS.p_start] + w[M_P_N] + w[M_P_K1] + w[M_P_K2] + w[M_P_X])
    low = max(0, -p)
    high = min(live, row[ROWS.p_limit] - p)
    if low >= high:
        return live, 0, 0, accumulator
    address = (
        row[ROWS.ub_address] + w[M_A_N] + w[M_A_K0] + w[M_A_K1] + w[M_A_K2] + w[M_A_Y] + w[M_A_X]
        + low
    ) & MASK
    return live, address, high - low, accumulator
