"""Tasks: tiles with the places of their operands, and the transfers around them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Box, Operand, Range
from systol_compiler.nests.vector import Requantize, VectorNest
from systol_compiler.plan.stages import SLOTS, Grid, TiledStage, grid, read_grid
from systol_compiler.plan.tiling import Tile, needs
from systol_hw.arch import PARAMETER_BYTES, Arch

_EVERY = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an operand lies: in the request `key`, whole, or only `slot`, packed."""

    key: str
    slot: Box | None = None


@dataclass(frozen=True, kw_only=True)
class Move:
    """Copies `box` of `operand` between its buffer's home and `place`."""

    operand: Operand
    box: Box
    place: Place


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Which buffers lie whole in the unified buffer, and for how long.

    Attributes
    ----------
    until
        Last stage that sees a buffer whole, by buffer; -1 for none. Later ones stream it from its
        home. Buffers that are not named lie whole as long as they are used.
    sliced
        Stages whose parameters come by ranges of channels.
    pinned
        All constants are loaded once, together.
    """

    until: Mapping[str, int] = field(default_factory=dict)
    sliced: frozenset[int] = frozenset()
    pinned: bool = False

    def whole(self, buffer: str, stage: int) -> bool:
        """Whether `stage` sees `buffer` whole."""
        return stage <= self.until.get(buffer, _EVERY)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A tile, ready for its instructions.

    `loads` come before it, those of `step_loads` before the matmul of that place; `stores` behind.
    """

    stage: int
    nest: Nest
    tile: Tile
    output: Place
    reads: tuple[Place, ...]
    constants: tuple[Place, ...]
    loads: tuple[Move, ...]
    step_loads: Mapping[int, tuple[Move, ...]]
    stores: tuple[Move, ...]


PINNED = "constants"
"""The request of all constants together."""


def constant_key(stage: int, name: str, residency: Residency) -> str:
    """The request of a constant in a stage."""
    return PINNED if residency.pinned else f"{stage}/{name}"


def slot_key(stage: int, nest: Nest, role: str, turn: int) -> str:
    """The request of one slot of a streamed operand."""
    return f"{stage}/{nest.name}.{role}.{turn % SLOTS}"


def rolling_key(name: str, turn: int) -> str:
    """The request of one band of a rolling buffer."""
    return f"{name}.band.{turn % SLOTS}"


def flat(buffer: Buffer) -> Operand:
    """A buffer as one line of bytes."""
    return Operand(
        buffer=buffer.name, planes=(0,), lines=1, positions=1, width=buffer.plane_bytes,
        line_pitch=buffer.plane_bytes, position_pitch=buffer.plane_bytes,
        byte_planes=buffer.planes,
    )


def span_box(span: Range) -> Box:
    """A range of bytes of a flat operand."""
    return Box(planes=(0, 1), lines=(0, 1), positions=(0, 1), bytes=span)


