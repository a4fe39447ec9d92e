"""From what was seen of a tensor to the range that its integers shall cover."""

from collections.abc import Iterator
from math import inf
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from systol_compiler.calibrate.histogram import Distribution
from systol_compiler.numbers.limits import INT8_MAX, INT8_MIN, INT16_LIMIT
from systol_compiler.quantized.build import Numbers
from systol_hw.errors import UnsupportedModelError

Method: TypeAlias = Literal["auto", "minmax", "percentile", "mse", "robust", "entropy"]
METHODS: Final[tuple[str, ...]] = get_args(Method)

SCALE_MIN: Final = 2.0**-40
SCALE_MAX: Final = 2.0**40
"""Bounds of scales; within them weight scales and their products stay normal in float32."""

_LEVELS: Final = 256
_VALUES_PER_BIN: Final = 8
_SHRINKS: Final = np.concatenate([np.geomspace(0.05, 0.5, 24), np.linspace(0.51, 1.0, 50)])
"""Fractions of a side of the full range that "mse" tries; the last one clips nothing."""
_ROBUST: Final = 1.5
_ENTROPY_SHRINKS: Final = np.linspace(0.3, 1.0, 36)
_PERCENTILES: Final = (99.9, 99.99, 99.999)
"""What "auto" tries besides the other methods' ranges."""

_TAIL: Final = 0.002
_TAIL_LEAST: Final = 16
"""Values of a side that its tail is made of: a share of them, and at least so many."""
_CLIPPED_MOST: Final = 2
"""Values beyond a bound that still count as its end: more of them were left out on purpose."""
_ROOMS: Final = np.linspace(1.0, 2.0, 41)
_ON_GRID: Final = 0.05
"""Share of a uniform rounding error below which values lie on the range's own grid."""

Floats = npt.NDArray[np.float64]
Range: TypeAlias = tuple[float, float]


def choose_range(seen: Distribution, method: Method, percentile: float) -> Range:
    """The real range (least <= 0 <= greatest) that 8 bits shall cover.

    minmax covers everything seen; percentile all but the outer (100 - percentile) percent, half
    at each side that has values. mse, robust and entropy shrink the range until the mean squared
    error, the mean of errors to the power 1.5, or the Kullback-Leibler divergence of the two
    distributions, is least (mse and robust each side by itself); robust clips rare values more.
    entropy keeps the full range of a tensor with fewer than 8 values a bin: so few show no
    distribution. auto takes of all of these the range with the least squared error: what
    `selection` starts from.
    """
    full = min(seen.least, 0.0), max(seen.greatest, 0.0)
    if full[0] == full[1] or seen.constant:
        return full
    match method:
        case "minmax":
            return full
        case "percentile":
            return _percentile(seen, full, percentile)
        case "entropy":
            return _entropy(seen, full)
        case "mse":
            return _least_error(seen, _shrunk(seen, full, 2.0), 2.0)
        case "robust":
            return _least_error(seen, _shrunk(seen, full, _ROBUST), _ROBUST)
        case "auto":
            candidates = [full, *_shrunk(seen, full, 2.0), *_shrunk(seen, full, _ROBUST)]
            candidates.append(_entropy(seen, full))
            candidates += [_percentile(seen, full, each) for each in _PERCENTILES]
            return _least_error(seen, candidates, 2.0)


def extended(seen: Distribution, span: Range, limits: Range = (-inf, inf)) -> Range:
    """`span` with more room where it ends at the last values seen, for values not yet seen.

    Few samples do not show the extremes of the next ones. The tail is taken as exponential beyond
    its last hundredth, and each bound moved, up to twice as far and never past `limits`, to where
    the error of rounding and the expected error of clipping are together least. Values on a grid
    that `span` holds exactly keep it.
    """
    least, greatest = min(seen.least, 0.0), max(seen.greatest, 0.0)
    count = float(seen.counts[seen.centers != 0].sum())
    if least == greatest or seen.constant:
        return span
    step = (span[1] - span[0]) / (_LEVELS - 1)
    if rounding_error(seen, span) < _ON_GRID * step**2 / 12 * count:
        return span
    low, high = span
    if greatest > 0 and seen.counts[seen.centers > high].sum() <= _CLIPPED_MOST:
        high = _with_room(seen.centers, seen.counts, span, count)
    if least < 0 and seen.counts[seen.centers < low].sum() <= _CLIPPED_MOST:
        mirror = (-span[1], -span[0])
        low = -_with_room(-seen.centers[::-1], seen.counts[::-1], mirror, count)
    return max(low, min(limits[0], 0.0)), min(high, max(limits[1], 0.0))


