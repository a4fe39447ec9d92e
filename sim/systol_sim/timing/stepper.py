"""The timing of the machine: a compiled function that steps a program through its cycles.

It is docs/timing.md in code; section numbers stand beside the rules. It computes no values: time
never depends on data. Within a cycle, everything is decided from the state at its beginning: starts
and control are decided before any unit acts, occupancies are noted first, and what a unit does is
seen by another only through times that lie ahead.
"""

from typing import Any

from systol_sim.jit.compiled import compiled
from systol_sim.timing.cycle.buffers import matrix_issues, shift_plane, store_reads, weights_read
from systol_sim.timing.cycle.control import (
    decide_control,
    decide_starts,
    end_units,
    leave_control,
    start_units,
    watch,
)
from systol_sim.timing.cycle.idle_skip import skip_idle
from systol_sim.timing.cycle.ports import deliver_beats, grant_beats, present_beats
from systol_sim.timing.cycle.vector import vector_performs, write_row
from systol_sim.timing.state.codes import P_BUFFERED, P_CYCLES, P_HELD, P_QUEUE, P_USED, UNITS
from systol_sim.timing.streams.windows import PATIENCE, skip_streams


@compiled
def _begin_cycle(m, t):  # type: ignore[no-untyped-def]
    """Note the occupancies at the beginning of cycle `t`; True if the machine is quiet (2.4)."""
    peaks = m.scalars
    m.acted = 0
    m.progress = 0
    m.fault_unit = UNITS
    m.buffered = m.store_in - m.store_out
    m.held = m.held_in - m.held_out
    # A slot is free from the cycle in which the plane is full (6.4).
    if m.tiles_freed < m.tiles_shifted and t >= m.plane_full_from:
        m.tiles_freed += 1
        m.acted = 1
    m.used = m.tiles_reserved - m.tiles_freed
    quiet = True
    for unit in range(1, UNITS):
        queued = m.dispatched[unit] - m.started[unit]
        peaks[P_QUEUE + unit] = max(peaks[P_QUEUE + unit], queued)
        quiet = quiet and m.dispatched[unit] == m.ended[unit]
    peaks[P_USED] = max(peaks[P_USED], m.used)
    peaks[P_BUFFERED] = max(peaks[P_BUFFERED], m.buffered)
    peaks[P_HELD] = max(peaks[P_HELD], m.held)
    return quiet


def _stepper(streams: bool) -> Any:
    """The function that steps a program, with or without jumps over streams: they take as long to
    compile as all the rest, and a short program does not need them."""

    @compiled
    def program_stepper(machine, table, order, log, skip):  # type: ignore[no-untyped-def]
        """Step a program from its first cycle to its end.

        Parameters
        ----------
        machine
            (1,) of `MACHINE` (`systol_sim.timing.state.machine_state`), in its first cycle; holds
            the results.
        table, order
            `InstructionTable.rows` and `.order`.
        log
            int64 (instructions + 1, 4), filled with -1: start, end and tag of each instruction,
            and the interrupts' values in order.
        skip
            Jump over cycles in which nothing happens, and `stream_program` over steady streams as
            well; the results but for `coverage` are the same.
        """
        m = machine[0]
        t = 0
        patient_until = 0
        while True:
            quiet = _begin_cycle(m, t)
            decide_starts(m, table, order, log, t)
            decide_control(m, table, log, t, quiet)
            write_row(m, t)
            present_beats(m, t)
            grant_beats(m)
            deliver_beats(m, t)
            store_reads(m, t)
            weights_read(m, t)
            taken = matrix_issues(m, t)
            shift_plane(m, t, taken)
            vector_performs(m, t)
            start_units(m, table, log, t)
            if m.dispatches:
                leave_control(m, table, log, t)
            end_units(m, table, order, log, t)
            watch(m)
            for unit in range(UNITS):
                m.states[unit, m.charge[unit], m.code[unit]] += 1
            t += 1
            if m.fault_cause or m.halts or m.stop:
                break
            if skip and not m.progress:
                if not m.acted:
                    t += skip_idle(m, t)
                elif streams and t >= patient_until:
                    gap = skip_streams(m, table, order, log, t)
                    t += gap
                    if gap == 0:
                        patient_until = t + PATIENCE
        m.scalars[P_CYCLES] = t

    return program_stepper


step_program = _stepper(streams=False)
stream_program = _stepper(streams=True)
