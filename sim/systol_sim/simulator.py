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
from systol_sim.instruction_table import (
    KIND,
    REFUSED,
    TAG,
    UNIT,
    VALUE,
    InstructionTable,
    build_table,
    machine_figures,
)
from systol_sim.results import Counters, RunResult
from systol_sim.stepper import COVERAGE_NAMES, step_program
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
        False steps every cycle; the results are the same (a test's concern).
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
        prepared.timings[key] = _step(program, prepared.table, skip, watchdog_cycles)
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
        Results of `_step` by its last two arguments.
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


def _step(
    program: Program, table: InstructionTable, skip: bool, watchdog_cycles: int
) -> RunResult:
    count = len(table.rows)
    counters = Counters.zero()
    times = np.full((count, 2), -1, np.int64)
    interrupts = np.zeros(max(count, 1), np.int64)
    coverage = np.zeros(len(COVERAGE_NAMES), np.int64)
    out = np.zeros(5, np.int64)
    window_bytes = np.zeros(16, np.int64)
    window_bytes[: len(program.windows)] = [w.size_bytes for w in program.windows]
    step_program(
        table.rows, table.order, machine_figures(program.arch), window_bytes,
        program.weight_memory_bytes, program.code_address, watchdog_cycles, skip,
        counters.states, counters.amounts, counters.scalars, times, interrupts, coverage, out,
    )
    fault = None
    if out[1]:
        fault = Fault(
            cause=FaultCause(int(out[1])),
            unit=Unit(int(out[2])),
            pc=int(out[3]),
            cycle=int(out[0]) - 1,
        )
    return RunResult(
        arch=program.arch,
        fault=fault,
        windows=[],
        counters=counters,
        times=times,
        interrupts=[int(value) for value in interrupts[: out[4]]],
        coverage={name: int(n) for name, n in zip(COVERAGE_NAMES, coverage, strict=True)},
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
