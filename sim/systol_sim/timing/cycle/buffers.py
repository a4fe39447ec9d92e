"""One cycle of Store's, Weights' and Matrix's accesses to the buffers (docs/timing.md 4, 6)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.loops import (
    M_X,
    M_Y,
    T_DONE,
    T_MEMORY,
    T_UB,
    W_ADDRESS,
    W_DONE,
    W_LINE,
    W_ROW,
    advance_rows,
    advance_transfer,
    matrix_row,
)
from systol_sim.timing.cycle.ports import (
    address_fault,
    banks,
    beat,
    memory_size,
    outside,
    tile_access,
)
from systol_sim.timing.state.codes import (
    A_PADDING,
    A_STORE,
    A_USEFUL,
    A_WEIGHTS_UB,
    BUSY,
    MATRIX,
    STORE,
    WAIT_BANK,
    WAIT_BUFFER,
    WAIT_FIFO,
    WAIT_SHIFT,
    WAIT_TILE,
    WEIGHTS,
)
from systol_sim.timing.state.events import (
    C_MATRIX_STORE,
    C_MATRIX_WEIGHTS,
    C_STRADDLE,
    C_WEIGHTS_STORE,
)
from systol_sim.timing.state.machine_state import (
    B_ENDS_BURST,
    B_FROM,
    B_LAST_OF,
    B_PORT,
    HISTORY,
    K_BANK,
    K_FIRST,
    K_LAST,
    MASK,
    RING,
)
from systol_sim.timing.state.table_columns import (
    PORT,
    SAFE,
    TRANSFERS,
    UNIFIED_BUFFER,
)


@compiled
def store_reads(m, t):  # type: ignore[no-untyped-def]
    """Store's read of the current beat (6.2)."""
    m.store_banks = 0
    if m.active[STORE] < 0:
        return
    row, w = m.row[STORE], m.walkers[STORE]
    address = (w[T_MEMORY] + w[T_DONE]) & MASK
    source = (w[T_UB] + w[T_DONE]) & MASK
    live, ends_burst = beat(
        address, row[TRANSFERS.run_bytes] - w[T_DONE], m.width[row[PORT]], m.burst
    )
    bad = not row[SAFE] and (
        outside(address, live, memory_size(m, row)) or outside(source, live, m.ub_bytes)
    )
    if bad:
        address_fault(m, STORE)
    if m.buffered >= m.store_beats:
        m.code[STORE] = WAIT_BUFFER
        return
    if bad:
        m.code[STORE] = WAIT_BANK
        return
    m.code[STORE] = BUSY
    m.acted = 1
    m.store_banks = banks(source, live, m.bank_shift)
    m.amounts[A_STORE + row[PORT], m.charge[STORE]] += live
    entry = m.beats[m.store_in & (HISTORY - 1)]
    m.store_in += 1
    entry[B_FROM] = t + 2
    entry[B_ENDS_BURST] = ends_burst
    entry[B_PORT] = row[PORT]
    entry[B_LAST_OF] = -1
    if advance_transfer(row, w, live):
        entry[B_LAST_OF] = m.started[STORE] - 1
        m.active[STORE] = -1


@compiled
def weights_read(m, t):  # type: ignore[no-untyped-def]
    """Weights' read of the current line, where the source is the unified buffer (6.3)."""
    m.weights_banks = 0
    if m.active[WEIGHTS] < 0 or m.row[WEIGHTS, PORT] != UNIFIED_BUFFER:
        return
    row, w = m.row[WEIGHTS], m.walkers[WEIGHTS]
    address, line = w[W_ADDRESS], w[W_LINE]
    bad = not row[SAFE] and outside(address, line, m.ub_bytes)
    if bad:
        address_fault(m, WEIGHTS)
    if w[W_ROW] == 0 and w[W_DONE] == 0 and m.used >= m.fifo_tiles:
        m.code[WEIGHTS] = WAIT_FIFO
        return
    m.code[WEIGHTS] = WAIT_BANK
    if bad:
        return
    m.acted = 1
    mask = banks(address, line, m.bank_shift)
    if mask & (mask - 1):
        m.coverage[C_STRADDLE] += 1
    if mask & m.store_banks:
        m.coverage[C_WEIGHTS_STORE] += 1
        return
    m.code[WEIGHTS] = BUSY
    m.weights_banks = mask
    m.amounts[A_WEIGHTS_UB, m.charge[WEIGHTS]] += line
    tile_access(m, line, t + 1)


