"""Weights, the shadow plane and Matrix through a window of streams (`windows`).

They meet through tiles alone: between the moments at which a tile is ready, a plane is full, a slot
is free or a tile's first row or last access is due, Matrix issues a row in each cycle or waits, and
Weights issues beats as the pace allows or waits.
"""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.buffers import drop_claims, matrix_issues, shift_plane, weights_read
from systol_sim.timing.cycle.loops import (
    M_ACC,
    M_K0,
    M_K1,
    M_K2,
    M_N,
    W_ADDRESS,
    W_DONE,
    W_INNER,
    W_LINE,
    W_LINES,
    W_N,
    W_N_LIVE,
    W_OUTER,
    W_ROW,
    advance_tiles,
)
from systol_sim.timing.state.codes import (
    A_WEIGHTS,
    BUSY,
    MATRIX,
    P_USED,
    WAIT_FIFO,
    WAIT_PORT,
    WAIT_SHIFT,
    WAIT_TILE,
    WEIGHTS,
)
from systol_sim.timing.state.machine_state import (
    HISTORY,
    RING,
)
from systol_sim.timing.state.table_columns import (
    PORT,
    ROWS,
    TILES,
    UNIFIED_BUFFER,
    WEIGHT_PORT,
)
from systol_sim.timing.streams.period import skip_tiles
from systol_sim.timing.streams.rows import issue_rows

_NOT_HERE, _WAITS, _STREAMS, _ALONE = range(4)
"""What a unit does: nothing; waits in one state; goes on; must be stepped in this cycle."""


@compiled
def stream_tiles(m, t, limit):  # type: ignore[no-untyped-def]
    """Advance the tile pipeline from cycle `t`; the cycle that it reached, at most `limit`: that in
    which the last access of an instruction is due, if it comes before."""
    m.store_banks = 0
    drop_claims(m, t)
    with_weights, with_matrix = m.active[WEIGHTS] >= 0, m.active[MATRIX] >= 0
    begin = t
    m.boundary[0] = -1
    while t < limit and m.claims_in - m.claims_out < RING - HISTORY:
        if m.tiles_freed < m.tiles_shifted and t >= m.plane_full_from:
            m.tiles_freed += 1
        m.used = m.tiles_reserved - m.tiles_freed
        m.scalars[P_USED] = max(m.scalars[P_USED], m.used)
        if (
            with_matrix and with_weights and m.walkers[MATRIX, M_ACC] == 0 and m.plane_held
            and t >= m.plane_full_from
        ):
            t = skip_tiles(m, t, limit)
            if t >= limit:
                break
        gap = limit - t
        shifts = False
        if m.tiles_freed < m.tiles_shifted:
            gap = min(gap, m.plane_full_from - t)
        if not m.plane_held and m.tiles_shifted < m.tiles_loaded:
            ready = m.tile_ready[m.tiles_shifted & (HISTORY - 1)]
            shifts = ready <= t
            gap = 1 if shifts else min(gap, ready - t)
        issues, weights = _NOT_HERE, _NOT_HERE
        if with_matrix:
            issues, rows = _matrix_next(m, t)
            if rows == 0:
                break
            gap = min(gap, rows)
        if with_weights:
            weights, cycles = _weights_next(m)
            if cycles == 0:
                break
            gap = min(gap, cycles)
        if weights == _ALONE:
            weights_read(m, t)
            m.states[WEIGHTS, m.charge[WEIGHTS], m.code[WEIGHTS]] += 1
        else:
            m.weights_banks = 0
            if weights == _STREAMS:
                _stream_beats(m, t, gap)
            elif weights == _WAITS:
                m.states[WEIGHTS, m.charge[WEIGHTS], WAIT_FIFO] += gap
                if m.row[WEIGHTS, PORT] == WEIGHT_PORT:
                    _earn(m, gap)
        taken = False
        if issues == _ALONE or (issues == _STREAMS and weights == _ALONE):
            taken = matrix_issues(m, t)
            m.states[MATRIX, m.charge[MATRIX], m.code[MATRIX]] += 1
        elif issues == _STREAMS:
            issue_rows(m, t, gap)
            m.states[MATRIX, m.charge[MATRIX], BUSY] += gap
        elif issues == _WAITS:
            state = WAIT_SHIFT if m.plane_held else WAIT_TILE
            m.states[MATRIX, m.charge[MATRIX], state] += gap
        if shifts or taken:
            shift_plane(m, t, taken)
        t += gap
    if not with_weights:
        m.states[WEIGHTS, m.charge[WEIGHTS], m.code[WEIGHTS]] += t - begin
    if not with_matrix:
        m.states[MATRIX, m.charge[MATRIX], m.code[MATRIX]] += t - begin
    return t


@compiled
def _matrix_next(m, t):  # type: ignore[no-untyped-def]
    """(what Matrix does from cycle `t` on, for how many cycles at most); 0 cycles if the last row
    of its instruction is next."""
    row, w = m.row[MATRIX], m.walkers[MATRIX]
    left = row[ROWS.x_count] * row[ROWS.y_count] - w[M_ACC]
    if (
        w[M_K2] == row[ROWS.k2_count] - 1 and w[M_K1] == row[ROWS.k1_count] - 1
        and w[M_K0] == row[ROWS.k0_count] - 1 and w[M_N] == row[ROWS.n_count] - 1
    ):
        left -= 1
    if w[M_ACC] > 0:
        return _STREAMS, left
    if not m.plane_held:
        return _WAITS, RING * RING
    if t < m.plane_full_from:
        return _WAITS, m.plane_full_from - t
    return _ALONE, min(left, 1)


