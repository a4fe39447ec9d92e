"""Exact results element by element, fast: whole numbers in float64, and tables of int8 codes."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from systol_compiler.numbers.limits import Array, bounds

Float64Array = npt.NDArray[np.float64]


def whole(codes: Array, zero_point: int) -> Float64Array:
    """`codes - zero_point` as float64."""
    result: Float64Array = codes.astype(np.float64)
    if zero_point:
        result -= zero_point
    return result


def rounded(
    products: Float64Array, shift: npt.ArrayLike, zero_point: int, lo: int, hi: int, width: int = 8
) -> Array:
    """`round_half_even(products / 2**shift) + zero_point`, clipped to `lo..hi` and saturated: int8
    or int16.

    `products` are whole numbers below 2**53 in magnitude, so that every step is exact but the
    rounding, which float64 has half to even as well. They are overwritten.
    """
    products = np.asarray(products)
    products *= np.ldexp(1.0, -np.asarray(shift))
    np.rint(products, out=products)
    if zero_point:
        products += zero_point
    least, greatest = bounds(width)
    # As the machine clips: first up to `lo`, then down to `hi`.
    np.maximum(products, max(lo, least), out=products)
    np.minimum(products, min(hi, greatest), out=products)
    np.maximum(products, least, out=products)
    return products.astype(np.int8 if width == 8 else np.int16)


def by_code(function: Callable[[Array], Array], codes: Array) -> Array:
    """`function` of each of `codes`; of int8 ones it is computed once for every code there is."""
    if codes.dtype != np.int8 or codes.size <= 256:
        return function(codes)
    table = function(np.arange(-128, 128).astype(np.int8))
    # Codes as table places: 0..127 as they are, negative ones from the end.
    return np.roll(table, 128).take(codes.view(np.uint8))
