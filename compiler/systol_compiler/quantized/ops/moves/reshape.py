"""Reshape, Flatten, Squeeze, Unsqueeze, Identity and Dropout: other axes for the same elements.

A view where strides can say it. Where the operand lies otherwise than row by row, such as the
channels-last result of a convolution that is flattened, a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder, natural
from systol_compiler.nests.vector import Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Order, Tensors
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    Operator,
    Rule,
    Wish,
)
from systol_compiler.quantized.ops.moves.move import Move, move_names

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Move):
    """The elements in row-major order of the axes, in the result's shape."""

    kind: ClassVar[str] = "reshape"

    def moved(self, values: Array, shapes: Sequence[Shape]) -> Sequence[Array]:
        return [values.reshape(shapes[0])]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        shape = exporter.constant(np.array(exporter.tensor(self.outputs[0]).shape, np.int64))
        return exporter.node("Reshape", [value, shape])

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        source, output = tensors[self.inputs[0]].shape, tensors[self.outputs[0]].shape
        wish = results[0]
        if wish is None:
            # Row by row axes join in a view; but images lie as convolutions have them.
            joins = len(output) < len(source) and len(output) != 4
            return [natural(len(source)) if joins else None]
        return [regrouped_order(output, source, wish) or _near_order(output, source, wish)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        source, output = tensors[self.inputs[0]].shape, tensors[self.outputs[0]].shape
        order = regrouped_order(source, output, given[0])
        return [order or hints[0] or _near_order(source, output, given[0])]

    def lower(self, builder: NestBuilder) -> None:
        source, shape = builder.view(self.inputs[0]), builder.tensor(self.outputs[0]).shape
        view = source.reshape(shape)
        if view is not None:
            builder.alias(self.outputs[0], view)
            return
        copy_reshaped(builder, builder.place(self.outputs[0]), source)

    def origin(self, result: View, shape: Shape) -> View | None:
        return result.reshape(shape)

    def batched(self, tensors: Tensors) -> bool:
        source, output = (tensors[name].shape for name in (*self.inputs, *self.outputs))
        return bool(source) and bool(output) and source[0] == output[0]


def copy_reshaped(builder: NestBuilder, out: View, source: View) -> None:
    """Nests that copy the elements of `source`, in row-major order, to those of `out`."""
    shape = common_shape(source.shape, out.shape)
    if shape is None:
        # No axes have both: by way of a row-major copy, which every shape is a view of.
        source = builder.packed(source, natural(len(source.shape)))
        shape = out.shape
    parts = [view.reshape(shape) for view in (out, source)]
    assert parts[0] is not None and parts[1] is not None, (out, source)
    builder.elementwise(Copy(), parts[0], parts[1])


def groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The axes of both shapes (of equal size), cut into the shortest runs of equal products.

    Axes of size 1 stand with the run before them.
    """
    result: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        sizes = [1, 1]
        while True:
            if i < len(before) and (sizes[0] < sizes[1] or not left or before[i] == 1):
                sizes[0] *= before[i]
                left.append(i)
                i += 1
            elif j < len(after) and (sizes[1] < sizes[0] or not right or after[j] == 1):
                sizes[1] *= after[j]
                right.append(j)
                j += 1
            else:
                break
        result.append((left, right))
    return result


def regrouped_order(before: Shape, after: Shape, order: Order) -> Order | None:
    """The memory order of `after`'s axes that a tensor of shape `before` has in the order `order`
    when it is reshaped; None if no order says it."""
    place = {a: k for k, a in enumerate(axis for axis in order if before[axis] != 1)}
    runs: list[tuple[int, list[int]]] = []
    for left, right in groups(before, after):
        places = [place[axis] for axis in left if axis in place]
        first = places[0] if places else -1  # What has one element lies anywhere.
        if places != list(range(first, first + len(places))):
            return None
        runs.append((first, right))
    runs.sort(key=lambda run: run[0])
    return tuple(axis for _, right in runs for axis in right)


def _near_order(before: Shape, after: Shape, order: Order) -> Order:
    """An order for a copy: groups of axes follow each other as their innermost ones do in `order`,
    so that what is innermost stays so."""
    place = {axis: position for position, axis in enumerate(order)}
    runs = [
        (max((place[axis] for axis in left if before[axis] != 1), default=-1), right)
        for left, right in groups(before, after)
    ]
    runs.sort(key=lambda run: run[0])
    return tuple(axis for _, right in runs for axis in right)


def common_shape(before: Shape, after: Shape) -> Shape | None:
    """The coarsest shape that splits the axes of both; None if there is none."""
    edges: set[int] = set()
    for shape in (before, after):
        size = 1
        for extent in reversed(shape):
            size *= extent
            edges.add(size)
    result, last = [], 1
    for edge in sorted(edges):
        if gcd(edge, last) != last:
            return None
        if edge != last:
            result.append(edge // last)
        last = edge
    return tuple(reversed(result)) or (1,)


def _build(node: Node, builder: LayerBuilder) -> None:
    source, output = move_names(node, builder)
    builder.add(
        Reshape(
            name=builder.layer_name(), inputs=(source,), outputs=(output,),
            source_nodes=builder.current.sources,
        )
    )


def float32_data(node: Node, graph: Graph) -> str | None:
    """the data must be float32"""
    kind = graph.types[node.inputs[0]].dtype
    return None if kind == "float32" else f"{node.inputs[0]!r} of type {kind}"


def no_mask(node: Node, graph: Graph) -> str | None:
    """nothing may read a Dropout's mask, and it must not be training"""
    if node.op != "Dropout":
        return None
    shown = {output.tensor for output in graph.outputs}
    for name in node.outputs[1:]:
        if name and (name in graph.consumers or name in shown):
            return f"{name!r} is read"
    training = node.inputs[2] if len(node.inputs) > 2 else ""
    if training and (training not in graph.constants or graph.constants[training].any()):
        return f"{training!r} is not false"
    return None


def _wish(node: Node, graph: Graph) -> Wish:
    return Wish(same=((node.inputs[0], node.outputs[0]),))


DATA = Rule(check=float32_data, remedy="export the model in float32")

OPERATORS = (
    Operator(
        names=("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"), build=_build,
        rules=(DATA, COMPUTED_DATA, Rule(check=no_mask, remedy="export the model for inference")),
        wish=_wish, moves=True,
    ),
)
