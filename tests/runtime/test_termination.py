"""Processes that are told to end leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))
SECONDS = 300

SCRIPT = """
import subprocess, sys, tempfile
from pathlib import Path
from systol_hw.atomic_file import replacing
from systol_hw.termination import end_in_order
from systol_sim.hardware.verilated.tools import Tools
end_in_order()
folder = Path(sys.argv[1])
with tempfile.TemporaryDirectory(dir=folder), replacing(folder / "out") as stream:
    stream.write(b"half")
    with Tools(folder / "log") as tools:
        print("begun", flush=True)
        tools.call(["sleep", "1000"])
"""


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait(condition) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


BETWEEN = """
import os, signal, subprocess
fork = subprocess._fork_exec
def fork_and_signal(*arguments):
    pid = fork(*arguments)
    print(pid, flush=True)
    os.kill(os.getpid(), signal.{name})
    return pid
subprocess._fork_exec = fork_and_signal
"""
"""The signal comes as soon as the child exists, before anything else knows of it."""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_build_that_is_ended_as_a_tool_begins(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", BETWEEN.format(name=name) + SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": PATHS},
        preexec_fn=lambda: signal.signal(
            number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        ),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    child = int(process.stdout.readline())
    assert process.wait(timeout=SECONDS) in (128 + number, -number)
    assert list(tmp_path.iterdir()) == []
    _wait(lambda: not _alive(child))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_build_that_is_ended(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": PATHS},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    _wait(lambda: _children(process.pid))
    children = _children(process.pid)
    process.send_signal(number)
    assert process.wait(timeout=SECONDS) == 128 + number
    assert list(tmp_path.iterdir()) == []
    _wait(lambda: not any(_alive(child) for child in children))


def test_a_command_with_processes_of_its_own(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "systol", "fuzz", "--programs", "1000000", "--processes", "2",
         "--state", str(state)],
        env={**os.environ, "PYTHONPATH": PATHS}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    _wait(lambda: len(_children(process.pid)) >= 2)
    time.sleep(1)
    children = _children(process.pid)
    process.terminate()
    assert process.wait(timeout=SECONDS) == 128 + signal.SIGTERM
    _wait(lambda: not any(_alive(child) for child in children))
    # What was done is kept, whole; nothing else is there.
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    program = (
        "import os, signal\nfrom systol_hw.termination import end_in_order\nend_in_order()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\nprint('still here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": PATHS}, check=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert done.stdout == "still here\n"
