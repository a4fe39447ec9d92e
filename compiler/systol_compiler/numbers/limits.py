"""Ranges of the machine's numbers (docs/numerics.md, 1)."""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Int8Array: TypeAlias = npt.NDArray[np.int8]
Int32Array: TypeAlias = npt.NDArray[np.int32]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Float32Array: TypeAlias = npt.NDArray[np.float32]

INT8_MIN: Final = -128
INT8_MAX: Final = 127
INT16_LIMIT: Final = 32639
"""Magnitude of the greatest 16-bit value: two balanced signed bytes."""
MULTIPLIER_MIN: Final = 1 << 16
"""Smallest normalized multiplier (inclusive)."""
MULTIPLIER_MAX: Final = (1 << 17) - 1
"""Largest normalized multiplier (inclusive); fits a signed 18-bit operand."""
SHIFT_MAX: Final = 63
ACCUMULATOR_LIMIT: Final = 1 << 31
"""Magnitude that no accumulator, with or without its bias, may reach."""


def bounds(width: int) -> tuple[int, int]:
    """Least and greatest value of a tensor of `width` bits."""
    return (INT8_MIN, INT8_MAX) if width == 8 else (-INT16_LIMIT, INT16_LIMIT)
