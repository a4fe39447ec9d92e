"""What `systol run` writes, it writes where it was told to, and over nothing else."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from systol.cli import main
from systol.selftest import tiny_input, tiny_model
from systol_hw.errors import InputError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A binary, its input, and places for what a run writes."""
    names = {"binary": "m.elf", "input": "x.npz", "output": "y.npz", "counters": "c.json",
             "trace": "t.json", "dump": "tensors"}  # fmt: skip
    found = {name: tmp_path / file for name, file in names.items()}
    tiny_model().save(found["binary"])
    np.savez(found["input"], x=tiny_input())
    return found


def _run(files: dict[str, Path], *more: object) -> int:
    return main(["run", str(files["binary"]), "--input", str(files["input"]), *map(str, more)])


def test_a_dump_is_arrays_and_an_index(files: dict[str, Path]) -> None:
    assert _run(files, "--dump-tensors", files["dump"]) == 0
    index = json.loads((files["dump"] / "index.json").read_text())
    assert sorted(index.values()) == [f"tensor{n}.npy" for n in range(len(index))]
    for name, file in index.items():
        assert np.load(files["dump"] / file).dtype == np.int8, name
    assert _run(files, "--dump-tensors", files["dump"]) == 0  # over an earlier one


@pytest.mark.parametrize("which", ["input", "binary", "output", "counters", "trace"])
@pytest.mark.parametrize("linked", ["itself", "by a link", "by a folder's link"])
def test_a_dump_overwrites_nothing_of_its_run(
    which: str, linked: str, files: dict[str, Path], capsys: Captured
) -> None:
    files["dump"].mkdir()
    inside = files["dump"] / ("index.json" if which in ("counters", "trace") else "tensor1.npy")
    if files[which].exists():
        files[which].rename(inside)
    files[which] = inside
    if linked == "by a link":
        files[which] = inside.parent.parent / "link"
        files[which].symlink_to(inside)
    elif linked == "by a folder's link":
        folder = inside.parent.parent / "folder"
        folder.symlink_to(inside.parent)
        files[which] = folder / inside.name
    before = inside.read_bytes() if inside.exists() else None
    written = [f for name in ("output", "counters", "trace") for f in (f"--{name}", files[name])]
    status = _run(files, "--dump-tensors", files["dump"], *written)
    assert status == InputError.exit_status
    assert "--dump-tensors would overwrite" in capsys.readouterr().err
    assert before is None or inside.read_bytes() == before


def test_a_dump_follows_no_link(files: dict[str, Path], tmp_path: Path) -> None:
    files["dump"].mkdir()
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("tensor0.npy", "index.json"):
        (files["dump"] / name).symlink_to(mine)
    assert _run(files, "--dump-tensors", files["dump"]) == 0
    assert mine.read_text() == "mine"
    assert not (files["dump"] / "index.json").is_symlink()


def test_files_stay_private(files: dict[str, Path]) -> None:
    written = ("output", "counters", "trace")
    for name in written:
        files[name].touch(mode=0o600)
    before = os.umask(0o022)
    try:
        assert _run(files, *[f for name in written for f in (f"--{name}", files[name])]) == 0
    finally:
        os.umask(before)
    for name in written:
        assert stat.S_IMODE(files[name].stat().st_mode) == 0o600 and files[name].stat().st_size


@pytest.mark.parametrize("flag", ["--output", "--counters", "--trace", "--dump-tensors"])
@pytest.mark.parametrize("why", ["no folder", "a folder", "a file for a folder"])
def test_what_cannot_be_written_is_found_before_the_work(
    flag: str, why: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    def never(*_: object) -> None:
        raise AssertionError("the binary was read already")

    monkeypatch.setattr("systol.commands.run.load", never)
    dumps = flag == "--dump-tensors"
    if why == "no folder":
        place = tmp_path / "file" / "x"
        (tmp_path / "file").write_text("a file")
    elif why == "a folder":
        place = tmp_path / "folder"
        (place / "index.json").mkdir(parents=True)
    else:
        place = tmp_path / "plain"
        place.write_text("a file")
        if not dumps:
            place = place / "x"
    assert _run(files, flag, place) == InputError.exit_status
    assert "cannot be" in capsys.readouterr().err
