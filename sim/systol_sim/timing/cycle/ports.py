"""One cycle of the memory ports: what is presented, granted and delivered (docs/timing.md 3)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.loops import (
    T_DONE,
    T_MEMORY,
    T_UB,
    W_ADDRESS,
    W_DONE,
    W_LINE,
    W_N_LIVE,
    W_ROW,
    advance_tiles,
    advance_transfer,
)
from systol_sim.timing.state.codes import (
    A_FETCH,
    A_LOAD,
    A_WEIGHTS,
    ADDRESS,
    BUSY,
    FETCH,
    LOAD,
    STORE,
    UNITS,
    WAIT_FIFO,
    WAIT_PORT,
    WEIGHTS,
)
from systol_sim.timing.state.events import (
    C_BURST_GAP,
    C_BURST_KEPT,
    C_LOAD_FETCH,
    C_LOAD_STORE_HOST,
    C_LOAD_WEIGHTS,
    C_PACED,
    C_STORE_FETCH,
    C_STORE_LOAD,
    C_STORE_LOAD_HOST,
    C_STORE_WEIGHTS,
    C_WEIGHTS_FETCH,
)
from systol_sim.timing.state.machine_state import (
    B_ENDS_BURST,
    B_FROM,
    B_LAST_OF,
    B_PORT,
    CODE_BYTES,
    HISTORY,
    MASK,
    RING,
)
from systol_sim.timing.state.table_columns import (
    HOST_PORT,
    PORT,
    SAFE,
    TRANSFERS,
    UNIFIED_BUFFER,
    WEIGHT_PORT,
)


@compiled
def banks(address, length, shift):  # type: ignore[no-untyped-def]
    """Mask of the banks of the first and the last byte (4.1)."""
    return (1 << (address >> shift)) | (1 << ((address + length - 1) >> shift))


@compiled
def outside(address, length, size):  # type: ignore[no-untyped-def]
    """Whether an access leaves a memory of `size` bytes."""
    return address + length > size


@compiled
def address_fault(m, unit):  # type: ignore[no-untyped-def]
    """`unit`'s current access is out of range; the lowest unit's fault is reported (5.6)."""
    if unit < m.fault_unit:
        m.fault_unit = unit
        m.fault_cause = ADDRESS
        m.fault_pc = m.active[unit]


@compiled
def beat(address, left, width, burst):  # type: ignore[no-untyped-def]
    """(live bytes, whether the burst ends) of the beat at `address` of a run with `left` bytes."""
    live = min(width - (address & (width - 1)), left)
    return live, live == left or ((address + live) & (burst - 1)) == 0


@compiled
def memory_size(m, row):  # type: ignore[no-untyped-def]
    """Bytes of the memory that the transfer in table row `row` meets."""
    if row[PORT] == WEIGHT_PORT:
        return m.weight_bytes
    return m.window_bytes[row[TRANSFERS.window]]


@compiled
def present_beats(m, t):  # type: ignore[no-untyped-def]
    """What fetch, Load, Weights and Store present in cycle `t`; the states of Load and Weights as
    they are if nothing is granted."""
    requests, burst_ends = m.requests, m.burst_ends
    for port in range(2):
        for requester in range(UNITS):
            requests[port, requester] = False
    burst = m.burst

    if m.fetch_pc < m.code_length and (
        m.fetch_done > 0 or m.fetch_pc - m.next_pc < m.fetch_buffer
    ):
        live = min(m.width[WEIGHT_PORT], CODE_BYTES)
        done = m.fetch_done + live
        address = m.code_address + CODE_BYTES * m.fetch_pc + done
        requests[WEIGHT_PORT, FETCH] = True
        burst_ends[WEIGHT_PORT, FETCH] = done == CODE_BYTES or (address & (burst - 1)) == 0
        m.fetch_live = live

    if m.active[LOAD] >= 0:
        row, w = m.row[LOAD], m.walkers[LOAD]
        port = row[PORT]
        address = (w[T_MEMORY] + w[T_DONE]) & MASK
        live, ends = beat(address, row[TRANSFERS.run_bytes] - w[T_DONE], m.width[port], burst)
        requests[port, LOAD] = True
        burst_ends[port, LOAD] = ends
        m.load_live = live
        m.code[LOAD] = WAIT_PORT
        if not row[SAFE] and (
            outside(address, live, memory_size(m, row))
            or outside((w[T_UB] + w[T_DONE]) & MASK, live, m.ub_bytes)
        ):
            address_fault(m, LOAD)
            requests[port, LOAD] = False

    if m.active[WEIGHTS] >= 0 and m.row[WEIGHTS, PORT] != UNIFIED_BUFFER:
        row, w = m.row[WEIGHTS], m.walkers[WEIGHTS]
        address = (w[W_ADDRESS] + w[W_DONE]) & MASK
        live, ends = beat(
            address, w[W_LINE] - w[W_DONE], m.width[WEIGHT_PORT], burst
        )
        m.weights_live = live
        if w[W_ROW] == 0 and w[W_DONE] == 0 and m.used >= m.fifo_tiles:
            m.code[WEIGHTS] = WAIT_FIFO
        else:
            m.code[WEIGHTS] = WAIT_PORT
            requests[WEIGHT_PORT, WEIGHTS] = True
            burst_ends[WEIGHT_PORT, WEIGHTS] = ends
        if not row[SAFE] and outside(address, live, m.weight_bytes):
            address_fault(m, WEIGHTS)
            requests[WEIGHT_PORT, WEIGHTS] = False

    if m.buffered > 0:
        head = m.beats[m.store_out & (HISTORY - 1)]
        if head[B_FROM] <= t:
            requests[head[B_PORT], STORE] = True
            burst_ends[head[B_PORT], STORE] = head[B_ENDS_BURST] != 0


@compiled
def grant_beats(m):  # type: ignore[no-untyped-def]
    """Grant each port's beat of this cycle, and pay for it (3.3, 3.4)."""
    coverage = m.coverage
    for port in range(2):
        requests, owner = m.requests[port], m.owner[port]
        winner = -1
        for requester in (STORE, LOAD, WEIGHTS, FETCH):
            if requests[requester]:
                winner = requester
        if winner >= 0 or owner >= 0:
            if m.credits[port] < m.cost[port]:
                if winner >= 0:
                    coverage[C_PACED] += 1
                winner = -1
            elif owner >= 0:
                if not requests[owner]:
                    coverage[C_BURST_GAP] += 1
                    winner = -1
                elif winner != owner:
                    coverage[C_BURST_KEPT] += 1
                    if port == HOST_PORT:
                        coverage[C_LOAD_STORE_HOST] += 1
                    winner = owner
            elif port == HOST_PORT:
                if winner == LOAD and requests[STORE]:
                    coverage[C_STORE_LOAD_HOST] += 1
            else:
                _count_losers(requests, winner, coverage)
        m.granted[port] = winner
        if winner >= 0:
            m.owner[port] = -1 if m.burst_ends[port, winner] else winner
            m.credits[port] -= m.cost[port]
            m.acted = 1
        m.credits[port] = min(m.credits[port] + m.income[port], m.cap[port])


