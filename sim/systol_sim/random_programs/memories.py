"""Which bytes and rows of a program's memories have a value, instruction by instruction."""

import numpy as np

from systol_hw.arch import Arch
from systol_hw.isa import Instruction
from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import ACCUMULATORS, UB, WEIGHT, WINDOW, Footprint, footprint


class Memories:
    """Sizes of a program's memories, and which bytes and rows have a value.

    Parameters
    ----------
    weight_data_bytes
        Weight memory that may be written: everything before the code.
    weight_bytes
        Weight memory that may be read.
    window_bytes
        Size of each host window, the alternate set from number 8 on.
    """

    def __init__(self, arch: Arch, *, weight_data_bytes: int, weight_bytes: int,
                 window_bytes: tuple[int, ...]) -> None:
        self.arch = arch
        self.weight_data_bytes, self.weight_bytes = weight_data_bytes, weight_bytes
        self.window_bytes = window_bytes
        self.written = {
            UB: np.zeros(arch.ub_bytes, bool),
            ACCUMULATORS: np.zeros(arch.accumulator_rows, bool),
        }
        self._stretches: dict[int, list[tuple[int, int]]] = {}
        self._latest: tuple[Instruction, Footprint] | None = None

    def footprint(self, item: Instruction) -> Footprint:
        """The footprint of `item`; what is allowed is noted next, so the latest is kept."""
        if self._latest is None or self._latest[0] is not item:
            self._latest = item, footprint(item, self.arch)
        return self._latest[1]

    def allows(self, item: Instruction) -> bool:
        """Whether `item` stays in its memories, reads only values, and not its own output."""
        accesses = self.footprint(item)
        for region in accesses.reads:
            if region.last >= self._size(region.space, self.weight_bytes):
                return False
            known = self.written.get(region.space)
            if known is not None and not known[region.index()].all():
                return False
            if item.unit is Unit.VECTOR and region.overlap(accesses.writes[0]) is not None:
                return False
        return all(
            region.last < self._size(region.space, self.weight_data_bytes)
            for region in accesses.writes
        )

    def _size(self, space: int, weight_bytes: int) -> int:
        if space == WEIGHT:
            return weight_bytes
        if space >= WINDOW:
            return self.window_bytes[space - WINDOW]
        return self.written[space].size

    def note(self, item: Instruction) -> None:
        """`item` comes next."""
        for region in self.footprint(item).writes:
            if region.space in self.written:
                self.written[region.space][region.index()] = True
                self._stretches.pop(region.space, None)

    def stretches(self, space: int) -> list[tuple[int, int]]:
        """All maximal stretches (first, past the last) of places with a value."""
        found = self._stretches.get(space)
        if found is None:
            padded = np.concatenate(([False], self.written[space], [False]))
            edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
            found = list(zip(edges[::2], edges[1::2], strict=True))
            self._stretches[space] = found
        return found
