"""What layers have in common that only move values: no code changes, numbers stay."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Tensors
from systol_compiler.quantized.ops.rescale import matched, numbers
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Move(Layer):
    """One operand, whose elements every result consists of."""

    @abstractmethod
    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        """The results, which have `shapes`; any array is a valid operand."""

    @abstractmethod
    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        """Append the float operator; its results."""

    def verify(self, tensors: Tensors) -> None:
        source = tensors[self.inputs[0]]
        shapes = [tensors[name].shape for name in self.outputs]
        for name in self.outputs:
            if numbers(tensors[name]) != numbers(source):
                raise InputError(
                    f"layer {self.name!r}: a move keeps numbers, but {tensors[name]} is not like "
                    f"{source}"
                )
        try:
            results = self.moved(np.broadcast_to(source.dtype.type(0), source.shape), shapes)
        except (ValueError, IndexError) as error:
            raise InputError(f"layer {self.name!r}: {source.shape} does not fit: {error}") from None
        got = [result.shape for result in results]
        if got != shapes:
            raise InputError(f"layer {self.name!r}: results have shapes {got}, not {shapes}")

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        shapes = [tensors[name].shape for name in self.outputs]
        return [np.ascontiguousarray(part).reshape(shape)
                for part, shape in zip(self.moved(values[0], shapes), shapes, strict=True)]

    def origin(self, result: View, shape: tuple[int, ...]) -> View | None:
        """Where an operand of `shape` lies of which the one result is the view `result`, if this
        move is a view that can be undone."""
        return None

    def claim(self, builder: NestBuilder) -> None:
        # What is to lie in a larger tensor can be written there, before it is moved.
        name = self.inputs[0]
        place = builder.promised(self.outputs[0]) if len(self.outputs) == 1 else None
        if place is None or builder.claimed(name):
            return
        origin = self.origin(place, builder.tensor(name).shape)
        if origin is not None and lies_in(origin, builder.orders[name]):
            found = origin
            builder.claim(name, lambda: found)

    def export(self, exporter: QdqExporter) -> None:
        values = self.export_move(exporter, exporter.real(self.inputs[0]))
        for name, value in zip(self.outputs, values, strict=True):
            exporter.result(name, value)


def lies_in(view: View, order: Sequence[int]) -> bool:
    """Whether the axes lie in memory in `order`, the innermost one without gaps."""
    strides = [view.strides[axis] for axis in order if view.shape[axis] != 1]
    falling = all(outer > inner for outer, inner in pairwise(strides))
    return not strides or (falling and strides[-1] == 1)


def move_names(node: Node, builder: LayerBuilder) -> tuple[str, str]:
    """Quantized operand, with the numbers of the node's (only) result, and that result."""
    output = builder.output()
    return matched(builder, builder.tensor(node.inputs[0]), output).name, output.name


def integers(node: Node, graph: Graph, place: int) -> list[int] | None:
    """The constant operand `place` as integers; None if it is left out or not constant."""
    if place >= len(node.inputs) or not node.inputs[place]:
        return None
    values = graph.constants.get(node.inputs[place])
    return None if values is None else [int(value) for value in values.reshape(-1)]


def constant_operands(node: Node, graph: Graph) -> str | None:
    """all operands but the first must be constant"""
    for name in node.inputs[1:]:
        if name and name not in graph.constants:
            return f"{name!r} is computed"
    return None
