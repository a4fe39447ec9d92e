"""The fixed-point rules against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.numbers.arithmetic import (
    accumulator_bounds,
    dequantize,
    normalize_multiplier,
    normalize_multipliers,
    prove_no_overflow,
    quantize,
    saturating_multiplier,
    weight_sums,
)
from systol_hw.errors import InputError, UnsupportedModelError


@given(
    st.one_of(
        st.floats(min_value=2.0**-46, max_value=2.0**17 - 1),
        st.fractions(min_value=Fraction(1, 2**46), max_value=2**17 - 1),
    )
)
def test_multiplier_is_normalized_and_nearest(real: float | Fraction) -> None:
    multiplier, shift = normalize_multiplier(real, "here")
    assert 2**16 <= multiplier < 2**17
    assert 0 <= shift <= 63
    error = abs(Fraction(multiplier, 2**shift) - Fraction(real))
    for other in (multiplier - 1, multiplier + 1):
        assert error <= abs(Fraction(other, 2**shift) - Fraction(real))


def test_multiplier_that_rounds_up_is_normalized_again() -> None:
    assert normalize_multiplier(1.0 - 2.0**-30, "here") == (1 << 16, 16)
    assert normalize_multiplier(2.0**17 - 0.75, "here") == ((1 << 17) - 1, 0)


@given(st.floats(min_value=5e-324, max_value=2.0**-47))
def test_tiny_factors_map_every_accumulator_to_zero(real: float) -> None:
    multiplier, shift = normalize_multiplier(real, "here")
    assert Fraction(2**31 * multiplier, 2**shift) <= Fraction(1, 2)


@pytest.mark.parametrize("real", [0.0, -1.0, 2.0**17 - 0.5, float("inf"), float("nan")])
def test_factor_out_of_range_is_refused(real: float) -> None:
    message = r"^node 'a': the requantization factor .*2\*\*17"
    with pytest.raises(UnsupportedModelError, match=message):
        normalize_multiplier(real, "node 'a'")


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    values = [-1e30, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e30, float("inf")]
    assert quantize(values, 1.0, 3).tolist() == [-128, 1, 1, 3, 3, 5, 5, 127, 127]


def test_quantize_refuses_nan() -> None:
    with pytest.raises(InputError, match="NaN; found 1 of 2 values"):
        quantize([1.0, float("nan")], 1.0, 0)


@given(
    st.integers(-128, 127),
    st.integers(-128, 127),
    st.floats(min_value=2.0**-60, max_value=2.0**60, width=32),
)
def test_quantize_inverts_dequantize(value: int, zero_point: int, scale: float) -> None:
    stored = np.array([value], dtype=np.int8)
    assert quantize(dequantize(stored, scale, zero_point), scale, zero_point) == stored


@given(st.data())
def test_bounds_hold_and_are_reached(data: st.DataObject) -> None:
    weights = np.array(
        [data.draw(st.lists(st.integers(-127, 127), min_size=6, max_size=6)) for _ in range(3)],
        dtype=np.int8,
    )
    bias = np.array(data.draw(st.lists(st.integers(-999, 999), min_size=3, max_size=3)))
    least, greatest = accumulator_bounds(weights, bias)
    x = np.array(data.draw(st.lists(st.integers(-128, 127), min_size=6, max_size=6)))
    partial = np.cumsum(weights.astype(np.int64) * x, axis=1)
    for sums in (partial, partial + bias[:, None]):
        assert (sums >= least[:, None]).all() and (sums <= greatest[:, None]).all()
    extreme = np.where(weights > 0, 127, -128)
    reached = (weights.astype(np.int64) * extreme).sum(axis=1)
    assert (greatest == reached + np.maximum(bias, 0)).all()


def test_overflow_proof_is_exact_at_the_limit() -> None:
    weights = np.full((1, 2), 127, dtype=np.int8)
    room = 2**31 - 1 - 2 * 127 * 128
    prove_no_overflow(weights, np.array([-room]), "here")
    with pytest.raises(UnsupportedModelError, match=r"^node 'n': .*channel 0 can reach 2147483648"):
        prove_no_overflow(weights, np.array([-room - 1]), "node 'n'")


scales = st.floats(min_value=2.0**-126, max_value=2.0**100, width=32)


@given(scales, st.lists(scales, min_size=1, max_size=5), scales)
def test_many_multipliers_are_those_of_each(
    source: float, weights: list[float], target: float
) -> None:
    array = np.array(weights, np.float32)
    multipliers, shifts = normalize_multipliers(source, array, target)
    for index, scale in enumerate(weights):
        factor = Fraction(source) * Fraction(scale) / Fraction(target)
        got = (int(multipliers[index]), int(shifts[index]))
        if factor < Fraction(2**18 - 1, 2):
            assert got == normalize_multiplier(factor, "here")
        else:
            assert got == saturating_multiplier(factor) == (2**17 - 1, 0)


@given(st.integers(2**16, 2**17 - 1), st.sampled_from([-1, 0, 1]), st.integers(0, 40))
def test_multipliers_at_ties(half: int, off: int, shift: int) -> None:
    # half + 1/2 (and its neighbours) times a power of two: exact ties of the rounding.
    scale = np.float32((2 * half + 1) * 2.0 ** -(shift + 1)) * np.float32(1 + off * 2.0**-23)
    got = normalize_multipliers(1.0, np.array([scale]), 1.0)
    if float(scale) < 2**17 - 0.5:
        assert (got[0][0], got[1][0]) == normalize_multiplier(float(scale), "here")


@given(st.integers(1, 6), st.integers(1, 300), st.integers(0, 10**6))
def test_weight_sums(rows: int, columns: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(-128, 128, (rows, columns)).astype(np.int8)
    positive, negative = weight_sums(weights)
    wide = weights.astype(np.int64)
    assert (positive == np.maximum(wide, 0).sum(axis=1)).all()
    assert (negative == np.maximum(-wide, 0).sum(axis=1)).all()


def test_weight_sums_of_rows_longer_than_a_piece() -> None:
    weights = np.full((3, (1 << 16) + 5), -128, np.int8)
    weights[:, ::2] = 127
    positive, negative = weight_sums(weights)
    assert positive.tolist() == [127 * ((1 << 15) + 3)] * 3
    assert negative.tolist() == [128 * ((1 << 15) + 2)] * 3