class TaskBuilder:
    """Makes the tasks of one group of images, stage by stage."""

    def __init__(
        self, network: LoweredNetwork, stages: Sequence[TiledStage], residency: Residency,
        arch: Arch,
    ) -> None:
        self.network, self.stages, self.residency, self.arch = network, stages, residency, arch
        self._loaded: dict[str, list[Range]] = {}
        """Ranges of bytes of given buffers that were loaded so far, disjoint and ascending."""
        self._turns: dict[str, tuple[Box, int]] = {}
        """By streamed operand: the box in its present slot, and that slot's turn."""
        self._bands: dict[str, dict[Grid, tuple[Box, int]]] = {}
        """By rolling buffer: units of the stage, with the turns of their slots."""
        self._constants: set[str] = set()

    def build(self) -> list[list[Task]]:
        """The tasks of all stages, in program order."""
        return [self._stage(time) for time in range(len(self.stages))]

    def _stage(self, time: int) -> list[Task]:
        tiled = self.stages[time]
        tasks = []
        self._turns, self._bands = {}, {}
        for place, number in tiled.order:
            nest = self.network.nests[tiled.stage.nests[place]]
            tiles = tiled.tiles[place]
            ends = number + 1 == len(tiles) or tiles[number + 1].unit != tiles[number].unit
            tasks.append(self._task(time, nest, tiles[number], tiled, ends))
        return tasks

    def _task(self, time: int, nest: Nest, tile: Tile, tiled: TiledStage, ends: bool) -> Task:
        loads: list[Move] = []
        step_loads: dict[int, tuple[Move, ...]] = {}
        reads = []
        for role, (operand, box) in enumerate(zip(nest.reads, needs(nest, tile), strict=True)):
            place = self._read(time, nest, tile, role, operand, box, tiled, loads, step_loads)
            reads.append(place)
        constants = tuple(
            self._constant(time, nest, tile, name, loads) for name in nest.constants
        )
        stores: list[Move] = []
        output = self._output(time, nest, tile, tiled, ends, stores)
        return Task(
            stage=time, nest=nest, tile=tile, output=output, reads=tuple(reads),
            constants=constants, loads=tuple(loads), step_loads=step_loads, stores=tuple(stores),
        )

    def _read(
        self, time: int, nest: Nest, tile: Tile, role: int, operand: Operand, box: Box,
        tiled: TiledStage, loads: list[Move], step_loads: dict[int, tuple[Move, ...]],
    ) -> Place:
        name = operand.buffer
        buffer = self.network.buffers[name]
        if self._rolls(name, time, tiled):
            return self._band(name, read_grid(nest, name, tile.unit))
        if not self.residency.whole(name, time):
            fresh, turn = self._turn(f"{nest.name}.{role}", box)
            place = Place(key=slot_key(time, nest, str(role), turn), slot=box)
            if fresh:
                loads.append(Move(operand=operand, box=box, place=place))
            return place
        place = Place(key=name)
        if buffer.home in (Home.INPUT, Home.CONSTANT):
            self._fetch(nest, tile, role, operand, box, buffer, place, loads, step_loads)
        return place

    def _rolls(self, name: str, time: int, tiled: TiledStage) -> bool:
        """Whether the stage has only bands of a buffer that it writes: nothing else reads it, or
        others stream it."""
        if name not in tiled.banded:
            return False
        buffer, own = self.network.buffers[name], set(tiled.stage.nests)
        inside = buffer.home is Home.NONE and own.issuperset(self.network.readers[name])
        return inside or not self.residency.whole(name, time)

    def _band(self, name: str, needed: Grid) -> Place:
        unit, turn = self._bands[name][needed]
        return Place(key=rolling_key(name, turn), slot=unit)

    def _turn(self, key: str, box: Box) -> tuple[bool, int]:
        """Whether `box` must be loaded (or begun), and into which turn's slot."""
        held = self._turns.get(key)
        if held is not None and held[0] == box:
            return False, held[1]
        turn = 0 if held is None else held[1] + 1
        self._turns[key] = (box, turn)
        return True, turn

    def _fetch(
        self, nest: Nest, tile: Tile, role: int, operand: Operand, box: Box, buffer: Buffer,
        place: Place, loads: list[Move], step_loads: dict[int, tuple[Move, ...]],
    ) -> None:
        """Loads of what `tile` needs of a given buffer that lies whole, as far as it is missing."""
        streams = isinstance(nest, MatrixNest) and nest.streams and role == 0
        if streams and buffer.name not in self._loaded and operand.line_pitch >= operand.width:
            assert isinstance(nest, MatrixNest)
            if len(self.network.readers[buffer.name]) == 1 and nest.steps[0] == 1:
                self._fetch_parts(nest, tile, operand, place, step_loads)
                return
        span = operand.span(box)
        if box.planes[0] > 0 or buffer.home is Home.CONSTANT:
            # Later planes come whole, ahead of the work; constants are small.
            span = _widened(span, operand, box, buffer)
        for low, high in self._missing(buffer, span):
            loads.append(
                Move(operand=flat(buffer), box=span_box((low, high)), place=place)
            )

    def _fetch_parts(
        self, nest: MatrixNest, tile: Tile, operand: Operand, place: Place,
        step_loads: dict[int, tuple[Move, ...]],
    ) -> None:
        """Each part of the reduction just before the first matmul that reads it."""
        key = f"{operand.buffer} by parts"
        if tile.box.bytes[0] > 0:
            return
        rows = self.arch.rows
        # Rows behind the last line are padding.
        lines = needs(nest, tile)[0].lines
        seen: set[Range] = set()
        for index, step in enumerate(tile.steps):
            if step.reduction in seen or 0 not in step.tiles:
                continue
            seen.add(step.reduction)
            box = Box(
                planes=(0, 1), lines=lines, positions=(0, 1),
                bytes=(step.reduction[0] * rows, min(step.reduction[1] * rows, operand.width)),
            )
            step_loads[index] = (Move(operand=operand, box=box, place=place),)
        self._turns[key] = (tile.box, 0)

    def _missing(self, buffer: Buffer, span: Range) -> list[Range]:
        """Parts of `span` that nothing loaded yet; they count as loaded from now on."""
        have = self._loaded.setdefault(buffer.name, [])
        missing, low = [], span[0]
        for first, end in have:
            if end <= low or first >= span[1]:
                continue
            if first > low:
                missing.append((low, first))
            low = max(low, end)
        if low < span[1]:
            missing.append((low, span[1]))
        if missing:
            merged: list[Range] = []
            for first, end in sorted([*have, span]):
                if merged and first <= merged[-1][1]:
                    merged[-1] = (merged[-1][0], max(merged[-1][1], end))
                else:
                    merged.append((first, end))
            self._loaded[buffer.name] = merged
        return missing

    def _constant(
        self, time: int, nest: Nest, tile: Tile, name: str, loads: list[Move]
    ) -> Place:
        buffer = self.network.buffers[name]
        if self.residency.pinned:
            return Place(key=PINNED)
        sliced = time in self.residency.sliced and _by_channel(nest)
        if not sliced:
            key = constant_key(time, name, self.residency)
            if key not in self._constants:
                self._constants.add(key)
                loads.append(
                    Move(operand=flat(buffer), box=flat(buffer).box, place=Place(key=key))
                )
            return Place(key=key)
        low, high = (PARAMETER_BYTES * channel for channel in tile.box.bytes)
        box = span_box((low, high))
        fresh, turn = self._turn(f"{nest.name}.parameters", box)
        place = Place(key=slot_key(time, nest, "parameters", turn), slot=box)
        if fresh:
            loads.append(Move(operand=flat(buffer), box=box, place=place))
        return place

    def _output(
        self, time: int, nest: Nest, tile: Tile, tiled: TiledStage, ends: bool, stores: list[Move]
    ) -> Place:
        name = nest.output.buffer
        if self._rolls(name, time, tiled):
            bands = self._bands.setdefault(name, {})
            bands.setdefault(grid(tile.unit), (tile.unit, len(bands)))
            place = self._band(name, grid(tile.unit))
            self._store(name, nest, tile, ends, place, stores)
            return place
        streams = not self.residency.whole(name, time)
        if streams:
            _, turn = self._turn(f"{nest.name}.out", tile.unit)
            place = Place(key=slot_key(time, nest, "out", turn), slot=tile.unit)
        else:
            place = Place(key=name)
        self._store(name, nest, tile, ends, place, stores)
        return place

    def _store(
        self, name: str, nest: Nest, tile: Tile, ends: bool, place: Place, stores: list[Move]
    ) -> None:
        homed = name in self.residency.until or self.network.buffers[name].home is Home.OUTPUT
        if homed and ends:
            stores.append(Move(operand=nest.output, box=tile.unit, place=place))


def _by_channel(nest: Nest) -> bool:
    if isinstance(nest, MatrixNest):
        return True
    assert isinstance(nest, VectorNest)
    return isinstance(nest.operation, Requantize) and nest.operation.per_channel


def _widened(span: Range, operand: Operand, box: Box, buffer: Buffer) -> Range:
    if buffer.home is Home.CONSTANT:
        return 0, buffer.plane_bytes
    plane = operand.box
    whole = Box(
        planes=box.planes, lines=plane.lines, positions=plane.positions, bytes=plane.bytes
    )
    low, high = operand.span(whole)
    return min(span[0], low), max(span[1], high)
