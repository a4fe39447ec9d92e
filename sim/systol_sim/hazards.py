"""Finds which earlier instructions an instruction conflicts with (docs/timing.md 9.2, 9.5).

For each memory and unit two arrays hold the last writer and the last reader of each place. The last
is enough: ends of one unit are in order, so what is ordered after the last is after all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from systol_hw.faults import Unit
from systol_sim.footprint import ACCUMULATORS, UB, Footprint, Region


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """An earlier instruction that must have ended before the present one starts, and why."""

    earlier: int
    space: int
    place: int
    kind: str
    """`"read after write"`, `"write after write"` or `"write after read"`."""


class Hazards:
    """The accesses of a program's instructions so far.

    Parameters
    ----------
    footprints
        Of all instructions that will be added: the extent of their writes bounds what is tracked,
        because what nobody writes conflicts with nothing.
    """

    def __init__(self, footprints: Iterable[Footprint]) -> None:
        extents: dict[int, tuple[int, int]] = {}
        for item in footprints:
            for region in item.writes:
                low, high = extents.get(region.space, (region.first, region.last + 1))
                extents[region.space] = min(low, region.first), max(high, region.last + 1)
        self._extents = extents
        self._last: dict[tuple[int, Unit, bool], np.ndarray] = {}
        self._written = {
            space: np.zeros(high - low, bool)
            for space, (low, high) in extents.items()
            if space in (UB, ACCUMULATORS)
        }

    def unwritten(self, reads: Iterable[Region]) -> tuple[int, int] | None:
        """The first (space, place) of `reads` that has no value yet, or None."""
        for region in reads:
            if region.space not in (UB, ACCUMULATORS):
                continue
            low, high = self._extents.get(region.space, (0, 0))
            if region.first < low:
                return region.space, region.first
            if region.last >= high:
                beyond = region.clip(high, region.last + 1)
                assert beyond is not None
                return region.space, beyond.first
            known = self._written[region.space][region.index(low)]
            if not known.all():
                place = int(np.argmin(known))
                where = region.first + place if region.starts.size == 1 else region.places()[place]
                return region.space, int(where)
        return None

    def conflicts(self, unit: Unit, item: Footprint) -> list[Conflict]:
        """What an instruction of `unit` with footprint `item` must come after: of each unit, memory
        and kind the last conflicting instruction. What a unit orders by itself is left out."""
        found: list[Conflict] = []
        for region in item.reads:
            self._collect(found, unit, region, True, "read after write")
        for region in item.writes:
            self._collect(found, unit, region, True, "write after write")
            self._collect(found, unit, region, False, "write after read")
        return found

    def _collect(
        self, found: list[Conflict], unit: Unit, region: Region, writers: bool, kind: str
    ) -> None:
        low, high = self._extents.get(region.space, (0, 0))
        part = region.clip(low, high)
        if part is None:
            return
        index = part.index(low)
        for (space, other, writes), last in self._last.items():
            if space != region.space or writes is not writers:
                continue
            own_bytes = unit is Unit.VECTOR and kind == "read after write" and space == UB
            if other is unit and not own_bytes:
                continue
            values = last[index]
            earlier = int(values.max())
            if earlier >= 0:
                at = int(values.argmax())
                place = part.first + at if part.starts.size == 1 else int(part.places()[at])
                found.append(Conflict(earlier=earlier, space=space, place=place, kind=kind))

    def add(self, pc: int, unit: Unit, item: Footprint) -> None:
        """Note the accesses of instruction `pc`."""
        for regions, writes in ((item.reads, False), (item.writes, True)):
            for region in regions:
                low, high = self._extents.get(region.space, (0, 0))
                part = region.clip(low, high)
                if part is None:
                    continue
                key = (region.space, unit, writes)
                if key not in self._last:
                    self._last[key] = np.full(high - low, -1, np.int32)
                index = part.index(low)
                self._last[key][index] = pc
                if writes and region.space in self._written:
                    self._written[region.space][index] = True
