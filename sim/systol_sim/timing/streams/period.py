"""Tiles of a stream that are like the one before (systol_sim.timing.streams.tiles).

When the first row of a tile is due and Weights, the FIFO and the plane stand as they stood at the
first row of the tile before, what happened between happens again for every further tile of the same
loops.
"""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.loops import (
    M_A_K2,
    M_K2,
    M_P_K2,
    W_ADDRESS,
    W_DONE,
    W_INNER,
    W_N_LIVE,
    W_ROW,
    W_TILE,
    matrix_row,
)
from systol_sim.timing.state.codes import (
    A_PADDING,
    A_USEFUL,
    A_WEIGHTS,
    BUSY,
    MATRIX,
    WAIT_FIFO,
    WAIT_PORT,
    WAIT_SHIFT,
    WAIT_TILE,
    WEIGHTS,
)
from systol_sim.timing.state.events import C_TILES
from systol_sim.timing.state.machine_state import (
    HISTORY,
    MASK,
    RING,
)
from systol_sim.timing.state.table_columns import (
    PORT,
    ROWS,
    TILES,
    WEIGHT_PORT,
)
from systol_sim.timing.streams.rows import bytes_inside, claim_rows, lines_inside

# Places in `boundary`: when the last first row was due; what must be equal; what must be one more;
# what counted up; when the tiles in the FIFO are ready, from then on.
_TIME, _PENDING, _USED, _ROW, _DONE, _CREDITS, _OWNER, _INNER, _K2 = range(9)
_BUSY, _PORT_WAITS, _SPACE_WAITS, _ISSUED, _SHIFT_WAITS, _TILE_WAITS, _BYTES = range(9, 16)
_READY = 16


