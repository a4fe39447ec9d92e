"""Builds: one process builds what several need, in bounded time, and no test's clock counts it."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from systol_hw.arch import PRESETS
from systol_hw.errors import MissingToolError
from systol_sim.building import building, observed
from systol_sim.hardware.verilated import build, tools
from systol_sim.hardware.verilated.turns import turn

ROOT = Path(__file__).parents[2]

# Each has a second of its own.
TIMED_TESTS = """
import time
import pytest
from systol_sim.building import building

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

@pytest.mark.timeout(1)
def test_build_alone():
    with building("something"):
        busy(1.5)

@pytest.mark.timeout(1)
def test_two_builds_within_one_another():
    with building("something"), building("what it needs"):
        busy(1.2)
    with building("something else"):
        busy(1.2)

@pytest.mark.timeout(1)
def test_hangs():
    busy(20)

@pytest.mark.timeout(1)
def test_hangs_after_a_build():
    with building("something"):
        busy(1.2)
    busy(20)
"""


def _timed_out(folder: Path, conftest: str, *options: str) -> tuple[set[str], str]:
    """Which of TIMED_TESTS run out of time under `conftest`, and what pytest prints."""
    (folder / "conftest.py").write_text(conftest)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_timed.py").write_text(TIMED_TESTS)
    path = os.pathsep.join([str(ROOT / name) for name in ("hw", "sim", "tests/shared")])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *options],
        cwd=folder, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return {line.split("::")[1].split()[0] for line in lines if "Timeout" in line}, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "two processes"])
def test_a_build_is_no_part_of_a_tests_clock(tmp_path: Path, options: tuple[str, ...]) -> None:
    hooks = "from build_clock import pytest_configure, pytest_timeout_set_timer\n"
    hanging = {"test_hangs", "test_hangs_after_a_build"}
    found, printed = _timed_out(tmp_path, hooks, *options)
    assert (found, "2 passed" in printed) == (hanging, True), printed


def test_observers_are_told_of_each_build_and_step() -> None:
    heard: list[object] = []

    class Block:
        def __init__(self, what: str) -> None:
            heard.append(what)

        def __enter__(self):  # type: ignore[no-untyped-def]
            return lambda *step: heard.append(step)

        def __exit__(self, *_: object) -> None:
            heard.append("end")

    with observed(Block), building("a model") as say:
        say("Verilator", 0, 2)
    with building("unheard") as say:
        say("Verilator", 1, 2)
    assert heard == ["a model", ("Verilator", 0, 2), "end"]


def test_one_of_several_builds_and_the_rest_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads stand for two processes: a lock belongs to what opened its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("systol_hw.rtl.emit.convert_verilog", lambda *_: "module m; endmodule")
    built: list[Path] = []
    both = threading.Barrier(2, timeout=60)

    def fake(verilog: str, library: Path, *_: object) -> None:
        time.sleep(0.5)  # long enough for the other one to come and find the turn taken
        built.append(library)
        library.touch()

    monkeypatch.setattr(build, "_build", fake)
    results: list[Path] = []

    def find() -> None:
        both.wait()
        results.append(build.model_library.__wrapped__(PRESETS["nano"], packed=True))

    threads = [threading.Thread(target=find) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(built) == 1
    assert results == built * 2


def test_large_models_are_built_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines, two keys; of small ones several may be built side by side."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("systol_hw.rtl.emit.convert_blocks", lambda arch, _: arch.name)
    lock = threading.Lock()
    running, most = 0, 0

    def fake(verilog: str, library: Path, *_: object) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.3)
        with lock:
            running -= 1
        library.touch()

    monkeypatch.setattr(build, "_build", fake)
    threads = [
        threading.Thread(
            target=build.model_library.__wrapped__, args=(PRESETS[name],), kwargs={"packed": True}
        )
        for name in ("edge32", "tpu-v1")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    libraries = [*tmp_path.rglob("*.so")]
    assert (len(libraries), most) == (2, 1)


def test_a_turn_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    said: list[str] = []
    with turn(path, 60), pytest.raises(MissingToolError, match=r"another process .*model\.lock"):
        with turn(path, 0.3, lambda: said.append("waits")):
            pass
    assert said == ["waits"]
    with turn(path, 0.3, lambda: said.append("waits again")):
        pass
    assert said == ["waits"]


def test_where_there_are_no_locks_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        raise OSError(number, os.strerror(number))

    for number, waits in ((errno.ENOLCK, False), (errno.EOPNOTSUPP, False), (errno.EIO, True)):
        monkeypatch.setattr("fcntl.flock", lambda *_, number=number: refuse(number))
        entered = False
        with contextlib.ExitStack() as stack:
            if waits:
                stack.enter_context(pytest.raises(OSError, match="Input/output"))
            stack.enter_context(turn(tmp_path / "model.lock", 60))
            entered = True
        assert entered != waits


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    program = (
        "import sys, pathlib\nfrom systol_sim.hardware.verilated.turns import turn\n"
        "with turn(pathlib.Path(sys.argv[1]), 60):\n print('mine', flush=True)\n input()\n"
    )
    packages = os.pathsep.join([str(ROOT / "hw"), str(ROOT / "sim")])
    environment = {**os.environ, "PYTHONPATH": packages}
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(path)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        with pytest.raises(MissingToolError), turn(path, 0.1):
            pass
        holder.kill()
        with turn(path, 60):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_build_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "BUILD_SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(MissingToolError, match="sleep did not end within the 1 s that a build may"):
        with tools.Tools(tmp_path / "log") as steps:
            steps.call(["sleep", "0.1"])
            steps.call(["sleep", "100"])
    assert time.monotonic() - began < 60


def test_an_error_ends_every_tool_that_runs(tmp_path: Path) -> None:
    """Of those begun by other threads too; and none is begun any more."""
    ended: list[str] = []

    def work(steps: tools.Tools) -> None:
        try:
            steps.call(["sleep", "100"])
        except Exception as error:
            ended.append(type(error).__name__)

    with tools.Tools(tmp_path / "log") as steps:
        worker = threading.Thread(target=work, args=(steps,))
        with pytest.raises(KeyboardInterrupt), steps.ended_early():
            worker.start()
            while not steps.running:
                pass
            raise KeyboardInterrupt
        worker.join(60)
        assert not worker.is_alive() and ended and not steps.running
        with pytest.raises(MissingToolError, match="not begun"):
            steps.call(["sleep", "100"])
