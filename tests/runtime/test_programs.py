"""Programs and machines of one's own, from the command line."""

import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import systol
from systol.array_files import write_arrays
from systol.cli import main
from systol.console.listing import code_lines, comments
from systol.program_run import place_tokens, run_program
from systol.selftest import tiny_model
from systol_compiler.binary.model import LayerRange
from systol_hw.arch import PRESETS, load_arch
from systol_hw.errors import (
    ConfigurationError,
    InputError,
    InvalidProgramError,
    MachineFaultError,
    SystolError,
)
from systol_hw.isa import instruction
from systol_hw.program import Window, make_program
from systol_hw.program_text import format_program, parse_program
from systol_hw.rtl.bus.axi_machine import AXI_TOP_NAME, convert_axi_verilog
from systol_hw.rtl.emit import TOP_NAME, convert_verilog
from systol_sim.random_programs.generate import generate

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-program.md"
Captured = pytest.CaptureFixture[str]

ECHO = """\
.systol 1
.arch nano
.window in 64
.window out 64
.weight_memory 192
.code_address 0
.code
read_host signal=store run_bytes=16
write_host wait=load window=1 run_bytes=16
halt
"""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    path = tmp_path / "echo.txt"
    path.write_text(ECHO)
    write_arrays(tmp_path / "in.npz", {"in": np.arange(16, dtype=np.uint8)})
    return path


