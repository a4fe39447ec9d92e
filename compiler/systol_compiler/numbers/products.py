"""Exact integer products and correlations, computed in floating point where that is exact."""

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from systol_compiler.numbers.limits import Array, Int8Array

Int64Array = npt.NDArray[np.int64]

_WEIGHT_REACH = 128
_FLOAT32_EXACT = 1 << 24
"""Whole numbers up to this magnitude are exact in binary32."""
_SHORTEST_RUN = 128
"""Products that a sum in binary32 must be able to hold, to be worth while."""
_PIECE = 1 << 21
"""Elements of the unfolded input at a time."""


def exact_product(a: Array, b: Int8Array, magnitude: int) -> Int64Array:
    """`a @ b` of whole numbers [..., M, K] and int8 [..., K, O]: int64 [..., M, O].

    No element of `a` is greater than `magnitude`, at most 2**16.
    """
    run = _FLOAT32_EXACT // (magnitude * _WEIGHT_REACH)
    length = a.shape[-1]
    if run < min(_SHORTEST_RUN, length):
        wide: Int64Array = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
        return wide
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.int64)
    for low in range(0, length, run):
        left = a[..., low : low + run].astype(np.float32)
        total += (left @ b[..., low : low + run, :].astype(np.float32)).astype(np.int64)
    return total


def rows_product(a: Array, b: Int8Array, magnitude: int) -> Int64Array:
    """`exact_product` of a matrix [M, K] with int8 [K, O], some rows at a time."""
    result = np.empty((a.shape[0], b.shape[1]), np.int64)
    rows = max(1, _PIECE // max(1, a.shape[1]))
    for first in range(0, a.shape[0], rows):
        result[first : first + rows] = exact_product(a[first : first + rows], b, magnitude)
    return result


def correlate(
    x: Array,
    weights: Int8Array,
    size: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    pads: tuple[int, int] = (0, 0),
    groups: int = 1,
    pad_value: int = 0,
    magnitude: int = 128,
) -> Int64Array:
    """Sums of products over windows: int64 [N, *size, O].

    Parameters
    ----------
    x
        Whole numbers [N, H, W, C], none greater than `magnitude`.
    weights
        int8 [O, C / groups, kernel rows, kernel columns].
    size
        Rows and columns of the result.
    pads
        (top, left); below and to the right `size` decides. `pad_value` stands outside.
    """
    outputs, per_group, *kernel = weights.shape
    padded = _padded(x, (kernel[0], kernel[1]), size, strides, dilations, pads, pad_value)
    _, y, xs, c = padded.strides
    images, channels = x.shape[0], x.shape[3]
    result = np.empty((images, *size, outputs), np.int64)
    taps = weights.reshape(groups, outputs // groups, per_group, *kernel)
    # [groups, taps * channels, outputs of a group]
    matrix = np.ascontiguousarray(taps.transpose(0, 3, 4, 2, 1)).reshape(
        groups, -1, outputs // groups
    )
    band = max(1, _PIECE // max(1, size[1] * kernel[0] * kernel[1] * channels))
    for image in range(images):
        for top in range(0, size[0], band):
            rows = min(band, size[0] - top)
            windows = as_strided(
                padded[image, top * strides[0] :],
                (groups, rows, size[1], *kernel, per_group),
                (per_group * c, strides[0] * y, strides[1] * xs, dilations[0] * y,
                 dilations[1] * xs, c),
                writeable=False,
            )
            unfolded = windows.reshape(groups, rows * size[1], -1)
            product = exact_product(unfolded, matrix, magnitude)
            result[image, top : top + rows] = product.transpose(1, 0, 2).reshape(
                rows, size[1], outputs
            )
    return result


def _padded(
    x: Array, kernel: tuple[int, int], size: tuple[int, int], strides: tuple[int, int],
    dilations: tuple[int, int], pads: tuple[int, int], pad_value: int,
) -> Array:
    widths = [(0, 0)]
    cut: list[slice] = [slice(None)]
    for axis in (0, 1):
        reach = (size[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        before = pads[axis]
        after = reach - before - x.shape[axis + 1]
        widths.append((max(before, 0), max(after, 0)))
        cut.append(slice(max(-before, 0), x.shape[axis + 1] + min(after, 0)))
    padded: Array = np.pad(
        x[tuple(cut)], [*widths, (0, 0)], constant_values=pad_value
    )
    return padded
