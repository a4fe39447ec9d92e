"""Files that nobody else can have written: caches of code that this process is going to run."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from systol_hw.errors import InputError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def own_directory(path: Path) -> Path:
    """`path` as a folder that only this user can write to, made where it is missing.

    Raises
    ------
    InputError
        It belongs to somebody else, or a link of somebody else's leads to it.
    OSError
        It cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in (path, path.parent):
        found = place.lstat()
        if not _is_ours(found.st_uid):
            raise InputError(
                f"{place} belongs to another user, who could put code into it that would run here; "
                "set XDG_CACHE_HOME to a folder of your own"
            )
    found = path.stat()
    if not _is_ours(found.st_uid):
        raise InputError(
            f"{path} leads to a folder of another user's; set XDG_CACHE_HOME to one of your own"
        )
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
    return path


def is_own(path: Path) -> bool:
    """Whether `path` is an ordinary file, and nobody but this user or root can write to it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and _is_ours(found.st_uid) and not found.st_mode & _OTHERS


@contextlib.contextmanager
def own_files() -> Iterator[None]:
    """A block in which new files can be written by this user alone."""
    before = os.umask(0o077)
    os.umask(before | _OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def _is_ours(user: int) -> bool:
    return user in (0, os.geteuid())