@pytest.mark.parametrize("backend", ["sim", "reference"])
def test_a_text_runs(echo: Path, backend: str, capsys: Captured) -> None:
    out = echo.with_name("out.npz")
    words = ["run", str(echo), "--input", str(echo.with_name("in.npz")), "--output", str(out)]
    assert main([*words, "--backend", backend, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [window["name"] for window in found["windows"]] == ["in", "out"]
    assert ("cycles" in found) == (backend == "sim") and found["instructions"] == 3
    windows = np.load(out)
    np.testing.assert_array_equal(windows["out"], np.r_[np.arange(16), np.zeros(48)])


def test_its_windows_are_inputs_by_name(echo: Path, capsys: Captured) -> None:
    np.savez(echo.with_name("in.npz"), other=np.zeros(3))
    assert main(["run", str(echo), "--input", str(echo.with_name("in.npz"))]) == 3
    assert "no input 'other'; what is asked for is 'in', 'out'" in capsys.readouterr().err
    write_arrays(echo.with_name("in.npz"), {"in": np.zeros(9)})
    assert main(["run", str(echo), "--input", str(echo.with_name("in.npz"))]) == 3
    assert "window 'in' has 64 bytes, and its contents 72" in capsys.readouterr().err
    assert main(["run", str(echo)]) == 0  # without any they are zero
    assert "00 00 00" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--csv", "--dump-tensors"])
def test_what_needs_a_model_says_so(echo: Path, flag: str, capsys: Captured) -> None:
    assert main(["run", str(echo), flag, str(echo.with_name("x"))]) == 3
    assert f"{flag} needs a binary" in capsys.readouterr().err


def test_a_program_that_races_is_refused_and_one_that_faults_is_named(
    echo: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo.write_text(ECHO.replace("wait=load ", "").replace("signal=store ", ""))
    assert main(["run", str(echo)]) == InvalidProgramError.exit_status
    assert "pc 1" in capsys.readouterr().err
    program = make_program(
        PRESETS["nano"], [instruction("fill", n_last=1, out_address=1 << 20), instruction("halt")]
    )
    monkeypatch.setattr("systol.program_run.check", lambda program: None)
    with pytest.raises(MachineFaultError, match=r"address in vector.*\(fill .*0x100000\)"):
        run_program(program)


def test_a_texts_counters_and_trace(echo: Path, capsys: Captured) -> None:
    files = {name: echo.with_name(f"{name}.json") for name in ("counters", "trace")}
    words = ["run", str(echo), "--json"]
    for name, path in files.items():
        words += [f"--{name}", str(path)]
    assert main(words) == 0
    cycles = json.loads(capsys.readouterr().out)["cycles"]
    report = json.loads(files["counters"].read_text())
    assert (report["cycles"], report["arch"]["name"]) == (cycles, "nano")
    assert report["units"]["load"]["amounts"]["host_bytes"]["value"] == 16
    assert sum(report["array"]["categories"].values()) == cycles
    slices = [e for e in json.loads(files["trace"].read_text())["traceEvents"] if e["ph"] == "X"]
    assert [item["name"] for item in slices] == ["read_host", "write_host", "halt"]
    assert slices[-1]["args"]["end_cycle"] == cycles - 1
    assert main(["compare", str(files["counters"]), str(files["counters"])]) == 0
    capsys.readouterr()
    assert main(["run", str(echo), "--timing-only", "--json"]) == 0
    timed = json.loads(capsys.readouterr().out)
    assert timed["cycles"] == cycles and timed["windows"] == []
    for flags in (["--timing-only"], ["--trace", str(files["trace"])]):
        assert main(["run", str(echo), *flags, "--backend", "reference"]) == 3
        assert "counts no cycles" in capsys.readouterr().err
    assert main(["run", str(echo), "--waves", "w.vcd"]) == 3
    assert "has no signals to draw" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["sim", "reference"])
def test_a_device_runs_a_program(backend: str) -> None:
    program = systol.parse_program(ECHO)
    device, given = systol.Device(backend), np.arange(16, dtype=np.uint8)
    found = device.run(program, {"in": given})
    assert isinstance(found, systol.ProgramResult) and found.backend == backend
    np.testing.assert_array_equal(found.windows["out"][:16], given)
    assert not device.run(program).windows["out"].any()
    if backend == "sim":
        assert found.report["cycles"] == found.cycles and len(found.tables()) >= 3
        assert len(found.trace()["traceEvents"]) > 3
    else:
        with pytest.raises(InputError, match="counts no cycles"):
            _ = found.report
    with pytest.raises(InputError, match=r"2 windows \('in', 'out'\); give their contents by name"):
        device.run(program, given)
    with pytest.raises(InputError, match=r"no window 'inn' \(did you mean in\?\)"):
        device.run(program, {"inn": given})


def test_one_array_fills_a_programs_only_window() -> None:
    text = ECHO.replace(".window out 64\n", "").replace("window=1", "memory_address=0x10")
    found = systol.Device().run(systol.parse_program(text), np.arange(4, dtype="<i4"))
    np.testing.assert_array_equal(found.windows["in"].view("<i4")[:8], [*range(4), *range(4)])


def test_a_model_needs_inputs() -> None:
    # No overload takes a model alone: what one without a type checker does is tried.
    with pytest.raises(InputError, match="needs its inputs, x; for cycles alone"):
        systol.Device().run(tiny_model())  # type: ignore[call-overload]


def test_contents_of_any_type_go_in_byte_for_byte() -> None:
    program = parse_program(ECHO)
    given = np.array([[1.5, -2.0], [3e9, 0.25]], "<f4")
    found = run_program(program, {"in": given})
    assert found.windows["out"][:16].tobytes() == given.tobytes()
    assert re.fullmatch(r"ProgramResult\(sim, 3 instructions, \d+ cycles\)", repr(found))
    with pytest.raises(InputError, match="no window 'x'; its windows are 'in', 'out'"):
        run_program(program, {"x": given})


def test_tokens_are_placed() -> None:
    """In a program that was written without any, as in one that has its own."""
    bare = parse_program(ECHO.replace("wait=load ", "").replace("signal=store ", ""))
    with pytest.raises(InvalidProgramError):
        run_program(bare)
    for program in (bare, parse_program(ECHO)):
        placed = place_tokens(program)
        given = np.arange(16, dtype=np.uint8)
        np.testing.assert_array_equal(
            run_program(placed, {"in": given}).windows["out"][:16], given
        )
        assert format_program(placed) == format_program(parse_program(ECHO))


@pytest.mark.parametrize("seed", range(6))
def test_tokens_of_random_programs_are_placed_anew(seed: int) -> None:
    case = generate(PRESETS["nano"], seed, instructions=30)
    room = case.program.weight_memory_bytes + 64 * 100
    program = dataclasses.replace(case.program, weight_memory_bytes=room)
    placed = place_tokens(program)
    a, b = (run_program(p, case.contents).run.memories for p in (placed, program))
    np.testing.assert_array_equal(a["ub"], b["ub"])
    np.testing.assert_array_equal(a["accumulators"], b["accumulators"])


@pytest.mark.parametrize(("limit", "barriers"), [(1, True), (15, False)])
def test_tokens_need_room_for_barriers(limit: int, barriers: bool) -> None:
    """Eight results, each stored at once: more tokens than a counter of one can hold."""
    arch = dataclasses.replace(PRESETS["nano"], token_limit=limit)
    items = [
        item
        for n in range(8)
        for item in (
            instruction("fill", n_last=8, out_address=64 * n, zero_point=n),
            instruction("write_host", run_bytes=8, ub_address=64 * n, memory_address=8 * n),
        )
    ]
    window = (Window(name="w", size_bytes=64),)
    program = make_program(arch, [*items, instruction("halt")], windows=window)
    if barriers:
        with pytest.raises(InputError, match=r"has \d+ instructions, to byte \d+ of weight memory"):
            place_tokens(program)
    roomy = dataclasses.replace(program, weight_memory_bytes=program.weight_memory_bytes + 4096)
    placed = place_tokens(roomy)
    assert (len(placed.code) > len(program.code)) == barriers
    found = run_program(placed).windows["w"]
    np.testing.assert_array_equal(found, np.repeat(np.arange(8), 8))


def test_what_is_wrong_in_another_way_stays_wrong() -> None:
    program = make_program(
        PRESETS["nano"], [instruction("matmul", p_limit=8, k_last=8), instruction("halt")]
    )
    with pytest.raises(InvalidProgramError):
        place_tokens(program)


def test_a_text_is_listed(echo: Path, capsys: Captured) -> None:
    assert main(["disasm", str(echo), "--code"]) == 0
    listed = capsys.readouterr().out
    assert listed == (
        "0  read_host signal=store run_bytes=16\n1  write_host wait=load run_bytes=16 window=1\n"
        "2  halt\n"
    )
    assert main(["disasm", str(echo)]) == 0
    text = capsys.readouterr().out
    again = parse_program(text)
    np.testing.assert_array_equal(again.code, parse_program(ECHO).code)
    assert main(["disasm", str(echo), "--segment", "x"]) == 3


def test_a_layers_name_stays_in_its_comment() -> None:
    """Text that follows a line end in a name would be assembled."""
    layer = LayerRange(first=1, count=1, layer="a\nhalt", source_nodes=("n\x1b\nnop",), tag=0)
    notes = comments([layer])
    assert notes == {1: "; a halt  (from n\\x1b nop)"}
    program = make_program(PRESETS["nano"], [instruction("nop")] * 11 + [instruction("halt")])
    lines = list(code_lines(program, notes))
    assert lines[:3] == [" 0  nop", "    ; a halt  (from n\\x1b nop)", " 1  nop"]
    assert lines[-1] == "11  halt"


def _shown(text: str, printed: str) -> bool:
    """Whether `text`, in which `...` stands for any lines, is what was printed."""
    parts = [re.escape(part) for part in text.split("...\n")]
    return re.fullmatch(r"(?:.*\n)*".join(parts), printed) is not None


def test_the_page_of_the_first_program(tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    first, lines = re.findall(r"```asm\n(.*?)```", page, re.DOTALL)
    (tmp_path / "first.txt").write_text(first)
    mistaken = re.search(r"(?m)^\.bytes .*\n\.bytes .*\n", first)
    assert mistaken is not None
    (tmp_path / "second.txt").write_text(first.replace(mistaken[0], lines))
    script = tmp_path / "bin" / "systol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m systol "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    paths = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))
    environment = {
        **os.environ, "PYTHONPATH": paths,
        "PATH": f"{script.parent}:{Path(sys.executable).parent}:/usr/bin:/bin",
    }  # fmt: skip
    count = 0
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, text=True,
                capture_output=True, check=False, timeout=900,
            )  # fmt: skip
            errors = "" if done.returncode == 0 else done.stderr
            assert _shown(shown, done.stdout + errors), f"{command}:\n{done.stdout}{done.stderr}"
            count += 1
    assert count == 6
    sums = np.load(tmp_path / "out.npz")["sums"]
    np.testing.assert_array_equal(sums[:32], np.arange(32))
    (script_text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script_text], cwd=tmp_path, env=environment, text=True,
        capture_output=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.stdout == "[0 1 2 3 4 5 6 7] 625\n", done.stderr


