"""What all proposals draw: places that fit, strides, and the units of 64 bytes between planes."""

import random
from collections.abc import Callable, Sequence

from systol_hw.arch import Arch
from systol_hw.isa import Instruction
from systol_hw.isa.operations import PLANE_UNIT_BYTES
from systol_sim.random_programs.memories import Memories
from systol_sim.validity.footprint import UB

_TRIES = 12
Loops = Sequence[tuple[int, int]]
"""(count, stride) of each loop of an access."""
Place = tuple[int, int]
"""First place, and the one past the last."""


class Draws:
    """Random parts of instructions for `arch` that fit what `memories` hold."""

    def __init__(self, arch: Arch, rng: random.Random, memories: Memories) -> None:
        self.arch, self.rng, self.memories = arch, rng, memories

    def attempt(self, draw: Callable[[], Instruction | None]) -> Instruction | None:
        """The first instruction of a dozen draws that the memories allow, or None."""
        for _ in range(_TRIES):
            item = draw()
            if item is not None and self.memories.allows(item):
                return item
        return None

    def fit(self, low: int, high: int, length: int, loops: Loops) -> int | None:
        """A random base with which all accesses of `length` places lie in low .. high - 1."""
        least = most = 0
        for count, stride in loops:
            reach = (count - 1) * stride
            if reach < 0:
                least += reach
            else:
                most += reach
        first, last = low - least, high - most - length
        if last < first:
            return None
        # Ends of memories and of banks are where mistakes are.
        if self.rng.random() < 0.13:
            return self.rng.choice((first, last))
        return self.rng.randint(first, last)

    def stretch(self, space: int, least: int = 1) -> Place | None:
        """A stretch of places with values, the longer the likelier."""
        found = [s for s in self.memories.stretches(space) if s[1] - s[0] >= least]
        if not found:
            return None
        return self.rng.choices(found, [b - a for a, b in found])[0]

    def stride(self, length: int) -> int:
        """A stride for accesses of `length` places: gapless, with gaps, overlapping, backwards."""
        kind = self.rng.random()
        if kind < 0.25:
            return length
        if kind < 0.5:
            return (-length, 0, length // 2)[int(kind * 12) - 3]
        if kind < 0.75:
            gap = self.rng.randint(1, 9)
            return length + gap if kind < 0.625 else -length - gap
        return self.rng.randint(-40, 40)

    def plane_step(self, planes: int, block: int) -> int:
        """A step between `planes` planes of about `block` bytes, in units of 64 bytes."""
        if planes == 1:
            # Not used: no executor may look at it.
            return self.rng.choice((0, 0, 1, 0xFFFF))
        apart = -(-block // PLANE_UNIT_BYTES)
        most = self.arch.ub_bytes // (PLANE_UNIT_BYTES * planes)
        return min(most, self.rng.choice((apart, apart, apart, apart + 1, 1, 0)))

    def some_place(self, length: int) -> int | None:
        """Where `length` bytes of the unified buffer with values begin."""
        place = self.stretch(UB, length)
        return None if place is None else self.fit(*place, length, ())
