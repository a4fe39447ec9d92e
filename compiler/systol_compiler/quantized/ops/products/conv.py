"""Convolutions over one or two dimensions with any kernel, stride, dilation, padding and groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.convolution import Convolution, convolve
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.products import correlate
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Tensors
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.ops.pointwise.channel_affine import add_channel_affine
from systol_compiler.quantized.product import (
    CONSTANT_WEIGHTS,
    Product,
    build_weights,
    corrected_bias,
    magnitude,
)
from systol_compiler.quantized.spatial import (
    SPATIAL,
    ImageLayer,
    Pair,
    attribute,
    image_view,
    pair,
    result_view,
    to_image,
    window_ends,
    window_size,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(ImageLayer, Product):
    """A convolution: `weights` are [O, C / groups, *kernel], one or two kernel dimensions.

    Attributes
    ----------
    strides, dilations
        One for each dimension.
    pads
        Before the first element of each dimension, then behind the last.
    groups
        Into which channels are divided.
    positions
        Positions of one item's result.
    """

    kind: ClassVar[str] = "conv"

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1
    positions: int

    @property
    def kernel(self) -> Pair:
        """(rows, columns)."""
        return pair(self.weights.shape[2:])

    @property
    def _origin(self) -> Pair:
        return pair(self.pads[: len(self.strides)], 0)

    def verify(self, tensors: Tensors) -> None:
        source, target = tensors[self.inputs[0]].shape, tensors[self.outputs[0]].shape
        rank = len(self.strides)
        outputs, per_group, *kernel = self.weights.shape
        self.require(len(source) == rank + 2 == len(kernel) + 2, "ranks must agree", source)
        self.require(
            source[1] == per_group * self.groups and outputs % self.groups == 0,
            f"weights {self.weights.shape} with {self.groups} groups must fit the input", source,
        )
        self.require(min(self.pads) >= 0, "pads must not be negative", self.pads)
        self.require(
            min(*self.strides, *self.dilations) > 0, "strides and dilations must be positive",
            (self.strides, self.dilations),
        )
        size = tuple(
            window_size(
                source[axis + 2], kernel[axis], self.strides[axis], self.dilations[axis],
                self.pads[axis], self.pads[axis + rank],
            )
            for axis in range(rank)
        )
        self.require(target == (source[0], outputs, *size), f"the output must be {size}", target)
        self.require(self.positions == prod(size), f"it has {prod(size)} positions", self.positions)
        self.verify_numbers(tensors, outputs)

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        outputs, per_group = self.weights.shape[:2]
        total = correlate(
            to_image(values[0]),
            self.weights.reshape(outputs, per_group, *self.kernel),
            pair(target.shape[2:]),
            strides=pair(self.strides), dilations=pair(self.dilations), pads=self._origin,
            groups=self.groups, pad_value=source.zero_point, magnitude=magnitude(source),
        )
        total += self.folded_bias(source)
        return [np.moveaxis(self.finish(total, target), 3, 1).reshape(target.shape)]

    def lower(self, builder: NestBuilder) -> None:
        source, target = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        with result_view(builder, self.outputs[0]) as out:
            convolve(
                builder,
                Convolution(
                    source=image_view(builder.view(self.inputs[0])), target=out,
                    weights=self.weights.reshape(*self.weights.shape[:2], *self.kernel),
                    groups=self.groups, strides=pair(self.strides),
                    dilations=pair(self.dilations), pads=self._origin,
                    bias=self.folded_bias(source), multipliers=self.multipliers,
                    shifts=self.shifts, zp_in=source.zero_point, zp_out=target.zero_point,
                    lo=self.lo, hi=self.hi,
                ),
            )

    def export(self, exporter: QdqExporter) -> None:
        weights = exporter.weights(f"{self.name}.weight", self.weights, self.scales, 0)
        (value,) = exporter.node(
            "Conv", [exporter.real(self.inputs[0]), weights, self.export_bias(exporter)],
            kernel_shape=list(self.weights.shape[2:]), strides=list(self.strides),
            dilations=list(self.dilations), pads=list(self.pads), group=self.groups,
        )
        exporter.result(self.outputs[0], value, self.lo, self.hi)

    @property
    def macs(self) -> int:
        return self.weights.size * self.positions


def _build(node: Node, builder: LayerBuilder) -> None:
    source, target = builder.tensor(node.inputs[0]), builder.output()
    weights = builder.graph.constants[node.inputs[1]]
    rank = weights.ndim - 2
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = builder.graph.constants[name] if name else None
    lo, hi = builder.clip(target)
    if _channel_by_channel(node, builder.graph):
        # There is nothing to sum up: the array would only multiply by a diagonal.
        add_channel_affine(
            builder, source, weights.reshape(-1),
            corrected_bias(builder, bias, weights.size, target), 1, target, (lo, hi), suffix="",
        )
        return
    numbers = build_weights(
        builder, weights.reshape(weights.shape[0], -1), bias, source, target
    )
    builder.add(
        Conv(
            name=builder.layer_name(), inputs=(source.name,), outputs=(target.name,),
            source_nodes=builder.current.sources,
            weights=numbers.codes.reshape(weights.shape), scales=numbers.scales,
            bias=numbers.bias, source_scale=source.scale, multipliers=numbers.multipliers,
            shifts=numbers.shifts, lo=lo, hi=hi,
            strides=attribute(node, "strides", rank), dilations=attribute(node, "dilations", rank),
            pads=_pads(node, builder.graph), groups=int(node.attributes.get("group", 1)),
            positions=prod(target.shape[2:]),
        )
    )


def _channel_by_channel(node: Node, graph: Graph) -> bool:
    """Whether each result is one element times its channel's weight, plus a bias."""
    source, target = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    weights, rank = graph.constants[node.inputs[1]], len(source) - 2
    return (
        source == target
        and weights.size == source[1]
        and not any(_pads(node, graph))
        and set(attribute(node, "strides", rank)) == {1}
    )


