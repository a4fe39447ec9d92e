"""Waveforms: the files say in which cycles the run says that things happened."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, MissingToolError
from systol_hw.isa import decode, instruction
from systol_hw.program import make_program
from systol_hw.tables.faults import Unit
from systol_sim import simulator
from systol_sim.hardware import amaranth_sim, verilated
from systol_sim.hardware.verilated import build, runner
from systol_sim.hardware.waves import waves_format
from systol_sim.random_programs.generate import generate

NANO = PRESETS["nano"]
RTL_CYCLE = 1_000_000
AMARANTH_CYCLE = 1_000_000_000
"""Femtoseconds."""


def read_vcd(path: Path, wanted: str) -> dict[int, int]:
    """Changes of the signal `wanted`, which may be declared anywhere: value by time in fs."""
    text = path.read_text("ascii")
    header, body = text.split("$enddefinitions $end", 1)
    scale = header.split("$timescale", 1)[1].split("$end", 1)[0].replace(" ", "").strip()
    unit = {"1fs": 1, "1ps": 1000}[scale]
    codes = set()
    for line in header.splitlines():
        words = line.split()
        if words[:1] == ["$var"] and words[4] == wanted:
            codes.add(words[3])
    assert codes, f"no signal called {wanted}"
    code = codes.pop()
    changes, time = {}, 0
    for line in body.splitlines():
        if line.startswith("#"):
            time = int(line[1:]) * unit
        elif line.startswith("b") and line.split()[1] == code:
            changes[time] = int(line.split()[0][1:].replace("x", "0"), 2)
        elif line[:1] in ("0", "1") and line[1:].strip() == code:
            changes[time] = int(line[0])
    return changes


def value_at(changes: dict[int, int], time: int) -> int:
    """The signal's value in an instant."""
    return changes[max(t for t in changes if t <= time)]


