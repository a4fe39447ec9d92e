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
class Result:
    """A result of 8 or 16 bits, and what was counted on the way."""

    value: int
    saturated: bool
    overflowed: bool = False


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


def activation(byte: int, *, unsigned: bool) -> int:
    """What a byte (0..255) enters the array as."""
    if unsigned:
        return byte - 128
    return byte if byte < 128 else byte - 256


def join_planes(low: int, high: int) -> int:
    """The 16-bit value of two bytes (0..255 each), both of them signed numbers."""
    return activation(low, unsigned=False) + 256 * activation(high, unsigned=False)


def split_planes(value: int) -> tuple[int, int]:
    """The bytes (0..255) of the low and the high plane of `value`, -32896..32639."""
    low = (value + 128) % 256 - 128
    high = Fraction(value - low, 256)
    assert high.denominator == 1 and -128 <= high <= 127
    return low % 256, int(high) % 256


def saturate(value: int, width: int = 0) -> int:
    """To 8 bits, or with `width` 1 to 16."""
    most = 32639 if width else 127
    least = -32639 if width else -128
    return min(max(value, least), most)


def reduce(taps: Sequence[int], *, maximum: bool) -> int:
    """The window's value from its taps inside, which may be none."""
    if maximum:
        return max((-(1 << 31), *taps))
    return wrap32(sum(taps)).value


def parameter_index(taps: int, count: int) -> int:
    """Which of `count` parameters a mean over `taps` taps uses."""
    if taps < 1:
        return 0
    return taps - 1 if taps < count else count - 1


def dot(activations: Sequence[int], weights: Sequence[int]) -> int:
    """The sum of products of one row with one column; at most 256 terms, so it always fits."""
    return sum(a * w for a, w in zip(activations, weights, strict=True))


def accumulate(previous: int, total: int, shift: int = 0) -> Sum:
    """One accumulation of a row's sum, which counts 2**(8 * shift) times."""
    added = wrap32(total * 256**shift)
    result = wrap32(previous + added.value)
    return Sum(value=result.value, overflowed=added.overflowed or result.overflowed)


def _finish(exact: Fraction, zero_point: int, low: int, high: int, width: int) -> Result:
    q = round_half_even(exact) + zero_point
    return Result(
        value=saturate(min(max(q, low), high), width), saturated=saturate(q, width) != q
    )


def requantize(
    value: int,
    *,
    bias: int,
    multiplier: int,
    shift: int,
    zero_point: int,
    low: int = -128,
    high: int = 127,
    width: int = 0,
) -> Result:
    """`(value + bias) * multiplier / 2**shift`, rounded, moved, clipped and saturated."""
    total = wrap32(value + bias)
    exact = Fraction(total.value * multiplier, 1 << shift)
    finished = _finish(exact, zero_point, low, high, width)
    return Result(
        value=finished.value, saturated=finished.saturated, overflowed=total.overflowed
    )


def copy(value: int, *, low: int = -128, high: int = 127, width: int = 0) -> int:
    """The clipped value, or with `width` 2 the raw one."""
    return value if width == 2 else saturate(min(max(value, low), high), width)


def binary(
    a: int,
    b: int,
    *,
    function: int,
    multipliers: tuple[int, int],
    zero_points: tuple[int, int],
    shift: int,
    zero_point: int,
    low: int = -128,
    high: int = 127,
    width: int = 0,
) -> Result:
    """Add, mul, min or max (0..3) of two operands; pairs are A's and B's."""
    a, b = a - zero_points[0], b - zero_points[1]
    one, other = Fraction(a * multipliers[0]), Fraction(b * multipliers[1])
    results = (one + other, one * b, min(one, other), max(one, other))
    return _finish(results[function] / (1 << shift), zero_point, low, high, width)


def table(
    value: int,
    knots: Sequence[int],
    *,
    value_width: int,
    shift: int,
    zero_point: int,
    low: int = -128,
    high: int = 127,
    width: int = 0,
) -> Result:
    """The function whose values at -128..127 (and, of 257 knots, at 128) `knots` are; a 16-bit
    argument counts 256ths of a knot's step, and only 257 knots are interpolated between."""
    x = Fraction(value, 256) if value_width else Fraction(value)
    x = max(min(x, Fraction(32767, 256)), Fraction(-128))
    place = x.numerator // x.denominator
    y = Fraction(knots[place + 128])
    if len(knots) == 257:
        y += (x - place) * (knots[place + 129] - knots[place + 128])
    return _finish(y * 256 / (1 << shift), zero_point, low, high, width)


def normalize_multiplier(scale: Fraction) -> tuple[int, int]:
    """(multiplier, shift): multiplier / 2**shift is the nearest to `scale` that 18 bits allow.

    The multiplier lies in 2**16 .. 2**17 - 1. A scale below 2**-47 gives (2**16, 63): every product
    with a 32-bit number then rounds to zero.

    Raises
    ------
    ValueError
        If `scale` is not positive, or 2**17 or more, or rounds to it.
    """
    if not 0 < scale < 2 * MULTIPLIER_LOW:
        raise ValueError(f"scale must lie in (0, 2**17), not {scale}")
    if scale < Fraction(1, 1 << 47):
        return MULTIPLIER_LOW, 63
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