@compiled
def skip_tiles(m, t, limit):  # type: ignore[no-untyped-def]
    """In a cycle `t` in which the first row of a tile is due: a later one, at most `limit`, in
    which that of another tile is due and up to which everything has been counted; or `t`."""
    row, w = m.row[MATRIX], m.walkers[MATRIX]
    loads, v = m.row[WEIGHTS], m.walkers[WEIGHTS]
    b = m.boundary
    since = t - b[_TIME]
    like = b[_TIME] >= 0 and _like_before(m, t)
    tiles = 0
    if like and loads[TILES.inner_stride] & (m.burst - 1) == 0 and loads[PORT] == WEIGHT_PORT:
        tiles = min((limit - t) // since, row[ROWS.k2_count] - 1 - w[M_K2])
        tiles = min(tiles, loads[TILES.inner_count] - 2 - v[W_INNER])
        tiles = min(tiles, (RING - HISTORY - m.claims_in + m.claims_out) // 2)
    if tiles <= 0:
        _remember(m, t)
        return t

    count = row[ROWS.x_count] * row[ROWS.y_count]
    lines = lines_inside(row, w, 0, row[ROWS.y_count] - 1)
    live, _, _, accumulator = matrix_row(row, w, m.rows)
    inside = 0
    for tile in range(tiles):
        inside += lines * bytes_inside(row, w, live, 0, row[ROWS.x_count])
        w[M_P_K2] += row[ROWS.k2_step]
        claim_rows(m, t + tile * since + m.matrix_latency, accumulator, count)
    m.amounts[A_USEFUL, m.charge[MATRIX]] += tiles * count * live * m.row_columns
    m.amounts[A_PADDING, m.charge[MATRIX]] += (tiles * count * live - inside) * m.row_columns
    m.coverage[C_TILES] += tiles
    w[M_K2] += tiles
    w[M_A_K2] += tiles * row[ROWS.k2_step]
    v[W_INNER] += tiles
    v[W_TILE] = (v[W_TILE] + tiles * loads[TILES.inner_stride]) & MASK
    v[W_ADDRESS] = (v[W_ADDRESS] + tiles * loads[TILES.inner_stride]) & MASK

    of_weights = m.states[WEIGHTS, m.charge[WEIGHTS]]
    of_matrix = m.states[MATRIX, m.charge[MATRIX]]
    of_weights[BUSY] += tiles * (of_weights[BUSY] - b[_BUSY])
    of_weights[WAIT_PORT] += tiles * (of_weights[WAIT_PORT] - b[_PORT_WAITS])
    of_weights[WAIT_FIFO] += tiles * (of_weights[WAIT_FIFO] - b[_SPACE_WAITS])
    of_matrix[BUSY] += tiles * (of_matrix[BUSY] - b[_ISSUED])
    of_matrix[WAIT_SHIFT] += tiles * (of_matrix[WAIT_SHIFT] - b[_SHIFT_WAITS])
    of_matrix[WAIT_TILE] += tiles * (of_matrix[WAIT_TILE] - b[_TILE_WAITS])
    read = m.amounts[A_WEIGHTS, m.charge[WEIGHTS]]
    m.amounts[A_WEIGHTS, m.charge[WEIGHTS]] += tiles * (read - b[_BYTES])

    t += tiles * since
    m.plane_full_from += tiles * since
    m.tiles_loaded += tiles
    m.tiles_shifted += tiles
    m.tiles_freed += tiles
    m.tiles_reserved += tiles
    for place in range(m.tiles_shifted, m.tiles_loaded):
        m.tile_ready[place & (HISTORY - 1)] = t + b[_READY + place - m.tiles_shifted]
        m.tile_columns[place & (HISTORY - 1)] = m.row_columns
    _remember(m, t)
    return t


@compiled
def _like_before(m, t):  # type: ignore[no-untyped-def]
    """Whether everything stands as it stood at the boundary before, one tile further on."""
    w, v, b = m.walkers[MATRIX], m.walkers[WEIGHTS], m.boundary
    pending = m.tiles_loaded - m.tiles_shifted
    if (
        pending != b[_PENDING] or m.used != b[_USED] or v[W_ROW] != b[_ROW] or v[W_DONE] != b[_DONE]
        or m.credits[WEIGHT_PORT] != b[_CREDITS] or m.owner[WEIGHT_PORT] != b[_OWNER]
        or v[W_INNER] != b[_INNER] + 1 or w[M_K2] != b[_K2] + 1
        or m.row_columns != m.plane_columns or m.row_columns != v[W_N_LIVE]
    ):
        return False
    for tile in range(pending):
        place = (m.tiles_shifted + tile) & (HISTORY - 1)
        if m.tile_columns[place] != m.row_columns:
            return False
        if max(m.tile_ready[place] - t, 0) != b[_READY + tile]:
            return False
    return True


@compiled
def _remember(m, t):  # type: ignore[no-untyped-def]
    w, v, b = m.walkers[MATRIX], m.walkers[WEIGHTS], m.boundary
    of_weights = m.states[WEIGHTS, m.charge[WEIGHTS]]
    of_matrix = m.states[MATRIX, m.charge[MATRIX]]
    pending = m.tiles_loaded - m.tiles_shifted
    b[_TIME] = t
    b[_PENDING] = pending
    b[_USED] = m.used
    b[_ROW] = v[W_ROW]
    b[_DONE] = v[W_DONE]
    b[_CREDITS] = m.credits[WEIGHT_PORT]
    b[_OWNER] = m.owner[WEIGHT_PORT]
    b[_INNER] = v[W_INNER]
    b[_K2] = w[M_K2]
    b[_BUSY] = of_weights[BUSY]
    b[_PORT_WAITS] = of_weights[WAIT_PORT]
    b[_SPACE_WAITS] = of_weights[WAIT_FIFO]
    b[_ISSUED] = of_matrix[BUSY]
    b[_SHIFT_WAITS] = of_matrix[WAIT_SHIFT]
    b[_TILE_WAITS] = of_matrix[WAIT_TILE]
    b[_BYTES] = m.amounts[A_WEIGHTS, m.charge[WEIGHTS]]
    for tile in range(pending):
        ready = m.tile_ready[(m.tiles_shifted + tile) & (HISTORY - 1)]
        b[_READY + tile] = max(ready - t, 0)
