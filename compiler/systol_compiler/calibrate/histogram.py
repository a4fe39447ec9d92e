"""A histogram that widens as values come: one pass, bounded memory, nothing interpolated."""

from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np
import numpy.typing as npt

from systol_compiler.numbers.limits import Array

BINS_LEAST: Final = 2048
"""Bins that the observed range takes at least, once a second value is known."""
SAMPLED_MOST: Final = 1 << 14
"""Elements of one tensor of one run that are counted; a larger one is sampled evenly."""
_GOLDEN_RATIO: Final = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Distribution:
    """What was seen of a tensor.

    Attributes
    ----------
    least, greatest
        Of all elements of all runs, exactly.
    centers, counts
        Mean of the values in each bin that is not empty, ascending, and how many there were, of
        those elements that were sampled. Zeros have a bin of their own.
    """

    least: float
    greatest: float
    centers: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]

    @property
    def constant(self) -> bool:
        """Whether all elements of all runs were equal."""
        return self.least == self.greatest


class Histogram:
    """Counts values on a grid anchored at zero: bin k holds [k * width, (k + 1) * width).

    Where a value lies outside, pairs of bins become one and the width doubles, so that counts stay
    exact. Zero is apart: it is exact in every quantized tensor, and after a Relu the most frequent.
    """

    def __init__(self) -> None:
        self.least = float("inf")
        self.greatest = float("-inf")
        self._width = 0.0
        self._first = 0
        self._zeros = 0
        self._counts: npt.NDArray[np.float64] = np.zeros(0)
        self._sums: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, values: Array) -> bool:
        """Count `values` (any shape, float32 or integers); False if they are not all finite."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (isfinite(low) and isfinite(high)):
            return False
        self.least, self.greatest = min(self.least, low), max(self.greatest, high)
        counted = sample(flat)
        counted = counted[counted != 0]
        self._zeros += min(flat.size, SAMPLED_MOST) - counted.size
        if counted.size:
            self._count(counted.astype(np.float64))
        return True

    def _count(self, values: npt.NDArray[np.float64]) -> None:
        self._cover(min(self.least, 0.0), max(self.greatest, 0.0))
        index = np.floor(values / self._width).astype(np.int64) - self._first
        size = self._counts.size
        self._counts += np.bincount(index, minlength=size)
        self._sums += np.bincount(index, weights=values, minlength=size)

    def _cover(self, low: float, high: float) -> None:
        if self._width == 0.0:
            # A power of two: dividing by it, and doubling it, is exact.
            self._width = float(2.0 ** np.ceil(np.log2((high - low) / (2 * BINS_LEAST))))
            self._width = max(self._width, float(np.finfo(np.float32).tiny))
        width, first, counts, sums = self._width, self._first, self._counts, self._sums
        while (high - low) / width > 2 * BINS_LEAST:
            width *= 2
            if counts.size:
                before = first % 2
                after = (before + counts.size) % 2
                counts = np.pad(counts, (before, after)).reshape(-1, 2).sum(axis=1)
                sums = np.pad(sums, (before, after)).reshape(-1, 2).sum(axis=1)
                first = (first - before) // 2
        begin, end = int(np.floor(low / width)), int(np.floor(high / width)) + 1
        if counts.size:
            begin, end = min(begin, first), max(end, first + counts.size)
            room = (first - begin, end - first - counts.size)
            counts, sums = np.pad(counts, room), np.pad(sums, room)
        else:
            counts, sums = np.zeros(end - begin), np.zeros(end - begin)
        self._width, self._first, self._counts, self._sums = width, begin, counts, sums

    def distribution(self) -> Distribution:
        """What has been counted."""
        used = np.flatnonzero(self._counts)
        centers, counts = self._sums[used] / self._counts[used], self._counts[used]
        if self._zeros:
            place = int(np.searchsorted(centers, 0.0))
            centers = np.insert(centers, place, 0.0)
            counts = np.insert(counts, place, float(self._zeros))
        return Distribution(
            least=self.least, greatest=self.greatest, centers=centers, counts=counts
        )


def sample(flat: Array) -> Array:
    """`flat`, or about `SAMPLED_MOST` elements of it, evenly and in no step with its axes.

    The greatest and the least are not sure to be among them.
    """
    if flat.size <= SAMPLED_MOST:
        return flat
    place = np.arange(SAMPLED_MOST)
    # Multiples of the golden ratio are in no step with any axis.
    offsets = (place * _GOLDEN_RATIO) % 1.0
    return flat[((place + offsets) * (flat.size / SAMPLED_MOST)).astype(np.int64)]


def merged(parts: list[Distribution]) -> Distribution:
    """One distribution of several tensors' values."""
    if len(parts) == 1:
        return parts[0]
    centers = np.concatenate([part.centers for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    order = np.argsort(centers, kind="stable")
    return Distribution(
        least=min(part.least for part in parts),
        greatest=max(part.greatest for part in parts),
        centers=centers[order],
        counts=counts[order],
    )
