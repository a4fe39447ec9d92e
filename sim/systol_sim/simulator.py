"""The fast simulator: exact values, exact cycles."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from systol_hw.arch import TAGS
from systol_hw.counters import AMOUNTS
from systol_hw.faults import Fault, FaultCause, Unit
from systol_hw.program import Program
from systol_hw.registers import DEFAULT_WATCHDOG_CYCLES
from systol_sim.checker import check
from systol_sim.instruction_columns import KIND, REFUSED, TAG, UNIT, VALUE
from systol_sim.instruction_table import InstructionTable, build_table
from systol_sim.places import COVERAGE_NAMES, L_END, L_INTERRUPT, L_START, P_CYCLES, new_machine
from systol_sim.results import Counters, RunResult
from systol_sim.stepper import step_program
from systol_sim.values import Values, compute_values


def run(
    program: Program,
    contents: Mapping[str, np.ndarray] | None = None,
    *,
    values: bool = True,
    skip: bool = True,
    watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES,
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
    watchdog_cycles
        Cycles without progress after which the machine faults.
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
    timed = run_timing(program, skip=skip, watchdog_cycles=watchdog_cycles)
    assert timed.counters is not None
    if not values or timed.fault is not None:
        for index, amount in enumerate(AMOUNTS):
            if amount.depends_on_values:
                timed.counters.amounts[index] = -1
        return dataclasses.replace(timed, windows=windows)
    computed = compute_values(program, windows)
    add_value_amounts(program, timed.counters, computed)
    memories = {
        "ub": computed.ub,
        "accumulators": computed.accumulators,
        "weight": computed.weight,
    }
    return dataclasses.replace(timed, windows=windows, memories=memories)


def run_timing(
    program: Program, *, skip: bool = True, watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES
) -> RunResult:
    """Times and counters of `program` without checking it and without values.

    Time never depends on data, so a program is stepped once; later calls give copies.
    """
    prepared = _prepare(program)
    key = (skip, watchdog_cycles)
    if key not in prepared.timings:
        prepared.timings[key] = step(
            program, prepared.table, skip=skip, watchdog_cycles=watchdog_cycles
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
        Results of `step` by its last two arguments.
    """

    table: InstructionTable
    tags: np.ndarray
    timings: dict[tuple[bool, int], RunResult]


_PREPARED: WeakKeyDictionary[Program, _Prepared] = WeakKeyDictionary()


def _prepare(program: Program) -> _Prepared:
    prepared = _PREPARED.get(program)
    if prepared is None:
        table = build_table(program)
        tags = np.zeros(len(table.rows), np.int64)
        tag = 0
        for pc, row in enumerate(table.rows):
            tags[pc] = tag
            if row[UNIT] == Unit.CONTROL and row[REFUSED] == 0 and row[KIND] == TAG:
                tag = int(row[VALUE])
        prepared = _Prepared(table=table, tags=tags, timings={})
        _PREPARED[program] = prepared
    return prepared


def step(
    program: Program,
    table: InstructionTable,
    *,
    skip: bool = True,
    watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES,
) -> RunResult:
    """What `run_timing` gives, worked out anew; `table` is `build_table(program)`."""
    count = len(table.rows)
    machine = new_machine(program, count, watchdog_cycles)
    log = np.full((count + 1, 4), -1, np.int64)
    step_program(machine, table.rows, table.order, log, skip)
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
        counters=Counters(states=m["states"], amounts=m["amounts"], scalars=m["scalars"]),
        times=log[:count, [L_START, L_END]],
        interrupts=log[: m["interrupt_count"], L_INTERRUPT].tolist(),
        status=int(m["status"]),
        coverage=dict(zip(COVERAGE_NAMES, m["coverage"].tolist(), strict=True)),
    )


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
