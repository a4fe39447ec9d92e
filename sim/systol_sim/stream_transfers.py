"""Load and Store, each alone at its port, through a window of streams (systol_sim.streams)."""

from numba import njit

from systol_sim.instruction_columns import FIRST, PORT
from systol_sim.places import (
    A_LOAD,
    A_STORE,
    B_ENDS_BURST,
    B_FROM,
    B_LAST_OF,
    B_PORT,
    BUSY,
    HISTORY,
    LOAD,
    MASK,
    P_BUFFERED,
    RING,
    STORE,
    WAIT_PORT,
    WAIT_SPACE,
)
from systol_sim.step_ports import banks, beat
from systol_sim.walkers import T_DONE, T_MEMORY, T_UB, advance_transfer


@njit(cache=True)
def stream_load(m, t, end):  # type: ignore[no-untyped-def]
    """Advance Load from cycle `t` to `end`, beat by beat as the pace allows."""
    row, w = m.row[LOAD], m.walkers[LOAD]
    port = row[PORT]
    cost, income = m.cost[port], m.income[port]
    credits = m.credits[port]
    latency, width, burst = m.latency[port], m.width[port], m.burst
    beats, total, first = 0, 0, t
    while t < end:
        if credits < cost:
            wait = min((cost - credits + income - 1) // income, end - t)
            credits += wait * income
            t += wait
            continue
        credits += income - cost
        left = row[FIRST + 2] - w[T_DONE]
        live, ends = beat((w[T_MEMORY] + w[T_DONE]) & MASK, left, width, burst)
        place = (t + latency) & (RING - 1)
        m.load_time[place] = t + latency
        m.load_banks[place] = banks((w[T_UB] + w[T_DONE]) & MASK, live, m.bank_shift)
        m.owner[port] = -1 if ends else LOAD
        advance_transfer(row, w, live)
        beats += 1
        total += live
        t += 1
    m.credits[port] = credits
    m.amounts[A_LOAD + port, m.charge[LOAD]] += total
    m.states[LOAD, m.charge[LOAD], BUSY] += beats
    m.states[LOAD, m.charge[LOAD], WAIT_PORT] += end - first - beats


@njit(cache=True)
def stream_store(m, t, end, blocked):  # type: ignore[no-untyped-def]
    """Advance Store from cycle `t` to `end`: its reads, and its beats as the pace allows, or none
    where Load has the port (`blocked`)."""
    row, w = m.row[STORE], m.walkers[STORE]
    port = row[PORT]
    cost, income, cap = m.cost[port], m.income[port], m.cap[port]
    credits = m.credits[port]
    width, burst, space = m.width[port], m.burst, m.store_beats
    reads, total, first, peak = 0, 0, t, 0
    while t < end:
        buffered = m.store_in - m.store_out
        peak = max(peak, buffered)
        head = m.beats[m.store_out & (HISTORY - 1)]
        if blocked and buffered >= space:
            break
        if not blocked and buffered >= space and credits < cost and head[B_FROM] <= t:
            wait = min((cost - credits + income - 1) // income, end - t)
            credits += wait * income
            t += wait
            continue
        if not blocked and buffered > 0 and head[B_FROM] <= t and credits >= cost:
            m.owner[port] = -1 if head[B_ENDS_BURST] else STORE
            m.store_out += 1
            credits -= cost
        credits = min(credits + income, cap)
        if buffered < space:
            left = row[FIRST + 2] - w[T_DONE]
            live, ends = beat((w[T_MEMORY] + w[T_DONE]) & MASK, left, width, burst)
            entry = m.beats[m.store_in & (HISTORY - 1)]
            m.store_in += 1
            entry[B_FROM] = t + 2
            entry[B_ENDS_BURST] = ends
            entry[B_PORT] = port
            entry[B_LAST_OF] = -1
            advance_transfer(row, w, live)
            reads += 1
            total += live
        t += 1
    if not blocked:
        m.credits[port] = credits
    m.scalars[P_BUFFERED] = max(m.scalars[P_BUFFERED], peak)
    m.amounts[A_STORE + port, m.charge[STORE]] += total
    m.states[STORE, m.charge[STORE], BUSY] += reads
    m.states[STORE, m.charge[STORE], WAIT_SPACE] += end - first - reads
