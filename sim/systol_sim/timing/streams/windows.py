"""Jumps over steady streams: units that cannot meet one another are advanced one after the other.

Between two moments at which anything starts, ends or leaves control, what the units do to each
other is known: beats at a port, banks of the unified buffer and of the accumulators, deliveries
against writes, tiles. Where a port has one user and the banks that units read are different ones,
each group of units is advanced through the whole *window* alone: the tile pipeline (Weights, the
shadow plane, Matrix), whole runs of rows and beats at a time; Load and Store, runs of beats at a
time; Vector against the claims and deliveries that the others have left behind, whole output rows
at a time. The results are those of stepping.
"""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.control import decide_starts
from systol_sim.timing.cycle.loops import M_ACC, T_DONE, T_INNER, T_OUTER
from systol_sim.timing.cycle.vector_loops import V_N, V_X, V_Y
from systol_sim.timing.state.codes import (
    CONTROL,
    LOAD,
    MATRIX,
    STORE,
    UNITS,
    VECTOR,
    WAIT_LANES,
    WEIGHTS,
)
from systol_sim.timing.state.events import C_INTERRUPTED, C_STREAMED, C_STREAMS
from systol_sim.timing.state.machine_state import B_LAST_OF, H_BANKS, H_FROM, H_LAST, HISTORY, RING
from systol_sim.timing.state.table_columns import (
    ACCESSES,
    BANKS,
    PASSES,
    PORT,
    SAFE,
    TAPS,
    TRANSFERS,
    WEIGHT_PORT,
    WRITES,
)
from systol_sim.timing.streams.tiles import stream_tiles
from systol_sim.timing.streams.transfers import stream_load, stream_store
from systol_sim.timing.streams.vector import stream_vector

LEAST = 8
"""Cycles below which a window costs more than it saves."""
PATIENCE = 4
"""Cycles that are stepped after a window that could not be."""


@compiled
def skip_streams(m, table, order, log, t):  # type: ignore[no-untyped-def]
    """After a cycle t - 1 without progress: cycles from `t` on that were advanced over, or 0."""
    limit = _window(m, t)
    if limit - t < LEAST:
        return 0
    decide_starts(m, table, order, log, t)
    for unit in range(1, UNITS):
        if m.head[unit] >= 0:
            return 0
    # In `decide_starts` a unit whose last access was performed in t - 1 shows its new state.
    if m.active[VECTOR] < 0 and m.code[VECTOR] == WAIT_LANES:
        limit = min(limit, m.lanes_empty)
    if limit - t < LEAST:
        return 0
    end = stream_tiles(m, t, limit)
    gap = end - t
    if gap <= 0:
        return 0
    for port in range(2):
        _idle_port(m, port, gap)
    blocked, apart = _store_blocked(m), _writes_apart(m)
    if m.active[LOAD] >= 0:
        stream_load(m, t, end, apart)
    else:
        m.states[LOAD, m.charge[LOAD], m.code[LOAD]] += gap
    if m.active[STORE] >= 0:
        stream_store(m, t, end, blocked)
    else:
        m.states[STORE, m.charge[STORE], m.code[STORE]] += gap
    if m.active[VECTOR] >= 0 or m.held_in > m.held_out:
        stream_vector(m, t, end, apart)
    else:
        m.states[VECTOR, m.charge[VECTOR], m.code[VECTOR]] += gap
    m.states[CONTROL, m.charge[CONTROL], m.code[CONTROL]] += gap
    m.idle_cycles += gap
    m.coverage[C_STREAMS] += 1
    m.coverage[C_STREAMED] += gap
    if end == limit and m.active[MATRIX] >= 0 and m.walkers[MATRIX, M_ACC] > 0:
        m.coverage[C_INTERRUPTED] += 1
    return gap


