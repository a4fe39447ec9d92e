"""Jumps over cycles in which nothing changes but the counters of waiting units."""


from systol_sim.jit.compiled import compiled
from systol_sim.timing.state.codes import UNITS
from systol_sim.timing.state.events import C_SKIPPED, C_SKIPS
from systol_sim.timing.state.machine_state import B_FROM, H_FROM, HISTORY


@compiled
def skip_idle(m, t):  # type: ignore[no-untyped-def]
    """After a cycle t - 1 in which nothing happened: cycles from `t` on that are like it, which
    are counted here. The next cycle differs only when some moment arrives."""
    moment = t - 1 + m.watchdog - m.idle_cycles
    for unit in range(1, UNITS):
        if m.ended[unit] < m.started[unit]:
            moment = min(moment, m.ends[unit, m.ended[unit] & (HISTORY - 1)])
    pc = m.next_pc
    if pc < m.fetch_pc and m.fetch_ready[pc & (HISTORY - 1)] >= t:
        moment = min(moment, m.fetch_ready[pc & (HISTORY - 1)])
    if m.host_until >= t:
        moment = min(moment, m.host_until)
    tile = m.tiles_shifted & (HISTORY - 1)
    if m.tiles_shifted < m.tiles_loaded and m.tile_ready[tile] >= t:
        moment = min(moment, m.tile_ready[tile])
    if m.plane_held and m.plane_full_from >= t:
        moment = min(moment, m.plane_full_from)
    if m.buffered > 0 and m.beats[m.store_out & (HISTORY - 1), B_FROM] >= t:
        moment = min(moment, m.beats[m.store_out & (HISTORY - 1), B_FROM])
    if m.held > 0 and m.rows_held[m.held_out & (HISTORY - 1), H_FROM] >= t:
        moment = min(moment, m.rows_held[m.held_out & (HISTORY - 1), H_FROM])
    if m.entry_free >= t:
        moment = min(moment, m.entry_free)
    if m.lanes_empty >= t:
        moment = min(moment, m.lanes_empty)
    for port in range(2):
        if m.requests[port].any():
            needed = max(m.cost[port] - m.credits[port], 0)
            income = m.income[port]
            moment = min(moment, t + (needed + income - 1) // income)
    gap = moment - t
    if gap <= 0:
        return 0
    for unit in range(UNITS):
        m.states[unit, m.charge[unit], m.code[unit]] += gap
    for port in range(2):
        m.credits[port] = min(
            m.credits[port] + gap * m.income[port], m.cap[port]
        )
    m.idle_cycles += gap
    m.coverage[C_SKIPS] += 1
    m.coverage[C_SKIPPED] += gap
    return gap
