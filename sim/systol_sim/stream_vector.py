"""The vector unit alone through a window of streams (systol_sim.streams)."""

from numba import njit

from systol_sim.places import BUSY, H_FROM, HISTORY, P_HELD, VECTOR
from systol_sim.step_vector import vector_performs, write_row


@njit(cache=True)
def stream_vector(m, t, end):  # type: ignore[no-untyped-def]
    """Advance Vector from cycle `t` to `end`: its accesses and the writes of its rows. Deliveries
    of Load and claims of the matrix are those of the whole window."""
    m.store_banks = 0
    m.weights_banks = 0
    m.matrix_banks = 0
    active = m.active[VECTOR] >= 0
    states, peaks = m.states[VECTOR, m.charge[VECTOR]], m.scalars
    while t < end:
        m.held = m.held_in - m.held_out
        peaks[P_HELD] = max(peaks[P_HELD], m.held)
        write_row(m, t)
        if active:
            vector_performs(m, t)
        states[m.code[VECTOR]] += 1
        t += 1
        # While the lanes' entry is occupied, or there are only rows to write, nothing else happens.
        moment = m.entry_free if active else end
        if moment <= t or t >= end:
            continue
        held = m.held_in - m.held_out
        peaks[P_HELD] = max(peaks[P_HELD], held)
        if held > 0:
            moment = min(moment, m.rows_held[m.held_out & (HISTORY - 1), H_FROM])
        gap = min(moment, end) - t
        if gap > 0:
            states[BUSY if active else m.code[VECTOR]] += gap
            t += gap
