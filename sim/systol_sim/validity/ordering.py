"""Which instruction ends before which other starts, whatever the timing (docs/timing.md 9.1).

A clock counts, for each unit, how many of its instructions have certainly ended. Ends and starts of
a unit are in program order, so one number for each unit says everything: `end(i) -> start(j)` holds
if and only if j's start clock passes i's place among its unit's instructions.
"""

from collections.abc import Iterable, Sequence

from systol_hw.isa import Instruction
from systol_hw.tables.faults import Unit

Clock = list[int]
"""Ended instructions, by unit number (CONTROL's entry stays 0)."""


def join(clocks: Iterable[Sequence[int]]) -> Clock:
    """The least clock that knows all that `clocks` know."""
    return [max(column) for column in zip(*clocks, strict=True)]


QUIET = frozenset(("barrier", "sync_host", "halt"))
"""Control's operations that wait until every unit is quiet."""


def source_of(instruction: Instruction) -> str:
    """The memory port of a LOAD or STORE instruction, or where a WEIGHTS instruction reads: one of
    another source starts only when the unit's earlier instructions have ended."""
    if instruction.unit is Unit.WEIGHTS:
        return "ub" if instruction.operation.name == "read_weights_ub" else "weight"
    return "host" if "window" in instruction.fields else "weight"


class Ordering:
    """Clocks of a program's instructions, added one after another in program order.

    `place[pc]` is an instruction's place among its unit's; `start[pc]` and `end[pc]` are its clocks
    (empty lists for CONTROL's).
    """

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.place: list[int] = []
        self.start: list[Clock] = []
        self.end: list[Clock] = []
        self.members: list[list[int]] = [[] for _ in Unit]
        """The pcs of each unit's instructions."""
        self._floor: Clock = [0] * len(Unit)
        self._last_start: list[Clock] = [[0] * len(Unit) for _ in Unit]
        self._last_end: list[Clock] = [[0] * len(Unit) for _ in Unit]
        self._last_source = [""] * len(Unit)

    def candidate(self, instruction: Instruction, sources: Iterable[int] = ()) -> Clock:
        """The start clock of `instruction` if it came next, its tokens coming from the ends of
        `sources`."""
        unit = instruction.unit
        clocks = [self._floor, self._last_start[unit], *(self.end[pc] for pc in sources)]
        switches = (
            unit in (Unit.LOAD, Unit.STORE, Unit.WEIGHTS)
            and bool(self.members[unit])
            and self._last_source[unit] != source_of(instruction)
        )
        if instruction.get("drain") or switches:
            clocks.append(self._last_end[unit])
        return join(clocks)

    def add(self, instruction: Instruction, sources: Iterable[int] = ()) -> int:
        """Add the next instruction; returns its pc."""
        pc, unit = len(self.units), instruction.unit
        self.units.append(unit)
        self.place.append(len(self.members[unit]))
        if unit is Unit.CONTROL:
            if instruction.operation.name in QUIET:
                ended = [len(members) for members in self.members]
                ended[Unit.CONTROL] = 0
                self._floor = ended
            self.members[unit].append(pc)
            self.start.append([])
            self.end.append([])
            return pc
        start = self.candidate(instruction, sources)
        end = join((start, self._last_end[unit]))
        end[unit] = self.place[pc] + 1
        self.start.append(start)
        self.end.append(end)
        self.members[unit].append(pc)
        self._last_start[unit], self._last_end[unit] = start, end
        self._last_source[unit] = source_of(instruction)
        return pc

    def ends_before(self, earlier: int, start: Clock) -> bool:
        """Whether `earlier` has certainly ended at the start with clock `start`."""
        return start[self.units[earlier]] > self.place[earlier]


class Tokens:
    """The token matching: the n-th wait of a pair takes the n-th signal."""

    def __init__(self) -> None:
        self.signals: dict[tuple[Unit, Unit], list[int]] = {}
        self.waits: dict[tuple[Unit, Unit], list[int]] = {}

    def sources(self, instruction: Instruction, pc: int) -> tuple[list[int], list[Unit]]:
        """Take the tokens that `instruction` waits for: the pcs that signalled them, and the
        producers whose signal is missing."""
        found, missing = [], []
        for producer in instruction.waits:
            pair = (producer, instruction.unit)
            taken = self.waits.setdefault(pair, [])
            given = self.signals.get(pair, [])
            if len(taken) < len(given):
                found.append(given[len(taken)])
            else:
                missing.append(producer)
            taken.append(pc)
        return found, missing

    def signal(self, instruction: Instruction, pc: int) -> None:
        """Note the signals of `instruction`."""
        for consumer in instruction.signals:
            self.signals.setdefault((instruction.unit, consumer), []).append(pc)

    def greatest_count(self, ordering: Ordering, pair: tuple[Unit, Unit], n: int) -> int:
        """The greatest value that the pair's counter can have when its n-th signal (from 1) comes:
        n less the waits that have certainly been served."""
        clock = ordering.end[self.signals[pair][n - 1]]
        served = clock[pair[1]]
        waits = self.waits.get(pair, [])
        low, high = 0, len(waits)
        while low < high:
            middle = (low + high) // 2
            if ordering.place[waits[middle]] < served:
                low = middle + 1
            else:
                high = middle
        return n - low
