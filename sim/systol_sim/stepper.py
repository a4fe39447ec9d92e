"""The timing of the machine: one compiled function that steps a program through its cycles.

It is docs/timing.md in code; section numbers stand beside the rules. It computes no values: time
never depends on data. Within a cycle, everything is decided from the state at its beginning.
"""

import numpy as np
from numba import njit

from systol_sim.instruction_table import (
    BARRIER,
    DRAIN,
    FIRST,
    HALT,
    HOST_PORT,
    INTERRUPT,
    KIND,
    PORT,
    REFUSED,
    SAFE,
    SIGNAL,
    TAG,
    UNIT,
    VALUE,
    WAIT,
    WEIGHT_PORT,
)
from systol_sim.walkers import (
    M_X,
    M_Y,
    T_DONE,
    T_MEMORY,
    T_UB,
    V_PARAMETER,
    W_ADDRESS,
    W_DONE,
    W_N_LIVE,
    W_ROW,
    WALKER_PLACES,
    advance_rows,
    advance_taps,
    advance_tiles,
    advance_transfer,
    group_live,
    matrix_row,
    out_address,
    parameter_read,
    start_rows,
    start_taps,
    start_tiles,
    start_transfer,
    tap_address,
    tap_inside,
    tap_is_last,
)

CONTROL, LOAD, STORE, WEIGHTS, MATRIX, VECTOR = range(6)
FETCH = 0  # as a requester at the weight port, fetch takes control's place
UNITS = 6
(
    F_ROWS, F_COLUMNS, F_UB_BYTES, F_BANK_SHIFT, F_UB_WIDTH, F_ACC_ROWS, F_FIFO_TILES, F_BURST,
    F_SLOT, F_VECTOR_LATENCY, F_QUEUE, F_FETCH_BUFFER, F_INFLIGHT, F_TOKEN_LIMIT, F_WRITE_ROWS,
    F_STORE_BEATS, F_MATRIX_LATENCY, F_WIDTH, _, F_COST, _, F_INCOME, _, F_CAP, _, F_LATENCY, _,
) = range(27)
RING = 2048
"""Cycles ahead that an accumulator claim or a delivery may lie: more than any latency."""
NEVER = 1 << 62
HISTORY = 64
"""Length of the small rings, more than any buffer's depth."""

# States (systol_hw.counters).
IDLE, BUSY, START, WAIT_DRAIN, WAIT_INFLIGHT, WAIT_PORT, WAIT_BANK = 0, 1, 2, 8, 9, 10, 11
WAIT_SPACE, WAIT_TILE, WAIT_SHIFT, WAIT_LANES, FLIGHT = 12, 12, 13, 13, 14
CONTROL_BUSY, WAIT_FETCH, FULL, WAIT_QUIET = 1, 2, 2, 8
# Amounts, by row of systol_hw.counters.AMOUNTS.
A_FETCH, A_LOAD, A_STORE, A_WEIGHTS, A_USEFUL, A_PADDING, A_ELEMENTS = 0, 1, 3, 5, 6, 7, 11
# Coverage: losses at the unified buffer, the ports, and others.
(
    C_MATRIX_STORE, C_VECTOR_A_STORE, C_VECTOR_A_MATRIX, C_VECTOR_B_STORE, C_VECTOR_B_MATRIX,
    C_VECTOR_LOAD, C_ACCUMULATOR, C_WEIGHTS_FETCH, C_LOAD_FETCH, C_LOAD_WEIGHTS, C_STORE_FETCH,
    C_STORE_WEIGHTS, C_STORE_LOAD, C_STORE_LOAD_HOST, C_LOAD_STORE_HOST, C_BURST_KEPT,
    C_BURST_GAP, C_PACED, C_STRADDLE, C_SKIPS, C_SKIPPED,
) = range(21)
COVERAGE_NAMES = (
    "unified buffer: matrix loses to store", "unified buffer: vector A loses to store",
    "unified buffer: vector A loses to matrix", "unified buffer: vector B loses to store",
    "unified buffer: vector B loses to matrix", "unified buffer: vector write loses to load",
    "accumulators: vector loses to matrix", "weight port: weights loses to fetch",
    "weight port: load loses to fetch", "weight port: load loses to weights",
    "weight port: store loses to fetch", "weight port: store loses to weights",
    "weight port: store loses to load", "host port: store loses to load",
    "host port: load waits for a store burst", "a burst keeps a higher rank waiting",
    "a burst's owner presents nothing", "a beat waits for credits", "an access straddles banks",
    "skips", "cycles skipped",
)
# Results in `out`.
O_CYCLES, O_CAUSE, O_UNIT, O_PC, O_INTERRUPTS = range(5)


