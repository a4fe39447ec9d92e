"""Output rows of the vector unit that are like the one before (systol_sim.timing.streams.vector).

When the first access of an output row is due and the lanes and the held planes stand as they stood
at the first access of the row before, what happened between happens again for every further row of
the same line: up to the line's end, the edge of the input, a claim of the matrix, another bank.
"""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.ports import banks
from systol_sim.timing.cycle.vector_loops import (
    V_A,
    V_A_N,
    V_A_X,
    V_A_Y,
    V_B_N,
    V_B_X,
    V_B_Y,
    V_COLUMN,
    V_LIVE,
    V_N,
    V_O_N,
    V_O_X,
    V_O_Y,
    V_READ,
    V_X,
    V_Y,
)
from systol_sim.timing.state.codes import A_ELEMENTS, BUSY, VECTOR, WAIT_BANK, WAIT_BUFFER
from systol_sim.timing.state.events import C_OUTPUTS
from systol_sim.timing.state.machine_state import (
    H_BANKS,
    H_FROM,
    H_LAST,
    HISTORY,
    K_BANK,
    K_FIRST,
    K_LAST,
    MASK,
    RING,
)
from systol_sim.timing.state.table_columns import (
    ACCESSES,
    B_PLANE_BYTES,
    BINARY,
    COPY,
    KIND,
    OUT_PLANE_BYTES,
    PASSES,
    REQUANTIZE,
    SOURCE_PLANE_BYTES,
    TAPS,
)

# Places in `rhythm`: when the last row's first access was due; what must be one more, or equal;
# what counted up; the lanes' moments and those of the held planes, from then on.
_TIME, _X, _Y, _N, _BUSY, _SPACE_WAITS, _BANK_WAITS, _ENTRY, _EMPTY, _HELD = range(10)
_FROM = 16


