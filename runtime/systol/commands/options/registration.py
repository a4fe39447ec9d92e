"""What a command is, and arguments and files that several commands share."""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from systol.array_files import Array, read_arrays, write_arrays
from systol.device import BACKENDS
from systol_hw.errors import InputError

__all__ = [
    "Array",
    "Command",
    "UsageError",
    "add_backend",
    "is_binary",
    "is_program_text",
    "keep_apart",
    "make_folder",
    "positive",
    "read_arrays",
    "read_text",
    "require_writable",
    "write_arrays",
]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its name, its line in the help, its arguments, and what it does.

    `run` returns the exit status; it raises `SystolError` for a user's faults.
    """

    name: str
    help: str
    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_backend(parser: argparse.ArgumentParser) -> None:
    """`--backend NAME`."""
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        default="sim",
        help="; ".join(f"{backend.name}: {backend.doc}" for backend in BACKENDS.values()),
    )


def positive(text: str) -> int:
    """An argument that must be a number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1, not {text!r}")
    return value


def require_writable(*paths: str | Path | None) -> None:
    """Refuse files that cannot be written, before the work whose results they are to hold.

    Raises
    ------
    InputError
        With the path and the reason.
    """
    for path in paths:
        if path is None:
            continue
        place = Path(path).resolve()
        if place.is_dir():
            raise InputError(f"{path} cannot be written: it is a folder")
        if place.exists() and not place.is_file():  # a device, a pipe
            continue
        if not place.parent.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {place.parent}")
        if not os.access(place.parent, os.W_OK):
            raise InputError(f"{path} cannot be written: {place.parent} is not yours to write to")


def make_folder(path: str | Path) -> Path:
    """The folder at `path`, made where there is none, that files can be written into.

    Raises
    ------
    InputError
        With the path and the reason.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} is not yours to write to")
    return folder


def keep_apart(
    read: Mapping[str, str | Path | None], written: Mapping[str, str | Path | None]
) -> None:
    """Refuse a file that is read and written, or written twice: one of the two would be lost.

    Parameters
    ----------
    read, written
        Files by the argument that names them; None stands for an argument that was not given.

    Raises
    ------
    InputError
        Two of them are the same file.
    """
    seen = {Path(path).resolve(): name for name, path in read.items() if path is not None}
    for name, path in written.items():
        if path is None:
            continue
        place = Path(path).resolve()
        # What several arguments may well share: a device, a pipe.
        if place.exists() and not place.is_file():
            continue
        if place in seen:
            raise InputError(f"{name} would overwrite {path}, which is also {seen[place]}")
        seen[place] = name


class UsageError(InputError):
    """An argument is missing that only the other arguments make necessary."""

    exit_status = 2


def is_program_text(path: str | Path) -> bool:
    """Whether the file begins as a program text does: blanks and comments, then a directive.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            begin = stream.read(_BEGIN_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = (line.strip() for line in begin.splitlines())
    first = next((line for line in lines if line and not line.startswith(b";")), b"")
    return first.startswith(b".")


_BEGIN_BYTES = 1 << 16


def read_text(path: str | Path) -> str:
    """A UTF-8 text; raises `InputError`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error


def is_binary(path: str | Path) -> bool:
    """Whether the file begins like an ELF file; raises `InputError` if it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(4) == b"\x7fELF"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
