"""The vector unit alone through a window of streams (systol_sim.timing.streams.windows)."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.vector import vector_performs, write_row
from systol_sim.timing.cycle.vector_loops import V_X
from systol_sim.timing.state.codes import P_HELD, VECTOR, WAIT_BANK, WAIT_BUFFER, WAIT_LANES
from systol_sim.timing.state.machine_state import (
    H_FROM,
    HISTORY,
    K_LAST,
    RING,
)
from systol_sim.timing.state.table_columns import (
    TAPS,
)
from systol_sim.timing.streams.outputs import skip_outputs


@compiled
def stream_vector(m, t, end, apart):  # type: ignore[no-untyped-def]
    """Advance Vector from cycle `t` to `end`: its accesses and the writes of its rows. Deliveries
    of Load, if they are not `apart` from Vector's writes, and claims of the matrix are those of the
    whole window."""
    m.store_banks = 0
    m.weights_banks = 0
    m.matrix_banks = 0
    active = m.active[VECTOR] >= 0
    states, peaks = m.states[VECTOR, m.charge[VECTOR]], m.scalars
    # The window may begin within an output row: that one is like none.
    w = m.walkers[VECTOR]
    output = w[V_X]
    m.rhythm[0] = -1
    while t < end:
        if active and apart and w[V_X] != output:
            t = skip_outputs(m, t, end)
            output = w[V_X]
            if t >= end:
                break
        m.held = m.held_in - m.held_out
        peaks[P_HELD] = max(peaks[P_HELD], m.held)
        write_row(m, t)
        if active:
            vector_performs(m, t)
        states[m.code[VECTOR]] += 1
        t += 1
        # Until some moment nothing else happens: the lanes' entry is occupied, or the matrix claims
        # the bank, the lanes are not empty, a row must be written first.
        state = m.code[VECTOR]
        held = m.held_in - m.held_out
        moment = end
        if active:
            moment = m.entry_free
            if state == WAIT_BANK and m.row[VECTOR, TAPS.source_ub] == 0:
                moment = m.claims[m.claims_out & (RING - 1), K_LAST] + 1
            elif state == WAIT_LANES:
                moment = m.lanes_empty
            elif state == WAIT_BUFFER:
                moment = end if held >= m.write_rows else t
        if moment <= t or t >= end:
            continue
        peaks[P_HELD] = max(peaks[P_HELD], held)
        if held > 0:
            moment = min(moment, m.rows_held[m.held_out & (HISTORY - 1), H_FROM])
        gap = min(moment, end) - t
        if gap > 0:
            states[state] += gap
            t += gap
