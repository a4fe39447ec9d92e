"""Arrays in .npy and .npz files, from whoever made them.

Everything is checked before anything is allocated or inflated: an array is as large as its header
says, so a file says beforehand what it takes. Nothing is unpickled.

Ref: NumPy, "numpy.lib.format" (header and versions); APPNOTE.TXT of the ZIP format.
"""

import ast
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np

from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError
from systol_hw.nearest import did_you_mean
from systol_hw.shown import shown

Array = np.ndarray[Any, np.dtype[Any]]

_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK"
_LARGEST_HEADER_BYTES = 10_000
"""As NumPy has it: Python's parser needs far more memory than the text that it parses."""
_MOST_AXES = 32
_KINDS = "biuf"
"""Kinds of dtype that are real numbers."""
_FREE_BYTES = 64 << 20
_MOST_INFLATED = 20
"""How many times its own size, and `_FREE_BYTES` besides, a compressed archive may hold."""
_CHUNK_BYTES = 1 << 24


def read_arrays(
    path: str | Path, default_name: str | None, wanted: Collection[str] | None = None
) -> dict[str, Array]:
    """Arrays by name from a .npz file, or the array of a .npy file as `default_name`.

    Parameters
    ----------
    path
        An ordinary file.
    default_name
        None where several names are possible, and a .npy file will not do.
    wanted
        The names that are asked for; an archive may hold no others, and what it does not hold is
        not there. None takes all.

    Raises
    ------
    InputError
        The file cannot be read, holds something else than arrays of real numbers, or more than its
        size is a reason for.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(_MAGIC))
            stream.seek(0)
            if magic == _MAGIC:
                return {_one_name(path, default_name): _read_array(stream, _size(stream))}
            if not magic.startswith(_ZIP_MAGIC):
                raise _Unfit("it begins like neither")
            with zipfile.ZipFile(stream) as archive:
                return _read_archive(path, archive, _size(stream), wanted)
    except _Unfit as error:
        raise InputError(
            f"{path} is no .npz or .npy file of plain arrays ({error}); make one with numpy.savez"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} holds more than there is memory for") from error
    except Exception as error:  # whatever a parser says to bytes that nobody meant
        raise InputError(
            f"{path} is no .npz or .npy file of plain arrays ({type(error).__name__}: {error}); "
            "make one with numpy.savez"
        ) from error


def write_arrays(path: str | Path, arrays: Mapping[str, Array]) -> dict[str, str]:
    """Write a .npz file, whole or not at all; raises `InputError` if it cannot be written.

    Returns
    -------
    The names that stand in it otherwise, and how: see `member_name`. `read_arrays` finds them by
    either name.
    """
    # Not numpy.savez, which cannot write arrays that are called "file".
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{member_name(name)}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return {name: member_name(name) for name in arrays if member_name(name) != name}


def member_name(name: str) -> str:
    """The name of an array in an archive: `name` itself, unless an unpacker might take that for a
    place outside of its folder, or a terminal for a command.

    Then what makes it one is written as in a URL, and so is `%`: `../x` becomes `%2E%2E/x`. Names
    stay different.
    """
    parts = [_safe_part(part) for part in name.split("/")]
    return "/".join(parts)


def _safe_part(part: str) -> str:
    if part in ("", ".", ".."):
        return "".join(f"%{ord(c):02X}" for c in part) if part else "%"
    return "".join(
        quote(c, safe="", errors="surrogatepass")
        if c in "%\\:" or not c.isprintable()
        else c
        for c in part
    )


class _Unfit(Exception):
    """What a file holds is not what it should; the text says why."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What stands before an array's bytes, and how long it is itself."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    bytes_: int

    @property
    def array_bytes(self) -> int:
        size = self.dtype.itemsize
        for count in self.shape:
            size *= count
        return size


def _one_name(path: Path, default_name: str | None) -> str:
    if default_name is None:
        raise InputError(
            f"{path} holds one array, but the model has several inputs; save them by name with "
            "numpy.savez"
        )
    return default_name


