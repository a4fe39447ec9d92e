"""Buffers: the storage that views look into and nests work on."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from systol_compiler.text.form import Printer
from systol_compiler.text.forms import show_fields
from systol_compiler.text.tokens import quote

PLANE_ALIGNMENT = 64
"""The high bytes of a 16-bit buffer begin at a multiple of this behind the low ones."""


class Home(StrEnum):
    """Where a buffer's contents live outside the unified buffer."""

    NONE = "none"
    """Nowhere, unless the plan gives it a home in weight memory (a spill)."""
    INPUT = "input"
    """A host window that the host fills before the run."""
    OUTPUT = "output"
    """A host window that the host reads after the run."""
    CONSTANT = "constant"
    """The weight image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Buffer:
    """`plane_bytes` bytes, or two such planes (low, then high bytes) for values of 16 bits.

    Attributes
    ----------
    planes
        1 or 2.
    tensor
        The quantized tensor that it holds, where it crosses to the host.
    order
        Memory order of that tensor's axes, outermost first.
    data
        uint8 contents of a constant.
    """

    name: str
    plane_bytes: int
    planes: int = 1
    home: Home = Home.NONE
    tensor: str = ""
    order: tuple[int, ...] = ()
    data: npt.NDArray[np.uint8] | None = None

    @property
    def plane_pitch(self) -> int:
        """Bytes from the low plane to the high one; 0 with one plane."""
        if self.planes == 1:
            return 0
        return -(-self.plane_bytes // PLANE_ALIGNMENT) * PLANE_ALIGNMENT

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return self.plane_pitch * (self.planes - 1) + self.plane_bytes

    def text_parts(self, printer: Printer) -> list[str]:
        """The text's parts: name, then every field that is declared and has not its default."""
        return [f"buffer {quote(self.name)}", *show_fields(self, printer, ("name",))]

    def __str__(self) -> str:
        return " ".join(self.text_parts(Printer()))