@compiled
def skip_outputs(m, t, end):  # type: ignore[no-untyped-def]
    """In a cycle `t` in which the first access of an output row is due: a later one, at most
    `end`, in which that of another row of its line is due and up to which everything has been
    counted; or `t`. Nothing but Vector writes the banks that it writes."""
    r = m.rhythm
    if not _like_before(m, t):
        _remember(m, t)
        return t
    row, w = m.row[VECTOR], m.walkers[VECTOR]
    since = t - r[_TIME]
    outputs = min((end - t) // since, row[TAPS.x_count] - 1 - w[V_X])
    if row[KIND] == REQUANTIZE or row[KIND] == COPY:
        outputs = min(outputs, _inside(row, w, outputs))
    if row[TAPS.source_ub] == 0 and (row[KIND] == REQUANTIZE or row[KIND] == COPY):
        outputs = min(outputs, (_free_of_claims(m, row, w, outputs, t, end) - t) // since)
    if row[KIND] == BINARY and not _same_banks(m, row, w, outputs):
        outputs = 0
    planes = row[PASSES] + 1
    # All planes that are held afterwards then are those of rows passed over.
    if outputs * planes < r[_HELD]:
        _remember(m, t)
        return t

    states = m.states[VECTOR, m.charge[VECTOR]]
    states[BUSY] += outputs * (states[BUSY] - r[_BUSY])
    states[WAIT_BUFFER] += outputs * (states[WAIT_BUFFER] - r[_SPACE_WAITS])
    states[WAIT_BANK] += outputs * (states[WAIT_BANK] - r[_BANK_WAITS])
    m.amounts[A_ELEMENTS, m.charge[VECTOR]] += outputs * w[V_LIVE]
    m.coverage[C_OUTPUTS] += outputs
    w[V_X] += outputs
    w[V_A_X] += outputs * row[TAPS.a_x_step]
    w[V_O_X] += outputs * row[TAPS.out_x_step]
    w[V_B_X] += outputs * row[TAPS.b_x_step]
    w[V_COLUMN] += outputs * row[TAPS.x_step]
    w[V_A] = w[V_A_N] + w[V_A_Y] + w[V_A_X]
    t += outputs * since
    m.entry_free = t + r[_ENTRY]
    m.lanes_empty = t + r[_EMPTY]
    m.held_in += outputs * planes
    m.held_out += outputs * planes
    for plane in range(r[_HELD]):
        entry = m.rows_held[(m.held_out + plane) & (HISTORY - 1)]
        back = r[_HELD] - 1 - plane
        target = row[TAPS.out_address] + w[V_O_N] + w[V_O_Y] + w[V_O_X]
        target -= (back // planes + 1) * row[TAPS.out_x_step]
        target += (planes - 1 - back % planes) * row[OUT_PLANE_BYTES]
        entry[H_FROM] = t + r[_FROM + plane]
        entry[H_BANKS] = banks(target & MASK, w[V_LIVE], m.bank_shift)
        entry[H_LAST] = False
    _remember(m, t)
    return t


@compiled
def _like_before(m, t):  # type: ignore[no-untyped-def]
    """Whether everything stands as it stood at the row before, and the matrix was not met since."""
    r, w = m.rhythm, m.walkers[VECTOR]
    if (
        r[_TIME] < 0 or w[V_X] != r[_X] + 1 or w[V_Y] != r[_Y] or w[V_N] != r[_N]
        or m.held_in - m.held_out != r[_HELD]
        or max(m.entry_free - t, 0) != r[_ENTRY] or max(m.lanes_empty - t, 0) != r[_EMPTY]
    ):
        return False
    # Reads of the buffer meet nobody in a window; what waits for a bank waits for the other
    # operand. Reads of accumulators wait for the matrix.
    waits = m.states[VECTOR, m.charge[VECTOR], WAIT_BANK] - r[_BANK_WAITS]
    if waits and m.row[VECTOR, TAPS.source_ub] == 0:
        return False
    for plane in range(r[_HELD]):
        entry = m.rows_held[(m.held_out + plane) & (HISTORY - 1)]
        if entry[H_LAST] or max(entry[H_FROM] - t, 0) != r[_FROM + plane]:
            return False
    return True


@compiled
def _remember(m, t):  # type: ignore[no-untyped-def]
    r, w = m.rhythm, m.walkers[VECTOR]
    states = m.states[VECTOR, m.charge[VECTOR]]
    # Parameters are read before the first row of a group alone.
    r[_TIME] = t if w[V_READ] < 0 else -1
    r[_X] = w[V_X]
    r[_Y] = w[V_Y]
    r[_N] = w[V_N]
    r[_BUSY] = states[BUSY]
    r[_SPACE_WAITS] = states[WAIT_BUFFER]
    r[_BANK_WAITS] = states[WAIT_BANK]
    r[_ENTRY] = max(m.entry_free - t, 0)
    r[_EMPTY] = max(m.lanes_empty - t, 0)
    r[_HELD] = m.held_in - m.held_out
    for plane in range(r[_HELD]):
        entry = m.rows_held[(m.held_out + plane) & (HISTORY - 1)]
        r[_FROM + plane] = max(entry[H_FROM] - t, 0)


@compiled
def _inside(row, w, outputs):  # type: ignore[no-untyped-def]
    """How many rows from the present one on, at most `outputs`, have all their taps' columns inside
    the input, if the row before has: the others, and all if it has not, count as none."""
    step, limit = row[TAPS.x_step], row[TAPS.x_limit]
    reach = (row[TAPS.kx_count] - 1) * row[TAPS.kx_step]
    before = w[V_COLUMN] - step
    if before < 0 or before + reach >= limit:
        return 0
    if step == 0:
        return outputs
    return max(0, (limit - 1 - reach - before) // step)


@compiled
def _free_of_claims(m, row, w, outputs, t, end):  # type: ignore[no-untyped-def]
    """A cycle up to which, from `t` on, the matrix claims no accumulator bank that `outputs` rows
    from the present one on read."""
    low = high = row[TAPS.a_address] + w[V_A]
    for count, step in (
        (outputs, row[TAPS.a_x_step]), (row[TAPS.ky_count], row[TAPS.a_ky_step]),
        (row[TAPS.kx_count], row[TAPS.a_kx_step]),
    ):
        reach = (count - 1) * step
        low += min(reach, 0)
        high += max(reach, 0)
    half = m.acc_rows // 2
    # Addresses are modulo 2**32, and what lies outside the window may lie anywhere.
    bank = -1
    if low >> 32 == high >> 32:
        low, high = low & MASK, high & MASK
        if high < half:
            bank = 0
        elif half <= low and high < m.acc_rows:
            bank = 1
    for place in range(m.claims_out, m.claims_in):
        claim = m.claims[place & (RING - 1)]
        if claim[K_FIRST] >= end:
            break
        if claim[K_LAST] >= t and (bank < 0 or claim[K_BANK] == bank):
            return max(claim[K_FIRST], t)
    return end


@compiled
def _same_banks(m, row, w, outputs):  # type: ignore[no-untyped-def]
    """Whether both operands of the row before and of `outputs` more lie in one bank each."""
    high_a = row[SOURCE_PLANE_BYTES] if row[SOURCE_PLANE_BYTES] >= 0 else 0
    high_b = row[B_PLANE_BYTES] if row[ACCESSES] > 1 else 0
    a = row[TAPS.a_address] + w[V_A_N] + w[V_A_Y] + w[V_A_X]
    b = row[TAPS.b_address] + w[V_B_N] + w[V_B_Y] + w[V_B_X]
    return _one_bank(m, a, row[TAPS.a_x_step], high_a, outputs, w[V_LIVE]) and _one_bank(
        m, b, row[TAPS.b_x_step], high_b, outputs, w[V_LIVE]
    )


@compiled
def _one_bank(m, address, step, high, outputs, length):  # type: ignore[no-untyped-def]
    """Whether rows of `length` bytes at `address` - `step`, `address`, ..., and those `high` bytes
    further on, lie in one bank."""
    first, last = address - step, address + outputs * step
    low, top = min(first, last), max(first, last) + length - 1
    return (low + min(high, 0)) >> m.bank_shift == (top + max(high, 0)) >> m.bank_shift
