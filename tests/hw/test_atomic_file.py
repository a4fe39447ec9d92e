"""Files that appear whole or not at all, and what is no file."""

import os
import stat
import threading
from pathlib import Path

import pytest

from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError


def test_the_old_file_stands_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with replacing(tmp_path / "f"):
        pass
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_and_leads_to_the_new_contents(tmp_path: Path) -> None:
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    with replacing(link) as stream:
        stream.write(b"new")
    assert link.is_symlink() and real.read_text() == "new"


def test_a_pipe_stays_and_passes_the_contents_on(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with replacing(pipe) as stream:
        stream.write(b"passed on")
    reader.join(timeout=300)
    assert read == [b"passed on"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "f"):
        with pytest.raises(InputError, match=str(path)), replacing(path):
            pass


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    link = tmp_path / "link"
    link.symlink_to(path)
    for way in (path, link):
        with replacing(way) as stream:
            stream.write(b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_bits_beyond_permissions_are_not_handed_on(tmp_path: Path) -> None:
    """Whoever writes the contents may not be whoever made the file run as its owner."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o4755)
    with replacing(path) as stream:
        stream.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_new_file_has_what_the_mask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as stream:
            stream.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("leads_to", ["file", "nothing", "folder"])
def test_a_link_that_is_not_followed_is_replaced(tmp_path: Path, leads_to: str) -> None:
    target = tmp_path / "target"
    if leads_to == "file":
        target.write_text("mine")
    elif leads_to == "folder":
        target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    with replacing(link, follow=False) as stream:
        stream.write(b"new")
    assert not link.is_symlink() and link.read_text() == "new"
    assert {"file": target.is_file, "nothing": lambda: not target.exists(),
            "folder": target.is_dir}[leads_to]()
    if leads_to == "file":
        assert target.read_text() == "mine"