@compiled
def _weights_next(m):  # type: ignore[no-untyped-def]
    """As `_matrix_next`, for Weights: at most to the end of its tile."""
    row, w = m.row[WEIGHTS], m.walkers[WEIGHTS]
    last_tile = (
        w[W_INNER] == row[TILES.inner_count] - 1 and w[W_OUTER] == row[TILES.outer_count] - 1
        and w[W_N] == row[TILES.n_count] - 1
    )
    if w[W_ROW] == 0 and w[W_DONE] == 0 and m.used >= m.fifo_tiles:
        return _WAITS, RING * RING
    if row[PORT] == UNIFIED_BUFFER:
        return _ALONE, 0 if last_tile and w[W_ROW] == w[W_LINES] - 1 else 1
    beats = _tile_beats(m)
    if last_tile:
        # Up to the cycle in which the last beat is due.
        return _STREAMS, _beat_offset(m, beats)
    return _STREAMS, _beat_offset(m, beats) + 1


@compiled
def _beat_offset(m, number):  # type: ignore[no-untyped-def]
    """Cycles until the beat of this number, from 1, is issued if one is presented all the time."""
    income = m.income[WEIGHT_PORT]
    paid = number * m.cost[WEIGHT_PORT] - m.credits[WEIGHT_PORT]
    return max(number - 1, (paid + income - 1) // income)


@compiled
def _line_beats(address, length, width):  # type: ignore[no-untyped-def]
    return ((address & (width - 1)) + length + width - 1) // width


@compiled
def _tile_beats(m):  # type: ignore[no-untyped-def]
    """Beats of the current tile that have not been issued."""
    row, w, width = m.row[WEIGHTS], m.walkers[WEIGHTS], m.width[WEIGHT_PORT]
    line, address = w[W_LINE], w[W_ADDRESS]
    beats = _line_beats(address + w[W_DONE], line - w[W_DONE], width)
    lines = w[W_LINES] - w[W_ROW] - 1
    if row[TILES.row_pitch] & (width - 1) == 0:
        return beats + lines * _line_beats(address, line, width)
    for _ in range(lines):
        address += row[TILES.row_pitch]
        beats += _line_beats(address, line, width)
    return beats


@compiled
def _earn(m, gap):  # type: ignore[no-untyped-def]
    """Credits of the weight port over cycles without a beat."""
    m.credits[WEIGHT_PORT] = min(
        m.credits[WEIGHT_PORT] + gap * m.income[WEIGHT_PORT], m.cap[WEIGHT_PORT]
    )


@compiled
def _stream_beats(m, t, gap):  # type: ignore[no-untyped-def]
    """Issue beats of the current tile in the `gap` cycles from `t` on, as the pace allows."""
    row, w, width = m.row[WEIGHTS], m.walkers[WEIGHTS], m.width[WEIGHT_PORT]
    credits, income, cost = (
        m.credits[WEIGHT_PORT], m.income[WEIGHT_PORT], m.cost[WEIGHT_PORT]
    )
    beats = min(gap, (credits + (gap - 1) * income) // cost)
    m.states[WEIGHTS, m.charge[WEIGHTS], BUSY] += beats
    m.states[WEIGHTS, m.charge[WEIGHTS], WAIT_PORT] += gap - beats
    if beats == 0:
        m.credits[WEIGHT_PORT] = credits + gap * income
        return
    if w[W_ROW] == 0 and w[W_DONE] == 0:
        m.tiles_reserved += 1
        if _beat_offset(m, 1) < gap - 1:
            m.scalars[P_USED] = max(m.scalars[P_USED], m.used + 1)
    delivery = t + _beat_offset(m, beats) + m.latency[WEIGHT_PORT]
    m.credits[WEIGHT_PORT] = credits + gap * income - beats * cost
    total, n_live, line = 0, w[W_N_LIVE], w[W_LINE]
    aligned = row[TILES.row_pitch] & (width - 1) == 0
    while beats > 0:
        in_line = _line_beats(w[W_ADDRESS] + w[W_DONE], line - w[W_DONE], width)
        if beats < in_line:
            address = w[W_ADDRESS] + w[W_DONE]
            after = (address & ~(width - 1)) + beats * width
            w[W_DONE] += after - address
            total += after - address
            m.owner[WEIGHT_PORT] = -1 if after & (m.burst - 1) == 0 else WEIGHTS
            break
        beats -= in_line
        total += line - w[W_DONE]
        m.owner[WEIGHT_PORT] = -1
        if aligned and beats > 0 and w[W_ROW] < w[W_LINES] - 2:
            # Lines alike: over all but the last of them at once.
            lines = min(beats // _line_beats(w[W_ADDRESS], line, width), w[W_LINES] - 2 - w[W_ROW])
            beats -= lines * _line_beats(w[W_ADDRESS], line, width)
            total += lines * line
            w[W_ROW] += lines
            w[W_ADDRESS] += lines * row[TILES.row_pitch]
        advance_tiles(row, w, line - w[W_DONE], m.rows, m.columns)
        if w[W_ROW] == 0:
            m.tile_ready[m.tiles_loaded & (HISTORY - 1)] = delivery + 1
            m.tile_columns[m.tiles_loaded & (HISTORY - 1)] = n_live
            m.tiles_loaded += 1
            break
    m.amounts[A_WEIGHTS, m.charge[WEIGHTS]] += total
