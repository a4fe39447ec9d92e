"""Files that appear whole or not at all."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from systol_hw.errors import InputError


@contextmanager
def replacing(path: str | Path, *, follow: bool = True) -> Iterator[IO[bytes]]:
    """A binary stream whose contents become the file `path` when the block ends without an error.

    Until then, and after an error or a crash, the old file stands, or none. The new one has the
    permissions of the old one. Where `path` is a link, the file that it leads to is replaced, or
    with `follow` false, the link itself. What is no file, a pipe or a device, is written to as the
    contents come.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    path = Path(path)
    try:
        if not follow:
            place = path.parent.resolve() / path.name
        elif _is_special(path):
            with path.open("wb") as stream:
                yield stream
            return
        else:
            place = path.resolve()
        with _scratch(place) as stream:
            yield stream
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _is_special(path: Path) -> bool:
    """Whether `path` must stay what it is: what exists and is no file, and what a process has open
    (/dev/stdout may lead to a file that others go on writing to)."""
    return path.absolute().is_relative_to("/dev") or (path.exists() and not path.is_file())


@contextmanager
def _scratch(path: Path) -> Iterator[IO[bytes]]:
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; this one gets the permissions of the one that it replaces,
        # or those that any new file would.
        os.chmod(scratch, _permissions(path))
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _permissions(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat().st_mode
        if stat.S_ISREG(found):
            return stat.S_IMODE(found) & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
