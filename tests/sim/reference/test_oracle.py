"""The exact oracle against definitions that it does not use: Python's rounding, numpy's floats."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import (
    accumulate,
    binary,
    copy,
    dequantize,
    fold_bias,
    join_planes,
    normalize_multiplier,
    parameter_index,
    quantize,
    reduce,
    requantize,
    round_half_even,
    round_to_float32,
    split_planes,
    table,
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


@given(st.integers(-32896, 32639))
def test_planes_are_signed_bytes_of_the_value(value: int) -> None:
    low, high = split_planes(value)
    assert join_planes(low, high) == value
    planes = np.array([low, high], np.uint8).view(np.int8).astype(int)
    for weight in (-128, 127, 3):
        assert 256 * (planes[1] * weight) + planes[0] * weight == value * weight


def test_planes_at_the_edges() -> None:
    assert join_planes(128, 128) == -32896 and join_planes(127, 127) == 32639
    assert split_planes(128) == (128, 1), "128 is 256 - 128"
    with pytest.raises(AssertionError):
        split_planes(32640)


def test_accumulation_counts_each_way_out_of_32_bits_once() -> None:
    assert accumulate(5, -3, 1).value == 5 - 768
    shifted = accumulate(0, 1 << 15, 2)
    assert (shifted.value, shifted.overflowed) == (-(1 << 31), True)
    both = accumulate(-(1 << 31), (1 << 15) + 1, 2)
    assert (both.value, both.overflowed) == (1 << 16, True)
    assert not accumulate((1 << 31) - 256, 0, 2).overflowed


def test_windows_may_be_empty() -> None:
    assert reduce([], maximum=True) == -(1 << 31) and reduce([], maximum=False) == 0
    assert reduce([-5, -3], maximum=True) == -3
    assert reduce([(1 << 31) - 1, 2], maximum=False) == -(1 << 31) + 1
    assert [parameter_index(taps, 3) for taps in (0, 1, 2, 3, 9)] == [0, 0, 1, 2, 2]


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(0, 3))
def test_binary_is_real_arithmetic_rounded_once(a: int, b: int, function: int) -> None:
    real = (Fraction(a + b, 8), Fraction(a * b, 8), Fraction(min(a, b), 8),
            Fraction(max(a, b), 8))[function]
    result = binary(a + 7, b - 9, function=function, multipliers=(1, 1), zero_points=(7, -9),
                    shift=3, zero_point=2, width=1, low=-32768, high=32767)
    assert result.value == max(min(round(real) + 2, 32639), -32639)
    assert result.saturated == (abs(round(real) + 2) > 32639)


def test_binary_at_its_greatest() -> None:
    most = binary(-32896, 32639, function=1, multipliers=(-(1 << 17), 0), zero_points=(127, -128),
                  shift=48, zero_point=0)
    assert most.value == round(Fraction(33023 * 32767 << 17, 1 << 48)) == 1


@given(st.integers(-128, 127), st.lists(st.integers(-128, 127), min_size=256, max_size=256))
def test_byte_tables_hold_results(value: int, entries: list[int]) -> None:
    found = table(value, entries, value_width=0, shift=8, zero_point=0)
    assert (found.value, found.saturated) == (entries[value + 128], False)


@given(st.integers(-32896, 32639))
def test_straight_lines_are_interpolated_exactly(value: int) -> None:
    knots = [100 * k - 12800 for k in range(257)]
    inside = max(value, -32768)
    found = table(value, knots, value_width=1, shift=8, zero_point=0, width=1, low=-32768,
                  high=32767)
    assert found.value == round(Fraction(100 * inside, 256))


def test_copies_are_clipped_or_raw() -> None:
    assert copy(40000, low=-32768, high=32767, width=1) == 32639
    assert copy(40000, low=-5, high=9, width=0) == 9
    assert copy(-(1 << 31), width=2) == -(1 << 31)
    assert copy(0, low=9, high=3) == 3


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
