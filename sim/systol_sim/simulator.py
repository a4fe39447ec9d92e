"""The fast simulator: exact values, exact cycles."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np

from systol_hw.arch import TAGS
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Fault, FaultCause, Unit
from systol_hw.tables.registers import default_watchdog_cycles
from systol_sim.building import building
from systol_sim.jit.compiled import (
    NAMES,
    STEPPER,
    STREAMS,
    VALUES,
    compile_first,
    is_on_disk,
    wait_for_compilation,
)
from systol_sim.jit.interruptible import interruptible
from systol_sim.results import Counters, RunResult
from systol_sim.timing.state.codes import P_CYCLES
from systol_sim.timing.state.events import COVERAGE_NAMES
from systol_sim.timing.state.instruction_table import InstructionTable, build_table
from systol_sim.timing.state.machine_state import L_END, L_INTERRUPT, L_START, new_machine
from systol_sim.timing.state.table_columns import KIND, REFUSED, ROWS, TAG, UNIT, VALUE
from systol_sim.timing.stepper import step_program, stream_program
from systol_sim.validity.checker import check
from systol_sim.values.compile_values import compile_values
from systol_sim.values.program_values import Values, compute_values


def run(
    program: Program,
    contents: Mapping[str, np.ndarray] | None = None,
    *,
    values: bool = True,
    skip: bool = True,
    streams: bool | None = None,
    watchdog_cycles: int | None = None,
    checked: bool = False,
) -> RunResult:
    """Simulate `program`.

    Parameters
    ----------
    program
        The program and its machine.
    contents
        Initial contents of host windows, by name; the rest is zero.
    values
        False computes times and counters alone; windows keep their initial contents.
    skip
        False steps every cycle; the results but for `coverage` are the same (a test's concern).
    streams
        Whether to jump over steady streams, if `skip`; None leaves it to what is compiled already
        and to the program's length. The results but for `coverage` are the same.
    watchdog_cycles
        Cycles without progress after which the machine faults; None takes the machine's own
        (`systol_hw.tables.registers.default_watchdog_cycles`).
    checked
        True if the caller knows that `program` is valid, or wants its fault: no static check.

    Raises
    ------
    InvalidProgramError
        If the static checker refuses `program`.
    """
    if not checked:
        check(program)
    windows = program.initial_windows(dict(contents or {}))
    timed = run_timing(program, skip=skip, streams=streams, watchdog_cycles=watchdog_cycles)
    assert timed.counters is not None
    if not values or timed.fault is not None:
        for index, amount in enumerate(AMOUNTS):
            if amount.depends_on_values:
                timed.counters.amounts[index] = -1
        return dataclasses.replace(timed, windows=windows)
    _prepare_values()
    computed = interruptible(lambda: compute_values(program, windows))
    add_value_amounts(program, timed.counters, computed)
    memories = {
        "ub": computed.ub,
        "accumulators": computed.accumulators,
        "weight": computed.weight,
    }
    return dataclasses.replace(timed, windows=windows, memories=memories)


@cache
def _prepare_values() -> None:
    """Have the kernels of values compiled: all at once, and not each when it is first met."""
    if not is_on_disk(VALUES):
        with building(NAMES[VALUES]):
            compile_values()


def run_timing(
    program: Program,
    *,
    skip: bool = True,
    streams: bool | None = None,
    watchdog_cycles: int | None = None,
) -> RunResult:
    """Times and counters of `program` without checking it and without values; as `run`.

    Time never depends on data, so a program is stepped once; later calls give copies.
    """
    prepared = _prepare(program)
    key = (skip, streams, watchdog_cycles)
    if key not in prepared.timings:
        prepared.timings[key] = step(
            program, prepared.table, skip=skip, streams=streams, watchdog_cycles=watchdog_cycles
        )
    timed = prepared.timings[key]
    assert timed.counters is not None and timed.times is not None
    return dataclasses.replace(
        timed,
        counters=Counters(
            states=timed.counters.states.copy(),
            amounts=timed.counters.amounts.copy(),
            scalars=timed.counters.scalars.copy(),
        ),
        times=timed.times.copy(),
        interrupts=list(timed.interrupts),
        coverage=dict(timed.coverage),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """What of a program is worked out once: its arrays are never changed.

    Parameters
    ----------
    tags
        The debug tag of each instruction of a program that decodes: int64 (instructions,).
    timings
        Results of `step` by its keyword arguments.
    """

    table: InstructionTable
    tags: np.ndarray
    timings: dict[tuple[bool, bool | None, int | None], RunResult]


_PREPARED: WeakKeyDictionary[Program, _Prepared] = WeakKeyDictionary()


def prepared_table(program: Program) -> InstructionTable:
    """The instruction table of `program`, worked out once."""
    return _prepare(program).table


def _prepare(program: Program) -> _Prepared:
    prepared = _PREPARED.get(program)
    if prepared is None:
        table = build_table(program)
        prepared = _Prepared(table=table, tags=_tags(table), timings={})
        _PREPARED[program] = prepared
    return prepared


def _tags(table: InstructionTable) -> np.ndarray:
    rows = table.rows
    sets = (rows[:, UNIT] == Unit.CONTROL) & (rows[:, REFUSED] == 0) & (rows[:, KIND] == TAG)
    # Of each instruction the last one before it that sets the tag, or -1.
    setters = np.where(sets, np.arange(len(rows)), -1)
    before = np.maximum.accumulate(np.concatenate(([-1], setters)))[:-1]
    return np.where(before >= 0, rows[before, VALUE], 0)


def step(
    program: Program,
    table: InstructionTable,
    *,
    skip: bool = True,
    streams: bool | None = None,
    watchdog_cycles: int | None = None,
    tags: int = TAGS,
) -> RunResult:
    """What `run_timing` gives, worked out anew; `table` is `build_table(program)`.

    Counters are by `tags` tags: the machine's own, or up to `COUNTED_TAGS`.
    """
    count = len(table.rows)
    wait_for_compilation()
    if streams is None:
        streams = is_on_disk(STREAMS) or _rows_issued(table) >= _LONG_ROWS
    if watchdog_cycles is None:
        watchdog_cycles = default_watchdog_cycles(program.arch.weight_port, program.arch.host_port)
    machine = new_machine(program, count, watchdog_cycles)
    log = np.full((count + 1, 4), -1, np.int64)
    part, stepper = (STREAMS, stream_program) if streams and skip else (STEPPER, step_program)
    arguments = machine, table.rows, table.order, log, skip
    compile_first(part, stepper, *arguments)

    def stop() -> None:
        machine["stop"] = 1

    interruptible(lambda: stepper(*arguments), stop)
    m = machine[0]
    fault = None
    if m["fault_cause"]:
        fault = Fault(
            cause=FaultCause(int(m["fault_cause"])),
            unit=Unit(int(m["fault_unit"])),
            pc=int(m["fault_pc"]),
            cycle=int(m["scalars"][P_CYCLES]) - 1,
        )
    return RunResult(
        arch=program.arch,
        fault=fault,
        windows=[],
        counters=Counters(
            states=m["states"][:, :tags].copy(),
            amounts=m["amounts"][:, :tags].copy(),
            scalars=m["scalars"],
        ),
        times=log[:count, [L_START, L_END]],
        interrupts=log[: m["interrupt_count"], L_INTERRUPT].tolist(),
        status=int(m["status"]),
        coverage=dict(zip(COVERAGE_NAMES, m["coverage"].tolist(), strict=True)),
    )


_LONG_ROWS = 1 << 21
"""Matrix rows from which on a program is worth the compilation of the jumps over streams, which is
then kept."""


def _rows_issued(table: InstructionTable) -> int:
    """Matrix rows of a program's whole run, and so fewer than its cycles."""
    rows = table.rows[(table.rows[:, UNIT] == Unit.MATRIX) & (table.rows[:, REFUSED] == 0)]
    loops = [ROWS.x_count, ROWS.y_count, ROWS.k2_count, ROWS.k1_count, ROWS.k0_count, ROWS.n_count]
    counts = rows[:, loops].astype(np.float64)
    return int(counts.prod(axis=1).sum())


def add_value_amounts(program: Program, counters: Counters, computed: Values) -> None:
    """Charge the counts that depend on values to the tags of their instructions."""
    prepared = _prepare(program)
    tags, units = prepared.tags, prepared.table.rows[:, UNIT]
    for index, amount in enumerate(AMOUNTS):
        if not amount.depends_on_values:
            continue
        counts = computed.saturations if amount.name == "saturations" else computed.overflows
        mine = units == amount.unit
        counters.amounts[index] = np.bincount(
            tags[mine], weights=counts[mine], minlength=TAGS
        ).astype(np.int64)
