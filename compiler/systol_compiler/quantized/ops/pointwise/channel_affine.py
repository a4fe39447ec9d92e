"""A factor and an offset for each index of one axis, in one pass of the vector unit.

Normalizations end so, and batch normalizations that no product takes are nothing else.

The machine adds an offset before it multiplies, as a whole number of the operand's steps. Where
that is too coarse, bytes are read as both halves of a value of 16 bits, which then is 257 of them:
offsets are 257 times as fine, at one more access for each row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.rows import contiguous
from systol_compiler.nests.vector import Requantize
from systol_compiler.numbers.arithmetic import requantize
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.ops.pointwise.channel_scale import innermost, multipliers_of
from systol_hw.errors import InputError

_MOST_BIAS = 1 << 29
"""Greatest offset in steps of the operand: with any code it stays below 2**31."""
_FINE = 257
"""Steps of a byte that is read as both halves of 16 bits."""
_COARSE = 1 / 16
"""By how many steps of the result whole steps of the operand may miss an offset."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelAffine(Layer):
    """`factors[i] * x + offsets[i]` for index i along `axis`.

    Attributes
    ----------
    rank
        Of the operand.
    factors, offsets
        float64 [size of the axis], of any sign.
    multipliers, shifts
        int64 by index: `factors * scale_in / steps / scale_out` as docs/numerics.md, 6 normalizes
        them, with the factors' signs.
    bias
        int64 by index: the offsets in units of `factors * scale_in / steps`, to be added to `steps`
        times codes less the zero point.
    steps
        Into how many steps each of the operand's is divided: 1, or 257 of a byte.
    lo, hi
        Clip of the result's codes.
    """

    kind: ClassVar[str] = "channel_affine"

    rank: int
    axis: int
    factors: Array
    offsets: Array
    multipliers: Array
    shifts: Array
    bias: Array
    steps: int = 1
    lo: int
    hi: int

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        wanted = (source.shape[self.axis],)
        if source.shape != output.shape or any(
            part.shape != wanted for part in (self.factors, self.offsets, self.bias)
        ):
            raise InputError(
                f"layer {self.name!r}: axis {self.axis} of {source.shape} needs as many factors "
                f"and offsets, but has {self.factors.size} and {self.offsets.size}, for "
                f"{output.shape}"
            )
        if self.steps not in ((1, _FINE) if source.width == 8 else (1,)):
            raise InputError(
                f"layer {self.name!r}: a step of {source.width} bits cannot be divided into "
                f"{self.steps}"
            )
        if int(np.abs(self.bias).max()) > _MOST_BIAS:
            raise InputError(
                f"layer {self.name!r}: an offset must be at most 2**29 steps of the operand, not "
                f"{int(np.abs(self.bias).max())}"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        total = np.moveaxis(values[0].astype(np.int64) - source.zero_point, self.axis, -1)
        result = requantize(
            self.steps * total + self.bias, self.multipliers, self.shifts, output.zero_point,
            self.lo, self.hi, output.width,
        )
        return [np.moveaxis(result, -1, self.axis)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        # Parameters belong to the channels of a row.
        return [innermost(hints[0] or given[0], self.axis, self.rank)]

    def lower(self, builder: NestBuilder) -> None:
        source, output = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        parameters = builder.parameters(
            self.bias - self.steps * source.zero_point, self.multipliers, self.shifts
        )
        given = builder.view(source.name)
        if self.steps == _FINE:
            if not contiguous(given, self.axis):
                given = builder.packed(given, innermost(None, self.axis, self.rank))
            given = replace(given, planes=2)
        builder.elementwise(
            Requantize(parameters=parameters), builder.place(output.name),
            given, zero_point=output.zero_point, lo=self.lo, hi=self.hi, channel_axis=self.axis,
        )

    def export(self, exporter: QdqExporter) -> None:
        shape = [-1 if axis == self.axis else 1 for axis in range(self.rank)]
        value = exporter.real(self.inputs[0])
        for op, numbers in (("Mul", self.factors), ("Add", self.offsets)):
            constant = exporter.constant(numbers.astype(np.float32).reshape(shape))
            value = exporter.node(op, [value, constant])[0]
        exporter.result(self.outputs[0], value, self.lo, self.hi)


def add_channel_affine(
    builder: LayerBuilder, source: QTensor, factors: Array, offsets: Array, axis: int,
    output: QTensor, clip: tuple[int, int] | None = None, suffix: str = "affine",
) -> None:
    """Add a layer of `source` times `factors` plus `offsets` along `axis`."""
    name = builder.layer_name(suffix)
    factors, offsets = factors.astype(np.float64), offsets.astype(np.float64)
    # An offset beside a factor of (nearly) 0: the least factor that can carry it.
    least = np.abs(offsets) / (_MOST_BIAS * source.scale)
    factors = np.where(np.abs(factors) < least, np.copysign(least, factors), factors)
    safe = np.where(factors == 0, 1.0, factors)
    exact = offsets / (safe * source.scale)
    missed = np.abs(exact - np.rint(exact)) * np.abs(factors) * source.scale / output.scale
    steps = _FINE if source.width == 8 and missed.max() > _COARSE else 1
    bias = np.clip(np.rint(steps * exact), -_MOST_BIAS, _MOST_BIAS).astype(np.int64)
    multipliers, shifts = multipliers_of(source, output, factors / steps)
    lo, hi = clip or output.bounds
    builder.add(
        ChannelAffine(
            name=name, inputs=(source.name,), outputs=(output.name,),
            source_nodes=builder.current.sources, rank=len(source.shape), axis=axis,
            factors=factors, offsets=offsets, multipliers=multipliers, shifts=shifts, bias=bias,
            steps=steps, lo=lo, hi=hi,
        )
    )
