"""Gives every quantized tensor its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import numpy as np

from systol_compiler.calibrate.grouping import TensorGroup
from systol_compiler.calibrate.histogram import Distribution, merged
from systol_compiler.calibrate.options import Override, QuantizationOptions
from systol_compiler.calibrate.ranges import Range, choose_range, numbers_of, spans_of
from systol_compiler.quantized.build import Numbers
from systol_hw.errors import InputError

_WIDE_ROOM: Final = 1.25


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbering:
    """Numbers by tensor, and what is to be said of them."""

    numbers: Mapping[str, Numbers]
    notes: tuple[str, ...]


def number_tensors(
    groups: Sequence[TensorGroup],
    seen: Mapping[str, Distribution],
    options: QuantizationOptions,
    spans: Sequence[Range | None] = (),
) -> Numbering:
    """Numbers for the members of every group.

    `spans` are ranges by group, for those whose numbers nothing else fixes.

    Raises
    ------
    InputError
        An override names no quantized tensor, or two of one group differ.
    UnsupportedModelError
        A scale leaves 2**-40..2**40.
    """
    _check_names(groups, options.overrides)
    numbers: dict[str, Numbers] = {}
    notes: list[str] = []
    for index, group in enumerate(groups):
        span = spans[index] if spans else None
        override = _override_of(group, options.overrides)
        seen_here = merged([seen[name] for name in group.observed])
        found = _numbers(group, seen_here, override, options, span)
        notes += _constants(group, seen)
        numbers.update(dict.fromkeys(group.members, found))
    return Numbering(numbers=numbers, notes=tuple(notes))


def _numbers(
    group: TensorGroup,
    seen: Distribution,
    override: Override,
    options: QuantizationOptions,
    chosen: Range | None,
) -> Numbers:
    wide = group.wide if override.bits is None else override.bits == 16
    width = 16 if wide else 8
    place = f"tensor {group.members[0]!r}"
    if override.scale is not None:
        zero_point = override.zero_point or 0
        if zero_point and (wide or group.symmetric):
            raise InputError(
                f"override of {group.members[0]!r}: its zero point must be 0, but is {zero_point}"
            )
        return Numbers(
            scale=float(np.float32(override.scale)), zero_point=zero_point, width=width
        )
    span = override.range
    if span is None and override.method is None and group.fixed:
        fixed = _fixed(group, seen, width)
        if fixed is not None:
            return fixed
    if span is None and override.method is None and chosen is not None and not wide:
        span = chosen
    if span is None:
        method = override.method or options.method
        if wide:
            method = "minmax"
        values = mirrored(seen) if group.symmetric and not wide else seen
        span = choose_range(values, method, options.percentile)
        if wide:
            # Sixteen bits have room for what calibration did not see.
            span = span[0] * _WIDE_ROOM, span[1] * _WIDE_ROOM
    return numbers_of(span, place, width=width, symmetric=group.symmetric)


def _fixed(group: TensorGroup, seen: Distribution, width: int) -> Numbers | None:
    """The numbers that operators fix, if they agree and hold all that was seen (`Wish.fixed`)."""
    if len(group.fixed) != 1:
        return None
    scale, zero_point, own_width = group.fixed[0]
    wanted = Numbers(scale=float(np.float32(scale)), zero_point=zero_point, width=own_width)
    least, greatest = spans_of(wanted)
    # Half a step beyond the last code still rounds to it; a definition may end a step further.
    slack = 1.5 * wanted.scale
    beyond = seen.least < least - slack or seen.greatest > greatest + slack
    if beyond and own_width == 8:
        return None
    if group.symmetric and zero_point:
        return numbers_of((least, greatest), "", symmetric=True)
    if width == own_width:
        return wanted
    return numbers_of((least, greatest), "", width=width)


def mirrored(seen: Distribution) -> Distribution:
    """`seen` and its negative: its best range is symmetric."""
    reach = max(-seen.least, seen.greatest)
    centers = np.concatenate([-seen.centers[::-1], seen.centers])
    counts = np.concatenate([seen.counts[::-1], seen.counts])
    order = np.argsort(centers, kind="stable")
    return Distribution(
        least=-reach, greatest=reach, centers=centers[order], counts=counts[order]
    )


def _constants(group: TensorGroup, seen: Mapping[str, Distribution]) -> list[str]:
    return [
        f"tensor {name!r} is {seen[name].least:g} in every element of all calibration data: its "
        "range holds nothing else; use more samples, or override its range"
        for name in group.observed
        if seen[name].constant
    ]


def _check_names(groups: Sequence[TensorGroup], overrides: Mapping[str, Override]) -> None:
    known = [name for group in groups for name in group.members]
    for name in overrides:
        if name not in known:
            close = get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]
            raise InputError(
                f"override of {name!r}: no quantized tensor has this name; close are "
                f"{', '.join(map(repr, close))} (of {len(known)})"
            )


def _override_of(group: TensorGroup, overrides: Mapping[str, Override]) -> Override:
    found = {name: overrides[name] for name in group.members if name in overrides}
    if len(set(found.values())) > 1:
        raise InputError(
            f"overrides of {', '.join(map(repr, found))}: these tensors share scale, zero point "
            f"and width, but their overrides differ; give all the same"
        )
    return next(iter(found.values()), Override())


