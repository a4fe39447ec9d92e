"""Functions that numba compiles, and what it compiled before.

numba keeps machine code beside the module of a function, as long as that module does not change.
But a function's code contains that of the functions that it calls, and the constants that it
names, in whatever module: so here code is kept until any module changes that compiled ones import,
directly or not.
"""

import atexit
import contextlib
import hashlib
import inspect
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

import systol_hw
import systol_sim
from systol_hw.own_files import own_files
from systol_hw.termination import begun_whole
from systol_sim.building import building

STEPPER, STREAMS, VALUES = "stepper", "streams", "values"
"""What is compiled separately: the stepper, the one that jumps over streams, the kernels of
values."""
NAMES = {
    STEPPER: "the simulator",
    STREAMS: "the simulator's jumps over streams",
    VALUES: "the simulator's arithmetic",
}
"""What a message calls them."""


_PACKAGES = {
    package.__name__: Path(str(package.__file__)).parent for package in (systol_hw, systol_sim)
}
_IMPORT = re.compile(r"^(?:from|import) (systol_\w+(?:\.\w+)*)(?: import (\([^)]*\)|.*))?", re.M)
_MARK = "@compiled"
"""What stands above a function that numba compiles."""


@cache
def sources() -> tuple[Path, ...]:
    """The modules that decide what compiled functions do: theirs, and all that those import."""
    found = {p for p in _PACKAGES["systol_sim"].rglob("*.py") if _MARK in p.read_text("utf-8")}
    ahead = list(found)
    while ahead:
        for module, names in _IMPORT.findall(ahead.pop().read_text("utf-8")):
            for name in (module, *(f"{module}.{n}" for n in re.findall(r"\w+", names))):
                package, *rest = name.split(".")
                path = _PACKAGES[package].joinpath(*rest)
                for file in (path.with_suffix(".py"), path / "__init__.py"):
                    if file not in found and file.is_file():
                        found.add(file)
                        ahead.append(file)
    return tuple(sorted(found))


@cache
def sources_digest() -> str:
    """SHA-256, in hexadecimal, of `sources`."""
    digest = hashlib.sha256()
    for path in sources():
        name = f"{path.parent.name}/{path.name}"
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compiled(function: Callable[..., Any]) -> Any:
    """`function`, compiled by numba at its first call and kept on disk, if there is a place.

    It runs without Python's lock, so that the main thread can answer an interrupt meanwhile
    (`systol_sim.jit.interruptible`).
    """
    try:
        with own_files():  # the folder is made at once
            dispatcher: Any = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # Neither beside the module nor in the user's cache directory: every process compiles.
        return njit(nogil=True)(function)
    if not _is_trusted(Path(dispatcher._cache.cache_path), Path(inspect.getfile(function))):
        return njit(nogil=True)(function)
    kept = dispatcher._cache._cache_file
    # numba takes code from disk only under the stamp that it was written with.
    kept._source_stamp = (kept._source_stamp, sources_digest())
    return dispatcher


@cache
def _is_trusted(folder: Path, source: Path) -> bool:
    """Whether the machine code that numba keeps in `folder` can be run.

    Whoever can write `source` decides what runs here anyway. Nobody else may be able to put
    anything into the folder, or to change what is there.
    """
    trusted = {0, os.geteuid(), source.stat().st_uid}
    others = stat.S_IWGRP | stat.S_IWOTH
    if source.parent.stat().st_mode & others:
        return True  # as little trusted as the source itself
    try:
        found = [folder.stat(), *(path.lstat() for path in folder.glob("*.nb[ic]"))]
    except FileNotFoundError:
        return True  # it is made when there is something to keep, or another process tidies up
    return all(item.st_uid in trusted and not item.st_mode & others for item in found)


@compiled
def _nothing() -> None:
    """Never called: where numba would keep it, there is a place for what says what is kept."""


def _marker(part: str) -> Path | None:
    """A file that says that `part` is on disk; beside what numba keeps, if it can."""
    folder = getattr(_nothing._cache, "cache_path", None)
    return Path(folder) / f"{sources_digest()[:24]}.{part}" if folder else None


def is_on_disk(part: str) -> bool:
    """Whether `part` need not be compiled any more."""
    marker = _marker(part)
    return marker is not None and marker.exists()


def note_on_disk(part: str) -> None:
    """Remember that `part` has been compiled; where nothing can be written, nothing is kept."""
    marker = _marker(part)
    with contextlib.suppress(OSError), own_files():
        if marker is not None:
            marker.touch()


def compile_first(part: str, function: Any, *arguments: Any) -> None:
    """Have `function`, which is all of `part`, ready for these arguments: from disk, else compiled.

    Nothing is called: whoever waits for a build (`systol_sim.building`) waits for that alone.
    """
    signature = tuple(numba.typeof(a) for a in arguments)  # type: ignore[no-untyped-call]
    if signature in function.overloads:
        return
    with contextlib.ExitStack() as stack:
        if not is_on_disk(part):
            stack.enter_context(building(NAMES[part]))
        with own_files():
            function.compile(signature)
    note_on_disk(part)


_RUNNING: dict[str, subprocess.Popen[bytes]] = {}


def compile_beside(*parts: str) -> None:
    """Compile those of `parts` that are not on disk in processes of their own, beside this one.

    `wait_for_compilation` waits for them; without that call the same is compiled here.
    """
    if _RUNNING:
        return
    for part in parts:
        if _marker(part) is not None and not is_on_disk(part):
            # Safely: what lies in the working directory is no part of the path.
            command = [sys.executable, "-P", "-m", "systol_sim.precompile", part]
            with contextlib.suppress(OSError), begun_whole():
                _RUNNING[part] = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )


def wait_for_compilation() -> None:
    """Wait for what `compile_beside` began; at once if that was nothing."""
    while _RUNNING:
        part, process = next(iter(_RUNNING.items()))
        if process.poll() is None:
            with building(NAMES[part]):
                process.wait()
        del _RUNNING[part]


@atexit.register
def _stop_compilation() -> None:
    """A process that ends, for whatever reason, leaves none behind."""
    for process in _RUNNING.values():
        process.kill()
