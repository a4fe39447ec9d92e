"""Functions that numba compiles, and what it compiled before.

numba keeps machine code beside the module of a function, as long as that module does not change.
But a function's code contains that of the functions that it calls, in whatever module: so here code
is kept until any source of the simulator or of the machine's tables changes.
"""

import atexit
import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

import systol_hw

STEPPER, STREAMS, VALUES = "stepper", "streams", "values"
"""What is compiled separately: the stepper, the one that jumps over streams, the kernels of
values."""


@cache
def sources_digest() -> str:
    """SHA-256, in hexadecimal, of all that decides what compiled functions do."""
    digest = hashlib.sha256()
    tables = Path(systol_hw.__file__).parent.glob("*.py")
    for path in sorted([*tables, *Path(__file__).parent.glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compiled(function: Callable[..., Any]) -> Any:
    """`function`, compiled by numba at its first call and kept on disk, if there is a place."""
    try:
        dispatcher: Any = njit(cache=True)(function)
    except RuntimeError:
        # Neither beside the module nor in the user's cache directory: every process compiles.
        return njit(function)
    kept = dispatcher._cache._cache_file
    # numba takes code from disk only under the stamp that it was written with.
    kept._source_stamp = (kept._source_stamp, sources_digest())
    return dispatcher


def _marker(part: str) -> Path | None:
    """A file that says that `part` is on disk; beside what numba keeps, if it can."""
    from systol_sim.stepper import step_program

    folder = step_program._cache.cache_path
    return Path(folder) / f"{sources_digest()[:24]}.{part}" if folder else None


def is_on_disk(part: str) -> bool:
    """Whether `part` need not be compiled any more."""
    marker = _marker(part)
    return marker is not None and marker.exists()


def note_on_disk(part: str) -> None:
    """Remember that `part` has been compiled; where nothing can be written, nothing is kept."""
    marker = _marker(part)
    with contextlib.suppress(OSError):
        if marker is not None:
            marker.touch()


_RUNNING: list[subprocess.Popen[bytes]] = []


def compile_beside(*parts: str) -> None:
    """Compile those of `parts` that are not on disk in processes of their own, beside this one.

    `wait_for_compilation` waits for them; without that call the same is compiled here.
    """
    if _RUNNING:
        return
    for part in parts:
        if _marker(part) is not None and not is_on_disk(part):
            command = [sys.executable, "-m", "systol_sim.precompile", part]
            with contextlib.suppress(OSError):
                _RUNNING.append(
                    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                )


def wait_for_compilation() -> None:
    """Wait for what `compile_beside` began; at once if that was nothing."""
    while _RUNNING:
        _RUNNING[-1].wait()
        _RUNNING.pop()


@atexit.register
def _stop_compilation() -> None:
    """A process that ends, for whatever reason, leaves none behind."""
    for process in _RUNNING:
        process.kill()
