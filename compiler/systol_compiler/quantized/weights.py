"""Weights to int8, one scale for each output channel, with exact biases and multipliers."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from systol_compiler.numbers.arithmetic import (
    INT8_REACH,
    INT16_REACH,
    accumulator_bounds,
    normalize_multipliers,
    weight_sums,
)
from systol_compiler.numbers.limits import (
    ACCUMULATOR_LIMIT,
    INT8_MAX,
    Array,
    Float32Array,
    Int8Array,
    Int32Array,
)
from systol_compiler.numbers.tensor import QTensor

_RATIOS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
"""Ranges that the search tries, relative to a channel's greatest weight."""
_REFINEMENTS: Final = (-0.025, -0.0125, 0.0125, 0.025)
"""Ranges tried around the best of them, also relative to the greatest weight."""
_PIECE: Final = 1 << 16
"""Weights that are worked on at a time: what fits a core's own cache."""
_BIAS_LIMIT: Final = 2.0**29
"""Magnitude that a bias may reach: a quarter of what an accumulator holds."""
_FINE: Final = 2.0**-8
"""Steps of the output to which the bias of a channel without weights is rounded."""
_SMALLEST_SCALE: Final = 2.0**-126
"""The least normal number of binary32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedWeights:
    """Weights of a product and their numbers, by output channel.

    Attributes
    ----------
    codes
        int8 [O, K], -127..127: `real = code * scale`.
    scales
        float32 [O], positive.
    bias
        int32 [O] of scale `input scale * scale`; the input's zero point is not folded in.
    multipliers, shifts
        int32 [O]: requantization to the output's scale.
    """

    codes: Int8Array
    scales: Float32Array
    bias: Int32Array
    multipliers: Int32Array
    shifts: Int32Array


def quantize_weights(
    weights: Array, bias: npt.NDArray[np.float64], source: QTensor, target: QTensor
) -> QuantizedWeights:
    """Weights [O, K] (finite, of any strides) and biases [O] between two tensors.

    Scales minimize each channel's squared error. They grow where else a bias, or some sum of
    products with values of `source`'s width, would leave 32 bits: so this never fails.
    """
    scales = search_scales(weights)
    step = np.float64(source.scale)
    dead = scales == 0
    scales[dead] = target.scale / step * _FINE
    scales = np.maximum(scales, np.maximum(np.abs(bias) / (step * _BIAS_LIMIT), _SMALLEST_SCALE))
    rounded = scales.astype(np.float32)
    codes = encode(weights, rounded)
    reach = INT8_REACH if source.width == 8 else INT16_REACH
    while True:
        integers = exact_bias(bias, source.scale, rounded)
        positive, negative = weight_sums(codes)
        total = integers - source.zero_point * (positive - negative)
        least, greatest = accumulator_bounds(codes, total, reach)
        magnitude = np.maximum(-least, greatest)
        wrong = np.flatnonzero(magnitude >= ACCUMULATOR_LIMIT)
        if not wrong.size:
            break
        growth = magnitude[wrong] / ACCUMULATOR_LIMIT * 1.01
        rounded[wrong] *= growth.astype(np.float32)
        codes[wrong] = encode(weights[wrong], rounded[wrong])
    multipliers, shifts = normalize_multipliers(source.scale, rounded, target.scale)
    return QuantizedWeights(
        codes=codes, scales=rounded, bias=integers.astype(np.int32), multipliers=multipliers,
        shifts=shifts,
    )


def search_scales(weights: Array) -> npt.NDArray[np.float64]:
    """The scale of each row of [O, K] whose codes have the least squared error; 0 for a row of
    zeros. Some twenty ranges are tried for each."""
    best = np.zeros(weights.shape[0], np.float64)
    for rows, piece in _pieces(weights):
        most = np.abs(piece).max(axis=1, initial=0.0)
        live = most > 0
        if not live.any():
            continue
        piece, most = piece[live], most[live].astype(np.float64)
        work = (np.empty_like(piece), np.empty_like(piece))
        ratios = np.ones(len(most))
        errors = _squared_errors(piece, most, ratios, work)
        for ratio in _RATIOS[1:]:
            _improve(piece, most, np.full(len(most), ratio), ratios, errors, work)
        centre = ratios.copy()
        for offset in _REFINEMENTS:
            _improve(piece, most, np.minimum(centre + offset, 1.0), ratios, errors, work)
        found = np.zeros(len(live))
        found[live] = most * ratios / INT8_MAX
        best[rows] = found
    return best


def _improve(
    piece: Float32Array, most: Array, tried: Array, ratios: Array, errors: Array,
    work: tuple[Float32Array, Float32Array],
) -> None:
    """Take the ranges `tried` into `ratios` for the rows in which they have less error."""
    found = _squared_errors(piece, most, tried, work)
    better = found < errors
    ratios[better], errors[better] = tried[better], found[better]


def _squared_errors(
    piece: Float32Array, most: Array, ratios: Array, work: tuple[Float32Array, Float32Array]
) -> Array:
    scaled, codes = work
    scales = most * ratios / INT8_MAX
    factors = (1 / np.maximum(scales, _SMALLEST_SCALE)).astype(np.float32)
    np.multiply(piece, factors[:, None], out=scaled)
    np.rint(scaled, out=codes)
    np.clip(codes, -INT8_MAX, INT8_MAX, out=codes)
    np.subtract(scaled, codes, out=scaled)
    result: Array = np.einsum("ij,ij->i", scaled, scaled) * scales**2
    return result


def encode(weights: Array, scales: Float32Array) -> Int8Array:
    """`round_half_even(weights / scales)` within -127..127 by row: int8 [O, K]."""
    codes = np.empty(weights.shape, np.int8)
    for rows, piece in _pieces(weights):
        steps = np.rint(piece / scales[rows, None])
        np.clip(steps, -INT8_MAX, INT8_MAX, out=steps)
        codes[rows] = steps.astype(np.int8)
    return codes


def _pieces(weights: Array) -> Iterator[tuple[slice, Float32Array]]:
    """Rows of the array as float32, a few at a time."""
    rows = max(1, _PIECE // max(1, weights.shape[1]))
    for first in range(0, weights.shape[0], rows):
        place = slice(first, min(first + rows, weights.shape[0]))
        yield place, np.ascontiguousarray(weights[place], np.float32)


def exact_bias(
    bias: npt.NDArray[np.float64], source_scale: float, scales: Float32Array
) -> npt.NDArray[np.int64]:
    """`round_half_even(bias / (source_scale * scales))` of the exact quotients: int64 [O]."""
    # The product of two numbers of 24 bits is exact in binary64, the quotient is not.
    steps = np.float64(source_scale) * scales.astype(np.float64)
    quotients = np.asarray(bias, np.float64) / steps
    result = np.rint(quotients).astype(np.int64)
    ties = np.abs(np.abs(quotients - np.floor(quotients)) - 0.5) <= np.abs(quotients) * 2.0**-50
    doubtful = ties | (np.abs(quotients) >= 2.0**40)
    for channel in np.flatnonzero(doubtful):
        exact = Fraction(float(bias[channel])) / Fraction(float(steps[channel]))
        result[channel] = round(exact)
    return result
