"""One cycle of the vector unit (docs/timing.md 7)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.buffers import drop_claims
from systol_sim.timing.cycle.ports import address_fault, banks, outside
from systol_sim.timing.cycle.vector_loops import (
    V_GRANTED,
    V_LIVE,
    V_PASS,
    V_READ,
    a_address,
    advance_vector,
    b_address,
    out_address,
    reads_a,
    reads_b,
    setup_read,
    tap_inside,
    writes_plane,
)
from systol_sim.timing.state.codes import (
    A_ELEMENTS,
    BUSY,
    VECTOR,
    WAIT_BANK,
    WAIT_BUFFER,
    WAIT_LANES,
)
from systol_sim.timing.state.events import (
    C_ACCUMULATOR,
    C_STRADDLE,
    C_VECTOR_A_MATRIX,
    C_VECTOR_A_STORE,
    C_VECTOR_A_WEIGHTS,
    C_VECTOR_ALONE,
    C_VECTOR_B_A,
    C_VECTOR_B_MATRIX,
    C_VECTOR_B_STORE,
    C_VECTOR_B_WEIGHTS,
    C_VECTOR_LOAD,
)
from systol_sim.timing.state.machine_state import (
    H_BANKS,
    H_FROM,
    H_LAST,
    HISTORY,
    K_BANK,
    K_FIRST,
    RING,
)
from systol_sim.timing.state.table_columns import (
    SAFE,
    TAPS,
)

_A, _B = 1, 2


@compiled
def write_row(m, t):  # type: ignore[no-untyped-def]
    """The write of the plane held longest, which Load's delivery outranks (4.2, 7.5)."""
    if m.held == 0:
        return
    held = m.rows_held[m.held_out & (HISTORY - 1)]
    if held[H_FROM] > t:
        return
    m.acted = 1
    place = t & (RING - 1)
    if m.load_time[place] == t and held[H_BANKS] & m.load_banks[place]:
        m.coverage[C_VECTOR_LOAD] += 1
        return
    if held[H_LAST]:
        m.ends[VECTOR, m.ended[VECTOR] & (HISTORY - 1)] = t
    m.held_out += 1


@compiled
def vector_performs(m, t):  # type: ignore[no-untyped-def]
    """The current read, access or pass of the active instruction (7.1 to 7.6)."""
    if m.active[VECTOR] < 0:
        return
    row, w = m.row[VECTOR], m.walkers[VECTOR]
    if row[SAFE] and t < m.entry_free:
        m.code[VECTOR] = BUSY
        return
    setup = w[V_READ] >= 0
    writes = writes_plane(row, w)
    live = w[V_LIVE]
    address, length = 0, live
    second, second_length = 0, live
    first_in_ub, first_in_accumulators, second_in_ub = False, False, False
    if setup:
        second, second_length = setup_read(row, w, m.columns, m.ub_width)
        second_in_ub = True
    elif w[V_PASS] == 0 and tap_inside(row, w):
        if reads_a(row, w):
            address = a_address(row, w)
            first_in_ub = row[TAPS.source_ub] != 0
            first_in_accumulators = not first_in_ub
        if reads_b(row, w):
            second = b_address(row, w)
            second_in_ub = True
    bad = not row[SAFE] and (
        (first_in_ub and outside(address, length, m.ub_bytes))
        or (second_in_ub and outside(second, second_length, m.ub_bytes))
        or (first_in_accumulators and address >= m.acc_rows)
        or (writes and outside(out_address(row, w), live, m.ub_bytes))
    )
    if bad:
        address_fault(m, VECTOR)
    if t < m.entry_free:
        m.code[VECTOR] = BUSY
        return
    if setup and t < m.lanes_empty:
        m.code[VECTOR] = WAIT_LANES
        return
    if writes and m.held >= m.write_rows:
        m.code[VECTOR] = WAIT_BUFFER
        return
    m.code[VECTOR] = WAIT_BANK
    if bad:
        return
    m.acted = 1
    if first_in_accumulators and _matrix_claims(m, t, address // (m.acc_rows // 2)):
        m.coverage[C_ACCUMULATOR] += 1
        return
    if not _reads_granted(m, w, first_in_ub, address, length, second_in_ub, second, second_length):
        return
    m.code[VECTOR] = BUSY
    if not setup:
        m.entry_free = t + m.slot
        m.lanes_empty = t + m.vector_latency
        if writes and w[V_PASS] == 0:
            m.amounts[A_ELEMENTS, m.charge[VECTOR]] += live
    target = out_address(row, w)
    finished = advance_vector(row, w, m.columns, m.ub_width)
    if writes:
        entry = m.rows_held[m.held_in & (HISTORY - 1)]
        m.held_in += 1
        entry[H_FROM] = t + m.vector_latency
        entry[H_BANKS] = banks(target, live, m.bank_shift)
        entry[H_LAST] = finished
    if finished:
        m.active[VECTOR] = -1


@compiled
def _matrix_claims(m, t, bank):  # type: ignore[no-untyped-def]
    """Whether the matrix claims the accumulator bank in cycle `t` (4.3)."""
    drop_claims(m, t)
    if m.claims_out == m.claims_in:
        return False
    oldest = m.claims[m.claims_out & (RING - 1)]
    return oldest[K_FIRST] <= t and oldest[K_BANK] == bank


@compiled
def _reads_granted(  # type: ignore[no-untyped-def]
    m, w, first_in_ub, address, length, second_in_ub, second, second_length
):
    """Whether all reads of the unified buffer have been granted, now or before (4.2, 7.3)."""
    shift, coverage = m.bank_shift, m.coverage
    needed = first_in_ub * _A + second_in_ub * _B
    before = w[V_GRANTED] & needed
    higher = m.store_banks | m.weights_banks | m.matrix_banks
    own = 0
    granted = before
    if needed & ~before & _A:
        mask = banks(address, length, shift)
        if mask & (mask - 1):
            coverage[C_STRADDLE] += 1
        if mask & higher:
            coverage[C_VECTOR_A_STORE] += (mask & m.store_banks) != 0
            coverage[C_VECTOR_A_WEIGHTS] += (mask & m.weights_banks) != 0
            coverage[C_VECTOR_A_MATRIX] += (mask & m.matrix_banks) != 0
        else:
            granted |= _A
            own = mask
    if needed & ~before & _B:
        mask = banks(second, second_length, shift)
        if mask & (mask - 1):
            coverage[C_STRADDLE] += 1
        if mask & (higher | own):
            coverage[C_VECTOR_B_STORE] += (mask & m.store_banks) != 0
            coverage[C_VECTOR_B_WEIGHTS] += (mask & m.weights_banks) != 0
            coverage[C_VECTOR_B_MATRIX] += (mask & m.matrix_banks) != 0
            coverage[C_VECTOR_B_A] += (mask & own) != 0
        else:
            granted |= _B
    if granted != needed and granted:
        coverage[C_VECTOR_ALONE] += granted != before
        w[V_GRANTED] = granted
    return granted == needed
