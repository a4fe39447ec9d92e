"""What all nests have in common: operands, an output domain, and what an output box needs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

from systol_compiler.nests.operand import Box, Operand
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import show_fields
from systol_compiler.text.statement import show_head
from systol_hw.errors import UnsupportedModelError

HEAD_FIELDS: Final = ("name", "source_nodes")
"""Fields of a nest that stand before all others in its text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Nest(ABC):
    """Loops of one unit over boxes of buffers.

    Attributes
    ----------
    name
        Unique in the network.
    layer
        The quantized layer that it belongs to.
    source_nodes
        Names of the model's nodes.
    output
        Where results go. Its planes, lines, positions and width are the nest's output domain.
    """

    kind: ClassVar[str]
    """The word of its text: the unit."""

    name: str
    layer: str
    source_nodes: tuple[str, ...]
    output: Operand

    @property
    def domain(self) -> Box:
        """All outputs: planes, rows, columns, channels."""
        return self.output.box

    @property
    @abstractmethod
    def reads(self) -> tuple[Operand, ...]:
        """Activation operands, constants left out."""

    @property
    @abstractmethod
    def constants(self) -> tuple[str, ...]:
        """Names of constant buffers that the vector unit reads: parameters, tables."""

    @abstractmethod
    def needs(self, box: Box) -> tuple[Box, ...]:
        """What outputs `box` need of each operand in `reads`; never empty boxes."""

    @abstractmethod
    def verify(self) -> None:
        """Check what the instruction fields can hold.

        Raises
        ------
        UnsupportedModelError
            Names the layer, the rule and the value.
        """

    @property
    @abstractmethod
    def macs(self) -> int:
        """Useful multiply-accumulates, padding taps included; 0 where the array does not work."""

    def text_parts(self, printer: Printer) -> list[str]:
        """The text's parts: head, then every field that is declared and has not its default."""
        head = show_head(self.kind, name=self.name, sources=self.source_nodes)
        return [head, *show_fields(self, printer, HEAD_FIELDS)]

    def __str__(self) -> str:
        return " ".join(self.text_parts(Printer()))


@dataclass(frozen=True)
class Require:
    """Checks of figures against what instruction fields hold."""

    layer: str

    def below(self, value: int, limit: int, what: str) -> None:
        """Raise `UnsupportedModelError` unless -limit <= value < limit."""
        if not -limit <= value < limit:
            raise UnsupportedModelError(
                f"layer {self.layer!r}: {what} must be below {limit} on this machine, but is "
                f"{value}; split the layer, or make it smaller"
            )
