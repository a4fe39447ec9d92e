"""Ranges: what each method keeps, and that the default is never worse than another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.calibrate.histogram import Distribution, Histogram
from systol_compiler.calibrate.ranges import (
    METHODS,
    Method,
    choose_range,
    extended,
    numbers_of,
    rounding_error,
)
from systol_hw.errors import UnsupportedModelError


def seen(values: np.ndarray) -> Distribution:
    histogram = Histogram()
    assert histogram.add(values.astype(np.float32))
    return histogram.distribution()


NORMAL = np.random.default_rng(0).standard_normal(10_000)
LAPLACE = np.random.default_rng(1).laplace(size=10_000)


def test_minmax_covers_everything_and_zero() -> None:
    least, greatest = choose_range(seen(NORMAL + 100), "minmax", 0)
    assert least == 0 and greatest == pytest.approx(104, abs=1)


@pytest.mark.parametrize("method", ["percentile", "mse", "robust", "entropy", "auto"])
def test_an_outlier_is_clipped(method: Method) -> None:
    values = np.append(LAPLACE, 100.0)
    least, greatest = choose_range(seen(values), method, 99.9)
    assert least < -2 and 2 < greatest < 100


def test_percentiles_count_both_sides() -> None:
    least, greatest = choose_range(seen(np.linspace(-1, 1, 10_001)), "percentile", 98)
    assert least == pytest.approx(-0.98, abs=2e-3) and greatest == pytest.approx(0.98, abs=2e-3)


def test_a_side_that_holds_next_to_nothing_is_not_lost() -> None:
    values = np.concatenate([np.zeros(9_999), [5.0]])
    assert choose_range(seen(values), "percentile", 99)[1] == 5


def test_values_on_a_grid_keep_it() -> None:
    """An image of bytes is exact in the range that its steps make."""
    values = np.tile(np.arange(256) / 255, 40)
    least, greatest = choose_range(seen(values), "auto", 99.99)
    assert (least, greatest) == (0, 1)
    assert rounding_error(seen(values), (least, greatest)) < 1e-6


@given(st.integers(0, 10_000), st.floats(0.0, 3.0), st.sampled_from(["relu", "both"]))
def test_the_default_has_the_least_error_of_all_methods(
    seed: int, tail: float, shape: str
) -> None:
    values = np.random.default_rng(seed).standard_normal(3000)
    values = np.sign(values) * np.abs(values) ** (1 + tail)
    values = np.maximum(values, 0) if shape == "relu" else values
    distribution = seen(values)
    best = rounding_error(distribution, choose_range(distribution, "auto", 99.99))
    for method in METHODS:
        other = choose_range(distribution, method, 99.99)  # type: ignore[arg-type]
        assert best <= rounding_error(distribution, other) * (1 + 1e-9)


def test_each_side_is_clipped_by_itself() -> None:
    values = np.concatenate([NORMAL * 0.1, [30.0]])
    least, greatest = choose_range(seen(values), "mse", 0)
    assert least < -0.2 and greatest < 30


@given(st.floats(-1e3, 0), st.floats(0, 1e3))
def test_numbers_hold_their_range(least: float, greatest: float) -> None:
    if greatest - least < 1e-6:
        return
    numbers = numbers_of((least, greatest), "tensor")
    assert -128 <= numbers.zero_point <= 127
    low, high = ((c - numbers.zero_point) * numbers.scale for c in (-128, 127))
    assert low <= least + numbers.scale and high >= greatest - numbers.scale
    wide = numbers_of((least, greatest), "tensor", width=16)
    assert wide.zero_point == 0
    assert wide.scale * 32639 >= max(-least, greatest) * (1 - 1e-6)
    even = numbers_of((least, greatest), "tensor", symmetric=True)
    assert even.zero_point == 0
    assert even.scale * 127 >= greatest * (1 - 1e-6) and even.scale * -128 <= least * (1 - 1e-6)


def test_an_empty_range_has_numbers() -> None:
    assert numbers_of((0, 0), "tensor").scale == 1


def test_extreme_scales_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"tensor 'x'.*2\*\*-40"):
        numbers_of((0, 1e30), "tensor 'x'")


def test_few_values_leave_room_for_the_next_ones() -> None:
    """The least error on values not yet seen, not on those at hand."""
    rng = np.random.default_rng(3)
    few, many = rng.laplace(size=400), rng.laplace(size=100_000)
    plain = choose_range(seen(few), "auto", 0)
    roomy = extended(seen(few), plain)
    assert roomy[0] <= plain[0] and roomy[1] >= plain[1] and roomy != plain
    assert rounding_error(seen(many), roomy) < rounding_error(seen(many), plain)


def test_room_ends_at_a_clip_and_grids_stay() -> None:
    values = np.append(np.random.default_rng(0).exponential(size=300), 5.9)
    span = (0.0, 5.9)
    assert extended(seen(values), span, (0.0, 6.0))[1] <= 6
    grid = np.tile(np.arange(256) / 255, 4)
    assert extended(seen(grid), (0.0, 1.0)) == (0, 1)


def test_a_bound_that_clips_on_purpose_gets_no_room() -> None:
    assert extended(seen(LAPLACE), (-4.0, 4.0)) == (-4, 4)
