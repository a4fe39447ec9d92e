"""The exact oracle against definitions that it does not use: Python's rounding, numpy's floats."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_sim.oracle import (
    dequantize,
    fold_bias,
    normalize_multiplier,
    quantize,
    requantize,
    round_half_even,
    round_to_float32,
    wrap32,
)

_FLOATS = st.floats(-1e6, 1e6, width=32)
_SCALES = st.floats(2.0**-20, 2.0**10, width=32)


@given(st.fractions())
def test_rounding_is_half_even(value: Fraction) -> None:
    assert round_half_even(value) == round(value)


@given(st.integers(-1000, 1000))
def test_ties_go_to_the_even_number(n: int) -> None:
    assert round_half_even(Fraction(2 * n + 1, 2)) % 2 == 0


@given(st.integers(-(1 << 40), 1 << 40))
def test_wrapping_is_a_cast(value: int) -> None:
    result = wrap32(value)
    assert result.value == int(np.int64(value).astype(np.int32))
    assert result.overflowed == (result.value != value)


@given(st.fractions(min_value=Fraction(1, 1 << 47), max_value=Fraction((1 << 17) - 1)))
def test_multipliers_are_normalized_and_nearest(scale: Fraction) -> None:
    multiplier, shift = normalize_multiplier(scale)
    assert 1 << 16 <= multiplier < 1 << 17 and 0 <= shift <= 63
    error = abs(Fraction(multiplier, 1 << shift) - scale)
    assert error / scale <= Fraction(1, 1 << 17)
    for other in (multiplier - 1, multiplier + 1):
        assert error <= abs(Fraction(other, 1 << shift) - scale)


def test_multipliers_at_the_edges() -> None:
    assert normalize_multiplier(Fraction(1)) == (1 << 16, 16)
    assert normalize_multiplier(1 - Fraction(1, 1 << 30)) == (1 << 16, 16)
    assert normalize_multiplier(Fraction(1, 1 << 47)) == (1 << 16, 63)
    assert normalize_multiplier(Fraction(1, 1 << 48)) == (1 << 16, 63)
    for scale in (Fraction(0), Fraction(-1), Fraction(1 << 17), (1 << 17) - Fraction(1, 4)):
        with pytest.raises(ValueError, match=r"2\*\*17"):
            normalize_multiplier(scale)


def test_requantize_at_the_edges() -> None:
    half = requantize(1, bias=0, multiplier=1 << 16, shift=17, zero_point=0)
    assert half.value == 0, "one half rounds to the even zero"
    assert requantize(3, bias=0, multiplier=1 << 16, shift=17, zero_point=1).value == 3
    over = requantize(1, bias=(1 << 31) - 1, multiplier=1, shift=0, zero_point=0)
    assert over.overflowed and over.saturated and over.value == -128
    clipped = requantize(100, bias=0, multiplier=1, shift=0, zero_point=0, high=50)
    assert (clipped.value, clipped.saturated) == (50, False)
    assert requantize(0, bias=0, multiplier=1, shift=0, zero_point=0, low=9, high=3).value == 3


def test_folded_bias_counts_from_the_zero_point() -> None:
    weights, q, zero_point = [3, -7, 11], [5, 6, -128], -4
    folded = fold_bias(100, zero_point, weights)
    raw = sum(a * w for a, w in zip(q, weights, strict=True))
    centred = sum((a - zero_point) * w for a, w in zip(q, weights, strict=True))
    assert raw + folded == centred + 100
    with pytest.raises(OverflowError):
        fold_bias((1 << 31) - 1, -128, [1])


@given(st.floats(width=64, allow_nan=False, min_value=-1e38, max_value=1e38))
def test_rounding_to_float32_is_the_cast(value: float) -> None:
    assert round_to_float32(Fraction(value)) == Fraction(float(np.float32(value)))


@given(_FLOATS, _SCALES, st.integers(-128, 127))
def test_boundaries_are_numpy_in_float32(x: float, scale: float, zero_point: int) -> None:
    quotient = np.float32(x) / np.float32(scale)
    expected = int(np.clip(np.rint(quotient).astype(np.float64) + zero_point, -128, 127))
    q = quantize(Fraction(x), Fraction(scale), zero_point)
    assert q == expected
    back = np.float32(q - zero_point) * np.float32(scale)
    assert dequantize(q, Fraction(scale), zero_point) == Fraction(float(back))
