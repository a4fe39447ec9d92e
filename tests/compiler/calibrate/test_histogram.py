"""Histograms that widen against numpy on all values at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.calibrate.histogram import BINS_LEAST, SAMPLED_MOST, Histogram, merged, sample

SCALES = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.floats(1e-6, 1e6), st.integers(1, 400)),
    min_size=1,
    max_size=6,
)


@given(SCALES, st.integers(0, 2**32))
def test_counts_and_sums_stay_exact_while_the_range_grows(
    pieces: list[tuple[float, float, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    histogram, everything = Histogram(), []
    for centre, width, count in pieces:
        values = (centre + width * rng.standard_normal(count)).astype(np.float32)
        values[rng.random(count) < 0.2] = 0
        assert histogram.add(values)
        everything.append(values.astype(np.float64))
    together = np.concatenate(everything)
    seen = histogram.distribution()
    assert (seen.least, seen.greatest) == (together.min(), together.max())
    assert seen.counts.sum() == together.size
    np.testing.assert_allclose(seen.counts @ seen.centers, together.sum(), rtol=1e-9, atol=1e-6)
    assert seen.counts[seen.centers == 0].sum() == (together == 0).sum()
    assert (np.diff(seen.centers) > 0).all()
    # No bin is wider than a part of the range, so that means stand for their bins.
    extent = max(together.max(), 0) - min(together.min(), 0)
    for quantile in (0.1, 0.5, 0.9):
        exact = np.quantile(together, quantile, method="inverted_cdf")
        place = np.searchsorted(np.cumsum(seen.counts), quantile * together.size - 1e-6)
        assert abs(seen.centers[place] - exact) <= 2 * extent / BINS_LEAST + 1e-12


def test_few_distinct_values_are_known_exactly() -> None:
    histogram = Histogram()
    codes = np.arange(256, dtype=np.float32) / np.float32(255)
    histogram.add(codes)
    np.testing.assert_array_equal(histogram.distribution().centers, codes.astype(np.float64))


def test_values_that_are_not_finite_are_told() -> None:
    assert not Histogram().add(np.array([1.0, np.nan], np.float32))
    assert not Histogram().add(np.array([np.inf], np.float32))


def test_integers_count_as_numbers() -> None:
    histogram = Histogram()
    assert histogram.add(np.array([0, 255, 7], np.uint8))
    assert histogram.distribution().greatest == 255


def test_samples_favour_no_channel_or_column() -> None:
    image = np.broadcast_to(np.arange(64, dtype=np.float32)[:, None, None], (64, 64, 64))
    counts = np.bincount(sample(image.reshape(-1)).astype(np.int64), minlength=64)
    assert counts.sum() == SAMPLED_MOST and counts.min() >= 0.9 * SAMPLED_MOST / 64
    columns = np.broadcast_to(np.arange(64, dtype=np.float32), (64, 64, 64))
    counts = np.bincount(sample(columns.reshape(-1)).astype(np.int64), minlength=64)
    assert counts.min() >= 0.8 * SAMPLED_MOST / 64


def test_extremes_of_a_sampled_tensor_are_exact() -> None:
    values = np.zeros(10 * SAMPLED_MOST, np.float32)
    values[12345], values[54321] = -3, 9
    histogram = Histogram()
    histogram.add(values)
    seen = histogram.distribution()
    assert (seen.least, seen.greatest) == (-3, 9)


def test_merging_keeps_all_values() -> None:
    parts = []
    for scale in (1, 100):
        histogram = Histogram()
        histogram.add(np.linspace(-scale, scale, 101, dtype=np.float32))
        parts.append(histogram.distribution())
    both = merged(parts)
    assert both.counts.sum() == 202 and (both.least, both.greatest) == (-100, 100)
    assert (np.diff(both.centers) >= 0).all()
