"""One cycle of control, of the units' starts and of their ends (docs/timing.md 2 and 5)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.loops import start_rows, start_tiles, start_transfer
from systol_sim.timing.cycle.vector_loops import start_taps
from systol_sim.timing.state.codes import (
    CONTROL,
    CONTROL_BUSY,
    FLIGHT,
    FULL,
    IDLE,
    ILLEGAL_INSTRUCTION,
    LOAD,
    MATRIX,
    START,
    STORE,
    TOKEN_OVERFLOW,
    UNITS,
    VECTOR,
    WAIT_DRAIN,
    WAIT_FETCH,
    WAIT_HOST,
    WAIT_INFLIGHT,
    WAIT_LANES,
    WAIT_QUIET,
    WAIT_UNIT,
    WATCHDOG,
    WEIGHTS,
)
from systol_sim.timing.state.machine_state import HISTORY, L_END, L_INTERRUPT, L_START, L_TAG, NEVER
from systol_sim.timing.state.table_columns import (
    BARRIER,
    COLUMNS,
    DRAIN,
    HALT,
    HOST_PORT,
    INTERRUPT,
    KIND,
    PORT,
    REFUSED,
    REGISTER,
    SET_CONFIG,
    SIGNAL,
    STATUS_REGISTER,
    SYNC_HOST,
    TAG,
    UNIT,
    VALUE,
    WAIT,
)


@compiled
def decide_starts(m, table, order, log, t):  # type: ignore[no-untyped-def]
    """What each unit without an active instruction does (5.2, 8.1), and the tags (8.2)."""
    for unit in range(1, UNITS):
        m.head[unit] = -1
        if m.active[unit] >= 0:
            m.charge[unit] = log[m.active[unit], L_TAG]
            continue
        in_flight = m.started[unit] - m.ended[unit]
        if m.dispatched[unit] == m.started[unit]:
            m.code[unit] = FLIGHT if in_flight > 0 else IDLE
            m.charge[unit] = log[m.latest[unit], L_TAG] if in_flight > 0 else 0
            continue
        head = order[unit, m.started[unit]]
        row = table[head]
        m.charge[unit] = log[head, L_TAG]
        missing = 0
        for producer in range(1, UNITS):
            if row[WAIT] >> (producer - 1) & 1 and m.tokens[producer, unit] == 0:
                missing = producer
                break
        if missing > 0:
            m.code[unit] = WAIT_UNIT + missing
        elif in_flight > 0 and (
            row[DRAIN] or (unit <= WEIGHTS and row[PORT] != m.row[unit, PORT])
        ):
            m.code[unit] = WAIT_DRAIN
        elif in_flight >= m.inflight:
            m.code[unit] = WAIT_INFLIGHT
        elif unit == VECTOR and t < m.lanes_empty:
            m.code[unit] = WAIT_LANES
        else:
            m.code[unit] = START
            m.head[unit] = head


@compiled
def decide_control(m, table, log, t, quiet):  # type: ignore[no-untyped-def]
    """What control does with the next instruction (2.3)."""
    m.halts = 0
    m.dispatches = 0
    m.charge[CONTROL] = m.tag
    pc = m.next_pc
    m.code[CONTROL] = CONTROL_BUSY
    if pc >= m.code_length:
        _refuse(m, ILLEGAL_INSTRUCTION, pc)
        return
    if pc >= m.fetch_pc or m.fetch_ready[pc & (HISTORY - 1)] > t:
        m.code[CONTROL] = WAIT_FETCH
        return
    row = table[pc]
    if m.seen <= pc:
        m.seen = pc + 1
        m.acted = 1
        if row[UNIT] == CONTROL and row[REFUSED] == 0:
            log[pc, L_START] = t
    if row[REFUSED]:
        _refuse(m, row[REFUSED], pc)
        return
    unit = row[UNIT]
    if unit == CONTROL:
        kind = row[KIND]
        if (kind == HALT or kind == BARRIER or kind == SYNC_HOST) and not quiet:
            m.code[CONTROL] = WAIT_QUIET
            return
        if kind == SYNC_HOST:
            if m.host_until < 0:
                m.host_until = t + m.latency[HOST_PORT]
                m.acted = 1
                _interrupt(m, log, row[VALUE])
            if t < m.host_until:
                m.code[CONTROL] = WAIT_HOST
                return
    elif m.dispatched[unit] - m.started[unit] >= m.queue:
        m.code[CONTROL] = FULL + unit
        return
    m.dispatches = 1


@compiled
def _refuse(m, cause, pc):  # type: ignore[no-untyped-def]
    m.fault_unit = CONTROL
    m.fault_cause = cause
    m.fault_pc = pc


@compiled
def _interrupt(m, log, value):  # type: ignore[no-untyped-def]
    log[m.interrupt_count, L_INTERRUPT] = value
    m.interrupt_count += 1


@compiled
def start_units(m, table, log, t):  # type: ignore[no-untyped-def]
    """The starts that `decide_starts` found take effect."""
    for unit in range(1, UNITS):
        head = m.head[unit]
        if head < 0:
            continue
        m.progress = 1
        log[head, L_START] = t
        # Element by element: numba compiles seconds for the assignment of a row.
        for column in range(COLUMNS):
            m.row[unit, column] = table[head, column]
        row, w = m.row[unit], m.walkers[unit]
        for producer in range(1, UNITS):
            m.tokens[producer, unit] -= row[WAIT] >> (producer - 1) & 1
        m.ends[unit, m.started[unit] & (HISTORY - 1)] = NEVER
        m.started[unit] += 1
        m.active[unit] = head
        m.latest[unit] = head
        if unit == LOAD or unit == STORE:
            start_transfer(row, w)
        elif unit == WEIGHTS:
            start_tiles(row, w, m.rows, m.columns)
        elif unit == MATRIX:
            start_rows(row, w)
        else:
            start_taps(row, w, m.columns)


@compiled
def leave_control(m, table, log, t):  # type: ignore[no-untyped-def]
    """The next instruction is executed or dispatched."""
    m.progress = 1
    pc = m.next_pc
    m.next_pc += 1
    row = table[pc]
    if row[UNIT] != CONTROL:
        log[pc, L_TAG] = m.tag
        m.dispatched[row[UNIT]] += 1
        return
    log[pc, L_END] = t
    m.host_until = -1
    kind = row[KIND]
    if kind == TAG:
        m.tag = row[VALUE]
    elif kind == INTERRUPT:
        _interrupt(m, log, row[VALUE])
    elif kind == HALT:
        m.halts = 1
    elif kind == SET_CONFIG:
        if row[REGISTER] == STATUS_REGISTER:
            m.status = row[VALUE]
        else:
            m.watchdog = min(m.host_watchdog, max(row[VALUE], 1))


@compiled
def end_units(m, table, order, log, t):  # type: ignore[no-untyped-def]
    """The instructions that end in cycle `t` give their tokens (5.4)."""
    for unit in range(1, UNITS):
        ended = m.ended[unit]
        if ended == m.started[unit] or m.ends[unit, ended & (HISTORY - 1)] != t:
            continue
        m.progress = 1
        ending = order[unit, ended]
        log[ending, L_END] = t
        m.ended[unit] += 1
        for consumer in range(1, UNITS):
            if table[ending, SIGNAL] >> (consumer - 1) & 1:
                m.tokens[unit, consumer] += 1
                if m.tokens[unit, consumer] > m.token_limit and unit < m.fault_unit:
                    m.fault_unit = unit
                    m.fault_cause = TOKEN_OVERFLOW
                    m.fault_pc = ending


@compiled
def watch(m):  # type: ignore[no-untyped-def]
    """The watchdog (5.7); control's decoding faults come before it (5.6)."""
    m.idle_cycles = 0 if m.progress else m.idle_cycles + 1
    if m.idle_cycles >= m.watchdog and m.fault_unit != CONTROL:
        m.fault_unit = CONTROL
        m.fault_cause = WATCHDOG
        m.fault_pc = m.next_pc
