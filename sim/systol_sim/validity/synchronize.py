"""Gives a list of instructions the tokens, drains and barriers that make their order certain."""

import random
from collections.abc import Iterable, Sequence
from types import MappingProxyType

from systol_hw.arch import Arch
from systol_hw.isa import Instruction, instruction, mask_of_units
from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import Footprint, footprints
from systol_sim.validity.hazards import Hazards
from systol_sim.validity.ordering import Ordering, Tokens
from systol_sim.validity.progress import tile_count


def strip(program: Iterable[Instruction]) -> list[Instruction]:
    """`program` without its tokens and drain bits; barriers stay."""
    return [_with(item, wait=0, signal=0, drain=0) for item in program]


def _with(item: Instruction, **values: int) -> Instruction:
    if item.unit is Unit.CONTROL:
        return item
    # The other fields have been checked; masks and the drain bit are made here and fit.
    return Instruction(item.operation, MappingProxyType({**item.fields, **values}))


def synchronize(
    arch: Arch,
    program: Sequence[Instruction],
    *,
    rng: random.Random | None = None,
    redundancy: float = 0.0,
) -> list[Instruction]:
    """Order every pair of conflicting instructions of `program` (docs/timing.md 9.2).

    Parameters
    ----------
    program
        Instructions without tokens whose program order is the wanted order. Drain bits and barriers
        that are there are kept and made use of.
    rng
        Without it each ordering comes from the earliest instruction that serves, by a token, or
        within a unit by a drain. With it sources are sometimes later ones and barriers sometimes
        stand for tokens.
    redundancy
        Probability for an instruction of a token that nothing needs.

    Returns
    -------
    list of Instruction
        `program` with tokens, drains and perhaps more barriers. Where a token counter could pass
        `token_limit`, a barrier stands instead.
    """
    return _Synchronizer(arch, program, rng, redundancy).result()


class _Synchronizer:
    def __init__(self, arch: Arch, program: Sequence[Instruction], rng: random.Random | None,
                 redundancy: float) -> None:
        self.arch, self.rng, self.redundancy = arch, rng, redundancy
        self.items = list(program)
        self.footprints: list[Footprint] = list(footprints(program, arch))
        self.hazards = Hazards(self.footprints)
        self.ordering, self.tokens = Ordering(), Tokens()
        self.out: list[Instruction] = []
        self.signals: list[list[Unit]] = []
        self.loaded: dict[int, int] = {}
        """Tiles loaded by the end of each WEIGHTS instruction, in program order."""
        self.total = self.taken = 0

    def result(self) -> list[Instruction]:
        for item, accesses in zip(self.items, self.footprints, strict=True):
            self._place(item, accesses)
        return [
            _with(item, signal=mask_of_units(units)) if units else item
            for item, units in zip(self.out, self.signals, strict=True)
        ]

    def _chance(self, probability: float) -> bool:
        return self.rng is not None and self.rng.random() < probability

    def _append(self, item: Instruction, sources: Sequence[int] = ()) -> int:
        self.out.append(item)
        self.signals.append([])
        return self.ordering.add(item, sources)

    def _place(self, item: Instruction, accesses: Footprint) -> None:
        if item.unit is Unit.CONTROL:
            self._append(item)
            return
        conflicts = {c.earlier for c in self.hazards.conflicts(item.unit, accesses)}
        if self._chance(self.redundancy / 4):
            item = _with(item, drain=1)
        sources: list[int] = []
        used: list[Unit] = []
        while True:
            start = self.ordering.candidate(item, sources)
            open_ = sorted(pc for pc in conflicts if not self.ordering.ends_before(pc, start))
            if not open_:
                break
            earlier = self.rng.choice(open_) if self.rng is not None else open_[-1]
            # Ends of a unit are in order: only its last open conflict needs an edge.
            earlier = [p for p in open_ if self.ordering.units[p] is self.ordering.units[earlier]][
                -1
            ]
            if self._chance(0.03):
                source = None
            elif self.ordering.units[earlier] is item.unit:
                item = _with(item, drain=1)
                continue
            else:
                source = self._source(earlier, item.unit)
            if source is None:
                self._append(instruction("barrier"))
                continue
            sources.append(source)
            used.append(self.ordering.units[source])
        if self._chance(self.redundancy):
            self._redundant(item, sources, used)
        for producer, source in zip(used, sources, strict=True):
            pair = (producer, item.unit)
            self.tokens.signals.setdefault(pair, []).append(source)
            self.tokens.waits.setdefault(pair, []).append(len(self.out))
            self.signals[source].append(item.unit)
        pc = self._append(_with(item, wait=mask_of_units(used)), sources)
        self.hazards.add(pc, item.unit, accesses)
        if item.unit is Unit.WEIGHTS:
            self.total += tile_count(item)
            self.loaded[pc] = self.total
        elif item.unit is Unit.MATRIX:
            self.taken += tile_count(item)

    def _source(self, earlier: int, consumer: Unit) -> int | None:
        """An instruction of `earlier`'s unit, not before it, that can signal `consumer`."""
        members = self.ordering.members[self.ordering.units[earlier]]
        candidates = members[self.ordering.place[earlier] :]
        if self.rng is not None and self.rng.random() < 0.3:
            candidates = self.rng.sample(candidates, len(candidates))
        pair = (self.ordering.units[earlier], consumer)
        return next((pc for pc in candidates if self._fits(pair, pc)), None)

    def _fits(self, pair: tuple[Unit, Unit], source: int) -> bool:
        """Whether one more signal of `pair` at `source` stays within the token limit."""
        trial = self.tokens.signals.setdefault(pair, [])
        trial.append(source)
        count = self.tokens.greatest_count(self.ordering, pair, len(trial))
        trial.pop()
        return count <= self.arch.token_limit

    def _redundant(self, item: Instruction, sources: list[int], used: list[Unit]) -> None:
        """Add one token that is not needed."""
        assert self.rng is not None
        producer = self.rng.choice([unit for unit in Unit if unit is not Unit.CONTROL])
        given = self.tokens.signals.get((producer, item.unit), [])
        last = given[-1] if given else -1
        candidates = [
            pc
            for pc in self.ordering.members[producer]
            if pc > last and self._can_end(pc)
        ]
        if producer is item.unit or producer in used or not candidates:
            return
        source = self.rng.choice(candidates)
        if self._fits((producer, item.unit), source):
            sources.append(source)
            used.append(producer)

    def _can_end(self, pc: int) -> bool:
        """Whether a loader can end before a further matmul takes tiles."""
        return self.loaded.get(pc, 0) <= self.taken + 1 + self.arch.weight_fifo_tiles
