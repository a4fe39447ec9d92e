"""Puts the instructions of all groups in program order, without tokens.

Weights stand directly before the matmul that consumes them and requantizations directly behind it:
each unit's queue then runs ahead by itself. Loads are hoisted over a few matmuls, so that input
arrives while earlier work computes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest, StoredWeights
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.vector import VectorNest
from systol_compiler.plan.fitting import GroupPlan
from systol_compiler.plan.memory_plan import MemoryPlan, streamed_homes
from systol_compiler.plan.requests import slot_plane_pitch
from systol_compiler.plan.tasks import PINNED, Move, Place, Task
from systol_compiler.plan.tiling import Step
from systol_compiler.program.fields import (
    Placed,
    matmul,
    read_all_weights,
    read_weights,
    read_weights_ub,
    requantize,
    transfer,
    vector,
)
from systol_compiler.program.tokens import tiles_taken
from systol_compiler.program.weight_image import WeightImage
from systol_compiler.text.tokens import quote
from systol_hw.arch import Arch
from systol_hw.isa import OPERATION_BY_NAME, Instruction
from systol_hw.isa.assembly import format_instruction
from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import Footprint, footprint

_READ_WEIGHT_MEMORY = OPERATION_BY_NAME["read_weight_memory"]

_SLOT_LOOKAHEAD = 64
"""Matmuls over which the load of a slot is hoisted at most."""
LATE = 1 << 30
"""As `ScheduleOptions.parameters_behind`: as late as the first requantization allows."""


@dataclass(frozen=True, kw_only=True)
class WindowPlace:
    """Where a buffer lies in the host's windows: which, by number and name, and from where."""

    index: int
    name: str
    offset_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Choices that the cost model decides.

    Attributes
    ----------
    lookahead
        Matmuls over which a load is hoisted.
    parameters_behind
        Loads of input before the load of pinned constants.
    gate
        If not 0: the weights of so many instructions later wait for those constants. Weights that
        saturate the port would else keep them, and all loads behind them, from it for long.
    serial
        Nothing stands between weights and the matmul that takes all of them, so that a barrier can
        stand before any matmul: for machines with hardly any tokens.
    """

    lookahead: int = 2
    parameters_behind: int = 1
    gate: int = 0
    serial: bool = False


@dataclass(frozen=True, kw_only=True)
class ScheduledItem:
    """An instruction without tokens, and the nest and the stage that it works for: stages count on
    from group to group."""

    instruction: Instruction
    nest: Nest
    stage: int
    streams: bool = False
    """Fills a slot: only what used the slot before bounds how early it may come."""

    def __str__(self) -> str:
        slot = "slot " if self.streams else ""
        return f"{self.instruction.unit.name.lower():8}{slot}{format_instruction(self.instruction)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """A scheduled program: items in program order."""

    items: tuple[ScheduledItem, ...]
    orders: tuple[tuple[int, int], ...] = ()
    """Wanted besides what data need: the first item ends before the second starts."""

    def verify(self) -> None:
        """Check that weights and matmuls consume and supply the same number of tiles."""
        balance = 0
        for item in self.items:
            i = item.instruction
            if i.unit is Unit.WEIGHTS:
                balance += i["n_count"] * i["outer_count"] * i["inner_count"]
            elif i.unit is Unit.MATRIX:
                balance -= tiles_taken(i)
                assert balance >= 0, "a matmul stands before its weights"
        assert balance == 0, "weights are left over"

    def __str__(self) -> str:
        """The program as text, which `levels.scheduled.read_scheduled` reads: instructions by the
        nest and the stage that they work for, those that fill a slot marked."""
        lines: list[str] = ["scheduled {"]
        place: tuple[str, int] | None = None
        for item in self.items:
            if (item.nest.name, item.stage) != place:
                place = (item.nest.name, item.stage)
                lines.append(f"  nest {quote(item.nest.name)} stage {item.stage}")
            lines.append(f"    {item}")
        lines += [f"  order {first} {second}" for first, second in self.orders]
        return "\n".join([*lines, "}"])


def schedule(
    plan: MemoryPlan, image: WeightImage, windows: Mapping[str, WindowPlace], arch: Arch,
    options: ScheduleOptions,
) -> Schedule:
    """The program order of all groups.

    Parameters
    ----------
    windows
        Where in the host's windows each input and output buffer lies.
    """
    items: list[ScheduledItem] = []
    images = 0
    batch = sum(group.network.images for group in plan.groups)
    state = _Pinned(due=bool(plan.pinned_bytes))
    for number, group in enumerate(plan.groups):
        writer = _GroupWriter(
            plan, number, group, image, windows, arch, options, (images, batch), state
        )
        items += writer.write()
        images += group.network.images
    hoisted = _hoist_loads(items, arch, 0 if options.serial else options.lookahead)
    gated = options.gate > 0 and plan.pinned_bytes > 0
    return Schedule(
        items=tuple(hoisted), orders=_gate(hoisted, options.gate) if gated else ()
    )


def _gate(items: list[ScheduledItem], place: int) -> tuple[tuple[int, int], ...]:
    """Orders weights behind the constants; earlier weights fill the FIFO meanwhile."""
    load = next(
        (i for i, x in enumerate(items) if x.instruction.operation is _READ_WEIGHT_MEMORY), None
    )
    if load is None:
        return ()
    weights = [i for i, x in enumerate(items) if i > load and x.instruction.unit is Unit.WEIGHTS]
    return ((load, weights[place]),) if len(weights) > place else ()


@dataclass
class _Pinned:
    """Whether the constants that are loaded once are still due, and loads so far."""

    due: bool
    loads: int = 0


class _GroupWriter:
    def __init__(
        self, plan: MemoryPlan, number: int, group: GroupPlan, image: WeightImage,
        windows: Mapping[str, WindowPlace], arch: Arch, options: ScheduleOptions,
        images: tuple[int, int], pinned: _Pinned,
    ) -> None:
        self.plan, self.number, self.group, self.image = plan, number, group, image
        self.windows, self.arch, self.options, self.pinned = windows, arch, options, pinned
        self.images_before, self.batch = images
        self.buffers = group.network.buffers
        self.homes = streamed_homes(group)

    def write(self) -> Iterator[ScheduledItem]:
        for stage, tasks in enumerate(self.group.tasks, self.number * len(self.group.tasks)):
            together = self._together(tasks)
            for task in tasks:
                slots = [move for move in task.loads if move.place.slot is not None]
                for move in slots:
                    for item in self._move(move, store=False):
                        yield ScheduledItem(
                            instruction=item, nest=task.nest, stage=stage, streams=True
                        )
                for item in self._task(task, together):
                    yield ScheduledItem(instruction=item, nest=task.nest, stage=stage)

    def _together(self, tasks: tuple[Task, ...]) -> dict[int, Instruction | None]:
        """By nest: the instruction that loads the weights of all its tiles, until it is given."""
        found: dict[int, Instruction | None] = {}
        if self.options.serial or not tasks:
            return found
        lead = tasks[0].nest
        if any(isinstance(task.nest, MatrixNest) and task.nest is not lead for task in tasks):
            return found  # the queue of tiles is first in, first out
        if isinstance(lead, MatrixNest) and isinstance(lead.weights, StoredWeights):
            tiles = tuple(task.tile for task in tasks if task.nest is lead)
            item = read_all_weights(lead, tiles, self.image.weights[lead.name], self.arch)
            if item is not None:
                found[id(lead)] = item
        return found

    def _task(self, task: Task, together: dict[int, Instruction | None]) -> Iterator[Instruction]:
        if self.pinned.due and self.options.parameters_behind == 0:
            yield from self._load_pinned()
        yield from self._loads(task.loads)
        nest = task.nest
        if isinstance(nest, MatrixNest):
            yield from self._matrix(task, nest, together)
        else:
            assert isinstance(nest, VectorNest)
            if self.pinned.due:
                yield from self._load_pinned()
            yield self._vector(task, nest)
        for move in task.stores:
            yield from self._move(move, store=True)

    def _loads(self, moves: tuple[Move, ...]) -> Iterator[Instruction]:
        for move in moves:
            if move.place.slot is None:
                yield from self._move(move, store=False)
                self.pinned.loads += 1

    def _matrix(
        self, task: Task, nest: MatrixNest, together: dict[int, Instruction | None]
    ) -> Iterator[Instruction]:
        plane = task.tile.box.planes[0]
        source = self._placed(nest.input, task.reads[0], plane)
        target = self._placed(nest.output, task.output, plane)
        parameters = self._constant(nest.parameters, task.constants[0])
        n_step = nest.tile_bytes
        for index, step in enumerate(task.tile.steps):
            yield from self._loads(task.step_loads.get(index, ()))
            enough = self.pinned.loads >= self.options.parameters_behind or step.finish
            if self.pinned.due and enough:
                yield from self._load_pinned()
            if id(nest) in together:
                whole = together[id(nest)]
                if whole is not None:
                    yield whole
                    together[id(nest)] = None
            else:
                yield self._weights(task, nest, step, plane)
            yield matmul(nest, task.tile, step, self.arch, source, n_step)
            if step.finish:
                yield from requantize(nest, task.tile, step, self.arch, target, parameters)

    def _weights(self, task: Task, nest: MatrixNest, step: Step, plane: int) -> Instruction:
        if isinstance(nest.weights, ActivationWeights):
            operand = nest.weights.operand
            own = plane if len(operand.planes) > 1 else 0
            return read_weights_ub(
                nest, step, self._placed(operand, task.reads[1], own), self.arch
            )
        return read_weights(nest, step, self.image.weights[nest.name], self.arch)

    def _vector(self, task: Task, nest: VectorNest) -> Instruction:
        plane = task.tile.box.planes[0]
        target = self._placed(nest.output, task.output, plane)
        sources = tuple(
            self._placed(operand, place, plane)
            for operand, place in zip(nest.reads, task.reads, strict=True)
        )
        constant = 0
        if nest.constants:
            constant = self._constant(nest.constants[0], task.constants[0])
        return vector(nest, task.tile.box, self.arch, target, sources, constant)

    # Places

    def _placed(self, operand: Operand, place: Place, plane: int) -> Placed:
        address = self.plan.address(self.number, place.key)
        if place.slot is None:
            return Placed(
                base=address + operand.planes[plane], line_pitch=operand.line_pitch,
                position_pitch=operand.position_pitch,
                high=self.buffers[operand.buffer].plane_pitch,
            )
        _, _, positions, width = place.slot.sizes
        line = positions * width
        plane_bytes = place.slot.sizes[1] * line
        base = address + (plane - place.slot.planes[0]) * plane_bytes
        base -= place.slot.lines[0] * line + place.slot.positions[0] * width + place.slot.bytes[0]
        return Placed(
            base=base, line_pitch=line, position_pitch=width,
            high=slot_plane_pitch(place.slot) * (self.buffers[operand.buffer].planes - 1),
            skipped=place.slot.bytes[0],
        )

    def _constant(self, name: str, place: Place) -> int:
        """The address of a constant's first byte, which a slot may not hold."""
        address = self.plan.address(self.number, place.key)
        if place.key == PINNED:
            return address + self.plan.pinned[name]
        return address - (place.slot.bytes[0] if place.slot is not None else 0)

    # Transfers

    def _load_pinned(self) -> Iterator[Instruction]:
        self.pinned.due = False
        size = self.plan.pinned_bytes
        yield from transfer(
            "read_weight_memory", memory=0, ub=self.plan.address(self.number, PINNED),
            sizes=(1, 1, size), memory_pitches=(0, 0), ub_pitches=(0, 0),
        )

    def _move(self, move: Move, *, store: bool) -> Iterator[Instruction]:
        buffer = self.buffers[move.operand.buffer]
        _, lines, positions, width = move.box.sizes
        for plane in range(*move.box.planes):
            placed = self._placed(move.operand, move.place, plane)
            first = (move.box.lines[0], move.box.positions[0], move.box.bytes[0])
            offset = move.operand.address(plane, *first)
            for high in range(buffer.planes):
                operation, memory, window = self._home(move.operand.buffer, high, store)
                yield from transfer(
                    operation, memory=memory + offset,
                    ub=placed.at(*first) + high * placed.high,
                    sizes=(lines, positions, width),
                    memory_pitches=(move.operand.line_pitch, move.operand.position_pitch),
                    ub_pitches=(placed.line_pitch, placed.position_pitch), window=window,
                )

    def _home(self, name: str, high: int, store: bool) -> tuple[str, int, int | None]:
        """Operation, address of byte 0 of the plane `high` of a buffer's home, and window."""
        buffer = self.buffers[name]
        if buffer.home in (Home.INPUT, Home.OUTPUT):
            # A window holds the whole batch, plane by plane.
            image = buffer.plane_bytes // self.group.network.images
            whole = -(-image * self.batch // 64) * 64
            place = self.windows[name]
            address = place.offset_bytes + self.images_before * image + high * whole
            return "write_host" if store else "read_host", address, place.index
        if buffer.home is Home.CONSTANT:
            address = self.image.constants[name]
        else:
            address = self.image.end + self.homes[name]
        address += high * buffer.plane_pitch
        return "write_weight_memory" if store else "read_weight_memory", address, None


def _hoist_loads(
    items: list[ScheduledItem], arch: Arch, lookahead: int
) -> list[ScheduledItem]:
    """Moves each load over up to `lookahead` matmuls, not over what it conflicts with, not over
    another load, and not over the program's first weights."""
    result: list[ScheduledItem] = []
    prints: list[Footprint | None] = []
    weights_before: list[bool] = []
    seen = False
    for item in items:
        at = len(result)
        mine = None
        if item.instruction.unit is Unit.LOAD:
            mine = footprint(item.instruction, arch)
            passed, best = 0, at
            most = _SLOT_LOOKAHEAD if item.streams and lookahead else lookahead
            while at > 0 and passed < most:
                before = result[at - 1].instruction
                if before.unit is Unit.LOAD:
                    break
                other = prints[at - 1]
                if other is None:
                    other = prints[at - 1] = footprint(before, arch)
                if _conflict(mine, other):
                    break
                at -= 1
                passed += before.unit is Unit.MATRIX
                best = at
                if before.unit is Unit.WEIGHTS and not weights_before[at]:
                    best = at + 1
                    break
            at = best
        result.insert(at, item)
        prints.insert(at, mine)
        weights_before.insert(at, weights_before[at] if at < len(weights_before) else seen)
        seen |= item.instruction.unit is Unit.WEIGHTS
    return result


def _conflict(load: Footprint, other: Footprint) -> bool:
    pairs = [(a, b) for a in load.writes for b in (*other.reads, *other.writes)]
    pairs += [(a, b) for a in load.reads for b in other.writes]
    return any(a.overlap(b) is not None for a, b in pairs)
