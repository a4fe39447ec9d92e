"""Numbers that operators fix: by their definition, or because what lies beyond may saturate."""

import numpy as np
import pytest

from systol_compiler.calibrate.grouping import TensorGroup
from systol_compiler.calibrate.histogram import Distribution
from systol_compiler.calibrate.numbering import number_tensors
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.quantized.build import Numbers


def numbers(low: float, high: float, fixed: tuple[float, int, int], wide: bool) -> Numbers:
    group = TensorGroup(
        members=("x",), observed=("x",), symmetric=False, wide=wide, fixed=(fixed,)
    )
    seen = Distribution(
        least=low, greatest=high, centers=np.array([low, high]), counts=np.array([1, 1])
    )
    return number_tensors([group], {"x": seen}, QuantizationOptions()).numbers["x"]


def test_of_8_bits_they_must_hold_what_was_seen() -> None:
    shares = (1 / 256, -128, 8)
    assert numbers(0, 1, shares, False) == Numbers(scale=1 / 256, zero_point=-128)
    assert numbers(0, 1.5, shares, False).scale == pytest.approx(1.5 / 255, rel=1e-3)


def test_of_16_bits_what_lies_beyond_saturates() -> None:
    """Masked scores: a range down to the mask would leave the others no precision."""
    wanted = Numbers(scale=1 / 256, zero_point=0, width=16)
    assert numbers(-1e4, 5, (1 / 256, 0, 16), True) == wanted
