"""Transposed convolutions over one or two dimensions, as one convolution for each output phase.

With strides (s, t) the outputs `(y, x)` of equal `(y mod s, x mod t)` see the same taps of the
kernel, at input positions side by side: each such phase is an ordinary convolution whose results
lie s rows and t columns apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.convolution import Convolution, convolve
from systol_compiler.numbers.limits import Array, Int8Array
from systol_compiler.numbers.products import correlate
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Tensors
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.product import (
    CONSTANT_WEIGHTS,
    Product,
    build_weights,
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
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Outputs `first, first + stride, ...` along one axis, as a convolution of stride 1.

    Attributes
    ----------
    first, count
        Of the outputs.
    taps
        Indices of the kernel that they see, in order of the input positions.
    dilation
        Distance of these positions.
    pad
        Positions before the input at which the first window begins; may be negative.
    """

    first: int
    count: int
    taps: tuple[int, ...]
    dilation: int
    pad: int


def phases(
    outputs: int, kernel: int, stride: int, dilation: int, pad: int
) -> Iterator[Phase]:
    """The phases of one axis; one without taps sees nothing of the input."""
    common = gcd(dilation, stride)
    for first in range(min(stride, outputs)):
        # Tap j meets input position (first + pad - j * dilation) / stride, where that is whole.
        seen = [j for j in range(kernel) if (first + pad - j * dilation) % stride == 0]
        taps = tuple(reversed(seen))
        pad_in = -((first + pad - taps[0] * dilation) // stride) if taps else 0
        count = -(-(outputs - first) // stride)
        yield Phase(
            first=first, count=count, taps=taps, dilation=dilation // common, pad=pad_in
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvTranspose(ImageLayer, Product):
    """A transposed convolution: `weights` are [O, C / groups, *kernel].

    Attributes
    ----------
    strides, dilations
        One for each dimension.
    pads
        What is cut from the full result: before each dimension, then behind.
    output_padding
        What is added behind.
    groups
        Into which channels are divided.
    positions
        Positions of one item's input.
    """

    kind: ClassVar[str] = "conv_transpose"

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1
    positions: int

    def _image_weights(self) -> Int8Array:
        kernel = pair(self.weights.shape[2:])
        return self.weights.reshape(*self.weights.shape[:2], *kernel)

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
        self.require(
            min(*self.strides, *self.dilations) > 0, "strides and dilations must be positive",
            (self.strides, self.dilations),
        )
        size = tuple(
            self.strides[axis] * (source[axis + 2] - 1) + self.output_padding[axis]
            + self.dilations[axis] * (kernel[axis] - 1) + 1
            - self.pads[axis] - self.pads[axis + rank]
            for axis in range(rank)
        )
        self.require(target == (source[0], outputs, *size), f"the output must be {size}", target)
        positions = prod(source[2:])
        self.require(self.positions == positions, f"it has {positions} positions", self.positions)
        self.verify_numbers(tensors, outputs)

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        x = to_image(values[0]).astype(np.int32) - source.zero_point
        strides, dilations = pair(self.strides), pair(self.dilations)
        weights = self._image_weights()
        # Between inputs lie strides - 1 zeros: then it is a convolution with the kernel reversed.
        spread = np.zeros(
            (
                x.shape[0], (x.shape[1] - 1) * strides[0] + 1, (x.shape[2] - 1) * strides[1] + 1,
                x.shape[3],
            ),
            np.int32,
        )
        spread[:, :: strides[0], :: strides[1]] = x
        pads = [
            dilations[axis] * (weights.shape[2 + axis] - 1) - self._origin[axis] for axis in (0, 1)
        ]
        total = correlate(
            spread, np.ascontiguousarray(weights[:, :, ::-1, ::-1]), pair(target.shape[2:]),
            dilations=dilations, pads=(pads[0], pads[1]), groups=self.groups,
            magnitude=magnitude(source, centred=True),
        )
        total += self.bias.astype(np.int64)
        return [np.moveaxis(self.finish(total, target), 3, 1).reshape(target.shape)]

    def lower(self, builder: NestBuilder) -> None:
        source, target = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        view, weights = image_view(builder.view(self.inputs[0])), self._image_weights()
        size, strides, dilations = (
            pair(each) for each in (target.shape[2:], self.strides, self.dilations)
        )
        vertical, horizontal = (
            list(phases(size[axis], weights.shape[2 + axis], strides[axis], dilations[axis],
                        self._origin[axis]))
            for axis in (0, 1)
        )
        with result_view(builder, self.outputs[0]) as out:
            for rows in vertical:
                band = out.slice(1, rows.first, rows.count, strides[0])
                for columns in horizontal:
                    seen = _of_phase(weights, rows, columns)
                    totals = seen.sum(axis=(1, 2, 3), dtype=np.int64)
                    convolve(
                        builder,
                        Convolution(
                            source=view,
                            target=band.slice(2, columns.first, columns.count, strides[1]),
                            weights=seen, groups=self.groups,
                            dilations=(rows.dilation, columns.dilation),
                            pads=(rows.pad, columns.pad),
                            bias=self.bias.astype(np.int64) - source.zero_point * totals,
                            multipliers=self.multipliers, shifts=self.shifts,
                            zp_in=source.zero_point, zp_out=target.zero_point,
                            lo=self.lo, hi=self.hi,
                        ),
                    )

    def export(self, exporter: QdqExporter) -> None:
        grouped = self.weights.reshape(self.groups, -1, *self.weights.shape[1:])
        # The operator wants [C, O / groups, ...], and one scale for each index of one axis.
        codes = np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(
            -1, grouped.shape[1], *self.weights.shape[2:]
        )
        if self.groups == 1:
            weights = exporter.weights(f"{self.name}.weight", codes, self.scales, 1)
        else:
            scales = np.repeat(
                self.scales.reshape(self.groups, 1, -1), self.weights.shape[1], axis=1
            ).reshape(*codes.shape[:2], *(1,) * len(self.strides))
            weights = exporter.constant((codes * scales).astype(np.float32))
        (value,) = exporter.node(
            "ConvTranspose", [exporter.real(self.inputs[0]), weights, self.export_bias(exporter)],
            kernel_shape=list(self.weights.shape[2:]), strides=list(self.strides),
            dilations=list(self.dilations), pads=list(self.pads), group=self.groups,
            output_padding=list(self.output_padding),
        )
        exporter.result(self.outputs[0], value, self.lo, self.hi)

    @property
    def macs(self) -> int:
        return self.weights.size * self.positions


def _of_phase(weights: Int8Array, rows: Phase, columns: Phase) -> Int8Array:
    """The kernel that the outputs of a phase see; one of zeros if they see none."""
    if not rows.taps or not columns.taps:
        return np.zeros((*weights.shape[:2], 1, 1), np.int8)
    return weights[:, :, rows.taps][:, :, :, columns.taps]


def _build(node: Node, builder: LayerBuilder) -> None:
    source, target = builder.tensor(node.inputs[0]), builder.output()
    stored = builder.graph.constants[node.inputs[1]]
    groups, rank = int(node.attributes.get("group", 1)), stored.ndim - 2
    # [C, O / groups, ...] to [O, C / groups, ...].
    grouped = stored.reshape(groups, -1, *stored.shape[1:]).swapaxes(1, 2)
    weights = grouped.reshape(-1, *grouped.shape[2:])
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    numbers = build_weights(
        builder, weights.reshape(weights.shape[0], -1),
        builder.graph.constants[bias] if bias else None, source, target,
    )
    lo, hi = builder.clip(target)
    builder.add(
        ConvTranspose(
            name=builder.layer_name(), inputs=(source.name,), outputs=(target.name,),
            source_nodes=builder.current.sources,
            weights=numbers.codes.reshape(weights.shape), scales=numbers.scales,
            bias=numbers.bias, source_scale=source.scale, multipliers=numbers.multipliers,
            shifts=numbers.shifts, lo=lo, hi=hi,
            strides=attribute(node, "strides", rank), dilations=attribute(node, "dilations", rank),
            pads=attribute(node, "pads", 2 * rank, 0),
            output_padding=attribute(node, "output_padding", rank, 0), groups=groups,
            positions=prod(source.shape[2:]),
        )
    )


def explicit_sizes(node: Node, graph: Graph) -> str | None:
    """its size must follow from explicit pads."""
    for name in ("auto_pad", "output_shape"):
        if node.attributes.get(name, "NOTSET") not in ("NOTSET", b"NOTSET"):
            return f"{name} {node.attributes[name]}"
    return None


def within_fields(node: Node, graph: Graph) -> str | None:
    """a kernel has at most 255 rows, dilations are below 256, the product of the strides at most
    1024, an image has less than 2**14 rows, and strides[0] rows of the output less than 2**21
    bytes."""
    source, result = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    kernel = graph.types[node.inputs[1]].shape[2:]
    rank = len(kernel)
    strides, dilations = (pair(attribute(node, name, rank)) for name in ("strides", "dilations"))
    if pair(kernel)[0] > 255 or max(dilations) > 255 or prod(strides) > 1024:
        return f"kernel {list(kernel)}, strides {list(strides)}, dilations {list(dilations)}"
    if rank == 2 and max(source[2], result[2]) >= 1 << 14:
        return f"{max(source[2], result[2])} rows"
    pads = max(attribute(node, "pads", 2 * rank, 0))
    for shape in (source, result):
        reach = shape[-1] + pads + kernel[-1] * dilations[1]
        if 2 * strides[0] * reach * shape[1] >= 1 << 22:
            return f"shape {list(shape)}"
    return None


OPERATORS = (
    Operator(
        names=("ConvTranspose",),
        build=_build,
        rules=(
            FLOAT32,
            COMPUTED_DATA,
            SPATIAL,
            CONSTANT_WEIGHTS,
            Rule(check=explicit_sizes, remedy="state pads and output_padding instead"),
            Rule(check=within_fields, remedy="split the image or the kernel"),
        ),
        clips=True,
        channel_axis=1,
    ),
)
