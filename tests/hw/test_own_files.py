"""Code is run from caches that nobody else can have written, and from no others."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from systol_hw import own_files
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError
from systol_sim.hardware.verilated import build
from systol_sim.jit import compiled

ROOT = Path(__file__).parents[2]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_ours_alone(tmp_path: Path) -> None:
    folder = own_files.own_directory(tmp_path / "cache" / "systol")
    assert _mode(folder) == 0o700
    folder.chmod(0o777)
    assert _mode(own_files.own_directory(folder)) == 0o755


@pytest.mark.parametrize("whose", ["folder", "parent", "target"])
def test_a_folder_of_somebody_elses_is_refused(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may be given any owner; for others the user that asks is another one."""
    folder = tmp_path / "systol" / "models"
    folder.mkdir(parents=True)
    theirs = {"folder": folder, "parent": folder.parent, "target": tmp_path / "theirs"}[whose]
    if whose == "target":
        theirs.mkdir()
        folder.rmdir()
        folder.symlink_to(theirs)
    real = own_files._is_ours
    monkeypatch.setattr(own_files, "_is_ours", lambda user: user != 4711 and real(user))
    stats = {name: getattr(Path, name) for name in ("stat", "lstat")}

    def as_theirs(name: str):  # type: ignore[no-untyped-def]
        def look(path: Path, **keywords: bool) -> os.stat_result:
            found = stats[name](path, **keywords)
            same = os.path.samestat(found, stats["stat"](theirs))
            return os.stat_result((*found[:4], 4711, *found[5:10])) if same else found

        return look

    for name in stats:
        monkeypatch.setattr(Path, name, as_theirs(name))
    with pytest.raises(InputError, match=r"another user.*XDG_CACHE_HOME"):
        own_files.own_directory(folder)


def test_which_files_are_ours(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert not own_files.is_own(path)
    path.write_text("code")
    path.chmod(0o644)
    assert own_files.is_own(path)
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        assert not own_files.is_own(path)
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert not own_files.is_own(link)
    assert not own_files.is_own(tmp_path)


def test_new_files_are_written_by_us_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with own_files.own_files():
            (tmp_path / "f").write_text("x")
        (tmp_path / "g").write_text("x")
    finally:
        os.umask(before)
    assert (_mode(tmp_path / "f"), _mode(tmp_path / "g")) == (0o644, 0o666)


@pytest.mark.parametrize("planted", ["library", "index", "place", "nothing"])
def test_a_library_that_others_can_write_is_built_again(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("systol_hw.rtl.emit.convert_verilog", lambda *_: "module m; endmodule")
    built = []

    def fake(verilog: str, library: Path, *_: object) -> None:
        built.append(library)
        library.unlink(missing_ok=True)
        library.write_text("built")

    monkeypatch.setattr(build, "_build", fake)
    find = build.model_library.__wrapped__
    library = find(PRESETS["nano"], packed=True)
    (index,) = library.parent.glob("*.key")
    if planted == "library":
        library.chmod(0o666)
        library.write_text("planted")
    elif planted == "index":
        index.chmod(0o666)
    elif planted == "place":
        other = tmp_path / "planted.so"
        other.write_text("planted")
        index.write_text("../../planted")
    again = find(PRESETS["nano"], packed=True)
    assert again == library and again.read_text() == "built"
    assert len(built) == (2 if planted == "library" else 1)
    assert own_files.is_own(library) and own_files.is_own(index)


SOURCE = """
from systol_sim.jit.compiled import compiled
@compiled
def successor(number):
    return number + 1
print(successor(4), sum(successor.stats.cache_hits.values()))
"""


@pytest.mark.parametrize("spoiled", ["nothing", "folder", "index", "code", "source too"])
def test_machine_code_that_others_can_write_is_not_run(spoiled: str, tmp_path: Path) -> None:
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    sources.mkdir()
    (sources / "kept.py").write_text(SOURCE)
    path = os.pathsep.join((str(ROOT / "hw"), str(ROOT / "sim")))

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-P", str(sources / "kept.py")], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(cache)}, check=True,
            timeout=600,
        )  # fmt: skip
        return done.stdout

    assert run() == "5 0\n"
    if spoiled == "folder":
        next(cache.rglob("*.nbi")).parent.chmod(0o777)
    elif spoiled in ("index", "code"):
        next(cache.rglob("*.nbi" if spoiled == "index" else "*.nbc")).chmod(0o666)
    elif spoiled == "source too":
        next(cache.rglob("*.nbi")).parent.chmod(0o777)
        sources.chmod(0o777)
    assert run() == ("5 1\n" if spoiled in ("nothing", "source too") else "5 0\n")


def test_what_is_kept_of_the_simulator_is_ours_alone(tmp_path: Path) -> None:
    """However open the user's own files are."""
    path = os.pathsep.join((str(ROOT / "hw"), str(ROOT / "sim")))
    before = os.umask(0)
    try:
        subprocess.run(
            [sys.executable, "-P", "-m", "systol_sim.precompile", compiled.VALUES],
            env={**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)}, check=True,
            timeout=900,
        )  # fmt: skip
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".nbi" for path in files)
    assert all(not _mode(path) & 0o022 for path in tmp_path.rglob("*"))
