"""Weights to int8: scales, exact biases, and the promise that nothing overflows."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.numbers.arithmetic import (
    INT8_REACH,
    INT16_REACH,
    normalize_multiplier,
    prove_no_overflow,
)
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.weights import (
    QuantizedWeights,
    encode,
    exact_bias,
    quantize_weights,
    search_scales,
)


def tensor(scale: float, zero_point: int = 0, width: int = 8) -> QTensor:
    exact = float(np.float32(scale))
    return QTensor(name="t", shape=(1,), scale=exact, zero_point=zero_point, width=width)


def squared(weights: Array, scales: Array) -> Array:
    codes = np.clip(np.rint(weights / scales[:, None]), -127, 127)
    result: Array = ((codes * scales[:, None] - weights) ** 2).sum(axis=1)
    return result


@given(st.integers(1, 5), st.integers(1, 400), st.integers(0, 1000))
def test_searched_scales_are_no_worse_than_the_whole_range(
    rows: int, columns: int, seed: int
) -> None:
    weights = np.random.default_rng(seed).standard_t(3, (rows, columns)).astype(np.float32)
    whole = np.abs(weights).max(axis=1).astype(np.float64) / 127
    found = search_scales(weights)
    assert (squared(weights, found) <= squared(weights, whole) * (1 + 1e-4)).all()


def test_an_outlier_is_clipped() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
    weights[0, 0] = 8.0
    (scale,) = search_scales(weights)
    assert scale < 0.8 * 8 / 127


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4),
    st.floats(2.0**-20, 4.0, width=32),
    st.floats(2.0**-20, 4.0, width=32),
)
def test_biases_are_exact(bias: list[float], source: float, scale: float) -> None:
    scales = np.full(len(bias), scale, np.float32)
    for value, got in zip(
        bias, exact_bias(np.array(bias), source, scales), strict=True
    ):
        assert got == round(Fraction(value) / (Fraction(source) * Fraction(scale)))


def test_a_bias_at_a_tie() -> None:
    scales = np.full(4, 0.1, np.float32)
    step = 3.0 * float(np.float32(0.1))
    bias = np.array([0.5, 1.5, 2.5, 1e6 + 0.5]) * step
    expected = [round(Fraction(b) / (3 * Fraction(float(np.float32(0.1))))) for b in bias]
    assert exact_bias(bias, 3.0, scales).tolist() == expected


def check(weights: Array, bias: Array, source: QTensor, target: QTensor) -> QuantizedWeights:
    got = quantize_weights(weights, bias, source, target)
    total = got.bias - source.zero_point * got.codes.sum(axis=1, dtype=np.int64)
    reach = INT8_REACH if source.width == 8 else INT16_REACH
    prove_no_overflow(got.codes, total, "here", reach)
    for channel, scale in enumerate(got.scales):
        factor = Fraction(source.scale) * Fraction(float(scale)) / Fraction(target.scale)
        if factor < 2**17 - 1:
            pair = (got.multipliers[channel], got.shifts[channel])
            assert pair == normalize_multiplier(factor, "here")
    return got


def test_weights_and_biases_stand_for_what_they_were() -> None:
    rng = np.random.default_rng(1)
    weights, bias = rng.normal(size=(6, 40)).astype(np.float32), rng.normal(size=6)
    source = tensor(0.02, 5)
    got = check(weights, bias, source, tensor(0.1))
    assert np.abs(got.codes * got.scales[:, None] - weights).max() < 0.03
    assert np.abs(got.bias * got.scales * source.scale - bias).max() < 0.001


def test_a_channel_without_weights_keeps_its_bias() -> None:
    weights = np.zeros((2, 9), np.float32)
    weights[1] = 1e-44
    source, target = tensor(0.5), tensor(0.01)
    got = check(weights, np.array([0.123, -7.7]), source, target)
    real = got.bias.astype(np.float64) * (got.multipliers / 2.0**got.shifts) * target.scale
    assert np.abs(real - [0.123, -7.7]).max() < target.scale / 100


def test_a_large_bias_widens_the_scale() -> None:
    weights = np.full((1, 4), 1e-9, np.float32)
    got = check(weights, np.array([1000.0]), tensor(1e-3), tensor(10.0))
    assert 2**28 <= got.bias[0] <= 2**29 + 2**8


@pytest.mark.parametrize(("width", "length"), [(16, 600), (16, 40_000), (8, 200_000)])
def test_long_sums_keep_within_the_accumulator(width: int, length: int) -> None:
    weights = np.ones((2, length), np.float32)
    weights[1] = -0.5
    check(weights, np.zeros(2), tensor(0.1, width=width), tensor(1.0))


def test_codes_read_any_strides() -> None:
    weights = np.random.default_rng(2).normal(size=(50, 30)).astype(np.float32)
    scales = search_scales(weights).astype(np.float32)
    transposed = np.ascontiguousarray(weights.T).T
    assert (encode(weights, scales) == encode(transposed, scales)).all()
    assert np.array_equal(search_scales(transposed), search_scales(weights))
