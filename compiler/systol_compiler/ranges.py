"""From a tensor's statistics to the range that int8 shall cover, and to scale and zero point."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from systol_compiler.calibration import TensorStatistics
from systol_compiler.old_quantized import INT8_MAX, INT8_MIN
from systol_hw.errors import UnsupportedModelError

Method: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: Final[tuple[str, ...]] = get_args(Method)

SCALE_MIN: Final = 2.0**-40
SCALE_MAX: Final = 2.0**40
"""Bounds of scales; within them weight scales and their products stay normal in float32."""

_LEVELS: Final = 256
_VALUES_PER_BIN: Final = 8
_SHRINKS: Final = np.linspace(0.3, 1.0, 71)
"""Fractions of the full range that "mse" and "entropy" try; the last one clips nothing."""


def choose_range(
    statistics: TensorStatistics, method: Method, percentile: float
) -> tuple[float, float]:
    """The real range (least <= 0 <= greatest) that int8 shall cover.

    minmax covers everything seen; percentile all but the outer (100 - percentile) percent, half
    at each side that has values; mse and entropy shrink the range until the mean squared error,
    or the Kullback-Leibler divergence of the two distributions, is least. entropy keeps the full
    range of a tensor with fewer than 8 values a bin: so few show no distribution.
    """
    full = statistics.least, statistics.greatest
    if method == "minmax" or full[0] == full[1]:
        return full
    if method == "entropy" and statistics.histogram.mean() < _VALUES_PER_BIN:
        return full
    edges = np.linspace(*full, statistics.histogram.size + 1)
    if method == "percentile":
        return _percentile(statistics.histogram, edges, percentile)
    centers = (edges[:-1] + edges[1:]) / 2
    cost = _squared_error if method == "mse" else _divergence
    best = min(_SHRINKS[::-1], key=_cost_of(cost, statistics.histogram, centers, full))
    return full[0] * float(best), full[1] * float(best)


def scale_and_zero_point(least: float, greatest: float, place: str) -> tuple[float, int]:
    """float32 scale and int8 zero point that map [least, greatest] onto -128..127.

    An empty range gives scale 1 and zero point 0.

    Raises
    ------
    UnsupportedModelError
        The scale leaves 2**-40..2**40; `place` starts the message.
    """
    if least == greatest:
        return 1.0, 0
    scale = float(np.float32((greatest - least) / (_LEVELS - 1)))
    if not SCALE_MIN <= scale <= SCALE_MAX:
        raise UnsupportedModelError(
            f"{place}: the scale must lie in 2**-40..2**40, but the range {least:g}..{greatest:g} "
            f"needs {scale:g}; rescale the model, or override the tensor's scale"
        )
    zero_point = int(np.clip(np.rint(INT8_MIN - least / scale), INT8_MIN, INT8_MAX))
    return scale, zero_point


Cost: TypeAlias = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64], float, float], float]


def _cost_of(
    cost: Cost,
    histogram: npt.NDArray[np.int64],
    centers: npt.NDArray[np.float64],
    full: tuple[float, float],
) -> Callable[[float], float]:
    return lambda shrink: cost(histogram, centers, full[0] * shrink, full[1] * shrink)


def _percentile(
    histogram: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], percentile: float
) -> tuple[float, float]:
    cumulative = np.cumsum(histogram) / histogram.sum()
    sides = int(edges[0] < 0) + int(edges[-1] > 0)
    tail = (1.0 - percentile / 100.0) / sides
    least = float(edges[int(np.searchsorted(cumulative, tail, side="right"))])
    greatest = float(edges[int(np.searchsorted(cumulative, 1.0 - tail, side="left")) + 1])
    least, greatest = min(least if edges[0] < 0 else 0.0, 0.0), max(greatest, 0.0)
    if least == greatest:  # nearly everything is zero: keep the rest
        return float(edges[0]), float(edges[-1])
    return least, greatest


def _squared_error(
    histogram: npt.NDArray[np.int64],
    centers: npt.NDArray[np.float64],
    least: float,
    greatest: float,
) -> float:
    scale = (greatest - least) / (_LEVELS - 1)
    offset = np.rint(least / scale)
    levels = np.clip(np.rint(centers / scale), offset, offset + _LEVELS - 1)
    return float((histogram * (levels * scale - centers) ** 2).sum())


def _divergence(
    histogram: npt.NDArray[np.int64],
    centers: npt.NDArray[np.float64],
    least: float,
    greatest: float,
) -> float:
    """D(P||Q): P the clipped distribution, Q the same after rounding to the int8 levels.

    The bin of zero does not count: zero is exact in every range, and after a ReLU it holds so
    many values that every tail would look negligible.
    """
    inside = (centers >= least) & (centers <= greatest)
    counted = histogram.astype(np.float64)
    counted[int(np.argmin(np.abs(centers)))] = 0.0
    counts = counted[inside]
    clipped = counts.copy()
    clipped[0] += counted[centers < least].sum()
    clipped[-1] += counted[centers > greatest].sum()
    level = ((centers[inside] - least) / (greatest - least) * _LEVELS).astype(np.int64)
    level = np.minimum(level, _LEVELS - 1)
    mass = np.bincount(level, weights=counts, minlength=_LEVELS)
    filled = np.bincount(level, weights=counts > 0, minlength=_LEVELS)
    spread = np.where(counts > 0, (mass / np.maximum(filled, 1))[level], 0.0)
    # A bin that only the clipped tail fills has no counterpart; the smoothing prices it.
    p = clipped / clipped.sum()
    q = (spread + 1e-4) / (spread + 1e-4).sum()
    kept = p > 0
    return float((p[kept] * np.log(p[kept] / q[kept])).sum())
