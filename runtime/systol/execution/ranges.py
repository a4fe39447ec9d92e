"""Watches whether what is quantized lies where calibration saw it, and says so if it does not."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor

FAR_OUTSIDE, FAR_SHARE = 1.0, 0.001
"""Values that lie outside by this many times the range's width are far outside; from this share of
them on, there is a warning. Calibration itself may cut off rare ones."""
OUTSIDE, SHARE = 0.1, 0.05
"""The same, for values that lie less far outside."""
FEW_STEPS = 8
"""Values that all lie within this many steps are hardly told from each other."""


class InputRangeWarning(UserWarning):
    """Inputs do not lie where the calibration data lay: results are likely wrong."""


@dataclass(kw_only=True)
class _Seen:
    least: float = np.inf
    greatest: float = -np.inf
    outside: int = 0
    far: int = 0
    count: int = 0


class RangeWatch:
    """Collects what all runs quantize at a boundary."""

    def __init__(self, tensors: Mapping[str, QTensor]) -> None:
        self._tensors = tensors
        self._seen: dict[str, _Seen] = {}

    def see(self, name: str, real: Array) -> None:
        """Note the real values that become the quantized tensor `name`; none of them is NaN."""
        seen = self._seen.setdefault(name, _Seen())
        low, high = representable(self._tensors[name])
        least, greatest = float(real.min()), float(real.max())
        width = high - low
        if least < low - OUTSIDE * width or greatest > high + OUTSIDE * width:
            seen.outside += _count_outside(real, low, high, OUTSIDE * width)
            seen.far += _count_outside(real, low, high, FAR_OUTSIDE * width)
        seen.least, seen.greatest = min(seen.least, least), max(seen.greatest, greatest)
        seen.count += real.size

    def warnings(self) -> tuple[str, ...]:
        """One sentence a tensor whose values lay elsewhere than those of calibration."""
        return tuple(
            text for name, seen in self._seen.items() if (text := self._judge(name, seen))
        )

    def _judge(self, name: str, seen: _Seen) -> str:
        tensor = self._tensors[name]
        low, high = representable(tensor)
        where = (
            f"{tensor.source!r}: values from {seen.least:.4g} to {seen.greatest:.4g}, where the "
            f"calibrated range is {low:.4g} to {high:.4g}"
        )
        share = seen.outside / seen.count
        if (seen.far and seen.far >= FAR_SHARE * seen.count) or share >= SHARE:
            return (
                f"{where}: {_percent(share)} saturate; scale inputs as those that the model was "
                "calibrated with, or calibrate with inputs like these"
            )
        # How far apart they lie and how far from zero: one value says nothing about a range.
        reach = max(seen.greatest, 0.0) - min(seen.least, 0.0)
        if 0 < reach < FEW_STEPS * tensor.scale:
            return (
                f"{where}: they are rounded to {round(reach / tensor.scale) + 1} step(s); scale "
                "inputs as those that the model was calibrated with"
            )
        return ""


def _count_outside(real: Array, low: float, high: float, margin: float) -> int:
    return int(((real < low - margin) | (real > high + margin)).sum())


def representable(tensor: QTensor) -> tuple[float, float]:
    """The least and greatest real number that `tensor` holds."""
    low, high = tensor.bounds
    return (low - tensor.zero_point) * tensor.scale, (high - tensor.zero_point) * tensor.scale


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "a few"