@compiled
def _count_losers(requests, winner, coverage):  # type: ignore[no-untyped-def]
    """Count who loses the weight port to whom, outside bursts."""
    if winner == FETCH:
        coverage[C_WEIGHTS_FETCH] += requests[WEIGHTS]
        coverage[C_LOAD_FETCH] += requests[LOAD]
        coverage[C_STORE_FETCH] += requests[STORE]
    elif winner == WEIGHTS:
        coverage[C_LOAD_WEIGHTS] += requests[LOAD]
        coverage[C_STORE_WEIGHTS] += requests[STORE]
    elif winner == LOAD:
        coverage[C_STORE_LOAD] += requests[STORE]


@compiled
def deliver_beats(m, t):  # type: ignore[no-untyped-def]
    """Perform the beats granted in cycle `t`: walkers, amounts, deliveries, ends."""
    for port in range(2):
        requester = m.granted[port]
        if requester < 0:
            continue
        delivery = t + m.latency[port]
        if requester == FETCH:
            _deliver_fetch(m, delivery)
        elif requester == LOAD:
            _deliver_load(m, port, delivery)
        elif requester == WEIGHTS:
            _deliver_weights(m, delivery)
        else:
            head = m.beats[m.store_out & (HISTORY - 1)]
            if head[B_LAST_OF] >= 0:
                m.ends[STORE, head[B_LAST_OF] & (HISTORY - 1)] = delivery
            m.store_out += 1


@compiled
def _deliver_fetch(m, delivery):  # type: ignore[no-untyped-def]
    m.amounts[A_FETCH, m.tag] += m.width[WEIGHT_PORT]
    m.fetch_done += m.fetch_live
    if m.fetch_done == CODE_BYTES:
        m.fetch_ready[m.fetch_pc & (HISTORY - 1)] = delivery + 1
        m.fetch_pc += 1
        m.fetch_done = 0


@compiled
def _deliver_load(m, port, delivery):  # type: ignore[no-untyped-def]
    row, w, live = m.row[LOAD], m.walkers[LOAD], m.load_live
    m.code[LOAD] = BUSY
    m.amounts[A_LOAD + port, m.charge[LOAD]] += live
    m.load_time[delivery & (RING - 1)] = delivery
    m.load_banks[delivery & (RING - 1)] = banks(
        (w[T_UB] + w[T_DONE]) & MASK, live, m.bank_shift
    )
    if advance_transfer(row, w, live):
        m.ends[LOAD, (m.started[LOAD] - 1) & (HISTORY - 1)] = delivery
        m.active[LOAD] = -1


@compiled
def _deliver_weights(m, delivery):  # type: ignore[no-untyped-def]
    m.code[WEIGHTS] = BUSY
    m.amounts[A_WEIGHTS, m.charge[WEIGHTS]] += m.weights_live
    tile_access(m, m.weights_live, delivery)


@compiled
def tile_access(m, live, delivery):  # type: ignore[no-untyped-def]
    """Perform Weights' current access, of `live` bytes that are delivered in cycle `delivery`."""
    row, w = m.row[WEIGHTS], m.walkers[WEIGHTS]
    if w[W_ROW] == 0 and w[W_DONE] == 0:
        m.tiles_reserved += 1
    n_live = w[W_N_LIVE]
    finished = advance_tiles(row, w, live, m.rows, m.columns)
    if finished or (w[W_ROW] == 0 and w[W_DONE] == 0):
        m.tile_ready[m.tiles_loaded & (HISTORY - 1)] = delivery + 1
        m.tile_columns[m.tiles_loaded & (HISTORY - 1)] = n_live
        m.tiles_loaded += 1
    if finished:
        m.ends[WEIGHTS, (m.started[WEIGHTS] - 1) & (HISTORY - 1)] = delivery
        m.active[WEIGHTS] = -1
