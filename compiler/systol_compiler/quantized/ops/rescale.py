"""The same values under other numbers: another scale, zero point or width, negated or clipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Copy
from systol_compiler.numbers.arithmetic import saturating_multiplier
from systol_compiler.numbers.limits import INT16_LIMIT, Array
from systol_compiler.numbers.pointwise import by_code, rounded, whole
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Tensors
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescale(Layer):
    """`factor` times the operand, clipped: an exact multiplier, rounded once, half to even.

    Attributes
    ----------
    factor
        Real; may be negative or 0.
    multiplier, shift
        `factor * scale_in / scale_out` as docs/numerics.md, 6 normalizes it, with the factor's
        sign.
    lo, hi
        Clip of the result's codes.
    """

    kind: ClassVar[str] = "rescale"

    factor: float = 1.0
    multiplier: int
    shift: int
    lo: int
    hi: int

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        if source.shape != output.shape:
            raise InputError(
                f"layer {self.name!r}: rescaling keeps the shape, but {source.shape} becomes "
                f"{output.shape}"
            )
        expected = multiplier_of(source, output, self.factor)
        if (self.multiplier, self.shift) != expected:
            raise InputError(
                f"layer {self.name!r}: the multiplier of {self.factor:g} * {source.scale:g} / "
                f"{output.scale:g} is {expected}, not {(self.multiplier, self.shift)}"
            )

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]

        def scaled(codes: Array) -> Array:
            total = whole(codes, source.zero_point)
            total *= self.multiplier
            return rounded(
                total, self.shift, output.zero_point, self.lo, self.hi, output.width
            )

        return [by_code(scaled, values[0])]

    def lower(self, builder: NestBuilder) -> None:
        source, output = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        a = builder.view(source.name)
        if self.factor == 1 and numbers(source) == numbers(output):
            if (self.lo, self.hi) == output.bounds and not builder.claimed(output.name):
                builder.alias(output.name, a)
                return
            builder.elementwise(Copy(), builder.place(output.name), a, lo=self.lo, hi=self.hi)
            return
        builder.elementwise(
            builder.rescale(-source.zero_point, self.multiplier, self.shift),
            builder.place(output.name), a, zero_point=output.zero_point, lo=self.lo, hi=self.hi,
        )

    def export(self, exporter: QdqExporter) -> None:
        value = exporter.real(self.inputs[0])
        if self.factor != 1:
            factor = exporter.constant(np.array(self.factor, np.float32))
            value = exporter.node("Mul", [value, factor])[0]
        exporter.result(self.outputs[0], value, self.lo, self.hi)


def numbers(tensor: QTensor) -> tuple[float, int, int]:
    """Scale, zero point and width: what says which real number a code stands for."""
    return tensor.scale, tensor.zero_point, tensor.width


def multiplier_of(
    source: QTensor, output: QTensor, factor: float | Fraction
) -> tuple[int, int]:
    """Multiplier and shift of `factor * source.scale / output.scale`; (0, 0) of a factor of 0.

    From 2**17 - 1/2 on, the greatest multiplier serves: whatever is not 0 then saturates, as it
    does with the true one.
    """
    real = Fraction(factor) * Fraction(source.scale) / Fraction(output.scale)
    if real == 0:
        return 0, 0
    multiplier, shift = saturating_multiplier(abs(real))
    return (multiplier if real > 0 else -multiplier), shift


def add_rescale(
    builder: LayerBuilder, source: QTensor, output: QTensor, *, factor: float = 1.0,
    clip: tuple[int, int] | None = None, suffix: str = "",
) -> None:
    """Add a layer that gives `factor` times `source` the numbers of `output`."""
    name = builder.layer_name(suffix)
    multiplier, shift = multiplier_of(source, output, factor)
    lo, hi = clip or output.bounds
    builder.add(
        Rescale(
            name=name, inputs=(source.name,), outputs=(output.name,),
            source_nodes=builder.current.sources, factor=factor, multiplier=multiplier,
            shift=shift, lo=lo, hi=hi,
        )
    )


def matched(builder: LayerBuilder, source: QTensor, like: QTensor) -> QTensor:
    """`source` itself if it has the numbers of `like`; else what a new layer rescales it to.

    Operators that only move values need it where calibration or an override gave their tensors
    different numbers.
    """
    if numbers(source) == numbers(like):
        return source
    inner = builder.inner(source.shape, like.scale, like.zero_point, like.width)
    add_rescale(builder, source, inner, suffix="rescale")
    return inner


def narrowed(builder: LayerBuilder, source: QTensor) -> QTensor:
    """A 16-bit tensor as int8 with the finest scale that holds its range."""
    scale = source.scale * INT16_LIMIT / 127
    inner = builder.inner(source.shape, scale, 0)
    add_rescale(builder, source, inner, suffix="narrow")
    return inner