def _size(stream: IO[bytes]) -> int:
    here = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(here)
    return end


def _read_archive(
    path: Path, archive: zipfile.ZipFile, size: int, wanted: Collection[str] | None
) -> dict[str, Array]:
    """The arrays of the archive at `path`, which has `size` bytes."""
    members: dict[str, zipfile.ZipInfo] = {}
    known = None if wanted is None else {member_name(name): name for name in wanted}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if wanted is not None and known is not None:
            name = name if name in wanted else known.get(name, name)
            if name not in wanted:
                raise InputError(
                    f"{path}: there is no input {shown(name)}"
                    f"{did_you_mean(name, wanted)}; what is asked for is "
                    f"{', '.join(map(shown, wanted)) or 'none'}"
                )
        if name in members:
            raise _Unfit(f"two of its arrays are called {shown(name)}")
        if member.flag_bits & 1:
            raise _Unfit(f"its array {shown(name)} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Unfit(
                f"its array {shown(name)} is compressed by method {member.compress_type}, which "
                "numpy.savez does not use"
            )
        members[name] = member
    inflated = sum(member.file_size for member in members.values())
    if inflated > _FREE_BYTES + _MOST_INFLATED * size:
        raise _Unfit(
            f"it has {size:,} bytes and would inflate to {inflated:,}; numpy.savez, unlike "
            "numpy.savez_compressed, stores any array"
        )
    found = {}
    for name, member in members.items():
        with archive.open(member) as stream:
            found[name] = _read_array(stream, member.file_size)
    return found


def _read_array(stream: IO[bytes], size: int) -> Array:
    """The array of a stream that has `size` bytes from here on."""
    header = _read_header(stream)
    if header.bytes_ + header.array_bytes != size:
        raise _Unfit(
            f"an array of shape {shown(list(header.shape))} and type {header.dtype} takes "
            f"{shown(header.array_bytes)} bytes, and {size - header.bytes_:,} are there"
        )
    data = np.empty(header.array_bytes, np.uint8)
    filled = 0
    while filled < data.size:
        part = stream.read(min(_CHUNK_BYTES, data.size - filled))
        if not part:
            raise _Unfit("it ends within an array")
        data[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    array = data.view(header.dtype)
    array = array.reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def _read_header(stream: IO[bytes]) -> _Header:
    start = stream.read(8)
    if start[:6] != _MAGIC or len(start) < 8:
        raise _Unfit("an array does not begin as .npy files do")
    lengths = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
    version = start[6], start[7]
    if version not in lengths:
        raise _Unfit(f"an array has version {version[0]}.{version[1]} of the format")
    length = int.from_bytes(stream.read(lengths[version]), "little")
    if length > _LARGEST_HEADER_BYTES:
        raise _Unfit(f"an array's header has {length:,} bytes")
    text = stream.read(length).decode("utf-8" if version == (3, 0) else "latin-1")
    try:
        values = ast.literal_eval(text.strip())
    except MemoryError as error:  # so Python says that its parser's stack is full
        raise _Unfit("an array's header is nested too deeply") from error
    if not isinstance(values, dict) or set(values) != {"descr", "fortran_order", "shape"}:
        raise _Unfit("an array's header has other keys than descr, fortran_order and shape")
    shape = values["shape"]
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MOST_AXES
        or not all(type(count) is int and 0 <= count < 1 << 62 for count in shape)
    ):
        raise _Unfit(f"an array's shape is {shown(shape)}")
    if type(values["fortran_order"]) is not bool or not isinstance(values["descr"], str):
        raise _Unfit(f"an array's type is {shown(values['descr'])}")
    dtype = np.dtype(values["descr"])
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise _Unfit(f"an array's type is {shown(values['descr'])}, which is no real number")
    return _Header(
        dtype=dtype, shape=shape, fortran=values["fortran_order"],
        bytes_=8 + lengths[version] + length,
    )  # fmt: skip
