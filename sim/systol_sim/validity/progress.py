"""Whether a program gets through: weight tiles, queues and the FIFO, without times.

Each step of the machine only ever enables others (a token has one consumer, a tile one taker), so
the order in which possible steps are taken does not matter: if the greedy run here sticks, so does
the machine in every timing, and if it does not, none does.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from systol_hw.arch import Arch
from systol_hw.isa import Instruction
from systol_hw.tables.faults import Unit

UNITS: tuple[Unit, ...] = tuple(unit for unit in Unit if unit is not Unit.CONTROL)
"""The units that have queues."""


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """Where a program sticks."""

    next_pc: int
    """The next instruction to dispatch: the pc that the watchdog reports."""
    blocked: tuple[tuple[Unit, int, str], ...]
    """Each unit that cannot go on, its instruction, and what is missing."""


def tile_count(instruction: Instruction) -> int:
    """Tiles that a WEIGHTS instruction loads or a MATRIX instruction takes."""
    names = (
        ("n_count", "outer_count", "inner_count")
        if instruction.unit is Unit.WEIGHTS
        else ("n_count", "k0_count", "k1_count", "k2_count")
    )
    product = 1
    for name in names:
        product *= instruction[name]
    return product


def find_stuck(program: Sequence[Instruction], arch: Arch) -> Stuck | None:
    """Run `program` without times; None if it ends (or runs off its end)."""
    return _Run(program, arch).result()


class _Run:
    def __init__(self, program: Sequence[Instruction], arch: Arch) -> None:
        self.program, self.arch = program, arch
        self.next_pc = 0
        self.queues: dict[Unit, deque[int]] = {unit: deque() for unit in UNITS}
        self.active: dict[Unit, int | None] = dict.fromkeys(UNITS)
        self.left: dict[Unit, int] = dict.fromkeys(UNITS, 0)
        self.tokens: dict[tuple[Unit, Unit], int] = {}
        self.loaded = self.taken = 0

    def result(self) -> Stuck | None:
        while True:
            moved = self._dispatch()
            for unit in UNITS:
                moved |= self._advance(unit)
            moved |= self._stream_tiles()
            if self.next_pc == len(self.program):
                return None
            if not moved:
                return Stuck(next_pc=self.next_pc, blocked=tuple(self._blocked()))

    def _dispatch(self) -> bool:
        moved = False
        while self.next_pc < len(self.program):
            item = self.program[self.next_pc]
            if item.unit is Unit.CONTROL:
                quiet = not any(self.queues[u] or self.active[u] is not None for u in UNITS)
                if item.operation.name in ("barrier", "sync_host", "halt") and not quiet:
                    break
                if item.operation.name == "halt":
                    self.next_pc = len(self.program)
                    return True
            elif len(self.queues[item.unit]) < self.arch.queue_depth:
                self.queues[item.unit].append(self.next_pc)
            else:
                break
            self.next_pc += 1
            moved = True
        return moved

    def _missing(self, unit: Unit) -> list[Unit]:
        head = self.program[self.queues[unit][0]]
        return [p for p in head.waits if not self.tokens.get((p, unit))]

    def _advance(self, unit: Unit) -> bool:
        moved = False
        while True:
            if self.active[unit] is None:
                if not self.queues[unit] or self._missing(unit):
                    return moved
                pc = self.queues[unit].popleft()
                for producer in self.program[pc].waits:
                    self.tokens[producer, unit] -= 1
                self.active[unit] = pc
                is_tiled = unit in (Unit.WEIGHTS, Unit.MATRIX)
                self.left[unit] = tile_count(self.program[pc]) if is_tiled else 0
                moved = True
            moved |= self._move_tiles(unit)
            pc_active = self.active[unit]
            if self.left[unit] or pc_active is None:
                return moved
            for consumer in self.program[pc_active].signals:
                self.tokens[unit, consumer] = self.tokens.get((unit, consumer), 0) + 1
            self.active[unit] = None
            moved = True

    def _move_tiles(self, unit: Unit) -> bool:
        if unit is Unit.WEIGHTS:
            # One more tile than the FIFO holds fits the shadow plane.
            room = self.taken + 1 + self.arch.weight_fifo_tiles - self.loaded
            count = min(self.left[unit], room)
            self.loaded += count
        elif unit is Unit.MATRIX:
            count = min(self.left[unit], self.loaded - self.taken)
            self.taken += count
        else:
            count = 0
        self.left[unit] -= count
        return count > 0

    def _stream_tiles(self) -> bool:
        """While a loader and a matmul are both active, tiles pass from one to the other freely."""
        active = self.active[Unit.WEIGHTS] is not None and self.active[Unit.MATRIX] is not None
        count = min(self.left[Unit.WEIGHTS], self.left[Unit.MATRIX]) if active else 0
        for unit in (Unit.WEIGHTS, Unit.MATRIX):
            self.left[unit] -= count
        self.loaded += count
        self.taken += count
        return count > 0

    def _blocked(self) -> Iterator[tuple[Unit, int, str]]:
        for unit in UNITS:
            pc = self.active[unit]
            if pc is not None:
                reason = (
                    "room in the weight FIFO" if unit is Unit.WEIGHTS else "a tile in the FIFO"
                )
                yield unit, pc, reason
            elif self.queues[unit]:
                names = ", ".join(p.name.lower() for p in self._missing(unit))
                yield unit, self.queues[unit][0], f"a token of {names}"


@dataclass
class _Rows:
    """`left` more tiles, of which every `period`-th has `last` live rows and the others `full`.

    `phase` tiles of the present period are gone.
    """

    pc: int
    full: int
    period: int
    last: int
    left: int
    phase: int = 0

    def head(self) -> tuple[int, int]:
        """Live rows of the next tiles, and how many of them are alike."""
        if self.last == self.full or self.period == 1:
            return self.last, self.left
        if self.phase == self.period - 1:
            return self.last, 1
        return self.full, self.period - 1 - self.phase

    def take(self, count: int) -> None:
        self.left -= count
        self.phase = (self.phase + count) % self.period


@dataclass(frozen=True, kw_only=True)
class TileError:
    """A matrix instruction that finds no tile or the wrong one, or tiles that nobody takes."""

    pc: int
    loader: int | None
    message: str


class TileStream:
    """The tiles' live rows, as WEIGHTS instructions append and MATRIX instructions take them."""

    def __init__(self, arch: Arch) -> None:
        self._rows = arch.rows
        self._waiting: deque[_Rows] = deque()

    def _stream(self, instruction: Instruction, pc: int) -> _Rows:
        period = instruction["inner_count" if instruction.unit is Unit.WEIGHTS else "k2_count"]
        count = tile_count(instruction)
        return _Rows(pc, self._rows, period, instruction["k_last"], count)

    def append(self, instruction: Instruction, pc: int) -> None:
        """A WEIGHTS instruction in program order."""
        self._waiting.append(self._stream(instruction, pc))

    def take(self, instruction: Instruction, pc: int) -> TileError | None:
        """A MATRIX instruction in program order."""
        wanted = self._stream(instruction, pc)
        while wanted.left:
            if not self._waiting:
                return TileError(
                    pc=pc, loader=None, message=f"takes {wanted.left} tiles more than are loaded"
                )
            given = self._waiting[0]
            alike = (given.period, given.last, given.phase) == (
                wanted.period, wanted.last, wanted.phase
            )
            if alike:
                count = min(given.left, wanted.left)
            else:
                (rows, give), (want_rows, want) = given.head(), wanted.head()
                if rows != want_rows:
                    return TileError(
                        pc=pc,
                        loader=given.pc,
                        message=f"expects a tile of {want_rows} live rows and finds {rows}",
                    )
                count = min(give, want, given.left, wanted.left)
            given.take(count)
            wanted.take(count)
            if not given.left:
                self._waiting.popleft()
        return None

    def left_over(self) -> TileError | None:
        """Tiles that no instruction takes, at the end of the program."""
        if not self._waiting:
            return None
        count = sum(item.left for item in self._waiting)
        return TileError(
            pc=self._waiting[0].pc,
            loader=self._waiting[0].pc,
            message=f"loads tiles that no matmul takes ({count} are left over)",
        )
