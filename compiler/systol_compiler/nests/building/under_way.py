"""What a way of copying needs of the builder that it adds nests to."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.nest import Nest
from systol_hw.arch import Arch

__all__ = ["NestsUnderWay"]


class NestsUnderWay(Protocol):
    """A layer's nests as they are made (`NestBuilder`): for which machine, under which name, of
    which nodes."""

    @property
    def arch(self) -> Arch:
        """The machine."""

    @property
    def layer(self) -> str:
        """Name of the layer."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The model's nodes that it comes from."""

    def fresh(self, wish: str) -> str:
        """A buffer or nest name that is not taken, beginning with `wish`."""

    def constant(self, wish: str, data: npt.NDArray[np.uint8], *, planes: int = 1) -> str:
        """The name of a constant buffer of `data`."""

    def parameters(
        self,
        bias: npt.NDArray[np.integer],
        multipliers: npt.NDArray[np.integer],
        shifts: npt.NDArray[np.integer],
    ) -> str:
        """The name of a constant buffer of requantization parameters."""

    def add(self, nest: Nest) -> None:
        """Append a nest."""

    def complete(self, name: str) -> bool:
        """Whether every byte of the buffer has been written by now."""