def _with_room(centers: Floats, counts: Floats, span: Range, count: float) -> float:
    """The greater bound of `span`, or a greater one."""
    side = centers > 0
    values, weights = centers[side][::-1], counts[side][::-1]
    total = float(weights.sum())
    tail = max(_TAIL_LEAST, _TAIL * total)
    if total < 2 * tail:
        # Too few for a tail: about two standard errors of a deviation.
        return span[1] * min(2.0, 1 + 2 / float(np.sqrt(total))) if total else span[1]
    last = int(np.searchsorted(np.cumsum(weights), tail)) + 1
    begin = float(values[min(last, values.size - 1)])
    excess = float((weights[:last] * (values[:last] - begin)).sum() / weights[:last].sum())
    if excess <= 0:
        return span[1]
    # A standard error above what so few values say.
    excess *= 1 + 1 / float(np.sqrt(weights[:last].sum()))
    bounds = span[1] * _ROOMS
    clipped = tail * 2 * excess**2 * np.exp(-np.maximum(bounds - begin, 0) / excess)
    rounded = ((bounds - span[0]) / (_LEVELS - 1)) ** 2 / 12 * count
    return float(bounds[np.argmin(clipped + rounded)])


def numbers_of(
    span: Range, place: str, *, width: int = 8, symmetric: bool = False
) -> Numbers:
    """Scale (binary32) and zero point that map `span` onto the integers of `width` bits.

    An empty range gives scale 1 and zero point 0. Symmetric, and 16-bit, numbers have zero point
    0 and reach the greater magnitude of the two bounds.

    Raises
    ------
    UnsupportedModelError
        The scale leaves 2**-40..2**40; `place` starts the message.
    """
    least, greatest = span
    if least == greatest:
        return Numbers(scale=1.0, zero_point=0, width=width)
    zero_point = 0
    if width == 16:
        scale = max(-least, greatest) / INT16_LIMIT
    elif symmetric:
        scale = max(least / INT8_MIN, greatest / INT8_MAX)
    else:
        scale = (greatest - least) / (_LEVELS - 1)
    scale = float(np.float32(scale))
    if not SCALE_MIN <= scale <= SCALE_MAX:
        raise UnsupportedModelError(
            f"{place}: the scale must lie in 2**-40..2**40, but the range {least:g}..{greatest:g} "
            f"needs {scale:g}; rescale the model, or override the tensor's scale"
        )
    if width == 8 and not symmetric:
        zero_point = int(np.clip(np.rint(INT8_MIN - least / scale), INT8_MIN, INT8_MAX))
    return Numbers(scale=scale, zero_point=zero_point, width=width)


def rounding_error(seen: Distribution, span: Range, power: float = 2.0) -> float:
    """Sum of the errors, to `power`, that 8 bits over `span` make of the values seen."""
    scale = np.float64(np.float32((span[1] - span[0]) / (_LEVELS - 1)))
    if not scale:
        return inf
    offset = np.clip(np.rint(span[0] / scale), 1 - _LEVELS, 0)
    levels = np.clip(np.rint(seen.centers / scale), offset, offset + _LEVELS - 1)
    return float(seen.counts @ np.abs(levels * scale - seen.centers) ** power)


def _least_error(seen: Distribution, candidates: list[Range], power: float) -> Range:
    """Of equals the first."""
    return min(
        dict.fromkeys(candidates), key=lambda span: rounding_error(seen, span, power)
    )


