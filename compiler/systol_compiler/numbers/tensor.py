"""Tensors of the quantized graph."""

from dataclasses import dataclass
from math import prod

import numpy as np

from systol_compiler.numbers.limits import bounds
from systol_compiler.text.tokens import reference


@dataclass(frozen=True, kw_only=True)
class QTensor:
    """Integers that stand for real numbers: `real = (q - zero_point) * scale`.

    Attributes
    ----------
    name
        Unique in the graph.
    shape
        Any rank, axes in the order of the model's tensor. How it lies in memory is decided later.
    scale
        Positive, exactly representable in binary32.
    zero_point
        0 for tensors of 16 bits.
    width
        8 or 16 bits. Values of 16 bits lie in -32639..32639.
    source
        The model's tensor whose values this one holds, or "" for a value inside a layer.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    width: int = 8
    source: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.width // 8

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        """numpy's type of its values."""
        return np.dtype(np.int8 if self.width == 8 else np.int16)

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and greatest value."""
        return bounds(self.width)

    @property
    def kind(self) -> str:
        """All but the name, as text."""
        dims = "x".join(map(str, self.shape))
        source = f" of {reference(self.source)}" if self.source else ""
        return (
            f"i{self.width}[{dims}] scale={self.scale!r} zero_point={self.zero_point}{source}"
        )

    def __str__(self) -> str:
        return f"{reference(self.name)} : {self.kind}"
