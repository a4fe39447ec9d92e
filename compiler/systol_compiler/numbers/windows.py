"""Maxima and sums over windows of images, in whole numbers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from systol_compiler.numbers.limits import Array

Int64Array = npt.NDArray[np.int64]

NO_TAP = -(1 << 31)
"""The maximum over a window without any tap inside (docs/numerics.md, 3)."""


def taps_inside(
    size: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int
) -> list[tuple[int, int]]:
    """First tap inside and the one behind the last, for each window along an axis; equal if there
    is none."""
    ranges = []
    for output in range(outputs):
        start = output * stride - pad
        first = max(0, -(start // dilation))
        last = min(kernel, -((start - size) // dilation))
        ranges.append((first, last) if first < last else (0, 0))
    return ranges


def reduce_windows(
    x: Array,
    size: Sequence[int],
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    maximum: bool,
) -> Int64Array:
    """Maxima (or sums) of whole numbers [N, H, W, C] over the taps inside: int64 [N, *size, C].

    Figures are (vertical, horizontal); pads are (top, left). Without any tap the maximum is
    -2**31, the sum 0.
    """
    result = x.astype(np.int64)
    for axis in (0, 1):
        lines = np.moveaxis(result, axis + 1, 0)
        total = np.full((size[axis], *lines.shape[1:]), NO_TAP if maximum else 0, np.int64)
        for tap in range(kernel[axis]):
            places = np.arange(size[axis]) * strides[axis] - pads[axis] + tap * dilations[axis]
            inside = np.flatnonzero((places >= 0) & (places < lines.shape[0]))
            if not inside.size:
                continue
            first, last = int(inside[0]), int(inside[-1])
            into = total[first : last + 1]
            taken = lines[places[first] : places[last] + 1 : strides[axis]]
            (np.maximum if maximum else np.add)(into, taken, out=into)
        result = np.moveaxis(total, 0, axis + 1)
    return result
