"""Layers: what the machine (or the host) does at the quantized level, one class an operation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import show_fields
from systol_compiler.text.statement import show_head

if TYPE_CHECKING:
    from systol_compiler.nests.building.builder import NestBuilder
    from systol_compiler.quantized.export import QdqExporter

Tensors = Mapping[str, QTensor]
Order = tuple[int, ...]
"""Memory order of a tensor's axes, outermost first."""
HEAD_FIELDS: Final = ("name", "inputs", "outputs", "source_nodes")
"""Fields of a layer that stand before all others in its text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(ABC):
    """An exact integer operation over quantized tensors.

    Attributes
    ----------
    name
        Unique in the graph.
    inputs, outputs
        Names of quantized tensors; an input may be a constant of the graph.
    source_nodes
        Names of the model's nodes that this layer computes, in order.
    """

    kind: ClassVar[str]
    """One word for prints and reports."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source_nodes: tuple[str, ...]

    @abstractmethod
    def verify(self, tensors: Tensors) -> None:
        """Check shapes, scales and ranges.

        Raises
        ------
        UnsupportedModelError
            Some input could overflow an accumulator, or the machine cannot hold a figure.
        InputError
            Another rule is broken. Both messages name the layer, the rule and the value.
        """

    @abstractmethod
    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        """The outputs, exactly as the machine computes them.

        `values` are the inputs in order, int8 or int16 by the tensors' widths, in the axes' order;
        so are the results.
        """

    @abstractmethod
    def lower(self, builder: "NestBuilder") -> None:
        """Add the nests (or views) that compute the outputs."""

    @abstractmethod
    def export(self, exporter: "QdqExporter") -> None:
        """Write the layer as float operators between QuantizeLinear and DequantizeLinear."""

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        """Memory orders that the layer would like its inputs to have, given what the readers of
        its results would like; None where it does not care.

        By default what is wanted of the first result is wanted of every input of that shape.
        """
        shape, wish = tensors[self.outputs[0]].shape, results[0]
        return [wish if tensors[name].shape == shape else None for name in self.inputs]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        """Memory orders in which the layer writes its results, given those of its inputs and
        what readers would like.

        By default the order of the first input of the same rank, else the last axis innermost.
        """
        result = []
        for name in self.outputs:
            rank = len(tensors[name].shape)
            same = (order for order in given if len(order) == rank)
            result.append(next(same, tuple(range(rank))))
        return result

    def claim(self, builder: "NestBuilder") -> None:
        """Before anything is lowered, last layer first: offer inputs a place (concatenation)."""
        return None

    def batched(self, tensors: Tensors) -> bool:
        """Whether item i of every result depends on item i of the inputs alone, along the first
        axis of all tensors, and the layer holds for any number of items."""
        sizes = {tensors[n].shape[:1] for n in (*self.inputs, *self.outputs)}
        return len(sizes) == 1 and sizes != {()}

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the layer's definition asks for, whatever its batch; 0 where
        it multiplies nothing."""
        return 0

    def text_parts(self, printer: Printer) -> list[str]:
        """The text's parts: head, then every field that is declared and has not its default."""
        head = show_head(
            self.kind, name=self.name, sources=self.source_nodes, results=self.outputs,
            operands=self.inputs,
        )
        return [head, *show_fields(self, printer, HEAD_FIELDS)]

    def __str__(self) -> str:
        return " ".join(self.text_parts(Printer()))
