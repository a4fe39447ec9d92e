"""Runs random programs on random machines through several executors and compares everything."""

import contextlib
import dataclasses
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from systol_hw.arch import Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.program import Program
from systol_hw.safe_children import safe_children
from systol_sim import reference, simulator
from systol_sim.building import unobserved
from systol_sim.comparison import TIMED_FAULTS, differences
from systol_sim.fuzz.expectations import broken_expectations
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.fuzz.port_timing import draw_timing
from systol_sim.fuzz.report import Mismatch, Report
from systol_sim.fuzz.shrink import shrink, write_reproducer
from systol_sim.fuzz.state import load_state, save_state, settings_of
from systol_sim.random_programs.faulting import (
    FAULT_WATCHDOG_CYCLES,
    UNIT_KINDS,
    FaultCase,
    fault_kinds,
    generate_faulting,
)
from systol_sim.random_programs.generate import Case, generate
from systol_sim.results import RunResult
from systol_sim.validity.checker import check

Executor = Callable[[Program, Mapping[str, np.ndarray]], RunResult]
"""Runs a program, valid or not, with `FAULT_WATCHDOG_CYCLES`; must pickle for several processes."""


def simulate(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The simulator as an `Executor`."""
    return simulator.run(
        program, contents, streams=True, checked=True, watchdog_cycles=FAULT_WATCHDOG_CYCLES
    )


def step(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The simulator without skipping, times and counters alone."""
    result = simulator.run(
        program, contents, values=False, skip=False, checked=True,
        watchdog_cycles=FAULT_WATCHDOG_CYCLES,
    )
    return dataclasses.replace(result, windows=[])


def refer(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The numpy reference as an `Executor`; it finds no faults of timing."""
    return reference.run(program, contents, checked=True)


DEFAULT_EXECUTORS: Mapping[str, Executor] = {
    "sim": simulate,
    "sim-stepped": step,
    "reference": refer,
}
"""What runs without the RTL."""

_CHUNK = 25
"""Programs of one job of a process."""
_SAVE_SECONDS = 10.0


def fuzz(
    programs: int,
    seed: int,
    machines: Sequence[Arch] = FUZZ_MACHINES,
    executors: Mapping[str, Executor] = DEFAULT_EXECUTORS,
    *,
    faulting: float = 0.25,
    processes: int = 1,
    directory: Path | None = None,
    state: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Compare `executors` on random programs; the first is the one that others are held against.

    Parameters
    ----------
    programs
        Number of programs; they take turns on `machines`, with bandwidths and latencies of their
        own (`systol_sim.fuzz.port_timing`).
    seed
        Program n is made from `seed + n`: a longer run contains a shorter one.
    executors
        By name. The first must count cycles; its `RunResult.coverage` integers are reported too.
    faulting
        Share of programs that fault.
    processes
        Worker processes.
    directory
        Where reproducers are written; without it they are only shrunk.
    state
        A file that keeps what is done; if it exists, the run goes on from there.
    progress
        Called with the number of programs done.

    Returns
    -------
    Report
        `mismatches` is empty if all executors agree on all programs.

    Raises
    ------
    InputError
        If `state` belongs to a run with other settings.
    """
    started = time.monotonic()
    report = Report()
    settings = settings_of(seed, machines, executors, faulting)
    if state is not None and state.exists():
        report = load_state(state, settings)
    before, saved = report.seconds, started
    size = max(1, min(_CHUNK, programs // (4 * processes)))
    jobs = [
        range(first, min(first + size, programs))
        for first in range(report.programs, programs, size)
    ]
    work = partial(
        _chunk, seed=seed, machines=machines, executors=executors, faulting=faulting,
        directory=directory,
    )
    with contextlib.ExitStack() as stack:
        results: Iterable[Report] = map(work, jobs)
        if processes > 1:
            # Leaving the block ends the workers: an interrupt does not wait for what is queued.
            with safe_children():
                pool = stack.enter_context(Pool(processes, _leave_interrupts_to_the_parent))
            results = pool.imap(work, jobs)
        if state is not None:
            stack.callback(lambda: save_state(state, settings, report))
        for result in results:
            report.merge(result)
            report.seconds = before + time.monotonic() - started
            if state is not None and time.monotonic() - saved > _SAVE_SECONDS:
                save_state(state, settings, report)
                saved = time.monotonic()
            if progress is not None:
                progress(report.programs)
    return report


def _leave_interrupts_to_the_parent() -> None:
    """A Ctrl-C reaches every process of the group; only the parent answers it, and ends these."""
    unobserved()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _kind(arch: Arch, seed: int, faulting: float) -> str | None:
    """The kind of fault of program `seed`, or None; faults that units find as often as control's,
    of which there are many more kinds."""
    rng = random.Random(f"kind/{seed}")
    if rng.random() >= faulting:
        return None
    in_units = rng.random() < 0.5
    return rng.choice([k for k in fault_kinds(arch) if k.startswith(UNIT_KINDS) is in_units])


def _chunk(
    numbers: range,
    *,
    seed: int,
    machines: Sequence[Arch],
    executors: Mapping[str, Executor],
    faulting: float,
    directory: Path | None,
) -> Report:
    """The programs `numbers` of a run."""
    report = Report()
    for n in numbers:
        arch = machines[n % len(machines)]
        kind = _kind(arch, seed + n, faulting)
        report.merge(run_one(arch, seed + n, kind, executors, directory))
    return report


def make_case(arch: Arch, seed: int, kind: str | None) -> Case:
    """Program `seed` for `arch`, valid or with a fault of `kind`, with a timing of its own."""
    timed = draw_timing(arch, random.Random(f"timing/{seed}"))
    return generate(timed, seed) if kind is None else generate_faulting(timed, seed, kind)


def run_one(
    arch: Arch,
    seed: int,
    kind: str | None,
    executors: Mapping[str, Executor],
    directory: Path | None = None,
) -> Report:
    """Make one program, run it everywhere, and shrink it if something is wrong."""
    case = make_case(arch, seed, kind)
    report = Report(programs=1, faulting=int(isinstance(case, FaultCase)))
    lines, base = compare_executors(case, executors)
    if base is not None:
        report.coverage.add(case.program, base)
        if isinstance(case, FaultCase) and case.tie is not None:
            report.coverage.add_tie(case.tie)
        if base.counters is not None:
            report.cycles += base.counters.cycles
    if lines:
        report.mismatches.append(_mismatch(case, arch, seed, kind, lines, executors, directory))
    return report


def _mismatch(case: Case, arch: Arch, seed: int, kind: str | None, lines: list[str],
              executors: Mapping[str, Executor], directory: Path | None) -> Mismatch:
    short = case
    if not lines[0].startswith("checker:") and not isinstance(case, FaultCase):
        short = shrink(case, lambda c: bool(compare_executors(c, executors)[0]))
    elif isinstance(case, FaultCase):
        # A shortened program may lack the fault that was expected; executors must still agree.
        plain = Case(program=case.program, contents=case.contents)
        if compare_executors(plain, executors, valid=False)[0]:
            short = shrink(
                plain,
                lambda c: bool(compare_executors(c, executors, valid=False)[0]),
                valid=False,
            )
    path = None
    if directory is not None:
        name = f"{arch.name}-{seed}" + ("" if kind is None else "-" + kind.replace(" ", "-"))
        notes = [f"machine {arch.name}, seed {seed}, kind {kind}", *lines]
        path = write_reproducer(directory, name, short, notes)
    return Mismatch(
        machine=arch.name,
        seed=seed,
        kind=kind,
        lines=tuple(lines),
        instructions=len(short.program.code),
        reproducer=path,
    )


def compare_executors(
    case: Case, executors: Mapping[str, Executor], *, valid: bool = True
) -> tuple[list[str], RunResult | None]:
    """Run `case` everywhere; what differs, and the first executor's result.

    A valid case must satisfy the checker and halt; a `FaultCase` must give the fault it states.
    With `valid` false a plain case may do anything, as long as all executors do the same.
    """
    expected = case if isinstance(case, FaultCase) else None
    if expected is None and valid:
        try:
            check(case.program)
        except InvalidProgramError as error:
            return [f"checker: {error}"], None
    lines: list[str] = []
    base: RunResult | None = None
    for name, executor in executors.items():
        timed = base is not None and base.fault is not None and base.fault.cause in TIMED_FAULTS
        if executor is refer and (timed or (expected is not None and expected.timed)):
            # Neither cycles nor tokens nor empty FIFOs exist for it.
            continue
        try:
            result = executor(case.program, case.contents)
        except Exception as error:
            lines.append(f"{name} raised {type(error).__name__}: {error}")
            continue
        if base is None:
            base = result
            lines += [f"{name}: {line}" for line in _unexpected(expected, result, valid)]
            if valid:
                broken = broken_expectations(case.program, result)
                lines += [f"{name}: {line}" for line in broken]
        else:
            first = next(iter(executors))
            lines += [f"{first} / {name}: {d}" for d in differences(case.program, base, result)]
    return lines, base


def _unexpected(expected: FaultCase | None, result: RunResult, valid: bool) -> list[str]:
    fault = result.fault
    if expected is None:
        return [f"a valid program ended with {fault}"] if valid and fault is not None else []
    same = (
        fault is not None
        and (fault.cause, fault.unit) == (expected.cause, expected.unit)
        and expected.pc in (None, fault.pc)
    )
    if same:
        return []
    place = "" if expected.pc is None else f" at pc {expected.pc}"
    wanted = f"{expected.cause.name.lower()} in {expected.unit.name.lower()}{place}"
    return [f"expected {wanted}, found {fault}"]
