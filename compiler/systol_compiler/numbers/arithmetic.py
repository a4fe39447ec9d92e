"""The fixed-point rules that the quantizer obeys: boundaries, multipliers and overflow proofs."""

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from systol_compiler.numbers.limits import (
    ACCUMULATOR_LIMIT,
    INT8_MAX,
    INT8_MIN,
    MULTIPLIER_MAX,
    MULTIPLIER_MIN,
    SHIFT_MAX,
    Array,
    Float32Array,
    Int8Array,
    Int32Array,
    bounds,
)
from systol_hw.errors import InputError, UnsupportedModelError

INNER_SHIFT_MAX = 62
"""Every shift from 49 on gives zero, and one of 62 leaves a sign bit of 64."""
_FACTOR_LIMIT = 2**17 - 0.5
"""From here on, a factor rounds to 2**17 with shift 0, which no pair can express."""


def quantize(
    values: npt.ArrayLike, scale: float, zero_point: int, width: int = 8
) -> npt.NDArray[Any]:
    """`saturate(round_half_even(values / scale) + zero_point)` in float32, int8 or int16.

    Raises
    ------
    InputError
        A value is NaN, which has no neighbour among the integers. Infinities saturate.
    """
    real = np.asarray(values, dtype=np.float32)
    if np.isnan(real).any():
        raise InputError(
            "an input to be quantized must not contain NaN; found "
            f"{int(np.isnan(real).sum())} of {real.size} values; clean the data"
        )
    least, greatest = bounds(width)
    with np.errstate(over="ignore"):
        steps = np.rint(real / np.float32(scale)) + np.float32(zero_point)
    kind = np.int8 if width == 8 else np.int16
    result: npt.NDArray[Any] = np.clip(
        steps, np.float32(least), np.float32(greatest)
    ).astype(kind)
    return result


def dequantize(
    values: npt.NDArray[np.signedinteger], scale: float, zero_point: int
) -> Float32Array:
    """`(values - zero_point) * scale` in float32."""
    # In place: a large output would otherwise be there three times.
    real: Float32Array = values.astype(np.float32)
    real -= np.float32(zero_point)
    real *= np.float32(scale)
    return real


def normalize_multiplier(real: float | Fraction, place: str) -> tuple[int, int]:
    """The pair (m, s), m in 2**16..2**17-1, s in 0..63, whose m / 2**s lies nearest to `real`.

    s is the least shift for which `real * 2**s >= 2**16`, m rounds half to even, and an m of 2**17
    carries into s. A `real` below 2**-47 gives the smallest pair, which maps every 32-bit
    accumulator to zero just as `real` does.

    Raises
    ------
    UnsupportedModelError
        `real` is not a positive finite number below 2**17 - 1/2; `place` starts the message.
    """
    if not 0 < real < _FACTOR_LIMIT:
        raise UnsupportedModelError(
            f"{place}: the requantization factor scale_in * scale_weight / scale_out must lie in "
            f"(0, 2**17 - 1/2), but is {float(real):g}; the output range is too narrow for these "
            "weights: widen the Clip, or override the output tensor's scale"
        )
    exact = Fraction(real)
    # The quotient of two numbers of n and d bits has n - d or n - d + 1 bits before its point.
    shift = 17 - (exact.numerator.bit_length() - exact.denominator.bit_length())
    if exact * Fraction(2) ** shift >= 2 * MULTIPLIER_MIN:
        shift -= 1
    multiplier = round(exact * Fraction(2) ** shift)
    if multiplier > MULTIPLIER_MAX:
        multiplier, shift = MULTIPLIER_MIN, shift - 1
    if shift > SHIFT_MAX:
        return MULTIPLIER_MIN, SHIFT_MAX
    return multiplier, shift


def saturating_multiplier(real: Fraction) -> tuple[int, int]:
    """`normalize_multiplier` of a positive factor of any size.

    From 2**17 - 1/2 on, where no pair is near, the greatest pair serves: any number but 0 then
    saturates, as it does with the true factor.
    """
    if real >= _FACTOR_LIMIT:
        return MULTIPLIER_MAX, 0
    return normalize_multiplier(real, "a factor")


def normalize_multipliers(
    input_scale: float, weight_scales: Float32Array, output_scale: float
) -> tuple[Int32Array, Int32Array]:
    """`saturating_multiplier(input_scale * w / output_scale)` for every w: int32 [O] each.

    All scales are positive numbers of binary32; the result is exact.
    """
    mantissas, exponents = np.frexp(np.asarray(weight_scales, np.float64))
    (x, x_power), (y, y_power) = np.frexp(input_scale), np.frexp(output_scale)
    # Whole numbers of 24 bits, whose product of 48 bits and quotients are exact.
    product = (mantissas * 2**24).astype(np.int64) * np.int64(x * 2**24)
    divisor = np.int64(y * 2**24)
    # The quotient lies in 2**22 .. 2**25: halve it until it lies below 2**17.
    halvings = np.full(product.shape, 5, np.int64)
    for step in (6, 7, 8):
        halvings[product >= divisor << (step + 16)] = step
    divisors = divisor << halvings
    multipliers, rest = np.divmod(product, divisors)
    multipliers += (2 * rest > divisors) | ((2 * rest == divisors) & (multipliers % 2 == 1))
    shifts = 24 - halvings - (exponents + int(x_power) - int(y_power)).astype(np.int64)
    carried = multipliers > MULTIPLIER_MAX
    multipliers[carried], shifts[carried] = MULTIPLIER_MIN, shifts[carried] - 1
    tiny, huge = shifts > SHIFT_MAX, shifts < 0
    multipliers[tiny], shifts[tiny] = MULTIPLIER_MIN, SHIFT_MAX
    multipliers[huge], shifts[huge] = MULTIPLIER_MAX, 0
    return multipliers.astype(np.int32), shifts.astype(np.int32)


