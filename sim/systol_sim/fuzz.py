"""Runs random programs on random machines through several executors and compares everything."""

import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from systol_hw.arch import Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.program import Program
from systol_sim import reference, simulator
from systol_sim.checker import check
from systol_sim.comparison import TIMED_FAULTS, differences
from systol_sim.coverage import Coverage
from systol_sim.faulting import (
    FAULT_WATCHDOG_CYCLES,
    FaultCase,
    fault_kinds,
    generate_faulting,
)
from systol_sim.generate import Case, generate, overflow_program
from systol_sim.machines import FUZZ_MACHINES
from systol_sim.results import RunResult
from systol_sim.shrink import shrink, write_reproducer

Executor = Callable[[Program, Mapping[str, np.ndarray]], RunResult]
"""Runs a program, valid or not, with `FAULT_WATCHDOG_CYCLES`; must pickle for several processes."""


def simulate(
    program: Program, contents: Mapping[str, np.ndarray], *, skip: bool = True
) -> RunResult:
    """The simulator as an `Executor`."""
    return simulator.run(
        program, contents, skip=skip, checked=True, watchdog_cycles=FAULT_WATCHDOG_CYCLES
    )


def refer(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The numpy reference as an `Executor`; it finds no faults of timing."""
    return reference.run(program, contents, checked=True)


DEFAULT_EXECUTORS: Mapping[str, Executor] = {
    "sim": simulate,
    "sim-stepped": partial(simulate, skip=False),
    "reference": refer,
}
"""What runs without the RTL."""

OVERFLOW = "accumulator overflow"
"""The kind of the rare long program that wraps its accumulators (`overflow_program`)."""
_OVERFLOW_PERIOD, _OVERFLOW_PLACE = 1000, 150


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A program on which something is wrong.

    `machine`, `seed` and `kind` (None for a valid program) make it again; `lines` say what differs;
    `reproducer` is the shrunk program's file, if a directory was given.
    """

    machine: str
    seed: int
    kind: str | None
    lines: tuple[str, ...]
    instructions: int
    reproducer: Path | None

    def __str__(self) -> str:
        what = "valid program" if self.kind is None else f"program with {self.kind}"
        head = f"{self.machine}, seed {self.seed}, {what}: "
        head += f"shrunk to {self.instructions} instructions"
        if self.reproducer is not None:
            head += f" in {self.reproducer}"
        return "\n  ".join((head, *self.lines))


@dataclass(kw_only=True)
class Report:
    """The outcome of `fuzz`."""

    programs: int = 0
    faulting: int = 0
    cycles: int = 0
    seconds: float = 0.0
    mismatches: list[Mismatch] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    def merge(self, other: "Report") -> None:
        """Add another report's figures."""
        self.programs += other.programs
        self.faulting += other.faulting
        self.cycles += other.cycles
        self.mismatches += other.mismatches
        self.coverage.merge(other.coverage)

    def format(self, *, coverage: bool = True) -> str:
        """All of it as text."""
        lines = [str(mismatch) for mismatch in self.mismatches]
        if coverage:
            lines.append(self.coverage.format())
        lines.append(
            f"{self.programs} programs ({self.faulting} faulting), {self.cycles} cycles, "
            f"{len(self.mismatches)} mismatches, {self.seconds:.1f} s"
        )
        return "\n".join(lines)


def fuzz(
    programs: int,
    seed: int,
    machines: Sequence[Arch] = FUZZ_MACHINES,
    executors: Mapping[str, Executor] = DEFAULT_EXECUTORS,
    *,
    faulting: float = 0.25,
    processes: int = 1,
    directory: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Compare `executors` on random programs; the first is the one that others are held against.

    Parameters
    ----------
    programs
        Number of programs; they take turns on `machines`.
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
    progress
        Called with the number of programs done.

    Returns
    -------
    Report
        `mismatches` is empty if all executors agree on all programs.
    """
    started = time.monotonic()
    report = Report()
    jobs = []
    for n in range(programs):
        arch = machines[n % len(machines)]
        kind = _kind(arch, seed + n, faulting)
        if n % _OVERFLOW_PERIOD == _OVERFLOW_PLACE:
            kind = OVERFLOW
        jobs.append((arch, seed + n, kind))
    work = partial(_job, executors=executors, directory=directory)
    if processes > 1:
        # Leaving the block ends the workers: an interrupt does not wait for what is queued.
        with Pool(processes, initializer=_leave_interrupts_to_the_parent) as pool:
            for done, result in enumerate(pool.imap(work, jobs, chunksize=4), start=1):
                report.merge(result)
                if progress is not None:
                    progress(done)
    else:
        for done, job in enumerate(jobs, start=1):
            report.merge(work(job))
            if progress is not None:
                progress(done)
    report.seconds = time.monotonic() - started
    return report


def _leave_interrupts_to_the_parent() -> None:
    """A Ctrl-C reaches every process of the group; only the parent answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _kind(arch: Arch, seed: int, faulting: float) -> str | None:
    """The kind of fault of program `seed`, or None; faults that units find as often as control's,
    of which there are many more kinds."""
    rng = random.Random(f"kind/{seed}")
    if rng.random() >= faulting:
        return None
    in_units = rng.random() < 0.5
    timed = ("address", "overflow", "deadlock")
    return rng.choice([k for k in fault_kinds(arch) if k.startswith(timed) is in_units])


def _job(
    job: tuple[Arch, int, str | None],
    *,
    executors: Mapping[str, Executor],
    directory: Path | None,
) -> Report:
    arch, seed, kind = job
    if kind is None:
        case = generate(arch, seed)
    elif kind == OVERFLOW:
        case = overflow_program(arch)
    else:
        case = generate_faulting(arch, seed, kind)
    report = Report(programs=1, faulting=int(isinstance(case, FaultCase)))
    lines, base = compare_executors(case, executors)
    if base is not None:
        report.coverage.add(case.program, base)
        if base.counters is not None:
            report.cycles += base.counters.cycles
    if lines:
        report.mismatches.append(_mismatch(case, arch, seed, kind, lines, executors, directory))
    return report


def _mismatch(case: Case, arch: Arch, seed: int, kind: str | None, lines: list[str],
              executors: Mapping[str, Executor], directory: Path | None) -> Mismatch:
    short = case
    if kind == OVERFLOW:
        # Every part of it is needed, and each run is long.
        pass
    elif not lines[0].startswith("checker:") and not isinstance(case, FaultCase):
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
        if executor is refer and timed:
            # Neither tokens nor empty FIFOs exist for it.
            continue
        try:
            result = executor(case.program, case.contents)
        except Exception as error:
            lines.append(f"{name} raised {type(error).__name__}: {error}")
            continue
        if base is None:
            base = result
            lines += [f"{name}: {line}" for line in _unexpected(expected, result, valid)]
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