@pytest.mark.verilator
@pytest.mark.parametrize("name", ["nano", pytest.param("edge32", marks=pytest.mark.slow)])
def test_a_vcd_file_shows_starts_ends_and_the_halt_in_their_cycles(
    tmp_path: Path, name: str
) -> None:
    """On a flat model and on one of blocks."""
    case = generate(PRESETS[name], 3)
    path = tmp_path / "run.vcd"
    result = verilated.run(case.program, case.contents, waves=path)
    expected = simulator.run(case.program, case.contents)
    assert result.counters is not None and expected.counters is not None
    assert result.counters.differences(expected.counters) == []
    assert result.times is not None
    np.testing.assert_array_equal(result.times, expected.times)

    running = read_vcd(path, "running")
    cycles = result.counters.cycles
    assert value_at(running, 0) == 1
    assert {time for time in running if time} == {cycles * RTL_CYCLE}, "as the last cycle ends"
    for which, name in enumerate(("trace_starts", "trace_ends")):
        pulses = read_vcd(path, name)
        # In the middle of a cycle its inputs are there and everything has settled.
        seen = {
            (cycle, unit)
            for cycle in range(cycles)
            for unit in Unit
            if value_at(pulses, cycle * RTL_CYCLE + RTL_CYCLE // 2) >> unit & 1
        }
        units = [unit_of(word) for word in case.program.code]
        assert seen == {
            (int(times[which]), unit) for times, unit in zip(result.times, units, strict=True)
        }


def unit_of(word: np.ndarray) -> Unit:
    """The unit of an encoded instruction."""
    return decode(word.tobytes()).unit


@pytest.mark.verilator
def test_a_model_with_waveforms_is_another_one(tmp_path: Path) -> None:
    assert build.model_library(NANO, packed=True) != build.model_library(
        NANO, packed=True, waves="vcd"
    )


@pytest.mark.slow
def test_amaranths_simulator_writes_vcd(tmp_path: Path) -> None:
    case = generate(NANO, 3, instructions=3)
    path = tmp_path / "run.vcd"
    result = amaranth_sim.run(case.program, case.contents, waves=path)
    assert result.counters is not None
    running = read_vcd(path, "running")
    rise, fall = sorted(time for time, value in running.items() if time)
    assert (running[rise], running[fall]) == (1, 0)
    assert fall - rise == result.counters.cycles * AMARANTH_CYCLE


@pytest.mark.parametrize("name", ["run.txt", "vcd", "run.VCD"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"a waveform file must end in \.vcd or \.fst"):
        waves_format(tmp_path / name)


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.run\.fst cannot be written: No such file"):
        waves_format(tmp_path / "none" / "run.fst")


@pytest.mark.parametrize("linked", [False, True])
def test_an_older_file_stands_until_there_is_something_to_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """What comes before the first cycle may fail: a tool is missing, the model is not built."""

    def fail(*_: object, **__: object) -> Path:
        raise MissingToolError("no tool")

    monkeypatch.setattr(runner, "model_library", fail)
    case = generate(NANO, 3, instructions=3)
    path = file = tmp_path / "run.vcd"
    if linked:
        file = tmp_path / "elsewhere"
        path.symlink_to(file)
    with pytest.raises(MissingToolError):
        verilated.run(case.program, case.contents, waves=path)
    assert not file.exists(), "where there was none, none is left"
    assert path.is_symlink() == linked
    file.write_text("older")
    with pytest.raises(MissingToolError):
        verilated.run(case.program, case.contents, waves=path)
    assert file.read_text() == "older"


@pytest.mark.verilator
def test_waveforms_reach_up_to_a_fault(tmp_path: Path) -> None:
    """And replace an older file, however long."""
    program = make_program(
        NANO, [instruction("fill", wait=1 << (Unit.LOAD - 1)), instruction("halt")]
    )
    path = tmp_path / "run.vcd"
    path.write_bytes(b"older" * 100_000)
    result = verilated.run(program, checked=True, watchdog_cycles=50, waves=path)
    assert result.fault is not None and result.counters is not None
    faulted = read_vcd(path, "faulted")
    assert max(faulted.values()) == 1
    assert max(read_vcd(path, "running")) == result.counters.cycles * RTL_CYCLE


@pytest.mark.verilator
@pytest.mark.parametrize("suffix", ["vcd", "fst"])
def test_a_file_that_cannot_grow_ends_the_run_and_not_the_process(
    tmp_path: Path, suffix: str
) -> None:
    """In a process of its own, with a limit on the size of files; a full disk is the same."""
    if suffix == "fst":
        require_fst()
    path = tmp_path / f"run.{suffix}"
    build.model_library(NANO, packed=True, waves=suffix)
    done = subprocess.run(
        [sys.executable, "-c", DRAWS_INTO_A_LIMITED_FILE, path],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert done.stdout == f"{path} cannot be written: File too large\nalive\n"
    assert 0 < path.stat().st_size <= LIMIT_BYTES


LIMIT_BYTES = 10_000
"""Less than the names of the signals take in either format."""
DRAWS_INTO_A_LIMITED_FILE = f"""
import pathlib, resource, sys
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError
from systol_sim.hardware import verilated
from systol_sim.random_programs.generate import generate

case = generate(PRESETS["nano"], 3, instructions=30)
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, {LIMIT_BYTES}))
try:
    verilated.run(case.program, case.contents, waves=pathlib.Path(sys.argv[1]))
except InputError as error:
    print(error)
print("alive")
"""


def test_amaranth_refuses_fst(tmp_path: Path) -> None:
    case = generate(NANO, 3, instructions=3)
    with pytest.raises(InputError, match=r"must end in \.vcd$"):
        amaranth_sim.run(case.program, case.contents, waves=tmp_path / "run.fst")


@pytest.fixture
def compiler_without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide a header from the compiler."""
    real = subprocess.run

    def hide(header: str) -> None:
        def run(command, **options):  # type: ignore[no-untyped-def]
            if header in options.get("input", ""):
                return subprocess.CompletedProcess(command, 1, "", "")
            return real(command, **options)

        monkeypatch.setattr(subprocess, "run", run)

    return hide


@pytest.mark.verilator
def test_missing_headers_of_fst_are_named(compiler_without: Callable[[str], None]) -> None:
    compiler_without("lz4.h")
    with pytest.raises(MissingToolError, match="apt install zlib1g-dev liblz4-dev"):
        build.require_tools(waves="fst")


def require_fst() -> None:
    """Skip where no FST files can be drawn."""
    try:
        build.require_tools(waves="fst")
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.mark.verilator
def test_an_fst_file_is_written_where_its_libraries_are_there(tmp_path: Path) -> None:
    require_fst()
    case = generate(NANO, 3, instructions=3)
    path = tmp_path / "run.fst"
    verilated.run(case.program, case.contents, waves=path)
    # Ref: the FST format, its header block: type 0, 329 bytes long.
    assert path.read_bytes()[:9] == b"\x00" + (329).to_bytes(8, "big")
