"""What a command is, and arguments and files that several commands share."""

import argparse
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from systol.device import BACKENDS
from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its name, its line in the help, its arguments, and what it does.

    `run` returns the exit status; it raises `SystolError` for a user's faults.
    """

    name: str
    help: str
    description: str
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


def read_arrays(path: str | Path, default_name: str | None) -> dict[str, Array]:
    """Arrays by name from a .npz file, or the array of a .npy file as `default_name`.

    Raises
    ------
    InputError
        The file cannot be read, holds no arrays or Python objects, or is a .npy file where
        several names are possible (`default_name` is None).
    """
    path = Path(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if default_name is None:
                raise InputError(
                    f"{path} holds one array, but the model has several inputs; save them by name "
                    "with numpy.savez"
                )
            return {default_name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise InputError(
            f"{path} is no .npz or .npy file of plain arrays ({error}); make one with numpy.savez"
        ) from error


def write_arrays(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file, whole or not at all; raises `InputError` if it cannot be written."""
    # Not numpy.savez, which cannot write arrays that are called "file".
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


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
