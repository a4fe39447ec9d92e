"""Machine code is kept on disk, and not beyond a change of any source that it came from."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest

import systol_sim
from systol_sim.jit import compiled

SOURCE = textwrap.dedent("""
    from systol_sim.jit.compiled import compiled

    @compiled
    def successor(number):
        return number + 1
""")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kept", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kept"] = module
    spec.loader.exec_module(module)
    return module


def test_code_is_kept_until_any_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "kept.py"
    path.write_text(SOURCE)
    hits = []
    for digest in ("one", "one", "two", "two", "one"):
        monkeypatch.setattr(compiled, "sources_digest", lambda digest=digest: digest)
        module = _load(path)
        assert module.successor(4) == 5
        hits.append(sum(module.successor.stats.cache_hits.values()))
    # What is kept is of the last sources only.
    assert hits == [0, 1, 0, 1, 0]


def test_where_nothing_can_be_kept_every_process_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a read-only installation, for a user without a home directory."""
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    path = tmp_path / "kept.py"
    path.write_text(SOURCE)
    successor = _load(path).successor
    assert successor(4) == 5
    monkeypatch.setattr(compiled, "_nothing", successor)
    assert not compiled.is_on_disk(compiled.STEPPER)
    compiled.note_on_disk(compiled.STEPPER)
    compiled.compile_beside(compiled.STEPPER)
    assert not compiled._RUNNING


def test_every_compiled_function_is_stamped() -> None:
    folder = Path(systol_sim.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        if path.name != "compiled.py":
            text = path.read_text("utf-8")
            assert "njit" not in text and "numba.jit" not in text, path.name


def test_only_what_is_missing_is_compiled_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    waited: list[str] = []

    class Process:
        def __init__(self, command: list[str], **rest: Any) -> None:
            self.command = command
            started.append(command)

        def poll(self) -> None:
            return None

        def wait(self) -> None:
            waited.append(self.command[-1])

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(compiled, "is_on_disk", lambda part: part == compiled.VALUES)
    compiled.compile_beside(compiled.STEPPER, compiled.VALUES, compiled.STREAMS)
    assert [command[1:] for command in started] == [
        ["-P", "-m", "systol_sim.precompile", part] for part in (compiled.STEPPER, compiled.STREAMS)
    ]
    compiled.compile_beside(compiled.STEPPER)  # while these run, no more
    assert len(started) == 2
    compiled.wait_for_compilation()
    assert sorted(waited) == [compiled.STEPPER, compiled.STREAMS]
    compiled.wait_for_compilation()
    assert len(waited) == 2


def test_sources_are_all_that_compiled_modules_import() -> None:
    """Found here by Python's own parser; what is compiled may name a constant of any of them."""
    root = Path(systol_sim.__file__).parents[2]

    def imported(path: Path) -> set[Path]:
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
        places = [
            name.replace(".", "/") + end for name in names for end in (".py", "/__init__.py")
        ]
        return {root / top / place for top in ("hw", "sim") for place in places}

    found = set(compiled.sources())
    users = [
        path for path in (root / "sim" / "systol_sim").rglob("*.py")
        if "from systol_sim.jit.compiled import compiled" in path.read_text("utf-8")
    ]
    assert len(users) >= 15 and found.issuperset(users)
    for path in found - {Path(compiled.__file__)}:
        assert {p for p in imported(path) if p.is_file()} <= found, path
    # Of the hardware these at least: the tables that instructions are decoded by, and the machine.
    names = {path.name for path in found}
    assert {"codec.py", "operations.py", "arch.py", "machine_state.py"} <= names
    # What only talks does not recompile anything.
    assert "report.py" not in names


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "systol_sim.precompile", "everything"],
        capture_output=True, text=True, check=False, env=None,
    )  # fmt: skip
    assert done.returncode == 1
    assert "everything is none of stepper, streams, values" in done.stderr


def test_what_is_missing_is_compiled_with_a_word_now_and_then(tmp_path: Path) -> None:
    """In a cache of its own; the second time there is nothing to do, and nothing to say."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    program = (
        "from systol_sim import precompile as p\np._PACE_SECONDS = 0.05\n"
        "from systol_sim.jit.compiled import NAMES, VALUES\n"
        "p.NAMES = {VALUES: NAMES[VALUES]}\np.precompile_missing()\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-P", "-c", program], env=environment, capture_output=True,
            text=True, check=True, timeout=900,
        ).stderr
        for _ in range(2)
    ]  # fmt: skip
    assert re.fullmatch(r"compiling the simulator's arithmetic, once \.\.\. (\. )+\d+ s\n", said[0])
    assert said[1] == ""
