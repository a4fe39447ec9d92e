"""Pad (ONNX Pad): the operand written into the middle of the result, and what lies around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Copy, Fill
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
from systol_compiler.quantized.ops.moves.move import Move, constant_operands, integers
from systol_compiler.quantized.ops.moves.slice import Range, add_slices
from systol_compiler.quantized.ops.rescale import add_rescale, matched

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Move):
    """The operand with `before[k]` and `after[k]` elements more at the ends of axis k.

    Attributes
    ----------
    mode
        constant, reflect (without the outermost element), edge or wrap.
    value
        The code of a constant padding.
    """

    kind: ClassVar[str] = "pad"

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    value: int

    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        pads = list(zip(self.before, self.after, strict=True))
        if self.mode == "constant":
            return [np.pad(values, pads, constant_values=self.value)]
        return [np.pad(values, pads, mode=_MODES[self.mode])]  # type: ignore[call-overload]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        tensor = exporter.tensor(self.outputs[0])
        pads = exporter.constant(np.array([*self.before, *self.after], np.int64))
        inputs = [value, pads]
        if self.mode == "constant":
            real = (self.value - tensor.zero_point) * tensor.scale
            inputs.append(exporter.constant(np.array(real, np.float32)))
        return exporter.node("Pad", inputs, mode=self.mode)

    def claim(self, builder: NestBuilder) -> None:
        name, output = self.inputs[0], self.outputs[0]
        if builder.orders[name] == builder.orders[output] and not builder.claimed(name):
            builder.claim(name, lambda: self._inner(builder))

    def _inner(self, builder: NestBuilder) -> View:
        view = builder.place(self.outputs[0])
        for axis, size in enumerate(builder.tensor(self.inputs[0]).shape):
            view = view.slice(axis, self.before[axis], size)
        return view

    def lower(self, builder: NestBuilder) -> None:
        inner, source = self._inner(builder), builder.view(self.inputs[0])
        if not source.coincides(inner):
            builder.elementwise(Copy(), inner, source)
        shape = builder.tensor(self.inputs[0]).shape
        whole = builder.place(self.outputs[0])
        for axis, size in enumerate(shape):
            # Axes before this one are done: along them all of the result, else its inside.
            slab = whole
            for later in range(axis + 1, len(shape)):
                slab = slab.slice(later, self.before[later], shape[later])
            for first, count in (
                (0, self.before[axis]), (self.before[axis] + size, self.after[axis])
            ):
                if count:
                    self._border(builder, slab, axis, size, first, count)

    def _border(
        self, builder: NestBuilder, slab: View, axis: int, size: int, first: int, count: int
    ) -> None:
        """Write `count` layers of `slab` from `first` on along `axis`, from its inside."""
        target = slab.slice(axis, first, count)
        low = self.before[axis]
        if self.mode == "constant":
            builder.elementwise(Fill(), target, None, zero_point=self.value)
            return
        left = first < low
        if self.mode == "edge":
            edge = slab.slice(axis, low if left else low + size - 1, 1)
            source = edge.expand(target.shape)
        elif self.mode == "reflect":
            source = slab.slice(axis, low + count if left else low + size - 2, count, -1)
        else:
            source = slab.slice(axis, low + size - count if left else low, count)
        builder.elementwise(Copy(), target, source)

    def batched(self, tensors: Tensors) -> bool:
        return not (self.before[0] or self.after[0]) and super().batched(tensors)

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [given[0]]

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [results[0]]


def pads_of(node: Node, graph: Graph) -> list[tuple[int, int]]:
    """(before, after) by axis; negative where Pad takes away."""
    rank = len(graph.types[node.inputs[0]].shape)
    given = integers(node, graph, 1) or list(node.attributes.get("pads", []))
    axes = integers(node, graph, 3) or list(range(rank))
    pads = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pads[axis % rank] = (given[place], given[place + len(axes)])
    return pads


def _mode(node: Node) -> str:
    mode = node.attributes.get("mode", "constant")
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _build(node: Node, builder: LayerBuilder) -> None:
    graph, output = builder.graph, builder.output()
    source = matched(builder, builder.tensor(node.inputs[0]), output)
    pads = pads_of(node, graph)
    before, after = ([max(pad[side], 0) for pad in pads] for side in (0, 1))
    cut = [
        (axis, Range(start=max(-low, 0), count=source.shape[axis] + min(low, 0) + min(high, 0)))
        for axis, (low, high) in enumerate(pads) if low < 0 or high < 0
    ]
    padded = any(before) or any(after)
    if cut:
        shape = list(source.shape)
        for axis, span in cut:
            shape[axis] = span.count
        inner = output
        if padded:
            inner = builder.inner(
                tuple(shape), output.scale, output.zero_point, output.width
            )
        add_slices(builder, source.name, [inner.name], [cut], suffix="cut")
        source = inner
    elif not padded:
        add_rescale(builder, source, output)
    if not padded:
        return
    value = 0.0
    if len(node.inputs) > 2 and node.inputs[2]:
        value = float(graph.constants[node.inputs[2]].reshape(-1)[0])
    low, high = output.bounds
    code = np.clip(np.rint(value / output.scale) + output.zero_point, low, high)
    builder.add(
        Pad(
            name=builder.layer_name(), inputs=(source.name,), outputs=(output.name,),
            source_nodes=builder.current.sources, before=tuple(before), after=tuple(after),
            mode=_mode(node), value=int(code),
        )
    )


def short_pads(node: Node, graph: Graph) -> str | None:
    """reflected pads must be shorter than their axis, wrapped ones no longer; a constant one is a
    number"""
    mode = _mode(node)
    if mode not in _MODES:
        return f"mode {mode!r}"
    if mode == "constant":
        value = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        return "NaN" if value is not None and bool(np.isnan(value).any()) else None
    shape = graph.types[node.inputs[0]].shape
    for axis, (low, high) in enumerate(pads_of(node, graph)):
        size = shape[axis] + min(low, 0) + min(high, 0)
        most = {"reflect": size - 1, "wrap": size}.get(mode)
        if most is not None and max(low, high) > most:
            return f"pads {low} and {high} of axis {axis} of size {size}"
        if mode != "edge" and min(low, high) < 0 < max(low, high):
            return f"pads {low} and {high} of axis {axis} with mode {mode}"
    return None


OPERATORS = (
    Operator(
        names=("Pad",), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=constant_operands, remedy="pad by constant numbers"),
            Rule(check=short_pads, remedy="pad in two steps"),
        ),
        wish=same_numbers, moves=True,
    ),
)
