"""Rows of a tile, many at once (systol_sim.timing.streams.tiles)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.buffers import claim_bank
from systol_sim.timing.cycle.loops import (
    M_A_X,
    M_A_Y,
    M_ACC,
    M_LINE_K0,
    M_LINE_Y,
    M_P_K1,
    M_P_K2,
    M_P_N,
    M_P_X,
    M_X,
    M_Y,
    advance_rows,
    matrix_row,
)
from systol_sim.timing.state.codes import A_PADDING, A_USEFUL, MATRIX
from systol_sim.timing.state.table_columns import (
    ROWS,
)


@compiled
def issue_rows(m, t, count):  # type: ignore[no-untyped-def]
    """Issue `count` rows of one tile, not its first, in the cycles from `t` on (6.5, 6.6)."""
    row, w = m.row[MATRIX], m.walkers[MATRIX]
    x_count = row[ROWS.x_count]
    live, _, _, accumulator = matrix_row(row, w, m.rows)
    # Bytes inside: what a line has does not depend on the line, unless it is outside as a whole.
    first, end = w[M_ACC], w[M_ACC] + count
    y, last_y = first // x_count, (end - 1) // x_count
    if y == last_y:
        inside = lines_inside(row, w, y, y) * bytes_inside(row, w, live, w[M_X], w[M_X] + count)
    else:
        inside = lines_inside(row, w, y, y) * bytes_inside(row, w, live, w[M_X], x_count)
        inside += lines_inside(row, w, last_y, last_y) * bytes_inside(
            row, w, live, 0, end - last_y * x_count
        )
        if last_y > y + 1:
            inside += lines_inside(row, w, y + 1, last_y - 1) * bytes_inside(
                row, w, live, 0, x_count
            )
    m.amounts[A_USEFUL, m.charge[MATRIX]] += count * live * m.row_columns
    m.amounts[A_PADDING, m.charge[MATRIX]] += (count * live - inside) * m.row_columns
    claim_rows(m, t + m.matrix_latency, accumulator, count)
    # To the last of the rows, and one on.
    x = end - 1 - last_y * x_count
    w[M_ACC], w[M_Y], w[M_X] = end - 1, last_y, x
    w[M_A_X] = w[M_P_X] = x * row[ROWS.x_step]
    w[M_A_Y] = last_y * row[ROWS.y_address_step]
    w[M_LINE_Y] = last_y * row[ROWS.y_step]
    advance_rows(row, w)


@compiled
def lines_inside(row, w, first, last):  # type: ignore[no-untyped-def]
    """How many of the lines `first` .. `last` of the output window read a line of the input."""
    start, step = row[ROWS.y_start] + w[M_LINE_K0], row[ROWS.y_step]
    low, high = start + first * step, start + last * step
    if step == 0 or first == last:
        return last - first + 1 if 0 <= low < row[ROWS.y_limit] else 0
    above = max(0, (step - 1 - low) // step)
    beyond = max(0, (high - row[ROWS.y_limit]) // step + 1)
    return max(0, last - first + 1 - above - beyond)


@compiled
def bytes_inside(row, w, live, first, end):  # type: ignore[no-untyped-def]
    """Bytes inside the window of the rows at x = `first` .. `end` - 1 of a line that is inside."""
    step, limit = row[ROWS.x_step], row[ROWS.p_limit]
    start = row[ROWS.p_start] + w[M_P_N] + w[M_P_K1] + w[M_P_K2]
    total = 0
    # Rows that are wholly inside have no others between them.
    while first < end and not 0 <= start + first * step <= limit - live:
        total += _overlap(start + first * step, live, limit)
        first += 1
    while first < end and not 0 <= start + (end - 1) * step <= limit - live:
        end -= 1
        total += _overlap(start + end * step, live, limit)
    return total + (end - first) * live


@compiled
def _overlap(start, length, limit):  # type: ignore[no-untyped-def]
    return max(0, min(start + length, limit) - max(start, 0))


@compiled
def claim_rows(m, first, accumulator, count):  # type: ignore[no-untyped-def]
    """Claims of `count` accumulator rows from `accumulator` on in the cycles from `first` on."""
    half = m.acc_rows // 2
    lower = min(count, half - accumulator) if accumulator < half else 0
    if lower > 0:
        claim_bank(m, first, first + lower - 1, 0)
    if count > lower:
        claim_bank(m, first + lower, first + count - 1, 1)
