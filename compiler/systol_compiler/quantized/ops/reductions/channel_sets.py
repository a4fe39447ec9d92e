"""Sums over sets of channels, one for each channel: a product with a matrix of ones and zeros.

Where sets are neighbours, as those of LRN, each column tile reads the few channels around its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.dense import Band, DenseProduct, multiply
from systol_compiler.nests.vector import Copy
from systol_compiler.numbers.arithmetic import normalize_multiplier, requantize
from systol_compiler.numbers.limits import ACCUMULATOR_LIMIT, Array, Int8Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.ops.pointwise.channel_scale import innermost
from systol_hw.errors import InputError, UnsupportedModelError


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelSets(Layer):
    """`factor * sum(x over the channels of the set) - offset`: an exact sum, rounded once.

    Attributes
    ----------
    axis
        Of the channels.
    members
        int8 [channels, channels] of ones and zeros: row o is the set of result o.
    factor, offset
        Real.
    bias
        Of each result: the offset and the zero points, in steps of the sum; int64 [channels].
    multiplier, shift
        factor * scale_in / scale_out.
    """

    kind: ClassVar[str] = "channel_sets"

    axis: int
    members: Int8Array
    factor: float
    offset: float
    bias: Array
    multiplier: int
    shift: int

    def verify(self, tensors: Tensors) -> None:
        source, out = tensors[self.inputs[0]], tensors[self.outputs[0]]
        count = source.shape[self.axis]
        if source.shape != out.shape or self.members.shape != (count, count):
            raise InputError(
                f"layer {self.name!r}: {count} channels need {count} sets of them and keep their "
                f"shape, but {source.shape} becomes {out.shape} by {self.members.shape}"
            )
        sizes = self.members.sum(axis=1, dtype=np.int64)
        most = int((sizes * -source.bounds[0] + np.abs(self.bias)).max())
        if most >= ACCUMULATOR_LIMIT:
            raise UnsupportedModelError(
                f"layer {self.name!r}: |sum + bias| must stay below 2**31, but over "
                f"{int(sizes.max())} channels it can reach {most}; use smaller sets"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        out = tensors[self.outputs[0]]
        # Below 2**31, and so exact in float64.
        rows = np.moveaxis(values[0].astype(np.float64), self.axis, -1)
        sums = (rows @ self.members.T.astype(np.float64)).astype(np.int64) + self.bias
        factors = np.asarray(self.multiplier), np.asarray(self.shift)
        codes = requantize(sums, *factors, out.zero_point, *out.bounds, out.width)
        return [np.moveaxis(codes, -1, self.axis)]

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        return [self._order(tensors)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [self._order(tensors)]

    def _order(self, tensors: Tensors) -> Order:
        rank = len(tensors[self.inputs[0]].shape)
        return innermost(None, self.axis, rank)

    def lower(self, builder: NestBuilder) -> None:
        order = self._order(builder.tensors)
        out, tensor = builder.place(self.outputs[0]), builder.tensor(self.outputs[0])
        target = out
        if out.shape[self.axis] != 1 and out.strides[self.axis] != 1:
            target = builder.scratch(out.shape, order, 8 * out.planes)
        full = np.ones(len(self.members), np.int64)
        lo, hi = tensor.bounds
        band = band_of(self.members, builder.arch.rows, builder.arch.columns)
        multiply(
            builder,
            DenseProduct(
                source=builder.view(self.inputs[0]).transpose(order),
                target=target.transpose(order), contracted=1,
                weights=_banded(self.members, band), reordered={}, bias=self.bias,
                multipliers=self.multiplier * full, shifts=self.shift * full,
                zp_in=builder.tensor(self.inputs[0]).zero_point, zp_out=tensor.zero_point,
                lo=lo, hi=hi, band=band,
            ),
        )
        if target is not out:
            builder.elementwise(Copy(), out, target)

    def export(self, exporter: QdqExporter) -> None:
        value = exporter.real(self.inputs[0])
        spots = "abcdefgh"[: self.axis]
        equation = f"{spots}y...,zy->{spots}z..."
        weights = (self.members * np.float64(self.factor)).astype(np.float32)
        (value,) = exporter.node("Einsum", [value, exporter.constant(weights)], equation=equation)
        offset = exporter.constant(np.array(self.offset, np.float32))
        (value,) = exporter.node("Sub", [value, offset])
        exporter.result(self.outputs[0], value)


def band_of(members: Array, rows: int, columns: int) -> Band:
    """Tiles of equal size that read the fewest channels, none behind the last one; or whole tiles
    and all channels where these take no more steps of an array of `rows` x `columns`."""
    count = len(members)
    whole = Band(outputs=columns, step=0, reach=count)
    outputs = -(-count // -(-count // columns))
    starts = np.arange(0, count, outputs)
    empty = ~members.any(axis=1)
    first = np.where(empty, count, members.argmax(axis=1))
    end = np.where(empty, 0, count - members[:, ::-1].argmax(axis=1))
    first, end = np.minimum.reduceat(first, starts), np.maximum.reduceat(end, starts)
    places = np.arange(len(starts))
    if len(starts) == 1:
        return whole
    steps = np.arange(int((first[1:] // places[1:]).min()) + 1)
    reaches = (end - steps[:, None] * places).max(axis=1).clip(1)
    fitting = steps * places[-1] + reaches <= count
    best = int(np.where(fitting, reaches, count).argmin())
    if not fitting[best] or -(-int(reaches[best]) // rows) >= -(-count // rows):
        return whole
    return Band(outputs=outputs, step=int(steps[best]), reach=int(reaches[best]))


def _banded(members: Int8Array, band: Band) -> Int8Array:
    """[channels, reach]: the members by their distance from where the tile begins to read."""
    result = np.zeros((len(members), band.reach), np.int8)
    for tile, low in enumerate(range(0, len(members), band.outputs)):
        start = tile * band.step
        result[low : low + band.outputs] = members[
            low : low + band.outputs, start : start + band.reach
        ]
    return result


def add_channel_sets(
    builder: LayerBuilder, source: QTensor, out: QTensor, members: Array, *, axis: int,
    factor: Fraction | float = 1, offset: float = 0.0, suffix: str = "sets",
) -> None:
    """Add the layer out = factor * (sums of source over `members`) - offset."""
    name = builder.layer_name(suffix)
    real = Fraction(source.scale) * Fraction(factor)
    multiplier, shift = normalize_multiplier(real / Fraction(out.scale), f"layer {name!r}")
    bias = -members.sum(axis=1).astype(np.int64) * source.zero_point
    builder.add(
        ChannelSets(
            name=name, inputs=(source.name,), outputs=(out.name,),
            source_nodes=builder.current.sources, axis=axis, members=members.astype(np.int8),
            factor=float(factor), offset=offset, bias=bias - round(Fraction(offset) / real),
            multiplier=multiplier, shift=shift,
        )
    )
