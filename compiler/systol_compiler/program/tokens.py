"""Adds the tokens and drains that order every two conflicting instructions (docs/timing.md 9).

Program order is the wanted order. Each instruction gets the fewest waits: conflicts that other
orderings imply cost nothing. Where a token counter could pass its limit because the producer may
run too far ahead, the producer is made to wait for its consumer; where program order forbids that,
a barrier stands instead.
"""

from collections.abc import Iterable, Sequence
from types import MappingProxyType

from systol_hw.arch import Arch
from systol_hw.isa import Instruction, instruction, mask_of_units
from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import Footprint, footprints
from systol_sim.validity.hazards import Hazards
from systol_sim.validity.ordering import Ordering, Tokens

_PASSES = 4
BARRIER = -1
"""Origin of a barrier that was added."""


class SerialOrderNeededError(Exception):
    """No barrier can stand where one is needed: between weights and the matmul that takes them.

    The schedule must be one whose weights, and nothing else, stand directly before their matmul.
    """


def synchronize(
    arch: Arch, program: Sequence[Instruction], orders: Iterable[tuple[int, int]] = ()
) -> tuple[list[Instruction], list[int]]:
    """Order `program`, whose instructions carry no tokens.

    Parameters
    ----------
    orders
        Further pairs of indices: the first instruction must end before the second starts.

    Returns
    -------
    instructions, origins
        The program with tokens and drains, and for each instruction its index in `program`, or
        `BARRIER`.

    Raises
    ------
    SerialOrderNeededError
        The token limit is too low for this order.
    """
    accesses = list(footprints(program, arch))
    paced: dict[int, set[int]] = {}
    for earlier, later in orders:
        paced.setdefault(later, set()).add(earlier)
    for _ in range(_PASSES):
        attempt = _Attempt(arch, program, accesses, paced, may_assume=True)
        attempt.run()
        if not attempt.wanted and not attempt.stuck:
            return attempt.result()
        if not attempt.wanted:
            break
        for consumer, sources in attempt.wanted.items():
            paced.setdefault(consumer, set()).update(sources)
    barriers: set[int] = set()
    while True:
        attempt = _Attempt(arch, program, accesses, paced, may_assume=False, barriers=barriers)
        attempt.run()
        if not attempt.stuck:
            return attempt.result()
        if attempt.stuck <= barriers:
            raise SerialOrderNeededError
        barriers |= attempt.stuck