def weight_sums(weights: Int8Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sums of each row's positive weights and of its negative ones' magnitudes: int64 [O] each.

    `weights` is [O, ...]; it is read in pieces, without a copy of any size.
    """
    flat = weights.reshape(weights.shape[0], -1)
    total = np.zeros(len(flat), np.int64)
    magnitude = np.zeros(len(flat), np.int64)
    rows = max(1, _SUM_ELEMENTS // max(1, min(flat.shape[1], _SUM_COLUMNS)))
    for first in range(0, len(flat), rows):
        for low in range(0, flat.shape[1], _SUM_COLUMNS):
            # Exact in binary32: 2**16 numbers of at most 2**7.
            piece = flat[first : first + rows, low : low + _SUM_COLUMNS].astype(np.float32)
            ones = np.ones(piece.shape[1], np.float32)
            total[first : first + rows] += (piece @ ones).astype(np.int64)
            np.abs(piece, out=piece)
            magnitude[first : first + rows] += (piece @ ones).astype(np.int64)
    return (magnitude + total) // 2, (magnitude - total) // 2


_SUM_COLUMNS = 1 << 16
_SUM_ELEMENTS = 1 << 18

INT8_REACH = (INT8_MIN, INT8_MAX)
"""Least and greatest activation of 8 bits, padding included."""
INT16_REACH = (-32896, 32639)
"""Least and greatest number that two signed bytes stand for."""


def accumulator_bounds(
    weights: Int8Array,
    bias: npt.NDArray[np.integer],
    reach: tuple[int, int] = INT8_REACH,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Least and greatest value that any partial or total sum of a channel can take.

    `weights` is [O, ...], `bias` [O]; inputs, padding included, lie anywhere in `reach`. The
    bounds hold in whatever order products are added, with the bias first, last or never.
    """
    positive, negative = weight_sums(weights)
    wide_bias = bias.astype(np.int64)
    low, high = reach
    greatest = high * positive - low * negative
    least = low * positive - high * negative
    return least + np.minimum(wide_bias, 0), greatest + np.maximum(wide_bias, 0)


def prove_no_overflow(
    weights: Int8Array,
    bias: npt.NDArray[np.integer],
    place: str,
    reach: tuple[int, int] = INT8_REACH,
) -> None:
    """Refuse weights and bias for which some input could leave the 32-bit accumulator.

    Raises
    ------
    UnsupportedModelError
        A sum could reach a magnitude of 2**31; `place` starts the message.
    """
    least, greatest = accumulator_bounds(weights, bias, reach)
    magnitude = np.maximum(-least, greatest)
    worst = int(np.argmax(magnitude))
    if int(magnitude[worst]) >= ACCUMULATOR_LIMIT:
        kind = "int8" if reach == INT8_REACH else "16-bit"
        raise UnsupportedModelError(
            f"{place}: |accumulator + bias| must stay below 2**31 for every {kind} input, but "
            f"output channel {worst} can reach {int(magnitude[worst])} over {weights[worst].size} "
            "products; split the layer's input channels over two layers, or reduce its bias"
        )


def round_shift(product: Array, shift: npt.ArrayLike) -> Array:
    """`round_half_even(product / 2**shift)`, exact; int64 in, int64 out, |product| < 2**62."""
    wide = np.asarray(product, np.int64)
    bits = np.minimum(np.asarray(shift, np.int64), INNER_SHIFT_MAX)
    floor = wide >> bits
    twice = (wide - (floor << bits)) * 2
    unit = np.int64(1) << bits
    result: Array = floor + ((twice > unit) | ((twice == unit) & (floor % 2 == 1)))
    return result


def requantize(
    total: Array, multipliers: npt.ArrayLike, shifts: npt.ArrayLike, zero_point: int, lo: int,
    hi: int, width: int = 8,
) -> Array:
    """`total` (bias included; its last axis is that of the parameters) to int8 or int16: exact,
    half to even, saturated, clipped (docs/numerics.md, 4)."""
    product = np.asarray(total, np.int64) * np.asarray(multipliers, np.int64)
    return saturate(round_shift(product, shifts) + zero_point, lo, hi, width)


def saturate(values: Array, lo: int, hi: int, width: int = 8) -> Array:
    """Clip to `lo..hi`, then to the range of `width` bits; int8 or int16."""
    least, greatest = bounds(width)
    clipped = np.clip(np.minimum(np.maximum(values, lo), hi), least, greatest)
    result: Array = clipped.astype(np.int8 if width == 8 else np.int16)
    return result