@compiled
def _window(m, t):  # type: ignore[no-untyped-def]
    """A cycle up to which, from `t` on, nothing starts, ends or leaves control, no unit performs
    the last access of its instruction (the tile pipeline aside), and no two groups meet."""
    # Fetch presents nothing: instructions in the buffer only wait to be seen.
    if m.fetch_done > 0 or (
        m.fetch_pc < m.code_length and m.fetch_pc - m.next_pc < m.fetch_buffer
    ):
        return t
    weights = m.active[WEIGHTS] >= 0
    weights_port = weights and m.row[WEIGHTS, PORT] == WEIGHT_PORT
    load, store = m.active[LOAD] >= 0, m.active[STORE] >= 0
    load_port, store_port = m.row[LOAD, PORT], m.row[STORE, PORT]
    blocked = _store_blocked(m)
    # A last beat in the store buffer gives its instruction an end.
    for place in range(m.store_out, m.store_in):
        if not blocked and (not store or m.beats[place & (HISTORY - 1), B_LAST_OF] >= 0):
            return t
    if weights_port and (
        (load and load_port == WEIGHT_PORT) or (store and store_port == WEIGHT_PORT)
    ):
        return t
    if load and store and load_port == store_port and not blocked:
        return t
    for unit in range(1, UNITS):
        if m.active[unit] >= 0 and not m.row[unit, SAFE]:
            return t
    if not _owners_fit(m, weights_port, load, store):
        return t
    if not _banks_fit(m, weights):
        return t

    limit = t - 1 + m.watchdog - m.idle_cycles
    for unit in range(1, UNITS):
        if m.ended[unit] < m.started[unit]:
            limit = min(limit, m.ends[unit, m.ended[unit] & (HISTORY - 1)])
    pc = m.next_pc
    if pc < m.fetch_pc and m.fetch_ready[pc & (HISTORY - 1)] >= t:
        limit = min(limit, m.fetch_ready[pc & (HISTORY - 1)])
    if m.host_until >= t:
        limit = min(limit, m.host_until)
    if load:
        limit = min(limit, _last_beat(m, t, LOAD))
    if store:
        limit = min(limit, t + _beats_left(m, STORE) - 1)
    if m.active[VECTOR] >= 0:
        limit = min(limit, _last_access(m, t))
    for place in range(m.held_out, m.held_in):
        if m.rows_held[place & (HISTORY - 1), H_LAST]:
            limit = min(limit, m.rows_held[place & (HISTORY - 1), H_FROM])
            break
    if load and not _writes_apart(m):
        # The ring of deliveries must hold those of the whole window.
        limit = min(limit, t + RING // 2)
    return limit


@compiled
def _store_blocked(m):  # type: ignore[no-untyped-def]
    """Whether Load outranks Store at one port throughout: outside Store's bursts it always does."""
    port = m.row[LOAD, PORT]
    return m.active[LOAD] >= 0 and m.row[STORE, PORT] == port and m.owner[port] != STORE


@compiled
def _writes_apart(m):  # type: ignore[no-untyped-def]
    """Whether Load and Vector write different banks of the unified buffer, if both write any."""
    if m.started[LOAD] == m.ended[LOAD]:
        return True
    written = m.row[VECTOR, WRITES] if m.active[VECTOR] >= 0 else 0
    for place in range(m.held_out, m.held_in):
        written |= m.rows_held[place & (HISTORY - 1), H_BANKS]
    if written == 0:
        return True
    # Of earlier transfers, whose last beats are on their way, the banks are not known.
    return (
        m.started[LOAD] - m.ended[LOAD] == 1 and m.row[LOAD, SAFE]
        and m.row[LOAD, WRITES] & written == 0
    )


@compiled
def _owners_fit(m, weights_port, load, store):  # type: ignore[no-untyped-def]
    """Whether a burst that goes on is that of the port's only user."""
    for port in range(2):
        owner = m.owner[port]
        if owner < 0:
            continue
        if owner == LOAD and load and m.row[LOAD, PORT] == port:
            continue
        if owner == STORE and store and m.row[STORE, PORT] == port:
            continue
        if owner == WEIGHTS and weights_port and port == WEIGHT_PORT:
            continue
        return False
    return True


@compiled
def _banks_fit(m, weights):  # type: ignore[no-untyped-def]
    """Whether no two groups read a bank of the unified buffer in common."""
    used = m.row[MATRIX, BANKS] if m.active[MATRIX] >= 0 else 0
    if weights:
        used |= m.row[WEIGHTS, BANKS]
    if m.active[STORE] >= 0:
        if used & m.row[STORE, BANKS]:
            return False
        used |= m.row[STORE, BANKS]
    return m.active[VECTOR] < 0 or used & m.row[VECTOR, BANKS] == 0


@compiled
def _beats_left(m, unit):  # type: ignore[no-untyped-def]
    """At least so many beats has a transfer still to perform."""
    row, w, width = m.row[unit], m.walkers[unit], m.width[m.row[unit, PORT]]
    run = row[TRANSFERS.run_bytes]
    runs = (row[TRANSFERS.count1] - w[T_OUTER]) * row[TRANSFERS.count0] - w[T_INNER] - 1
    return (run - w[T_DONE] + width - 1) // width + runs * ((run + width - 1) // width)


@compiled
def _last_beat(m, t, unit):  # type: ignore[no-untyped-def]
    """A cycle before which a transfer's last beat is not issued."""
    port = m.row[unit, PORT]
    left = _beats_left(m, unit)
    income = m.income[port]
    paid = left * m.cost[port] - m.credits[port]
    return t + max(left - 1, (paid + income - 1) // income)


@compiled
def _last_access(m, t):  # type: ignore[no-untyped-def]
    """A cycle before which the vector instruction's last access is not performed."""
    row, w = m.row[VECTOR], m.walkers[VECTOR]
    outputs = (
        (row[TAPS.n_count] - w[V_N]) * row[TAPS.y_count] - w[V_Y]
    ) * row[TAPS.x_count] - w[V_X] - 1
    taps = row[TAPS.ky_count] * row[TAPS.kx_count]
    return t + outputs * (taps * row[ACCESSES] + row[PASSES]) * m.slot


@compiled
def _idle_port(m, port, gap):  # type: ignore[no-untyped-def]
    """Credits of a port that nobody uses."""
    if m.active[LOAD] >= 0 and m.row[LOAD, PORT] == port:
        return
    if m.active[STORE] >= 0 and m.row[STORE, PORT] == port:
        return
    if m.active[WEIGHTS] >= 0 and m.row[WEIGHTS, PORT] == port:
        return
    m.credits[port] = min(m.credits[port] + gap * m.income[port], m.cap[port])