class _Attempt:
    """One pass over the program; indices are those of the result unless said otherwise."""

    def __init__(
        self,
        arch: Arch,
        program: Sequence[Instruction],
        footprints: list[Footprint],
        paced: dict[int, set[int]],
        *,
        may_assume: bool,
        barriers: Iterable[int] = (),
    ) -> None:
        self.arch, self.program, self.footprints = arch, program, footprints
        self.paced, self.may_assume = paced, may_assume
        self.hazards = Hazards(footprints)
        self.ordering, self.tokens = Ordering(), Tokens()
        self.out: list[Instruction] = []
        self.origin: list[int] = []
        self.position: list[int] = []
        """Index in the result of each instruction of the program."""
        self.signals: list[set[Unit]] = []
        self.wanted: dict[int, set[int]] = {}
        """Orderings (by program index) that would keep a counter within its limit."""
        self.assumed: dict[tuple[Unit, Unit], int] = {}
        """Waits of a pair that `wanted` orderings will serve."""
        self.barriers = frozenset(barriers)
        self.stuck: set[int] = set()
        """Weights that must have a barrier before them, because none can stand behind them."""
        self._tiles = 0
        self._weights = 0

    def run(self) -> None:
        for index in range(len(self.program)):
            self._place(index)

    def result(self) -> tuple[list[Instruction], list[int]]:
        items = []
        for item, units in zip(self.out, self.signals, strict=True):
            items.append(_with(item, signal=mask_of_units(units)) if units else item)
        return items, self.origin

    def _append(self, item: Instruction, origin: int, sources: Sequence[int] = ()) -> int:
        self.out.append(item)
        self.origin.append(origin)
        self.signals.append(set())
        return self.ordering.add(item, sources)

    def _place(self, index: int) -> None:
        item, accesses = self.program[index], self.footprints[index]
        if item.unit is Unit.CONTROL:
            self.position.append(self._append(item, index))
            return
        if item.unit is Unit.WEIGHTS and self._tiles == 0:
            self._weights = index
            if index in self.barriers:
                self._append(instruction("barrier"), BARRIER)
        earlier = {c.earlier for c in self.hazards.conflicts(item.unit, accesses)}
        earlier |= {self.position[i] for i in self.paced.get(index, ())}
        sources: dict[Unit, int] = {}
        while True:
            start = self.ordering.candidate(item, sources.values())
            open_ = [pc for pc in earlier if not self.ordering.ends_before(pc, start)]
            if not open_:
                break
            # The latest one most often implies the others.
            latest = max(open_)
            unit = self.ordering.units[latest]
            if unit is item.unit:
                item = _with(item, drain=1)
                continue
            source = None if unit in sources else self._source(latest, item.unit)
            if source is None:
                if self._tiles > 0:
                    self.stuck.add(self._weights)
                self._append(instruction("barrier"), BARRIER)
            else:
                sources[unit] = source
        for producer, source in sources.items():
            pair = (producer, item.unit)
            self.tokens.signals.setdefault(pair, []).append(source)
            self.tokens.waits.setdefault(pair, []).append(len(self.out))
            self.signals[source].add(item.unit)
        pc = self._append(
            _with(item, wait=mask_of_units(sources)), index, list(sources.values())
        )
        self.position.append(pc)
        self.hazards.add(pc, item.unit, accesses)
        if item.unit is Unit.WEIGHTS:
            self._tiles += item["n_count"] * item["outer_count"] * item["inner_count"]
        elif item.unit is Unit.MATRIX:
            self._tiles -= tiles_taken(item)

    def _source(self, earlier: int, consumer: Unit) -> int | None:
        """The first instruction of `earlier`'s unit, from it on, that can signal `consumer`."""
        members = self.ordering.members[self.ordering.units[earlier]]
        pair = (self.ordering.units[earlier], consumer)
        candidates = members[self.ordering.place[earlier] :]
        for pc in candidates:
            if self._excess(pair, pc) <= 0:
                return pc
        return earlier if self.may_assume and self._pace(pair, earlier) else None

    def _excess(self, pair: tuple[Unit, Unit], source: int) -> int:
        """By how much the counter could pass its limit with one more signal, by `source`."""
        given = self.tokens.signals.setdefault(pair, [])
        given.append(source)
        n = len(given)
        count = min(
            self.tokens.greatest_count(self.ordering, pair, n), n - self.assumed.get(pair, 0)
        )
        given.pop()
        return count - self.arch.token_limit

    def _pace(self, pair: tuple[Unit, Unit], source: int) -> bool:
        """Note that `source` should wait for enough of its consumers; False if it cannot."""
        waits = self.tokens.waits.get(pair, [])
        n = len(self.tokens.signals[pair]) + 1
        least = n - self.arch.token_limit
        before = sum(1 for pc in waits if pc < source)
        # Half the limit more than needed, so that the next signals need nothing.
        served = min(before, least + self.arch.token_limit // 2)
        if served < least:
            return False
        self.wanted.setdefault(self.origin[source], set()).add(self.origin[waits[served - 1]])
        self.assumed[pair] = max(served, self.assumed.get(pair, 0))
        return True


def tiles_taken(matmul: Instruction) -> int:
    """Weight tiles that a matmul consumes."""
    return matmul["n_count"] * matmul["k0_count"] * matmul["k1_count"] * matmul["k2_count"]


def _with(item: Instruction, **values: int) -> Instruction:
    """`item` with other tokens; masks always fit their fields, so nothing needs to be checked."""
    return Instruction(item.operation, MappingProxyType({**item.fields, **values}))
