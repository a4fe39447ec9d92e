"""Load and Store, each alone at its port, through a window of streams (`windows`)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.loops import T_DONE, T_MEMORY, T_UB, advance_transfer
from systol_sim.timing.cycle.ports import banks, beat
from systol_sim.timing.state.codes import (
    A_LOAD,
    A_STORE,
    BUSY,
    LOAD,
    P_BUFFERED,
    STORE,
    WAIT_BUFFER,
    WAIT_PORT,
)
from systol_sim.timing.state.events import C_LOADED, C_STORED
from systol_sim.timing.state.machine_state import (
    B_ENDS_BURST,
    B_FROM,
    B_LAST_OF,
    B_PORT,
    HISTORY,
    MASK,
    RING,
)
from systol_sim.timing.state.table_columns import (
    PORT,
    TRANSFERS,
)


@compiled
def stream_load(m, t, end, apart):  # type: ignore[no-untyped-def]
    """Advance Load from cycle `t` to `end` as the pace allows, beat by beat; where every cycle has
    one, all those of a run at once. Deliveries before `end` are noted only if they are not `apart`
    from Vector's writes."""
    row, w = m.row[LOAD], m.walkers[LOAD]
    port = row[PORT]
    cost, income = m.cost[port], m.income[port]
    credits = m.credits[port]
    latency, width, burst = m.latency[port], m.width[port], m.burst
    noted = end if apart else 0
    beats, total, first = 0, 0, t
    while t < end:
        steady = income == cost and credits >= cost
        many = min(_whole_beats(row, w, width), end - t) if steady else 0
        if many > 1:
            source = (w[T_UB] + w[T_DONE]) & MASK
            for time in range(max(t + latency, noted), t + many + latency):
                m.load_time[time & (RING - 1)] = time
                m.load_banks[time & (RING - 1)] = banks(
                    source + (time - latency - t) * width, width, m.bank_shift
                )
            w[T_DONE] += many * width
            m.coverage[C_LOADED] += many
            m.owner[port] = -1 if (w[T_MEMORY] + w[T_DONE]) & (burst - 1) == 0 else LOAD
            beats += many
            total += many * width
            t += many
            continue
        if credits < cost:
            wait = min((cost - credits + income - 1) // income, end - t)
            credits += wait * income
            t += wait
            continue
        credits += income - cost
        left = row[TRANSFERS.run_bytes] - w[T_DONE]
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


@compiled
def _whole_beats(row, w, width):  # type: ignore[no-untyped-def]
    """How many beats as wide as the port come next in a transfer's run, before its last."""
    if (w[T_MEMORY] + w[T_DONE]) & (width - 1):
        return 0
    return (row[TRANSFERS.run_bytes] - w[T_DONE] - 1) // width


@compiled
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
        if not blocked and income == cost and credits >= cost and 2 <= buffered < space:
            many = min(_whole_beats(row, w, width), end - t)
            if many > 1 and _ready_in_turn(m, t, buffered):
                _read_and_issue(m, t, many, buffered)
                reads += many
                total += many * width
                t += many
                continue
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
            left = row[TRANSFERS.run_bytes] - w[T_DONE]
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
    m.states[STORE, m.charge[STORE], WAIT_BUFFER] += end - first - reads


@compiled
def _ready_in_turn(m, t, buffered):  # type: ignore[no-untyped-def]
    """Whether each of the beats that Store holds can be issued when those before it have been, one
    a cycle from `t` on."""
    for place in range(buffered):
        if m.beats[(m.store_out + place) & (HISTORY - 1), B_FROM] > t + place:
            return False
    return True


@compiled
def _read_and_issue(m, t, many, buffered):  # type: ignore[no-untyped-def]
    """A read and a beat of Store's in each of `many` cycles from `t` on."""
    row, w = m.row[STORE], m.walkers[STORE]
    port = row[PORT]
    width = m.width[port]
    # Of what is read, only the beat issued last and those held after it are looked at again.
    for number in range(max(0, many - 1 - buffered), many):
        after = w[T_MEMORY] + w[T_DONE] + (number + 1) * width
        entry = m.beats[(m.store_in + number) & (HISTORY - 1)]
        entry[B_FROM] = t + number + 2
        entry[B_ENDS_BURST] = after & (m.burst - 1) == 0
        entry[B_PORT] = port
        entry[B_LAST_OF] = -1
    w[T_DONE] += many * width
    m.coverage[C_STORED] += many
    m.store_in += many
    m.store_out += many
    ends = m.beats[(m.store_out - 1) & (HISTORY - 1), B_ENDS_BURST]
    m.owner[port] = -1 if ends else STORE