def _pads(node: Node, graph: Graph) -> tuple[int, ...]:
    sizes, kernel = graph.types[node.inputs[0]].shape[2:], graph.types[node.inputs[1]].shape[2:]
    rank = len(sizes)
    return window_ends(
        sizes, node, kernel, attribute(node, "dilations", rank), attribute(node, "strides", rank)
    )


def no_negative_pads(node: Node, graph: Graph) -> str | None:
    """pads must not be negative."""
    pads = _pads(node, graph)
    return f"pads {list(pads)}" if min(pads, default=0) < 0 else None


def within_fields(node: Node, graph: Graph) -> str | None:
    """a kernel of two dimensions has at most 255 rows, vertical strides and dilations are below
    256, an image has less than 2**14 rows, and a row of input or output less than 2**21 bytes."""
    source, result = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    kernel = graph.types[node.inputs[1]].shape[2:]
    rank = len(kernel)
    steps = (
        *pair(attribute(node, "strides", rank)), *pair(attribute(node, "dilations", rank))
    )
    if pair(kernel)[0] > 255:
        return f"a kernel of {pair(kernel)[0]} rows"
    if max(steps[0], steps[2]) > 255:
        return f"strides {list(steps[:2])}, dilations {list(steps[2:])}"
    pads = _pads(node, graph)
    for shape in (source, result):
        width = shape[-1] + max(pads) + kernel[-1] * steps[3] + steps[1]
        if rank == 2 and shape[2] + max(pads) >= 1 << 14:
            return f"{shape[2]} rows"
        if 2 * width * shape[1] * max(steps[0], steps[2]) >= 1 << 22:
            return f"shape {list(shape)}"
    return None


OPERATORS = (
    Operator(
        names=("Conv",),
        build=_build,
        rules=(
            FLOAT32,
            COMPUTED_DATA,
            SPATIAL,
            CONSTANT_WEIGHTS,
            Rule(check=no_negative_pads, remedy="slice the input instead"),
            Rule(check=within_fields, remedy="split the image or the kernel"),
        ),
        clips=True,
        channel_axis=1,
    ),
)