@compiled
def matrix_issues(m, t):  # type: ignore[no-untyped-def]
    """The current row of the active instruction; True if it takes the shadow plane (6.5)."""
    m.matrix_banks = 0
    if m.active[MATRIX] < 0:
        return False
    row, w = m.row[MATRIX], m.walkers[MATRIX]
    live, address, inside, accumulator = matrix_row(row, w, m.rows)
    bad = not row[SAFE] and (
        accumulator >= m.acc_rows
        or (inside > 0 and outside(address, inside, m.ub_bytes))
    )
    if bad:
        address_fault(m, MATRIX)
    first = w[M_Y] == 0 and w[M_X] == 0
    if first and not (m.plane_held and t >= m.plane_full_from):
        m.code[MATRIX] = WAIT_SHIFT if m.plane_held else WAIT_TILE
        return False
    m.code[MATRIX] = WAIT_BANK
    if bad:
        return False
    m.acted = 1
    if inside > 0:
        mask = banks(address, inside, m.bank_shift)
        if mask & (mask - 1):
            m.coverage[C_STRADDLE] += 1
        if mask & (m.store_banks | m.weights_banks):
            m.coverage[C_MATRIX_STORE] += (mask & m.store_banks) != 0
            m.coverage[C_MATRIX_WEIGHTS] += (mask & m.weights_banks) != 0
            return False
        m.matrix_banks = mask
    m.code[MATRIX] = BUSY
    if first:
        m.row_columns = m.plane_columns
    m.amounts[A_USEFUL, m.charge[MATRIX]] += live * m.row_columns
    m.amounts[A_PADDING, m.charge[MATRIX]] += (live - inside) * m.row_columns
    claim = t + m.matrix_latency
    claim_bank(m, claim, claim, accumulator // (m.acc_rows // 2))
    if advance_rows(row, w):
        m.ends[MATRIX, (m.started[MATRIX] - 1) & (HISTORY - 1)] = claim + 1
        m.active[MATRIX] = -1
    return first


@compiled
def claim_bank(m, first, last, bank):  # type: ignore[no-untyped-def]
    """Note that the matrix claims `bank` in the cycles `first` .. `last`, the latest yet (6.6)."""
    if m.claims_in > m.claims_out:
        newest = m.claims[(m.claims_in - 1) & (RING - 1)]
        if newest[K_BANK] == bank and newest[K_LAST] == first - 1:
            newest[K_LAST] = last
            return
    entry = m.claims[m.claims_in & (RING - 1)]
    m.claims_in += 1
    # What the ring has no place for is long past: a claim lies at most A cycles ahead.
    m.claims_out = max(m.claims_out, m.claims_in - RING)
    entry[K_FIRST] = first
    entry[K_LAST] = last
    entry[K_BANK] = bank


@compiled
def drop_claims(m, t):  # type: ignore[no-untyped-def]
    """Forget the claims of cycles before `t`."""
    while m.claims_out < m.claims_in:
        if m.claims[m.claims_out & (RING - 1), K_LAST] >= t:
            break
        m.claims_out += 1


@compiled
def shift_plane(m, t, taken):  # type: ignore[no-untyped-def]
    """Start the shift of the next tile if it can (6.4)."""
    if taken:
        m.plane_held = 0
    if m.plane_held or m.tiles_shifted >= m.tiles_loaded:
        return
    tile = m.tiles_shifted & (HISTORY - 1)
    if m.tile_ready[tile] <= t:
        m.plane_held = 1
        m.plane_full_from = t + m.rows
        m.plane_columns = m.tile_columns[tile]
        m.tiles_shifted += 1
        m.acted = 1
