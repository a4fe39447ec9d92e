"""Processes that take turns: what one of them builds, the others wait for."""

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from systol_hw.errors import MissingToolError

_LOOK_AGAIN_SECONDS = 0.2
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that have no locks, some of them on a network."""


@contextmanager
def turn(path: Path, seconds: float, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block that one process at a time is in, of all that name `path`, a file of no contents.

    The system ends a turn with its process, however that ends.

    Parameters
    ----------
    path
        Made where it is missing, and left.
    seconds
        How long to wait for another process.
    waits
        Called once if there is another one to wait for.

    Raises
    ------
    MissingToolError
        If the other process has not ended its turn by then.
    OSError
        If the file cannot be made.
    """
    with path.open("ab") as stream:
        end = time.monotonic() + seconds
        waited = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break  # two may build the same; either result is whole, and the other's equal
            if time.monotonic() > end:
                raise MissingToolError(
                    f"another process has been building for more than {seconds:.0f} s and holds "
                    f"{path}; end it, then try again"
                )
            if not waited:
                waits()
                waited = True
            time.sleep(_LOOK_AGAIN_SECONDS)
        yield
