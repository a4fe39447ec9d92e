"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from systol_hw.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary stream whose contents become the file `path` when the block ends without an error.

    Until then, and after an error or a crash, the old file stands, or none. Where `path` is a link,
    the file that it leads to is replaced. What is no file, a pipe or a device, is written to as the
    contents come.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    path = Path(path)
    try:
        if _is_special(path):
            with path.open("wb") as stream:
                yield stream
            return
        with _scratch(path.resolve()) as stream:
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
        # mkstemp makes private files; this one gets the permissions that any new file would.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)