def test_machines_are_listed_and_shown(capsys: Captured) -> None:
    assert main(["machines"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PRESETS)
    # 256 x 256 multiply-accumulates of 700 million cycles are 92 tera-operations.
    assert "91,750.4" in next(line for line in listed.splitlines() if "tpu-v1" in line)
    assert main(["machines", "list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(PRESETS)
    assert main(["machines", "show", "nano", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("fingerprint") == PRESETS["nano"].fingerprint()
    assert shown == PRESETS["nano"].to_dict()


def test_a_machine_of_ones_own(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "mine.toml"
    assert main(["machines", "new", str(path), "--from", "nano", "--set", "rows=12",
                 "--set", "weight_port.bytes_per_cycle=7/8", "--set", "clock_hz=60_000_000"]) == 0
    arch = load_arch(path)
    assert (arch.name, arch.rows, arch.columns, arch.clock_hz) == ("mine", 12, 8, 60_000_000)
    assert arch.weight_port.bytes_per_cycle == Fraction(7, 8)
    before = path.read_text()
    assert main(["machines", "new", str(path)]) == InputError.exit_status
    assert path.read_text() == before
    assert main(["machines", "new", str(path), "--force"]) == 0
    assert load_arch(path).rows == 16
    capsys.readouterr()
    assert main(["machines", "show", str(path)]) == 0
    (tmp_path / "again.toml").write_text(capsys.readouterr().out)
    assert load_arch(tmp_path / "again.toml") == load_arch(path)


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        ("row=8", r"unknown key 'row' \(did you mean rows\?\)", ConfigurationError),
        ("weight_port=3", "unknown key 'weight_port'", ConfigurationError),
        ("nothing.rows=3", "unknown key 'nothing.rows'", ConfigurationError),
        ("rows", "must be KEY=VALUE", InputError),
        ("rows=big", "rows must be an integer, not 'big'", ConfigurationError),
        ("rows=-8", "rows must be an integer, not '-8'", ConfigurationError),
        ("rows=" + "9" * 5000, "rows must be an integer", ConfigurationError),
        ("columns=7", "columns must be even", ConfigurationError),
        ("host_port.bytes_per_cycle=1/0", "must be a whole number or a fraction",
         ConfigurationError),
    ],
)  # fmt: skip
def test_a_change_that_does_not_fit(
    change: str, message: str, error: type[SystolError], tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "mine.toml"
    assert main(["machines", "new", str(path), "--set", change]) == error.exit_status
    assert re.search(message, capsys.readouterr().err) and not path.exists()


def test_a_machines_file_is_called_one(tmp_path: Path, capsys: Captured) -> None:
    assert main(["machines", "new", str(tmp_path / "mine.txt")]) == InputError.exit_status
    assert main(["machines", "new", str(tmp_path / "a b.toml")]) == ConfigurationError.exit_status
    assert main(["machines", "new", str(tmp_path / "no" / "mine.toml")]) == InputError.exit_status
    capsys.readouterr()
    assert main(["machines", "show", "edge15"]) == ConfigurationError.exit_status
    assert "(did you mean edge16?)" in capsys.readouterr().err


SMALL = """
name = "small"
rows = 4
columns = 4
ub_bytes = 256
accumulator_rows = 4
vector_lanes = 1
[weight_port]
width_bytes = 1
bytes_per_cycle = 1
latency_cycles = 8
[host_port]
width_bytes = 1
bytes_per_cycle = "1/2"
latency_cycles = 8
"""


@pytest.mark.parametrize("axi", [False, True])
def test_verilog_of_a_machine(axi: bool, tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("amaranth")
    machine, out = tmp_path / "small.toml", tmp_path / "small.v"
    machine.write_text(SMALL)
    assert main(["verilog", str(machine), "-o", str(out), *(["--axi"] if axi else [])]) == 0
    text = out.read_text()
    assert f"module {AXI_TOP_NAME if axi else TOP_NAME}(" in text
    convert = convert_axi_verilog if axi else convert_verilog
    # As anyone would call it: with a machine, its file's path or name, and nothing else.
    assert text == convert(load_arch(machine)) == convert(machine) == convert(str(machine))
    capsys.readouterr()
    if not axi:
        assert main(["verilog", str(machine)]) == 0
        assert capsys.readouterr().out == text
        with pytest.raises(ConfigurationError, match="no preset is called 'edge'"):
            convert_verilog("edge")


def test_an_output_that_cannot_be_written_is_found_first(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr("systol_hw.rtl.emit.convert_verilog", never)
    for place, reason in ((tmp_path, "it is a folder"), (tmp_path / "no" / "x.v", "no folder")):
        assert main(["verilog", "nano", "-o", str(place)]) == InputError.exit_status
        assert reason in capsys.readouterr().err


def test_the_version_is_an_attribute() -> None:
    assert systol.__version__ == metadata.version("systol")
