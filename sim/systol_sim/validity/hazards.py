"""Finds which earlier instructions an instruction conflicts with (docs/timing.md 9.2, 9.5).

For each memory and unit two arrays hold the last writer and the last reader of each place. The last
is enough: ends of one unit are in order, so what is ordered after the last is after all. Places
that all instructions treat alike share one element, so the arrays' sizes follow from the program,
not from its memories.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import ACCUMULATORS, UB, Footprint, Region, distinct


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """An earlier instruction that must have ended before the present one starts, and why."""

    earlier: int
    space: int
    place: int
    kind: str
    """`"read after write"`, `"write after write"` or `"write after read"`."""


_MOST_KEPT = 1 << 22
"""Elements of all regions that are remembered: a region of two halves may have the elements of all
others between its ends, so that without a limit they grow with the square of a program."""


class Hazards:
    """The accesses of a program's instructions so far.

    Parameters
    ----------
    footprints
        Of all instructions that will be added or asked about.
    """

    def __init__(self, footprints: Iterable[Footprint]) -> None:
        edges: dict[int, list[np.ndarray]] = {}
        written: set[int] = set()
        for item in set(footprints):
            for region in (*item.reads, *item.writes):
                edges.setdefault(region.space, []).extend((region.starts, region.ends))
            written.update(region.space for region in item.writes)
        # What nobody writes conflicts with nothing.
        self._edges = {s: distinct(np.concatenate(edges[s])) for s in written}
        self._last: dict[tuple[int, Unit, bool], np.ndarray] = {}
        self._segments_of: dict[Region, slice | np.ndarray] = {}
        self._kept = 0
        self._written = {
            space: np.zeros(self._edges[space].size, bool)
            for space in (UB, ACCUMULATORS)
            if space in self._edges
        }

    def _segments(self, region: Region) -> slice | np.ndarray:
        """Elements of the arrays of `region`'s memory; element k begins at edge k."""
        segments = self._segments_of.get(region)
        if segments is None:
            segments = self._find_segments(region)
            size = 0 if isinstance(segments, slice) else segments.size
            if self._kept + size <= _MOST_KEPT:
                self._kept += size
                self._segments_of[region] = segments
        return segments

    def _find_segments(self, region: Region) -> slice | np.ndarray:
        edges = self._edges[region.space]
        first = edges.searchsorted(region.starts)
        last = edges.searchsorted(region.ends)
        if first.size == 1:
            return slice(int(first[0]), int(last[0]))
        return Region(space=region.space, starts=first, ends=last).index()

    def _place(self, region: Region, segments: slice | np.ndarray, at: int) -> int:
        """The first place of the `at`-th of `segments`."""
        element = segments.start + at if isinstance(segments, slice) else segments[at]
        return int(self._edges[region.space][element])

    def unwritten(self, reads: Iterable[Region]) -> tuple[int, int] | None:
        """The first (space, place) of `reads` that has no value yet, or None."""
        for region in reads:
            if region.space not in (UB, ACCUMULATORS):
                continue
            if region.space not in self._edges:
                return region.space, region.first
            segments = self._segments(region)
            known = self._written[region.space][segments]
            if not known.all():
                return region.space, self._place(region, segments, int(np.argmin(known)))
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
        segments: slice | np.ndarray | None = None
        for (space, other, writes), last in self._last.items():
            if space != region.space or writes is not writers:
                continue
            # Of its own accesses a unit leaves only this one unordered.
            own = unit is Unit.VECTOR and kind == "read after write" and space == UB
            if other is unit and not own:
                continue
            if segments is None:
                segments = self._segments(region)
            values = last[segments]
            at = int(values.argmax())
            earlier = int(values[at])
            if earlier >= 0:
                place = self._place(region, segments, at)
                found.append(Conflict(earlier=earlier, space=space, place=place, kind=kind))

    def add(self, pc: int, unit: Unit, item: Footprint) -> None:
        """Note the accesses of instruction `pc`."""
        for regions, writes in ((item.reads, False), (item.writes, True)):
            for region in regions:
                if region.space not in self._edges:
                    continue
                key = (region.space, unit, writes)
                if key not in self._last:
                    self._last[key] = np.full(self._edges[region.space].size, -1, np.int32)
                segments = self._segments(region)
                self._last[key][segments] = pc
                if writes and region.space in self._written:
                    self._written[region.space][segments] = True
