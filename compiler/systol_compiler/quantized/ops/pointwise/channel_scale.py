"""A constant factor for each index of one axis: exact multipliers, one rounding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Requantize
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.pointwise import rounded, whole
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.ops.rescale import multiplier_of
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelScale(Layer):
    """`factors[i] * x` for index i along `axis`.

    Attributes
    ----------
    axis
        Not the first one.
    factors
        float64, of any sign; of the operand's rank, with all axes but one of size 1.
    multipliers, shifts
        int64 by index: `factors * scale_in / scale_out` as docs/numerics.md, 6 normalizes them,
        with the factors' signs.
    lo, hi
        Clip of the result's codes.
    """

    kind: ClassVar[str] = "channel_scale"

    axis: int
    factors: Array
    multipliers: Array
    shifts: Array
    lo: int
    hi: int

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        wanted = [size if k == self.axis else 1 for k, size in enumerate(source.shape)]
        if source.shape != output.shape or list(self.factors.shape) != wanted:
            raise InputError(
                f"layer {self.name!r}: factors of shape {self.factors.shape} along axis "
                f"{self.axis} of {source.shape} cannot give {output.shape}"
            )
        expected = multipliers_of(source, output, self.factors)
        if not all(
            np.array_equal(own, right)
            for own, right in zip((self.multipliers, self.shifts), expected, strict=True)
        ):
            raise InputError(
                f"layer {self.name!r}: the multipliers are not those of the factors and scales"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        shape = self.factors.shape
        total = whole(values[0], source.zero_point)
        total *= self.multipliers.reshape(shape)
        return [
            rounded(
                total, self.shifts.reshape(shape), output.zero_point, self.lo, self.hi,
                output.width,
            )
        ]

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [innermost(results[0], self.axis, len(tensors[self.inputs[0]].shape))]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [innermost(given[0], self.axis, len(given[0]))]

    def lower(self, builder: NestBuilder) -> None:
        source, output = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        bias = np.full(self.factors.size, -source.zero_point, np.int64)
        operation = Requantize(
            parameters=builder.parameters(bias, self.multipliers, self.shifts)
        )
        builder.elementwise(
            operation, builder.place(output.name), builder.view(source.name),
            zero_point=output.zero_point, lo=self.lo, hi=self.hi, channel_axis=self.axis,
        )

    def export(self, exporter: QdqExporter) -> None:
        factors = exporter.constant(self.factors.astype(np.float32))
        value = exporter.node("Mul", [exporter.real(self.inputs[0]), factors])[0]
        exporter.result(self.outputs[0], value, self.lo, self.hi)


def innermost(order: Order | None, axis: int, rank: int) -> Order:
    """`order` with `axis` moved behind the others."""
    return (*(k for k in order or range(rank) if k != axis), axis)


def multipliers_of(
    source: QTensor, output: QTensor, factors: Array
) -> tuple[Array, Array]:
    """Multipliers and shifts by index."""
    pairs = [multiplier_of(source, output, float(factor)) for factor in factors.reshape(-1)]
    return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)


def add_channel_scale(
    builder: LayerBuilder, source: QTensor, factors: Array, axis: int, output: QTensor,
    clip: tuple[int, int] | None = None, suffix: str = "",
) -> None:
    """Add a layer of `source` times `factors`, one for each index along `axis`."""
    shape = [-1 if k == axis else 1 for k in range(len(source.shape))]
    factors = np.asarray(factors, np.float64).reshape(shape)
    name = builder.layer_name(suffix)
    multipliers, shifts = multipliers_of(source, output, factors)
    lo, hi = clip or output.bounds
    builder.add(
        ChannelScale(
            name=name, inputs=(source.name,), outputs=(output.name,),
            source_nodes=builder.current.sources, axis=axis, factors=factors,
            multipliers=multipliers, shifts=shifts, lo=lo, hi=hi,
        )
    )
