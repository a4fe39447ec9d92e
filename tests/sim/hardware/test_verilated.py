"""The RTL under Verilator: against the simulator on random programs, and what is its own."""

import dataclasses
import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import ConfigurationError, InputError, InvalidProgramError, MissingToolError
from systol_hw.isa import decode, encode, instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim import simulator
from systol_sim.hardware.verilated import build, run
from systol_sim.random_programs.generate import Case, generate
from systol_sim.results import RunResult

NANO = PRESETS["nano"]
pytestmark = pytest.mark.verilator


def assert_same(expected: RunResult, found: RunResult, *, values: bool = True) -> None:
    assert expected.counters is not None and found.counters is not None
    assert found.fault == expected.fault
    assert expected.counters.differences(found.counters, values=values) == []
    assert expected.times is not None and found.times is not None
    np.testing.assert_array_equal(expected.times, found.times)
    assert found.interrupts == expected.interrupts
    assert found.status == expected.status
    if values:
        for a, b in zip(expected.windows, found.windows, strict=True):
            np.testing.assert_array_equal(a, b)
        for name, memory in expected.memories.items():
            np.testing.assert_array_equal(memory, found.memories[name], err_msg=name)


@pytest.mark.parametrize("seed", range(25))
def test_random_programs_equal_the_simulator(seed: int) -> None:
    case = generate(NANO, seed)
    assert_same(
        simulator.run(case.program, case.contents), run(case.program, case.contents, checked=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_programs_on_edge16(seed: int) -> None:
    case = generate(PRESETS["edge16"], seed)
    assert_same(
        simulator.run(case.program, case.contents), run(case.program, case.contents, checked=True)
    )


def broken(case: Case, rng: random.Random) -> Program:
    """`case`'s program with one address far out, one wait too many, or one signal too many."""
    code = case.program.code.copy()
    index = rng.randrange(len(code) - 1)
    kind = rng.randrange(3)
    item = decode(code[index].tobytes())
    addresses = [f.name for f in item.operation.fields if f.name.endswith("address")]
    if kind == 0 and addresses:
        name = rng.choice(addresses)
        fields = {**item.fields, name: item[name] ^ (1 << 14)}
        code[index] = np.frombuffer(encode(instruction(item.operation, **fields)), np.uint8)
    elif kind == 1:
        code[index, 1] |= 1 << rng.randrange(5)
    else:
        code[index, 1 + rng.randrange(2)] ^= 1 << rng.randrange(8)
    return dataclasses.replace(case.program, code=code)


def test_faults_equal_the_simulator() -> None:
    rng = random.Random(7)
    causes = set()
    for seed in range(60):
        case = generate(NANO, seed % 12, instructions=15)
        program = broken(case, rng)
        limit = rng.choice((60, 2000))
        expected = simulator.run_timing(program, skip=True, watchdog_cycles=limit)
        found = run(
            program, case.contents, checked=True, watchdog_cycles=limit, memories=False
        )
        assert_same(expected, found, values=False)
        causes.add(expected.fault.cause if expected.fault else None)
    assert {
        FaultCause.ADDRESS, FaultCause.WATCHDOG, FaultCause.ILLEGAL_INSTRUCTION
    } <= causes  # fmt: skip


def test_token_overflow() -> None:
    fill = instruction("fill", signal=1 << (Unit.LOAD - 1))
    program = make_program(NANO, [fill] * (NANO.token_limit + 1) + [instruction("halt")])
    result = run(program, checked=True)
    expected = simulator.run_timing(program, skip=True, watchdog_cycles=1000)
    assert result.fault == expected.fault
    assert result.fault is not None
    assert result.fault.cause is FaultCause.TOKEN_OVERFLOW
    assert (result.fault.unit, result.fault.pc) == (Unit.VECTOR, NANO.token_limit)


def test_interrupts_and_tags() -> None:
    program = make_program(
        NANO,
        [
            instruction("interrupt", value=7),
            instruction("tag", tag=9),
            instruction("nop"),
            instruction("interrupt", value=65535),
            instruction("halt"),
        ],
    )
    result = run(program)
    assert result.interrupts == [7, 65535]
    assert result.counters is not None
    assert result.counters.state(Unit.CONTROL, "busy", 0) == 2
    assert result.counters.state(Unit.CONTROL, "busy", 9) == 3
    assert result.fault is None


@pytest.mark.parametrize("delay", [0, 40])
def test_a_host_that_answers_late_changes_only_times(delay: int) -> None:
    """Ten syncs in a row, each of them exact with a host that is there, some late without."""
    syncs = [instruction("sync_host", value=n) for n in range(10)]
    status = instruction("set_config", register=1, value=0xDEADBEEF)
    program = make_program(NANO, [*syncs, status, instruction("halt")])
    result = run(program, extra_delay=delay)
    assert result.interrupts == list(range(10)) and result.status == 0xDEADBEEF
    assert result.counters is not None and result.times is not None
    waited = result.times[:10, 1] - result.times[:10, 0]
    latency = NANO.host_port.latency_cycles
    assert (waited >= latency).all()
    late = (waited - latency).sum()
    assert (late > 0) == (delay > 0)
    assert result.counters.state(Unit.CONTROL, "wait_host") == waited.sum()
    assert result.counters.scalars[1] >= late


@pytest.mark.pins("late_cycles")
def test_late_cycles_are_those_of_both_ports_and_of_the_host() -> None:
    """A load of 64 beats and a sync, and then no halt, so that nothing else is fetched.

    Beats of a port are issued one a cycle, so that its late cycles are those by which its last
    one is delivered too late; the simulator's times are what they would be without.
    """
    program = make_program(
        NANO,
        [instruction("read_host", run_bytes=64), instruction("sync_host", value=1)],
        windows=(Window(name="w", size_bytes=64),),
    )
    exact = simulator.run_timing(program)
    assert exact.times is not None and exact.counters is not None
    assert exact.counters.scalars[1] == 0
    load_cycles = int(exact.times[0, 1] - exact.times[0, 0])
    seen = set()
    for seed in range(8):
        result = run(program, checked=True, extra_delay=20, seed=seed)
        assert result.times is not None and result.counters is not None
        (load_start, load_end), (sync_seen, sync_end) = result.times.tolist()
        weight = sync_seen - int(exact.times[1, 0])
        host = load_end - load_start - load_cycles
        quiet = max(sync_seen, load_end + 1)
        sync = sync_end - quiet - NANO.host_port.latency_cycles
        assert min(weight, host, sync) >= 0
        assert result.counters.scalars[1] == weight + host + sync
        seen |= {name for name, late in zip("whs", (weight, host, sync), strict=True) if late}
    assert seen == set("whs")


def test_other_memories_through_registers() -> None:
    case = generate(NANO, 4)
    slow = dataclasses.replace(
        NANO.weight_port, bytes_per_cycle=Fraction(3, 7), latency_cycles=29
    )
    host = dataclasses.replace(NANO.host_port, bytes_per_cycle=Fraction(1, 2))
    other = dataclasses.replace(NANO, weight_port=slow, host_port=host)
    expected = simulator.run(dataclasses.replace(case.program, arch=other), case.contents)
    found = run(case.program, case.contents, weight_port=slow, host_port=host)
    assert_same(expected, found)


@pytest.mark.parametrize(("delay", "stall"), [(30, 0), (0, 50), (60, 30)])
def test_slow_memories_change_no_value(delay: int, stall: int) -> None:
    case = generate(NANO, 5)
    exact = run(case.program, case.contents)
    late = run(case.program, case.contents, extra_delay=delay, stall_percent=stall, seed=3)
    for a, b in zip(exact.windows, late.windows, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, memory in exact.memories.items():
        np.testing.assert_array_equal(memory, late.memories[name], err_msg=name)
    assert exact.counters is not None and late.counters is not None
    late_index = 1
    assert exact.counters.scalars[late_index] == 0
    assert late.counters.scalars[late_index] > 0
    assert late.counters.cycles > exact.counters.cycles


def test_requests_that_cannot_be_met_are_refused() -> None:
    program = make_program(NANO, [instruction("halt")])
    wide = dataclasses.replace(NANO.weight_port, width_bytes=2)
    with pytest.raises(ConfigurationError, match="width_bytes is built into the machine as 1"):
        run(program, weight_port=wide)
    far = dataclasses.replace(NANO.host_port, latency_cycles=511)
    with pytest.raises(ConfigurationError, match="host_port: latency_cycles must be at most"):
        run(program, host_port=far)
    with pytest.raises(ConfigurationError, match="watchdog_cycles must lie in 1"):
        run(program, watchdog_cycles=0)
    with pytest.raises(InputError, match="stall_percent must lie in"):
        run(program, stall_percent=100)
    with pytest.raises(InputError, match="did not end within 10 cycles"):
        run(program, cycle_limit=10)
    with pytest.raises(InvalidProgramError):
        run(make_program(NANO, [instruction("nop")]))


def test_accesses_outside_the_memories_touch_nothing_else() -> None:
    windows = (Window(name="w", size_bytes=3),)
    program = make_program(
        NANO,
        [instruction("write_host", memory_address=0, run_bytes=200), instruction("halt")],
        windows=windows,
    )
    result = run(program, checked=True)
    assert result.fault is not None and result.fault.cause is FaultCause.ADDRESS
    assert result.windows[0].size == 3


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MissingToolError, match="apt install g"):
        build.require_tools()


def test_an_interrupt_ends_a_run_at_once() -> None:
    """Of a program that would wait for hours; the next run is as ever."""
    program = make_program(
        NANO, [instruction("fill", wait=1 << (Unit.LOAD - 1)), instruction("halt")]
    )
    build.model_library(NANO, packed=True)
    began = []

    def interrupt() -> None:
        began.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    # What a shell starts in the background ignores interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.5, interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run(program, checked=True, watchdog_cycles=(1 << 32) - 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began[0] < PATIENCE_SECONDS
    assert run(program, checked=True, watchdog_cycles=50).fault is not None


PATIENCE_SECONDS = 60
"""For a run to end after an interrupt; other work may keep the processors."""


def test_a_compiler_that_fails_is_a_tool_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found, but compiles nothing; its last words are the message's."""
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho first >&2\necho 'cannot execute cc1plus' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    anything = f"module {build.TOP}; endmodule"
    monkeypatch.setattr("systol_hw.rtl.emit.convert_verilog", lambda *_: anything)
    build.model_library.cache_clear()
    with pytest.raises(MissingToolError, match=r"first\n  cannot execute cc1plus\n.*\.log$"):
        build.model_library(NANO, packed=True)


@pytest.mark.parametrize("why", ["no folder", "not writable", "no home"])
def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    expected = rf"cannot be kept in {cache}/systol/verilated: .*; set XDG_CACHE_HOME to a folder"
    if why == "no folder":
        cache.write_text("a file")
    elif why == "not writable":
        # Permissions do not bind every user, and tests may run as that one.
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr("systol_hw.rtl.emit.convert_verilog", lambda *_: "")
        monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: Path("~none").expanduser())
        expected = "no home directory; set XDG_CACHE_HOME"
    build.model_library.cache_clear()
    with pytest.raises(InputError, match=expected):
        build.model_library(NANO, packed=True)


def _library(_: int) -> str:
    return str(build.model_library(NANO, packed=True))


@pytest.mark.slow
def test_two_processes_build_one_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_library, range(2))
    assert first == second
    libraries = list((tmp_path / "systol" / "verilated").iterdir())
    assert sorted(path.suffix for path in libraries) == [".key", ".lock", ".so"]