@njit(cache=True)
def _banks(address, length, shift):  # type: ignore[no-untyped-def]
    """Mask of the banks of the first and the last byte (4.1)."""
    return (1 << (address >> shift)) | (1 << ((address + length - 1) >> shift))


@njit(cache=True)
def _beat(address, left, width, burst):  # type: ignore[no-untyped-def]
    """(live bytes, whether the burst ends) of the beat at `address` of a run with `left` bytes."""
    live = min(width - (address & (width - 1)), left)
    return live, live == left or ((address + live) & (burst - 1)) == 0


@njit(cache=True)
def _outside(address, length, size):  # type: ignore[no-untyped-def]
    return address + length > size


@njit(cache=True)
def step_program(  # type: ignore[no-untyped-def]
    table, order, figures, window_bytes, weight_bytes, code_address, watchdog, skip,
    states, amounts, scalars, times, interrupts, coverage, out,
):
    """Run the program; fills the arrays behind `skip` and returns nothing.

    Parameters
    ----------
    table, order
        `InstructionTable.rows` and `.order`.
    figures
        `machine_figures(arch)`.
    window_bytes
        int64 (16,): sizes of the host windows, 0 for none.
    weight_bytes, code_address, watchdog
        Size of weight memory, place of the code, limit of the watchdog.
    skip
        Jump over cycles in which nothing happens; the results are the same.
    states, amounts, scalars, times, interrupts, coverage
        Zeroed int64 results (systol_sim.results); `times` is filled with -1.
    out
        int64 (5,): cycles, fault cause or 0, unit, pc, number of interrupts.
    """
    rows, columns = figures[F_ROWS], figures[F_COLUMNS]
    ub_bytes, shift_bits = figures[F_UB_BYTES], figures[F_BANK_SHIFT]
    ub_width, acc_rows = figures[F_UB_WIDTH], figures[F_ACC_ROWS]
    acc_half = acc_rows // 2
    fifo_tiles, burst = figures[F_FIFO_TILES], figures[F_BURST]
    slot, vector_latency = figures[F_SLOT], figures[F_VECTOR_LATENCY]
    matrix_latency = figures[F_MATRIX_LATENCY]
    code_length = table.shape[0]

    dispatched = np.zeros(UNITS, np.int64)
    started = np.zeros(UNITS, np.int64)
    ended = np.zeros(UNITS, np.int64)
    active = np.full(UNITS, -1, np.int64)
    latest = np.full(UNITS, -1, np.int64)
    ends = np.full((UNITS, HISTORY), NEVER, np.int64)
    walkers = np.zeros((UNITS, WALKER_PLACES), np.int64)
    tags = np.zeros(max(code_length, 1), np.int64)
    tokens = np.zeros((UNITS, UNITS), np.int64)
    code = np.zeros(UNITS, np.int64)
    charge = np.zeros(UNITS, np.int64)
    starts_now = np.full(UNITS, -1, np.int64)

    credits = np.array([figures[F_COST], figures[F_COST + 1]])
    owner = np.full(2, -1, np.int64)
    requests = np.zeros((2, UNITS), np.bool_)  # presented beats, by port and requester
    burst_ends = np.zeros((2, UNITS), np.bool_)
    granted = np.full(2, -1, np.int64)

    next_pc = 0
    tag = 0
    control_seen = 0
    fetch_pc = 0
    fetch_done = 0
    fetch_ready = np.full(HISTORY, NEVER, np.int64)

    load_time = np.full(RING, -1, np.int64)
    load_banks = np.zeros(RING, np.int64)
    claim_time = np.full(RING, -1, np.int64)
    claim_bank = np.zeros(RING, np.int64)

    # Store buffer: a ring of (presentable from, burst ends, port, instruction whose last, or -1).
    store_ring = np.zeros((HISTORY * 2, 4), np.int64)
    store_in = 0
    store_out = 0

    # Weight FIFO and shadow plane.
    tiles_loaded = 0
    tiles_shifted = 0
    tiles_freed = 0
    tiles_reserved = 0
    tile_ready = np.full(HISTORY, NEVER, np.int64)
    tile_columns = np.zeros(HISTORY, np.int64)
    plane_held = False
    plane_full_from = 0
    plane_columns = 0
    row_columns = 0

    # Vector rows held: a ring of (first write request, banks, instruction's last).
    held_ring = np.zeros((HISTORY * 2, 3), np.int64)
    held_in = 0
    held_out = 0
    entry_free = 0
    lanes_empty = 0

    idle_cycles = 0
    t = 0
    while True:
        acted = False
        fault_unit, fault_cause, fault_pc = UNITS, 0, 0
        buffered = store_in - store_out
        held = held_in - held_out
        # A slot is free from the cycle in which the plane is full (6.4).
        if tiles_freed < tiles_shifted and t >= plane_full_from:
            tiles_freed += 1
            acted = True
        used = tiles_reserved - tiles_freed
        for unit in range(1, UNITS):
            scalars[1 + unit] = max(scalars[1 + unit], dispatched[unit] - started[unit])
            starts_now[unit] = -1
        scalars[7] = max(scalars[7], used)
        scalars[8] = max(scalars[8], buffered)
        scalars[9] = max(scalars[9], held)
        quiet = True
        for unit in range(1, UNITS):
            if dispatched[unit] != ended[unit]:
                quiet = False

        # ---- Unified-buffer writes (4.2): Load's delivery, then Vector's row.
        place = t % RING
        written = load_banks[place] if load_time[place] == t else 0
        row_written = False
        if held > 0 and held_ring[held_out % held_ring.shape[0], 0] <= t:
            if held_ring[held_out % held_ring.shape[0], 1] & written == 0:
                row_written = True
                if held_ring[held_out % held_ring.shape[0], 2]:
                    ends[VECTOR, ended[VECTOR] % HISTORY] = t
            else:
                coverage[C_VECTOR_LOAD] += 1
            acted = True

        # ---- What fetch, Load, Store and Weights present to the ports (section 3).
        requests[:] = False
        fetch_live = figures[F_WIDTH + WEIGHT_PORT] if figures[F_WIDTH + WEIGHT_PORT] < 64 else 64
        if fetch_pc < code_length and (
            fetch_done > 0 or fetch_pc - next_pc < figures[F_FETCH_BUFFER]
        ):
            requests[WEIGHT_PORT, FETCH] = True
            address = code_address + 64 * fetch_pc + fetch_done
            burst_ends[WEIGHT_PORT, FETCH] = (
                fetch_done + fetch_live == 64 or ((address + fetch_live) & (burst - 1)) == 0
            )

        load_live = 0
        load_port = 0
        if active[LOAD] >= 0:
            row, w = table[active[LOAD]], walkers[LOAD]
            load_port = row[PORT]
            address = (w[T_MEMORY] + w[T_DONE]) & 0xFFFFFFFF
            load_live, ends_burst = _beat(
                address, row[FIRST + 2] - w[T_DONE], figures[F_WIDTH + load_port], burst
            )
            requests[load_port, LOAD] = True
            burst_ends[load_port, LOAD] = ends_burst
            if not row[SAFE]:
                size = weight_bytes if load_port == WEIGHT_PORT else window_bytes[row[FIRST + 9]]
                if _outside(address, load_live, size) or _outside(
                    (w[T_UB] + w[T_DONE]) & 0xFFFFFFFF, load_live, ub_bytes
                ):
                    fault_unit, fault_cause, fault_pc = LOAD, 3, active[LOAD]
                    requests[load_port, LOAD] = False

        weights_live = 0
        weights_state = WAIT_PORT
        if active[WEIGHTS] >= 0:
            row, w = table[active[WEIGHTS]], walkers[WEIGHTS]
            address = (w[W_ADDRESS] + w[W_DONE]) & 0xFFFFFFFF
            weights_live, ends_burst = _beat(
                address, w[W_N_LIVE] - w[W_DONE], figures[F_WIDTH + WEIGHT_PORT], burst
            )
            if w[W_ROW] == 0 and w[W_DONE] == 0 and used >= fifo_tiles:
                weights_state = WAIT_SPACE
            else:
                requests[WEIGHT_PORT, WEIGHTS] = True
                burst_ends[WEIGHT_PORT, WEIGHTS] = ends_burst
            if not row[SAFE] and _outside(address, weights_live, weight_bytes):
                requests[WEIGHT_PORT, WEIGHTS] = False
                if fault_unit > WEIGHTS:
                    fault_unit, fault_cause, fault_pc = WEIGHTS, 3, active[WEIGHTS]

        store_head = store_out % store_ring.shape[0]
        store_port = store_ring[store_head, 2]
        if buffered > 0 and store_ring[store_head, 0] <= t:
            requests[store_port, STORE] = True
            burst_ends[store_port, STORE] = store_ring[store_head, 1] != 0

        # ---- Grants of the ports (3.3, 3.4).
        for port in range(2):
            granted[port] = -1
            anyone = -1
            for requester in (FETCH, WEIGHTS, LOAD, STORE):
                if requests[port, requester] and anyone < 0:
                    anyone = requester
            if anyone < 0 and owner[port] < 0:
                continue
            if credits[port] < figures[F_COST + port]:
                if anyone >= 0:
                    coverage[C_PACED] += 1
                continue
            if owner[port] >= 0:
                if not requests[port, owner[port]]:
                    coverage[C_BURST_GAP] += 1
                    continue
                if anyone != owner[port]:
                    coverage[C_BURST_KEPT] += 1
                    if port == HOST_PORT:
                        coverage[C_LOAD_STORE_HOST] += 1
                granted[port] = owner[port]
            else:
                granted[port] = anyone
                if port == HOST_PORT:
                    if requests[port, STORE] and anyone == LOAD:
                        coverage[C_STORE_LOAD_HOST] += 1
                else:
                    for loser in (WEIGHTS, LOAD, STORE):
                        if requests[port, loser] and anyone != loser:
                            if anyone == FETCH:
                                if loser == WEIGHTS:
                                    coverage[C_WEIGHTS_FETCH] += 1
                                elif loser == LOAD:
                                    coverage[C_LOAD_FETCH] += 1
                                else:
                                    coverage[C_STORE_FETCH] += 1
                            elif anyone == WEIGHTS:
                                if loser == LOAD:
                                    coverage[C_LOAD_WEIGHTS] += 1
                                else:
                                    coverage[C_STORE_WEIGHTS] += 1
                            else:
                                coverage[C_STORE_LOAD] += 1
            owner[port] = -1 if burst_ends[port, granted[port]] else granted[port]
            acted = True
        for port in range(2):
            if granted[port] >= 0:
                credits[port] -= figures[F_COST + port]
            credits[port] = min(credits[port] + figures[F_INCOME + port], figures[F_CAP + port])

        # ---- Unified-buffer reads by rank (4.2): Store, Matrix, Vector.
        store_banks = 0
        store_live = 0
        store_ends_burst = False
        store_reads = False
        if active[STORE] >= 0:
            row, w = table[active[STORE]], walkers[STORE]
            address = (w[T_MEMORY] + w[T_DONE]) & 0xFFFFFFFF
            source = (w[T_UB] + w[T_DONE]) & 0xFFFFFFFF
            store_live, store_ends_burst = _beat(
                address, row[FIRST + 2] - w[T_DONE], figures[F_WIDTH + row[PORT]], burst
            )
            code[STORE] = BUSY if buffered < figures[F_STORE_BEATS] else WAIT_SPACE
            if not row[SAFE]:
                size = weight_bytes if row[PORT] == WEIGHT_PORT else window_bytes[row[FIRST + 9]]
                if _outside(address, store_live, size) or _outside(source, store_live, ub_bytes):
                    if fault_unit > STORE:
                        fault_unit, fault_cause, fault_pc = STORE, 3, active[STORE]
                    if code[STORE] == BUSY:
                        code[STORE] = WAIT_BANK
            store_reads = code[STORE] == BUSY
            if store_reads:
                store_banks = _banks(source, store_live, shift_bits)

        matrix_issues = False
        matrix_live = 0
        matrix_inside = 0
        matrix_acc = 0
        matrix_banks = 0
        first_of_tile = False
        plane_full = plane_held and t >= plane_full_from
        if active[MATRIX] >= 0:
            row, w = table[active[MATRIX]], walkers[MATRIX]
            matrix_live, address, matrix_inside, matrix_acc = matrix_row(row, w, rows)
            bad = not row[SAFE] and (
                matrix_acc >= acc_rows
                or (matrix_inside > 0 and _outside(address, matrix_inside, ub_bytes))
            )
            if bad and fault_unit > MATRIX:
                fault_unit, fault_cause, fault_pc = MATRIX, 3, active[MATRIX]
            first_of_tile = w[M_Y] == 0 and w[M_X] == 0
            if first_of_tile and not plane_full:
                code[MATRIX] = WAIT_SHIFT if plane_held else WAIT_TILE
            elif bad:
                code[MATRIX] = WAIT_BANK
            else:
                matrix_issues = True
                if matrix_inside > 0:
                    banks = _banks(address, matrix_inside, shift_bits)
                    if banks & (banks - 1):
                        coverage[C_STRADDLE] += 1
                    if banks & store_banks:
                        matrix_issues = False
                        acted = True
                        coverage[C_MATRIX_STORE] += 1
                    else:
                        matrix_banks = banks
                code[MATRIX] = BUSY if matrix_issues else WAIT_BANK

        vector_performs = False
        vector_live = 0
        vector_tap = False
        vector_last_tap = False
        if active[VECTOR] >= 0:
            row, w = table[active[VECTOR]], walkers[VECTOR]
            vector_live = group_live(row, w, columns)
            vector_tap = w[V_PARAMETER] < 0
            address, length = 0, 0
            reads_ub = False
            reads_accumulator = False
            if not vector_tap:
                address, length = parameter_read(row, w, vector_live, ub_width)
                reads_ub = True
            else:
                vector_last_tap = tap_is_last(row, w)
                if tap_inside(row, w):
                    address, length = tap_address(row, w), vector_live
                    reads_ub = row[FIRST] != 0
                    reads_accumulator = not reads_ub
            target = out_address(row, w)
            bad = not row[SAFE] and (
                (reads_ub and _outside(address, length, ub_bytes))
                or (reads_accumulator and address >= acc_rows)
                or (vector_last_tap and _outside(target, vector_live, ub_bytes))
            )
            if bad and fault_unit > VECTOR:
                fault_unit, fault_cause, fault_pc = VECTOR, 3, active[VECTOR]
            if t < entry_free:
                code[VECTOR] = BUSY
            elif not vector_tap and t < lanes_empty:
                code[VECTOR] = WAIT_LANES
            elif vector_last_tap and held >= figures[F_WRITE_ROWS]:
                code[VECTOR] = WAIT_SPACE
            elif bad:
                code[VECTOR] = WAIT_BANK
            else:
                vector_performs = True
                if reads_ub:
                    banks = _banks(address, length, shift_bits)
                    if banks & (banks - 1):
                        coverage[C_STRADDLE] += 1
                    if banks & (store_banks | matrix_banks):
                        vector_performs = False
                        acted = True
                        if banks & store_banks:
                            coverage[C_VECTOR_A_STORE if vector_tap else C_VECTOR_B_STORE] += 1
                        if banks & matrix_banks:
                            coverage[C_VECTOR_A_MATRIX if vector_tap else C_VECTOR_B_MATRIX] += 1
                if reads_accumulator and claim_time[place] == t:
                    if claim_bank[place] == address // acc_half:
                        vector_performs = False
                        acted = True
                        coverage[C_ACCUMULATOR] += 1
                code[VECTOR] = BUSY if vector_performs else WAIT_BANK

        # ---- Starts (5.2), decided from registered state.
        for unit in range(1, UNITS):
            in_flight = started[unit] - ended[unit]
            if active[unit] >= 0:
                charge[unit] = tags[active[unit]]
                continue
            if dispatched[unit] == started[unit]:
                code[unit] = FLIGHT if in_flight > 0 else IDLE
                charge[unit] = tags[latest[unit]] if in_flight > 0 else 0
                continue
            head = order[unit, started[unit]]
            row = table[head]
            charge[unit] = tags[head]
            missing = 0
            for producer in range(1, UNITS):
                if row[WAIT] >> (producer - 1) & 1 and tokens[producer, unit] == 0:
                    missing = producer
                    break
            if missing > 0:
                code[unit] = 2 + missing
            elif in_flight > 0 and (
                row[DRAIN]
                or ((unit == LOAD or unit == STORE) and row[PORT] != table[latest[unit], PORT])
            ):
                code[unit] = WAIT_DRAIN
            elif in_flight >= figures[F_INFLIGHT]:
                code[unit] = WAIT_INFLIGHT
            elif unit == VECTOR and t < lanes_empty:
                code[unit] = WAIT_LANES
            else:
                code[unit] = START
                starts_now[unit] = head

        # ---- Control (2.3).
        halts = False
        dispatches = -1
        charge[CONTROL] = tag
        if next_pc >= code_length:
            code[CONTROL] = CONTROL_BUSY
            fault_unit, fault_cause, fault_pc = CONTROL, 1, code_length
        elif fetch_ready[next_pc % HISTORY] > t or next_pc >= fetch_pc:
            code[CONTROL] = WAIT_FETCH
        else:
            if control_seen <= next_pc:
                control_seen = next_pc + 1
                if table[next_pc, UNIT] == CONTROL and table[next_pc, REFUSED] == 0:
                    times[next_pc, 0] = t
                acted = True
            row = table[next_pc]
            if row[REFUSED]:
                code[CONTROL] = CONTROL_BUSY
                fault_unit, fault_cause, fault_pc = CONTROL, row[REFUSED], next_pc
            elif row[UNIT] == CONTROL:
                if (row[KIND] == HALT or row[KIND] == BARRIER) and not quiet:
                    code[CONTROL] = WAIT_QUIET
                else:
                    code[CONTROL] = CONTROL_BUSY
                    dispatches = next_pc
            elif dispatched[row[UNIT]] - started[row[UNIT]] < figures[F_QUEUE]:
                code[CONTROL] = CONTROL_BUSY
                dispatches = next_pc
            else:
                code[CONTROL] = FULL + row[UNIT]

        # ==== From here on state changes. Ports' grants first.
        for port in range(2):
            requester = granted[port]
            if requester < 0:
                continue
            delivery = t + figures[F_LATENCY + port]
            if requester == FETCH:
                fetch_done += fetch_live
                amounts[A_FETCH, tag] += figures[F_WIDTH + port]
                if fetch_done == 64:
                    fetch_ready[fetch_pc % HISTORY] = delivery + 1
                    fetch_pc += 1
                    fetch_done = 0
            elif requester == LOAD:
                row, w = table[active[LOAD]], walkers[LOAD]
                amounts[A_LOAD + port, charge[LOAD]] += load_live
                target = (w[T_UB] + w[T_DONE]) & 0xFFFFFFFF
                load_time[delivery % RING] = delivery
                load_banks[delivery % RING] = _banks(target, load_live, shift_bits)
                if advance_transfer(row, w, load_live):
                    ends[LOAD, (started[LOAD] - 1) % HISTORY] = delivery
                    active[LOAD] = -2
            elif requester == WEIGHTS:
                row, w = table[active[WEIGHTS]], walkers[WEIGHTS]
                amounts[A_WEIGHTS, charge[WEIGHTS]] += weights_live
                if w[W_ROW] == 0 and w[W_DONE] == 0:
                    tiles_reserved += 1
                tile_width = w[W_N_LIVE]
                finished = advance_tiles(row, w, weights_live, rows, columns)
                if finished or (w[W_ROW] == 0 and w[W_DONE] == 0):
                    tile_ready[tiles_loaded % HISTORY] = delivery + 1
                    tile_columns[tiles_loaded % HISTORY] = tile_width
                    tiles_loaded += 1
                if finished:
                    ends[WEIGHTS, (started[WEIGHTS] - 1) % HISTORY] = delivery
                    active[WEIGHTS] = -2
            else:
                if store_ring[store_head, 3] >= 0:
                    ends[STORE, store_ring[store_head, 3] % HISTORY] = delivery
                store_out += 1
        if active[LOAD] != -1:
            code[LOAD] = BUSY if granted[load_port] == LOAD else WAIT_PORT
            if active[LOAD] == -2:
                active[LOAD] = -1
        if active[WEIGHTS] != -1:
            code[WEIGHTS] = BUSY if granted[WEIGHT_PORT] == WEIGHTS else weights_state
            if active[WEIGHTS] == -2:
                active[WEIGHTS] = -1

        # ---- Store's read.
        if store_reads:
            row, w = table[active[STORE]], walkers[STORE]
            amounts[A_STORE + row[PORT], charge[STORE]] += store_live
            entry = store_ring[store_in % store_ring.shape[0]]
            entry[0] = t + 2
            entry[1] = store_ends_burst
            entry[2] = row[PORT]
            entry[3] = -1
            if advance_transfer(row, w, store_live):
                entry[3] = started[STORE] - 1
                active[STORE] = -1
            store_in += 1
            acted = True

        # ---- The matrix row and the shadow plane (6.4, 6.5, 6.6).
        takes = False
        if matrix_issues:
            acted = True
            if first_of_tile:
                takes = True
                row_columns = plane_columns
            amounts[A_USEFUL, charge[MATRIX]] += matrix_live * row_columns
            amounts[A_PADDING, charge[MATRIX]] += (matrix_live - matrix_inside) * row_columns
            claim = t + matrix_latency
            claim_time[claim % RING] = claim
            claim_bank[claim % RING] = matrix_acc // acc_half
            if advance_rows(table[active[MATRIX]], walkers[MATRIX]):
                ends[MATRIX, (started[MATRIX] - 1) % HISTORY] = claim + 1
                active[MATRIX] = -1
        if (takes or not plane_held) and (
            tiles_shifted < tiles_loaded and tile_ready[tiles_shifted % HISTORY] <= t
        ):
            plane_held = True
            plane_full_from = t + rows
            plane_columns = tile_columns[tiles_shifted % HISTORY]
            tiles_shifted += 1
            acted = True
        elif takes:
            plane_held = False

        # ---- Vector's access (7.1 to 7.5).
        if row_written:
            held_out += 1
        if vector_performs:
            acted = True
            row, w = table[active[VECTOR]], walkers[VECTOR]
            if not vector_tap:
                w[V_PARAMETER] += 1
                if w[V_PARAMETER] * ub_width >= 8 * vector_live:
                    w[V_PARAMETER] = -1
            else:
                entry_free = t + slot
                lanes_empty = t + vector_latency
                target = out_address(row, w)
                finished = advance_taps(row, w, columns)
                if vector_last_tap:
                    amounts[A_ELEMENTS, charge[VECTOR]] += vector_live
                    entry = held_ring[held_in % held_ring.shape[0]]
                    entry[0] = t + vector_latency
                    entry[1] = _banks(target, vector_live, shift_bits)
                    entry[2] = finished
                    held_in += 1
                if finished:
                    active[VECTOR] = -1

        # ---- Starts take effect.
        progress = False
        for unit in range(1, UNITS):
            head = starts_now[unit]
            if head < 0:
                continue
            progress = True
            times[head, 0] = t
            row = table[head]
            for producer in range(1, UNITS):
                if row[WAIT] >> (producer - 1) & 1:
                    tokens[producer, unit] -= 1
            ends[unit, started[unit] % HISTORY] = NEVER
            started[unit] += 1
            active[unit] = head
            latest[unit] = head
            if unit == LOAD or unit == STORE:
                start_transfer(row, walkers[unit])
            elif unit == WEIGHTS:
                start_tiles(row, walkers[unit], rows, columns)
            elif unit == MATRIX:
                start_rows(row, walkers[unit])
            else:
                start_taps(row, walkers[unit])

        # ---- Dispatch takes effect.
        if dispatches >= 0:
            progress = True
            row = table[next_pc]
            if row[UNIT] == CONTROL:
                times[next_pc, 1] = t
                if row[KIND] == TAG:
                    tag = row[VALUE]
                elif row[KIND] == INTERRUPT:
                    interrupts[out[O_INTERRUPTS]] = row[VALUE]
                    out[O_INTERRUPTS] += 1
                elif row[KIND] == HALT:
                    halts = True
            else:
                tags[next_pc] = tag
                dispatched[row[UNIT]] += 1
            next_pc += 1

        # ---- Ends and tokens (5.4).
        for unit in range(1, UNITS):
            # `ended` counts below the instructions that had started before this cycle.
            if ended[unit] < started[unit] and ends[unit, ended[unit] % HISTORY] == t:
                progress = True
                ending = order[unit, ended[unit]]
                times[ending, 1] = t
                ended[unit] += 1
                for consumer in range(1, UNITS):
                    if table[ending, SIGNAL] >> (consumer - 1) & 1:
                        tokens[unit, consumer] += 1
                        if tokens[unit, consumer] > figures[F_TOKEN_LIMIT] and unit < fault_unit:
                            fault_unit, fault_cause, fault_pc = unit, 4, ending

        # ---- Watchdog (5.7).
        idle_cycles = 0 if progress else idle_cycles + 1
        if idle_cycles >= watchdog and fault_unit != CONTROL:
            fault_unit, fault_cause, fault_pc = CONTROL, 5, next_pc

        for unit in range(UNITS):
            states[unit, charge[unit], code[unit]] += 1
        t += 1
        if fault_cause or halts:
            out[O_CYCLES] = t
            out[O_CAUSE] = fault_cause
            out[O_UNIT] = fault_unit
            out[O_PC] = fault_pc
            scalars[0] = t
            return
        if not skip or acted or progress:
            continue

        # ---- Nothing changed: the next cycle differs only when some moment arrives.
        moment = t - 1 + watchdog - idle_cycles
        for unit in range(1, UNITS):
            if ended[unit] < started[unit]:
                moment = min(moment, ends[unit, ended[unit] % HISTORY])
        if next_pc < fetch_pc and fetch_ready[next_pc % HISTORY] >= t:
            moment = min(moment, fetch_ready[next_pc % HISTORY])
        if tiles_shifted < tiles_loaded and tile_ready[tiles_shifted % HISTORY] >= t:
            moment = min(moment, tile_ready[tiles_shifted % HISTORY])
        if plane_held and plane_full_from >= t:
            moment = min(moment, plane_full_from)
        if buffered > 0 and store_ring[store_out % store_ring.shape[0], 0] >= t:
            moment = min(moment, store_ring[store_out % store_ring.shape[0], 0])
        if held > 0 and held_ring[held_out % held_ring.shape[0], 0] >= t:
            moment = min(moment, held_ring[held_out % held_ring.shape[0], 0])
        if entry_free >= t:
            moment = min(moment, entry_free)
        if lanes_empty >= t:
            moment = min(moment, lanes_empty)
        for port in range(2):
            if requests[port].any():
                needed = max(figures[F_COST + port] - credits[port], 0)
                income = figures[F_INCOME + port]
                moment = min(moment, t + (needed + income - 1) // income)
        gap = moment - t
        if gap > 0:
            for unit in range(UNITS):
                states[unit, charge[unit], code[unit]] += gap
            for port in range(2):
                credits[port] = min(
                    credits[port] + gap * figures[F_INCOME + port], figures[F_CAP + port]
                )
            idle_cycles += gap
            t += gap
            coverage[C_SKIPS] += 1
            coverage[C_SKIPPED] += gap
