"""Slice and Split: views, never copies (ONNX Slice, Split)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Order, Tensors
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    Operator,
    Rule,
    same_numbers,
)
from systol_compiler.quantized.ops.moves.move import Move, constant_operands, integers
from systol_compiler.quantized.ops.rescale import matched, numbers


@dataclass(frozen=True, kw_only=True)
class Range:
    """`count` indices from `start` on, `step` apart."""

    start: int
    count: int
    step: int = 1

    @property
    def indices(self) -> list[int]:
        """The indices themselves."""
        return [self.start + i * self.step for i in range(self.count)]

    def __str__(self) -> str:
        return f"{self.start}:{self.count}" + (f":{self.step}" if self.step != 1 else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Move):
    """Parts of the operand along some axes: one for each result.

    Attributes
    ----------
    parts
        For each result, its (axis, range) pairs; whole along other axes.
    """

    kind: ClassVar[str] = "slice"

    parts: tuple[tuple[tuple[int, Range], ...], ...]

    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        results = []
        for part in self.parts:
            result = values
            for axis, span in part:
                result = result.take(span.indices, axis)
            results.append(result)
        return results

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        results = []
        for part in self.parts:
            result = value
            for axis, span in part:
                indices = exporter.constant(np.array(span.indices, np.int64))
                result = exporter.node("Gather", [result, indices], axis=axis)[0]
            results.append(result)
        return results

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [next((wish for wish in results if wish is not None), None)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [given[0]] * len(self.outputs)

    def lower(self, builder: NestBuilder) -> None:
        for name, part in zip(self.outputs, self.parts, strict=True):
            view = builder.view(self.inputs[0])
            for axis, span in part:
                view = view.slice(axis, span.start, span.count, span.step)
            builder.alias(name, view)

    def batched(self, tensors: Tensors) -> bool:
        whole = all(axis != 0 for part in self.parts for axis, _ in part)
        return whole and super().batched(tensors)


def add_slices(
    builder: LayerBuilder, source: str, outputs: Sequence[str],
    parts: Sequence[Sequence[tuple[int, Range]]], suffix: str = "",
) -> None:
    """Add a layer of views of the tensor `source`, one for each of `outputs`."""
    builder.add(
        Slice(
            name=builder.layer_name(suffix), inputs=(source,), outputs=tuple(outputs),
            source_nodes=builder.current.sources, parts=tuple(map(tuple, parts)),
        )
    )


def _build(node: Node, builder: LayerBuilder) -> None:
    source = builder.tensor(node.inputs[0])
    names = [name for name in node.outputs if name]
    spans = _ranges(node, builder.graph) if node.op == "Slice" else _pieces(node, builder.graph)
    groups: dict[tuple[float, int, int], list[int]] = {}
    outputs = [builder.tensor(name) for name in names]
    for place, tensor in enumerate(outputs):
        groups.setdefault(numbers(tensor), []).append(place)
    for places in groups.values():
        like = matched(builder, source, outputs[places[0]])
        add_slices(
            builder, like.name, [outputs[k].name for k in places], [spans[k] for k in places]
        )


def _ranges(node: Node, graph: Graph) -> list[list[tuple[int, Range]]]:
    """What Slice takes (ONNX Slice, version 13)."""
    shape = graph.types[node.inputs[0]].shape
    starts, ends = (integers(node, graph, place) or [] for place in (1, 2))
    axes = integers(node, graph, 3) or list(range(len(starts)))
    steps = integers(node, graph, 4) or [1] * len(starts)
    part = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = range(*slice(start, end, step).indices(shape[axis]))
        if taken != range(shape[axis]):
            span = Range(start=taken.start, count=len(taken), step=step)
            part.append((axis % len(shape), span))
    return [part]


def _pieces(node: Node, graph: Graph) -> list[list[tuple[int, Range]]]:
    """What Split gives: pieces of the sizes of its results."""
    rank = len(graph.types[node.inputs[0]].shape)
    axis = int(node.attributes.get("axis", 0)) % rank
    pieces, start = [], 0
    names = {name: graph.types[name].shape[axis] for name in node.outputs if name}
    sizes = integers(node, graph, 1) or list(node.attributes.get("split", []))
    for place, name in enumerate(node.outputs):
        size = sizes[place] if sizes else names.get(name, next(iter(names.values())))
        if name:
            pieces.append([(axis, Range(start=start, count=size))])
        start += size
    return pieces


OPERATORS = (
    Operator(
        names=("Slice", "Split"), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=constant_operands, remedy="slice at constant places"),
        ),
        wish=same_numbers, moves=True,
    ),
)
