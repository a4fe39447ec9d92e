"""Concat (ONNX Concat): operands written where the result has them, else copied there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.arithmetic import quantize
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import FLOAT32, Operator, Rule, same_numbers
from systol_compiler.quantized.ops.rescale import add_rescale, matched, numbers
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Layer):
    """Operands of one scale and zero point, one behind the other along `axis`."""

    kind: ClassVar[str] = "concat"

    axis: int

    def verify(self, tensors: Tensors) -> None:
        output = tensors[self.outputs[0]]
        shape = list(output.shape)
        shape[self.axis] = 0
        for name in self.inputs:
            tensor = tensors[name]
            if numbers(tensor) != numbers(output):
                raise InputError(
                    f"layer {self.name!r}: operands of a concatenation have its numbers, but "
                    f"{tensor} is not like {output}"
                )
            if len(tensor.shape) == len(shape):
                shape[self.axis] += tensor.shape[self.axis]
        for name in self.inputs:
            own = list(tensors[name].shape)
            own[self.axis : self.axis + 1] = [shape[self.axis]]
            if own != shape or tuple(shape) != output.shape:
                raise InputError(
                    f"layer {self.name!r}: {name!r} of shape {tensors[name].shape} does not fit "
                    f"into {output.shape} along axis {self.axis}"
                )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [np.concatenate(values, self.axis)]

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [results[0]] * len(self.inputs)

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        # The order that most of the elements have already.
        weights: dict[Order, int] = {}
        for name, order in zip(self.inputs, given, strict=True):
            weights[order] = weights.get(order, 0) + tensors[name].size
        return [max(weights, key=lambda order: weights[order])]

    def claim(self, builder: NestBuilder) -> None:
        output = self.outputs[0]
        for name, place in self._places(builder):
            # A producer writes what is contiguous in its own order.
            if builder.orders[name] == builder.orders[output] and not builder.claimed(name):
                builder.claim(name, place)

    def _places(self, builder: NestBuilder) -> list[tuple[str, Callable[[], View]]]:
        places: list[tuple[str, Callable[[], View]]] = []
        start = 0
        for name in self.inputs:
            size = builder.tensor(name).shape[self.axis]

            def place(start: int = start, size: int = size) -> View:
                return builder.place(self.outputs[0]).slice(self.axis, start, size)

            places.append((name, place))
            start += size
        return places

    def lower(self, builder: NestBuilder) -> None:
        if not builder.claimed(self.outputs[0]):
            whole = adjacent([builder.view(name) for name in self.inputs], self.axis)
            if whole is not None:
                builder.alias(self.outputs[0], whole)
                return
        builder.place(self.outputs[0])
        for name, place in self._places(builder):
            target, view = place(), builder.view(name)
            if not view.coincides(target):
                builder.elementwise(Copy(), target, view)

    def export(self, exporter: QdqExporter) -> None:
        values = [exporter.real(name) for name in self.inputs]
        exporter.result(self.outputs[0], exporter.node("Concat", values, axis=self.axis)[0])

    def batched(self, tensors: Tensors) -> bool:
        return self.axis != 0 and super().batched(tensors)


def adjacent(views: Sequence[View], axis: int) -> View | None:
    """The view of all elements of `views`, if they lie one behind the other along `axis`: as parts
    of a larger concatenation do."""
    first = views[0]
    whole = first
    for view in views[1:]:
        following = whole.offset + whole.shape[axis] * first.strides[axis]
        if (view.buffer, view.strides, view.offset) != (first.buffer, first.strides, following):
            return None
        shape = list(whole.shape)
        shape[axis] += view.shape[axis]
        whole = replace(whole, shape=tuple(shape))
    return whole


def _build(node: Node, builder: LayerBuilder) -> None:
    output = builder.output()
    names = []
    for name in node.inputs:
        if name in builder.graph.constants:
            names.append(constant_like(builder, name, output).name)
        else:
            names.append(matched(builder, builder.tensor(name), output).name)
    axis = int(node.attributes["axis"]) % len(output.shape)
    if len(names) == 1:
        source = builder.tensors[names[0]]
        add_rescale(builder, source, output)
        return
    builder.add(
        Concat(
            name=builder.layer_name(), inputs=tuple(names), outputs=(output.name,),
            source_nodes=builder.current.sources, axis=axis,
        )
    )


def constant_like(builder: LayerBuilder, name: str, like: QTensor) -> QTensor:
    """The constant `name` of the graph with the numbers of `like`, saturated."""
    values = np.nan_to_num(builder.graph.constants[name].astype(np.float32))
    codes = quantize(values, like.scale, like.zero_point, like.width)
    return builder.codes(name, codes.astype(like.dtype), like.scale, like.zero_point)


def some_computed(node: Node, graph: Graph) -> str | None:
    """at least one operand must be computed"""
    return "all are constant" if all(name in graph.constants for name in node.inputs) else None


OPERATORS = (
    Operator(
        names=("Concat",), build=_build,
        rules=(FLOAT32, Rule(check=some_computed, remedy="fold the node before exporting")),
        wish=same_numbers, moves=True,
    ),
)
