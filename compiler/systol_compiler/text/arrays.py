"""Arrays that texts refer to by the digest of their bytes: what a level's text has beside it."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from systol_hw.errors import InputError

_DIGEST_BYTES = 10

Bytes = npt.NDArray[np.uint8]


class Arrays(Mapping[str, Bytes]):
    """The bytes (uint8, one dimension, little endian) of arrays, by digest.

    Element type and shape stand in the text. Arrays are not copied if they lie in one piece.
    """

    def __init__(self) -> None:
        self._bytes: dict[str, Bytes] = {}

    def add(self, array: npt.NDArray[np.generic]) -> str:
        """Keep an array; its digest."""
        data = raw_bytes(array)
        digest = digest_of(data)
        self._bytes[digest] = data
        return digest

    def __getitem__(self, digest: str) -> Bytes:
        return self._bytes[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bytes)

    def __len__(self) -> int:
        return len(self._bytes)

    def save(self, path: str | Path) -> None:
        """Write all of them to an npz file."""
        with open(path, "wb") as file:
            np.savez(file, **self._bytes)  # type: ignore[arg-type]  # numpy's stub knows one option

    @classmethod
    def load(cls, path: str | Path) -> "Arrays":
        """Those of a file that `save` wrote; digests are computed anew.

        Raises
        ------
        InputError
            The file cannot be read, or holds something else.
        """
        arrays = cls()
        try:
            with np.load(path, allow_pickle=False) as file:
                for name in file.files:
                    arrays.add(file[name])
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise InputError(
                f"{path}: cannot read arrays from it: {error}; write the level again"
            ) from error
        return arrays


def raw_bytes(array: npt.NDArray[np.generic]) -> Bytes:
    """An array's bytes in row-major order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def digest_of(data: Bytes) -> str:
    """The digest that a text has in the place of these bytes."""
    return blake2b(data.data, digest_size=_DIGEST_BYTES).hexdigest()
