"""What all normalizations share: y = (x - mean) / sqrt(variance + epsilon), scaled by channel.

The mean has 16 bits, its sum is exact; differences d have 16 bits; so have squares of d, whose sum
is exact again; the root's reciprocal comes from a table for each of a few ranges (`ranged_sum`);
d times it is rounded once, to the result itself where no scale differs from channel to channel.

Deviations are told apart down to half a step of 8 bits, a 512th of the operand's range (in rows of
two elements a 362nd: multipliers reach no further); rows below that are taken as having it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import prod, sqrt

import numpy as np

from systol_compiler.numbers.limits import INT16_LIMIT, Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.ops.pointwise.channel_affine import add_channel_affine
from systol_compiler.quantized.ops.pointwise.elementwise import add_elementwise, reach
from systol_compiler.quantized.ops.pointwise.expression import Expression, Step
from systol_compiler.quantized.ops.pointwise.table import add_table
from systol_compiler.quantized.ops.reductions.ranged_sum import add_ranged, ranges
from systol_compiler.quantized.ops.reductions.row_reduce import add_sum, reduced_shape

_FINEST = 256
"""Half steps of 8 bits in the greatest magnitude; in a range of both signs twice as many."""
_SHORT = 32
"""Rows of fewer elements have variances that few squares decide: those of 8 bits are finer too."""
_MOST_BIAS = 1 << 29
"""Epsilon in steps of a sum of squares: with the squares it stays below 2**31."""
_RATIO = 41.0
"""Widest range of a table: 1/sqrt is off by 2.4e-3 of itself at most, where the range begins."""
_STEPS = 2.0
"""Steps of the squares that a variance must have: fewer round to 0 too often."""
_LARGEST_FACTOR = 1 << 16
"""Between scales: multipliers reach twice as far."""
_ROOT = (Step(op="Sqrt"), Step(op="Reciprocal", inputs=(1,)))

AddMean = Callable[[LayerBuilder, QTensor, QTensor, float], None]
"""Adds the layers that give the second tensor the mean of the first less an offset."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Over what is normalized.

    Attributes
    ----------
    count
        Elements of a row.
    shape
        Of its mean: broadcasts to the operand.
    add_mean
        Adds the layers of a mean.
    """

    count: int
    shape: tuple[int, ...]
    add_mean: AddMean


def rows_over(x: QTensor, axes: tuple[int, ...]) -> Rows:
    """Rows along `axes`."""
    count = prod(x.shape[axis] for axis in axes)

    def add(builder: LayerBuilder, source: QTensor, out: QTensor, offset: float) -> None:
        add_sum(
            builder, source, out, axes, factor=Fraction(1, count), offset=offset, suffix="mean"
        )

    return Rows(count=count, shape=reduced_shape(x.shape, axes), add_mean=add)


def add_normalization(
    builder: LayerBuilder, x: QTensor, out: QTensor, rows: Rows, *, epsilon: float,
    centred: bool, scale: Array, offset: Array, axes: tuple[int, ...],
    clip: tuple[int, int] | None = None,
) -> None:
    """Add the layers out = normalized(x) * scale + offset, which differ along `axes` of x."""
    low, high = reach(x)
    span = high - low if centred else max(-low, high)
    d = _centred(builder, x, rows, span) if centred else x
    shares = _reciprocal_deviation(
        builder, d, rows, span=span, epsilon=epsilon, centred=centred, wide=x.width == 16
    )
    if bool((scale == scale.flat[0]).all()) and not offset.any() and scale.flat[0] > 0:
        add_elementwise(
            builder, "Mul", d, shares, out, factors=(Fraction(float(scale.flat[0])), 1), clip=clip,
            suffix="product",
        )
        return
    # No element of a row is further than sqrt(count) deviations from its mean.
    most = sqrt(rows.count)
    normal = builder.inner(x.shape, most / INT16_LIMIT, 0, 16)
    add_elementwise(builder, "Mul", d, shares, normal, suffix="product")
    long = [axis for axis in axes if x.shape[axis] > 1] or [axes[-1]]
    if len(long) == 1:
        add_channel_affine(
            builder, normal, scale.reshape(-1), offset.reshape(-1), long[0], out, clip
        )
        return
    low, high = reach(out)
    # An offset beyond the result's range would only make its own steps coarse.
    reached = np.clip(offset, 2 * low - high, 2 * high - low)
    name = builder.current.output
    factors = builder.constant(f"{name}.scale", scale, width=16)
    if not reached.any():
        add_elementwise(builder, "Mul", normal, factors, out, clip=clip, suffix="scale")
        return
    terms = builder.constant(f"{name}.offset", reached, width=16)
    largest = most * float(np.abs(scale).max() or 1.0)
    scaled = builder.inner(x.shape, largest / INT16_LIMIT, 0, 16)
    add_elementwise(builder, "Mul", normal, factors, scaled, suffix="scale")
    add_elementwise(builder, "Add", scaled, terms, out, clip=clip, suffix="offset")


def _centred(builder: LayerBuilder, x: QTensor, rows: Rows, span: float) -> QTensor:
    # Powers of two apart, so that rows of equal elements differ from their mean by 0.
    mean = builder.inner(rows.shape, x.scale / (64 if x.width == 8 else 1), 0, 16)
    rows.add_mean(builder, x, mean, 0.0)
    d = builder.inner(x.shape, x.scale / 64 if x.width == 8 else x.scale * 2, 0, 16)
    add_elementwise(builder, "Add", x, mean, d, factors=(1, -1), suffix="centred")
    return d


def _squares(builder: LayerBuilder, d: QTensor, largest: float) -> QTensor:
    squares = builder.inner(d.shape, largest * largest / INT16_LIMIT, 0, 16)
    if d.width == 8:
        add_table(builder, Expression((Step(op="Mul", inputs=(0, 0)),)), d, squares,
                  suffix="square")
    else:
        add_elementwise(builder, "Mul", d, d, squares, suffix="square")
    return squares


def _reciprocal_deviation(
    builder: LayerBuilder, d: QTensor, rows: Rows, *, span: float, epsilon: float, centred: bool,
    wide: bool,
) -> QTensor:
    """1 / sqrt(mean(d * d) + epsilon), with 16 bits."""
    # Values in a range have at most the variance of its two ends.
    greatest = span * span / (4 if centred else 1) + epsilon
    finest = 2 * _FINEST if centred or wide else _FINEST
    least = span * span / min(finest**2, _LARGEST_FACTOR * rows.count)
    least = min(max(least, epsilon), greatest / 2)
    shares = builder.inner(rows.shape, 1.05 / sqrt(least) / INT16_LIMIT, 0, 16)
    # Squares far below epsilon decide nothing: their steps need not be finer than it can be added.
    floor = sqrt(epsilon * rows.count * INT16_LIMIT / _MOST_BIAS)
    coarse = _squares(builder, d, max(span, floor))
    spans = ranges(least, greatest, _RATIO)
    sources = [coarse] * len(spans)
    # Smaller variances get finer squares. Where a mean of squares is below `limit`, no element
    # leaves their range; where one does, they add up to `limit` at least.
    limit = _STEPS * coarse.scale + epsilon
    if (wide or rows.count < _SHORT) and least < limit < greatest / 2:
        fine = _squares(builder, d, max(sqrt(_STEPS * coarse.scale * rows.count), floor))
        below, above = ranges(least, limit, _RATIO), ranges(limit, greatest, _RATIO)
        spans, sources = [*below, *above], [fine] * len(below) + [coarse] * len(above)
    remaining = iter(sources)

    def add(part: QTensor, offset: float) -> None:
        rows.add_mean(builder, next(remaining), part, offset - epsilon)

    add_ranged(builder, add, rows.shape, _ROOT, spans, shares, suffix="deviation")
    return shares
