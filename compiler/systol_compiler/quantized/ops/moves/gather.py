"""Gather with constant indices (ONNX Gather): views of regular steps, copies of others."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.movement import product_take, whole_range
from systol_compiler.nests.vector import Copy
from systol_compiler.nests.view import View
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
from systol_compiler.quantized.ops.moves.move import Move, move_names
from systol_compiler.quantized.ops.moves.slice import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class Gather(Move):
    """Elements `indices` (of any shape, not negative) along `axis`."""

    kind: ClassVar[str] = "gather"

    axis: int
    indices: Array

    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        return [np.asarray(values.take(self.indices, self.axis))]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        indices = exporter.constant(self.indices.astype(np.int64))
        return exporter.node("Gather", [value, indices], axis=self.axis)

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        wish, extra = results[0], self.indices.ndim
        if wish is None:
            return [None]
        order: list[int] = []
        for axis in wish:
            source = axis if axis < self.axis else max(axis - extra + 1, self.axis)
            if source not in order:
                order.append(source)
        if self.axis not in order:
            order.insert(0, self.axis)
        return [tuple(order)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        extra = self.indices.ndim
        order: list[int] = []
        for axis in given[0]:
            if axis == self.axis:
                order += range(axis, axis + extra)
            else:
                order.append(axis if axis < self.axis else axis + extra - 1)
        return [tuple(order)]

    def lower(self, builder: NestBuilder) -> None:
        view, name = builder.view(self.inputs[0]), self.outputs[0]
        flat = self.indices.reshape(-1).tolist()
        (first, *others) = spans(flat)
        if not others:
            part = view.slice(self.axis, first.start, first.count, first.step)
            alias = split_axis(part, self.axis, self.indices.shape)
            builder.alias(name, alias)
            return
        out = builder.place(name)
        lead, extra = self.axis, self.indices.ndim
        flattened = out.reshape((*out.shape[:lead], len(flat), *out.shape[lead + extra :]))
        if flattened is not None:
            take(builder, flattened, view, self.axis, flat)
            return
        # The axes of the indices lie apart: one after the other.
        for place in np.ndindex(self.indices.shape[:-1]):
            row = out
            for index in place:
                row = row.slice(lead, index, 1)
                row = without_axis(row, lead)
            take(builder, row, view, self.axis, self.indices[place].tolist())

    def batched(self, tensors: Tensors) -> bool:
        return self.axis != 0 and super().batched(tensors)


def spans(indices: Sequence[int]) -> list[Range]:
    """`indices` as the fewest runs of equal steps, taken from the first on."""
    result: list[Range] = []
    place = 0
    while place < len(indices):
        end = place + 1
        if end < len(indices):
            step = indices[end] - indices[place]
            while end < len(indices) and indices[end] - indices[end - 1] == step:
                end += 1
            # Two that begin a longer run of another step belong to it.
            if end == place + 2 and end + 1 < len(indices) and (
                indices[end + 1] - indices[end] == indices[end] - indices[end - 1]
            ):
                end = place + 1
        count = end - place
        step = indices[place + 1] - indices[place] if count > 1 else 1
        result.append(Range(start=indices[place], count=count, step=step))
        place = end
    return result


def take(
    builder: NestBuilder, out: View, source: View, axis: int, indices: Sequence[int]
) -> None:
    """Nests that copy elements `indices` of `source` along `axis` to `out`."""
    times = repetitions(indices)
    if times > 1:
        parts, wide = repeated(out, source, axis, times)
        take(builder, parts, wide, axis, indices[::times])
        return
    pieces: list[tuple[View, View]] = []
    start = 0
    for span in spans(indices):
        part = source.slice(axis, span.start, span.count, span.step)
        pieces.append((out.slice(axis, start, span.count), part))
        start += span.count
    if len(pieces) > 1:
        selected = product_take(builder, out, source, axis, indices, pieces)
        if selected is not None:
            selected(whole_range(out))
            return
    for part, piece in pieces:
        builder.elementwise(Copy(), part, piece)


def repeated(out: View, source: View, axis: int, times: int) -> tuple[View, View]:
    """`out` with `axis` as (index, repetition), and `source` with each of its elements along `axis`
    `times` times over."""
    once = split_axis(source, axis, (source.shape[axis], 1))
    return (
        split_axis(out, axis, (out.shape[axis] // times, times)),
        once.expand((*once.shape[: axis + 1], times, *once.shape[axis + 2 :])),
    )


def repetitions(indices: Sequence[int]) -> int:
    """The number of times that every index stands beside itself."""
    changes = [place for place in range(1, len(indices)) if indices[place] != indices[place - 1]]
    return gcd(len(indices), *changes)


def split_axis(view: View, axis: int, shape: Sequence[int]) -> View:
    """`view` with `axis` replaced by axes of `shape`."""
    stride, strides = view.strides[axis], []
    for size in reversed(shape):
        strides.append(stride)
        stride *= size
    return View(
        buffer=view.buffer, offset=view.offset, planes=view.planes,
        shape=(*view.shape[:axis], *shape, *view.shape[axis + 1 :]),
        strides=(*view.strides[:axis], *reversed(strides), *view.strides[axis + 1 :]),
    )


def without_axis(view: View, axis: int) -> View:
    """`view` without an axis of size 1."""
    assert view.shape[axis] == 1, (view, axis)
    return split_axis(view, axis, ())


def _build(node: Node, builder: LayerBuilder) -> None:
    graph = builder.graph
    shape = graph.types[node.inputs[0]].shape
    axis = int(node.attributes.get("axis", 0)) % len(shape)
    indices = graph.constants[node.inputs[1]].astype(np.int64)
    source, output = move_names(node, builder)
    builder.add(
        Gather(
            name=builder.layer_name(), inputs=(source,), outputs=(output,),
            source_nodes=builder.current.sources, axis=axis,
            indices=np.where(indices < 0, indices + shape[axis], indices),
        )
    )


def constant_indices(node: Node, graph: Graph) -> str | None:
    """the indices of Gather must be constant and inside of the axis"""
    indices = graph.constants.get(node.inputs[1])
    if indices is None:
        return f"{node.inputs[1]!r} is computed"
    shape = graph.types[node.inputs[0]].shape
    size = shape[int(node.attributes.get("axis", 0)) % len(shape)]
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        return f"{node.inputs[1]!r} reaches out of {size} elements"
    return None


OPERATORS = (
    Operator(
        names=("Gather",), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=constant_indices, remedy="gather at constant places"),
        ),
        wish=same_numbers, moves=True,
    ),
)
