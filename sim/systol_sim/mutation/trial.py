"""Looks for a difference between the executors of one source tree; `campaign` runs it.

`python -m systol_sim.mutation.trial rtl|sim|checker RECORD [UNCHANGED]`, with the tree under test
on the path, writes to the JSON file RECORD what it does before it does it, and so tells its caller
even by dying: a check that takes too long is ended by a timer's signal, whose default action works
inside compiled code too. The hardware's trial leaves its machines in its working directory.
UNCHANGED is the directory in which that of the unchanged sources did so.
"""

import contextlib
import dataclasses
import filecmp
import functools
import io
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import rtlil
from numba.core.errors import NumbaError

import systol_sim
from systol_hw.arch import PRESETS, Arch
from systol_hw.formal.equivalence import unproved_module
from systol_hw.isa import instruction
from systol_hw.program import Program, make_program
from systol_hw.rtl import emit
from systol_hw.rtl.machine import Machine
from systol_hw.tables.counters import AMOUNTS
from systol_sim.fuzz.campaign import Executor, compare_executors, refer, simulate, step
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.hardware.verilated import build, run
from systol_sim.mutation.changes import (
    CHECKER_TESTS,
    EQUIVALENT,
    FIRST_TEST,
    KILLED,
    LAST_TESTS,
    NOT_BUILT,
    PASSED,
    RTL,
    SAME,
    SIM,
    TARGETS,
)
from systol_sim.random_programs.faulting import (
    FAULT_WATCHDOG_CYCLES,
    UNIT_KINDS,
    empty_program,
    fault_kinds,
    generate_faulting,
)
from systol_sim.random_programs.generate import Case, generate, overflow_program
from systol_sim.results import RunResult

# An array of four blocks, a host port of one byte, lanes that are busy for several cycles.
_BLOCKS = dataclasses.replace(
    FUZZ_MACHINES[1], name="fuzz-blocks", rows=18, columns=20, ub_bytes=8192, vector_lanes=5,
    host_port=PRESETS["nano"].host_port,
)
MACHINES = (
    *(arch for arch in FUZZ_MACHINES if arch.name in ("fuzz-fetch-one", "fuzz-tall")), _BLOCKS,
)
"""Machines whose RTL runs, in turn: small, and unlike in banks, ports, lanes and shape."""
VALID_PROGRAMS, FAULTING_PROGRAMS = 40, 60
"""For each of `MACHINES`."""
OTHER_PROGRAMS = 4
"""Valid programs on each other fuzz machine, simulator against reference."""
CYCLE_LIMIT = 3_000_000
STALL_PERCENT, EXTRA_DELAY = 30, 25
LATE_WATCHDOG_CYCLES = 50_000
CHECK_SECONDS, COMPILE_SECONDS, BUILD_SECONDS = 80, 240, 600
OVERFLOW_SECONDS, TEST_SECONDS = 120, 240


class _Record:
    """The JSON file that says what goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, object] = {}

    def write(self, **items: object) -> None:
        self.content |= items
        self.path.write_text(json.dumps(self.content), "utf-8")

    @contextlib.contextmanager
    def check(self, name: str, seconds: int = CHECK_SECONDS) -> Iterator[None]:
        """Note a check as it begins; a timer ends the process if it lasts too long."""
        self.write(check=name)
        # Processor time, and not that of compilers: a busy machine must not kill a mutant.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        yield
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Difference(Exception):
    """Two executors differ, or a stated expectation does not hold."""


def _rtl(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The RTL as an `Executor`."""
    return run(
        program, contents, checked=True, watchdog_cycles=FAULT_WATCHDOG_CYCLES,
        cycle_limit=CYCLE_LIMIT,
    )


