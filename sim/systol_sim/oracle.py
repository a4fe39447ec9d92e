"""The machine's element arithmetic in exact rationals: the yardstick of docs/numerics.md.

Everything works on Python integers and `fractions.Fraction`, one element at a time. Only tests and
the curious call it; no executor does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MULTIPLIER_LOW = 1 << 16
"""The least normalized multiplier; the greatest is `2 * MULTIPLIER_LOW - 1`."""
_FLOAT32_BITS = 24
_FLOAT32_LEAST_EXPONENT = -149


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A 32-bit result, and whether the exact one did not fit."""

    value: int
    overflowed: bool


@dataclass(frozen=True, kw_only=True)
class Requantized:
    """An 8-bit result, and what was counted on the way."""

    value: int
    saturated: bool
    overflowed: bool


def wrap32(value: int) -> Sum:
    """`value` as a signed 32-bit number."""
    wrapped = value & 0xFFFFFFFF
    if wrapped >= 1 << 31:
        wrapped -= 1 << 32
    return Sum(value=wrapped, overflowed=wrapped != value)


def round_half_even(value: Fraction) -> int:
    """The nearest integer; of two equally near ones the even."""
    low = value.numerator // value.denominator
    above = value - low
    if above > Fraction(1, 2) or (above == Fraction(1, 2) and low % 2 == 1):
        return low + 1
    return low


def dot(activations: Sequence[int], weights: Sequence[int]) -> int:
    """The sum of products of one row with one column; at most 256 terms, so it always fits."""
    return sum(a * w for a, w in zip(activations, weights, strict=True))


def accumulate(previous: int, total: int) -> Sum:
    """One accumulation."""
    return wrap32(previous + total)


def requantize(
    value: int,
    *,
    bias: int,
    multiplier: int,
    shift: int,
    zero_point: int,
    low: int = -128,
    high: int = 127,
) -> Requantized:
    """`saturate(round_half_even((value + bias) * multiplier / 2**shift) + zero_point)`, clipped."""
    total = wrap32(value + bias)
    exact = round_half_even(Fraction(total.value * multiplier, 1 << shift)) + zero_point
    saturated = min(max(exact, -128), 127)
    return Requantized(
        value=min(max(saturated, low), high),
        saturated=saturated != exact,
        overflowed=total.overflowed,
    )


def normalize_multiplier(scale: Fraction) -> tuple[int, int]:
    """(multiplier, shift): multiplier / 2**shift is the nearest to `scale` that 18 bits allow.

    The multiplier lies in 2**16 .. 2**17 - 1. A scale below 2**-47 gives (0, 0): every product with
    a 32-bit number then rounds to zero.

    Raises
    ------
    ValueError
        If `scale` is not positive, or 2**17 or more, or rounds to it.
    """
    if not 0 < scale < 2 * MULTIPLIER_LOW:
        raise ValueError(f"scale must lie in (0, 2**17), not {scale}")
    if scale < Fraction(1, 1 << 47):
        return 0, 0
    shift = 0
    while scale * (1 << shift) < MULTIPLIER_LOW:
        shift += 1
    multiplier = round_half_even(scale * (1 << shift))
    if multiplier == 2 * MULTIPLIER_LOW:
        if shift == 0:
            raise ValueError(f"scale {scale} rounds to 2**17")
        multiplier, shift = MULTIPLIER_LOW, shift - 1
    return multiplier, shift


def fold_bias(bias: int, zero_point: int, weights: Sequence[int]) -> int:
    """The bias that makes raw activations count as differences from `zero_point`.

    Raises
    ------
    OverflowError
        If it does not fit 32 bits.
    """
    folded = wrap32(bias - zero_point * sum(weights))
    if folded.overflowed:
        raise OverflowError(f"bias {bias} with zero point {zero_point} leaves 32 bits")
    return folded.value


def round_to_float32(value: Fraction) -> Fraction:
    """The nearest binary32 number to `value`, ties to even; without infinities."""
    if value == 0:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - _FLOAT32_BITS + 1, _FLOAT32_LEAST_EXPONENT)
    return round_half_even(value / unit) * unit


def quantize(
    x: Fraction, scale: Fraction, zero_point: int, low: int = -128, high: int = 127
) -> int:
    """The boundary from float to machine: `saturate(round_half_even(x / scale) + zero_point)`.

    `x` and `scale` are binary32 numbers, and the quotient is rounded to one.
    """
    return min(max(round_half_even(round_to_float32(x / scale)) + zero_point, low), high)


def dequantize(q: int, scale: Fraction, zero_point: int) -> Fraction:
    """The boundary from machine to float: `(q - zero_point) * scale`, rounded to binary32."""
    return round_to_float32((q - zero_point) * scale)