def _shrunk(seen: Distribution, full: Range, power: float) -> list[Range]:
    """The best few ranges by a formula: what is clipped, and a step's uniform error inside.

    Clipping at one side does not depend on the other side's bound, so that all pairs of bounds
    are priced at once.
    """
    lows = full[0] * _SHRINKS if full[0] else np.zeros(1)
    highs = full[1] * _SHRINKS if full[1] else np.zeros(1)
    below = _clipped(-seen.centers[::-1], seen.counts[::-1], -lows, power)
    above = _clipped(seen.centers, seen.counts, highs, power)
    inside = float(seen.counts[seen.centers != 0].sum())
    steps = (highs[None, :] - lows[:, None]) / (_LEVELS - 1)
    # The mean of |x| ** power over half a step to each side.
    costs = below[:, None] + above[None, :] + (steps / 2) ** power / (power + 1) * inside
    best = np.argsort(costs, axis=None, kind="stable")[:4]
    return [(float(lows[i // highs.size]), float(highs[i % highs.size])) for i in best]


def _clipped(centers: Floats, counts: Floats, bounds: Floats, power: float) -> Floats:
    """Sum of the distances, to `power` (2 or 1.5), of the values above each of `bounds`; `centers`
    ascend."""
    first = int(np.searchsorted(centers, bounds.min(initial=inf), side="right"))
    distance = np.maximum(centers[first:][None, :] - bounds[:, None], 0.0)
    errors = distance * distance if power == 2.0 else distance * np.sqrt(distance)
    result: Floats = errors @ counts[first:]
    return result


def _percentile(seen: Distribution, full: Range, percentile: float) -> Range:
    cumulative = np.cumsum(seen.counts) / seen.counts.sum()
    sides = int(full[0] < 0) + int(full[1] > 0)
    tail = (1.0 - percentile / 100.0) / sides
    last = seen.centers.size - 1
    least = seen.centers[min(int(np.searchsorted(cumulative, tail, side="right")), last)]
    greatest = seen.centers[min(int(np.searchsorted(cumulative, 1.0 - tail)), last)]
    span = min(float(least), 0.0), max(float(greatest), 0.0)
    # A side whose every value the sample or the percentile leaves out keeps its bound.
    return (
        span[0] if span[0] < 0 or full[0] == 0 else full[0],
        span[1] if span[1] > 0 or full[1] == 0 else full[1],
    )


def _entropy(seen: Distribution, full: Range) -> Range:
    nonzero = seen.centers != 0
    centers, counts = seen.centers[nonzero], seen.counts[nonzero]
    if not counts.size or counts.sum() < _VALUES_PER_BIN * counts.size:
        return full
    best = min(
        _ENTROPY_SHRINKS[::-1],
        key=lambda shrink: _divergence(centers, counts, full[0] * shrink, full[1] * shrink),
    )
    return full[0] * float(best), full[1] * float(best)


def _divergence(centers: Floats, counts: Floats, least: float, greatest: float) -> float:
    """D(P||Q): P the clipped distribution, Q the same after rounding to the 256 levels.

    Zero does not count: it is exact in every range, and after a Relu it is so frequent that every
    tail would look negligible.
    """
    inside = (centers >= least) & (centers <= greatest)
    kept = counts[inside]
    if not kept.size:
        return inf
    clipped = kept.copy()
    clipped[0] += counts[centers < least].sum()
    clipped[-1] += counts[centers > greatest].sum()
    level = ((centers[inside] - least) / (greatest - least) * _LEVELS).astype(np.int64)
    level = np.minimum(level, _LEVELS - 1)
    mass = np.bincount(level, weights=kept, minlength=_LEVELS)
    filled = np.bincount(level, minlength=_LEVELS)
    spread = (mass / np.maximum(filled, 1))[level]
    p = clipped / clipped.sum()
    q = (spread + 1e-4) / (spread + 1e-4).sum()
    return float((p * np.log(p / q)).sum())


def spans_of(numbers: Numbers) -> Iterator[float]:
    """Least and greatest real value that `numbers` can hold."""
    least, greatest = (
        (INT8_MIN, INT8_MAX) if numbers.width == 8 else (-INT16_LIMIT, INT16_LIMIT)
    )
    yield (least - numbers.zero_point) * numbers.scale
    yield (greatest - numbers.zero_point) * numbers.scale