def _rtl_late(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The RTL on memories that are late at random: values and amounts must be the same."""
    result = run(
        program, contents, checked=True, watchdog_cycles=LATE_WATCHDOG_CYCLES,
        cycle_limit=CYCLE_LIMIT, extra_delay=EXTRA_DELAY, stall_percent=STALL_PERCENT,
        seed=len(program.code),
    )
    assert result.counters is not None
    amounts = result.counters.amounts.copy()
    # Fetch is charged to whatever tag control has reached: a matter of timing.
    amounts[_FETCH_BYTES] = -1
    return dataclasses.replace(result, counters=None, times=None, coverage={"amounts": amounts})


_FETCH_BYTES = next(i for i, amount in enumerate(AMOUNTS) if amount.name == "fetch_bytes")


def _compare(record: _Record, name: str, case: Case, executors: Mapping[str, Executor],
             seconds: int = CHECK_SECONDS) -> None:
    with record.check(name, seconds):
        lines, _ = compare_executors(case, executors)
    if lines:
        raise _Difference(lines[0])


def _seed(arch: Arch, number: int) -> int:
    return 1000 * (*FUZZ_MACHINES, _BLOCKS).index(arch) + number


def _programs(
    record: _Record, arch: Arch, valid: Mapping[str, Executor], faulting: Mapping[str, Executor]
) -> None:
    """Valid and faulting programs in turn."""
    kinds = fault_kinds(arch)
    # What units find is rarer among the kinds than what the decoder refuses.
    timed = [k for k in kinds if k.startswith(UNIT_KINDS)]
    others = [k for k in kinds if k not in timed]
    chosen = [
        kind for group in (timed, others)
        for kind in group[:: max(1, len(group) // (FAULTING_PROGRAMS // 2))]
    ]
    for number in range(max(VALID_PROGRAMS, len(chosen))):
        seed = _seed(arch, number)
        if number < VALID_PROGRAMS:
            name = f"{arch.name}, valid program {seed}"
            _compare(record, name, generate(arch, seed), valid)
        if number < len(chosen):
            kind = chosen[number]
            name = f"{arch.name}, program {seed} with {kind}"
            _compare(record, name, generate_faulting(arch, seed, kind), faulting)
    _compare(record, f"{arch.name}, empty program", empty_program(arch), faulting)


def _build(record: _Record, arch: Arch) -> None:
    """Build the model; `<machine>.v` and `<machine>.il` are left for trials of mutants."""
    with record.check(f"{arch.name}, elaboration", BUILD_SECONDS):
        _verilog(arch).write_text(emit.convert_verilog(arch, True), "utf-8")
        machine = Machine(arch, packed=True)
        text = rtlil.convert(machine, name=emit.TOP_NAME, emit_src=False)
        _rtlil(arch).write_text(text, "utf-8")
    with record.check(f"{arch.name}, build", BUILD_SECONDS):
        build.model_library(arch, packed=True)


def _verilog(arch: Arch, folder: Path = Path()) -> Path:
    return folder / f"{arch.name}.v"


def _rtlil(arch: Arch, folder: Path = Path()) -> Path:
    return folder / f"{arch.name}.il"


def _proved_equal(record: _Record, unchanged: Path) -> bool:
    """Whether every machine is proved to be the unchanged one."""
    for arch in MACHINES:
        # Without a timer: a proof that takes long is no reason to count the mutant as found.
        record.write(check=f"{arch.name}, equivalence")
        texts = [_rtlil(arch, folder).read_text("utf-8") for folder in (unchanged, Path())]
        if unproved_module(*texts) is not None:
            return False
    return True


def _prepare_build() -> None:
    # Programs are short: what counts is that the model is soon built. Each Verilog serves twice.
    build.OPTIMIZATION = "-O0"
    emit.convert_verilog = functools.cache(emit.convert_verilog)


def _compile(record: _Record) -> None:
    with record.check("compilation of the stepper", COMPILE_SECONDS):
        simulate(make_program(MACHINES[0], [instruction("halt")]), {})


def try_rtl(record: _Record, unchanged: Path | None) -> str:
    """Build the RTL and hold it against the simulator, one machine after the other; a machine that
    is the unchanged one is not run. What passes is tried to be proved equivalent."""
    _prepare_build()
    _compile(record)
    same = 0
    for arch in MACHINES:
        try:
            _build(record, arch)
        except Exception as error:
            record.write(by=f"{type(error).__name__}: {error}")
            return NOT_BUILT
        if unchanged is not None and filecmp.cmp(
            _verilog(arch), _verilog(arch, unchanged), shallow=False
        ):
            same += 1
            continue
        faulting = {"sim": simulate, "rtl": _rtl}
        _programs(record, arch, {**faulting, "rtl-late": _rtl_late}, faulting)
        # On the large array a wrap takes long, and is no other.
        if arch is not _BLOCKS:
            name = f"{arch.name}, accumulator overflow"
            _compare(record, name, overflow_program(arch), faulting, OVERFLOW_SECONDS)
    if same == len(MACHINES):
        return SAME
    if unchanged is not None and _proved_equal(record, unchanged):
        record.write(by="proved to be the same machine")
        return EQUIVALENT
    return PASSED


class _Failures:
    """Collects the names of failed tests from pytest."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.names.append(report.nodeid.rpartition("::")[2])


def _test(record: _Record, module: str, marks: str = "not verilator") -> None:
    """Run those tests of a module of `tests` that `marks` does not leave out.

    Raises
    ------
    _Difference
        If one of its tests fails.
    """
    root = Path(systol_sim.__file__).parents[2]
    name = module.rpartition("/")[2]
    with record.check(name, TEST_SECONDS):
        failures = _Failures()
        options = [
            "-q", "-x", "-m", marks, "--import-mode=importlib", "-p", "no:cacheprovider",
            "--hypothesis-seed=0", "--rootdir", str(root), "-c", str(root / "pytest.ini"),
        ]
        # It does not know the mark; its words are none of ours.
        with contextlib.redirect_stdout(io.StringIO()):
            path = root / "tests" / f"{module}.py"
            status = pytest.main([*options, str(path)], plugins=[failures])
    if status == pytest.ExitCode.TESTS_FAILED:
        raise _Difference(f"{failures.names[0]} fails")
    if status != pytest.ExitCode.OK:
        raise _Difference(f"{name} cannot be collected")


def try_simulator(record: _Record) -> str:
    """Hold the simulator against micro-programs, the RTL, its own stepping, and the reference; then
    see whether it still jumps as far as it did."""
    _compile(record)
    _test(record, f"sim/{FIRST_TEST}")
    _prepare_build()
    executors = {"rtl": _rtl, "sim": simulate, "sim-stepped": step, "reference": refer}
    for arch in MACHINES:
        with record.check(f"{arch.name}, build", BUILD_SECONDS):
            build.model_library(arch, packed=True)
        _programs(record, arch, executors, executors)
    own = {"sim": simulate, "sim-stepped": step, "reference": refer}
    for arch in FUZZ_MACHINES:
        for number in range(OTHER_PROGRAMS):
            seed = _seed(arch, number)
            _compare(record, f"{arch.name}, valid program {seed}", generate(arch, seed), own)
    for module in LAST_TESTS:
        _test(record, f"sim/{module}")
    arch = MACHINES[1]
    _compare(
        record, f"{arch.name}, accumulator overflow", overflow_program(arch),
        {"rtl": _rtl, "sim": simulate}, OVERFLOW_SECONDS,
    )
    return PASSED


def try_checker(record: _Record) -> str:
    """Run the tests of what the checker refuses, and of what instructions touch."""
    for module in CHECKER_TESTS:
        _test(record, module, "not verilator and not slow")
    return PASSED


def main(arguments: Sequence[str]) -> int:
    """Run one trial."""
    target, path, *rest = arguments
    unchanged = Path(rest[0]) if rest else None
    record = _Record(Path(path))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        if target == RTL:
            outcome = try_rtl(record, unchanged)
        else:
            outcome = try_simulator(record) if target == SIM else try_checker(record)
    except _Difference as difference:
        outcome = KILLED
        record.write(by=str(difference))
    except NumbaError as error:
        outcome = NOT_BUILT
        record.write(by=str(error).splitlines()[0])
    except Exception as error:
        outcome = KILLED
        record.write(by=f"{type(error).__name__}: {error}")
    record.write(outcome=outcome)
    assert target in TARGETS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
