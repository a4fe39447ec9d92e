"""What the user can decide about quantization."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from systol_compiler.calibrate.ranges import METHODS, SCALE_MAX, SCALE_MIN, Method
from systol_compiler.numbers.limits import INT8_MAX, INT8_MIN
from systol_hw.errors import InputError

_FIELDS: Final = ("bits", "scale", "zero_point", "range", "method")


@dataclass(frozen=True, kw_only=True)
class Override:
    """What the user fixes of one tensor's numbers; None leaves it to calibration.

    Attributes
    ----------
    bits
        8 or 16.
    scale, zero_point
        Exactly these (the scale rounded to binary32); the zero point of 16 bits is 0.
    range
        (least, greatest) real value to cover.
    method
        How the range is chosen.
    """

    bits: int | None = None
    scale: float | None = None
    zero_point: int | None = None
    range: tuple[float, float] | None = None
    method: Method | None = None

    def check(self, place: str) -> None:
        """Raise an InputError, which `place` starts, where a value is out of bounds."""
        if self.bits not in (None, 8, 16):
            raise InputError(f"{place}: bits must be 8 or 16, but are {self.bits}")
        if self.scale is not None and not (
            isfinite(self.scale) and SCALE_MIN <= self.scale <= SCALE_MAX
        ):
            raise InputError(
                f"{place}: the scale must lie in 2**-40..2**40, but is {self.scale}"
            )
        if self.zero_point is not None:
            limits = (0, 0) if self.bits == 16 else (INT8_MIN, INT8_MAX)
            if self.zero_point != int(self.zero_point) or not (
                limits[0] <= self.zero_point <= limits[1]
            ):
                raise InputError(
                    f"{place}: the zero point must be an integer in {limits[0]}..{limits[1]}, but "
                    f"is {self.zero_point}"
                )
            if self.scale is None:
                raise InputError(f"{place}: a zero point needs a scale beside it; give both")
        if self.range is not None:
            least, greatest = self.range
            if not (isfinite(least) and isfinite(greatest) and least <= 0 <= greatest != least):
                raise InputError(
                    f"{place}: the range must be [least, greatest] with least <= 0 <= greatest, "
                    f"and not empty, but is {list(self.range)}"
                )
            if self.scale is not None:
                raise InputError(f"{place}: give a scale or a range, not both")
        if self.method is not None and self.method not in METHODS:
            raise InputError(
                f"{place}: the method must be one of {', '.join(METHODS)}, not {self.method!r}"
            )


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How a float graph becomes integers.

    Attributes
    ----------
    method
        How ranges of tensors are chosen (`ranges.choose_range`).
    percentile
        For "percentile": how many percent of the values the range must cover, in (50, 100].
    bias_correction
        Add to each bias the mean error that quantization causes on the calibration data
        (`bias_correction`).
    correction_samples
        Samples that bias correction looks at.
    equalize
        Move factors of channels between products where that takes rounding noise away
        (`equalize`).
    unify_add
        Give the operands and the result of each Add one scale.
    most_samples
        Calibration stops after so many samples.
    overrides
        By tensor name of the float graph; tensors that share numbers share an override.
    """

    method: Method = "auto"
    percentile: float = 99.99
    bias_correction: bool = True
    correction_samples: int = 16
    equalize: bool = True
    unify_add: bool = False
    most_samples: int = 1024
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"calibration method must be one of {', '.join(METHODS)}, not {self.method!r}"
            )
        if not 50.0 < self.percentile <= 100.0:
            raise InputError(
                f"percentile must lie in (50, 100], but is {self.percentile}; 99.99 is usual"
            )
        for name in ("correction_samples", "most_samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name, override in self.overrides.items():
            override.check(f"override of {name!r}")
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))


def load_overrides(path: Path) -> dict[str, Override]:
    """Overrides from a TOML file: a table for each tensor, by its name.

    For example::

        ["block1.add"]
        bits = 16

        ["logits"]
        range = [-20.0, 20.0]

    Raises
    ------
    InputError
        The file cannot be read, or says something that is no override.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"overrides {str(path)!r} cannot be read ({error})") from error
    overrides: dict[str, Override] = {}
    for name, table in tables.items():
        place = f"overrides {str(path)!r}, tensor {name!r}"
        overrides[name] = _override(table, place)
        overrides[name].check(place)
    return overrides


def _override(table: Any, place: str) -> Override:
    if not isinstance(table, dict):
        raise InputError(f"{place}: write a table ['name'] with {', '.join(_FIELDS)}")
    unknown = sorted(set(table) - set(_FIELDS))
    if unknown:
        raise InputError(f"{place}: {unknown} mean nothing; known are {', '.join(_FIELDS)}")
    for key in ("bits", "zero_point"):
        if key in table and type(table[key]) is not int:
            raise InputError(f"{place}: {key} must be an integer, but is {table[key]!r}")
    if "scale" in table and type(table["scale"]) not in (int, float):
        raise InputError(f"{place}: scale must be a number, but is {table['scale']!r}")
    span = table.get("range")
    if span is not None:
        if not (
            isinstance(span, list) and len(span) == 2
            and all(type(bound) in (int, float) for bound in span)
        ):
            raise InputError(f"{place}: range must be [least, greatest], but is {span!r}")
        table = {**table, "range": (float(span[0]), float(span[1]))}
    return Override(**table)
