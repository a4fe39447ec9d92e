"""Puts the instructions of all groups in program order, without tokens.

Weights stand directly before the matmul that consumes them and requantizations directly behind it:
each unit's queue then runs ahead by itself. Loads are hoisted over a few matmuls, so that input
arrives while earlier work computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from systol_compiler.instructions import (
    last_line,
    matmul,
    pool_plane,
    read_all_weights,
    read_weights,
    requantize,
    transfer,
)
from systol_compiler.memory_plan import MemoryPlan
from systol_compiler.spill import STAGES, lines_of, stage_key
from systol_compiler.tiling import Step, TiledNetwork, TiledWork
from systol_compiler.tokens import tiles_taken
from systol_compiler.weight_image import WeightImage
from systol_compiler.work import LoweredNetwork, MatrixWork, PoolWork, Work
from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.assembly import format_instruction
from systol_hw.faults import Unit
from systol_hw.isa import OPERATION_BY_NAME, Instruction
from systol_sim.footprint import Footprint, footprint

_READ_WEIGHT_MEMORY = OPERATION_BY_NAME["read_weight_memory"]

LATE = 1 << 30
"""As `ScheduleOptions.parameters_behind`: as late as the first requantization allows."""


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Choices that the cost model decides.

    Attributes
    ----------
    lookahead
        Matmuls over which a load is hoisted.
    parameters_behind
        Loads of input before the load of resident parameters.
    gate
        If not 0: the weights of so many instructions later wait for those parameters. Weights that
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
    """An instruction without tokens, and the place of its work in the network."""

    instruction: Instruction
    work: int

    def __str__(self) -> str:
        return f"{self.instruction.unit.name.lower():8}{format_instruction(self.instruction)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """A scheduled program: items in program order; `works` names the layers."""

    items: tuple[ScheduledItem, ...]
    works: tuple[Work, ...]
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
        lines, work = ["scheduled {"], -1
        for item in self.items:
            if item.work != work:
                work = item.work
                lines.append(f"  # {self.works[work].name}")
            lines.append(f"  {item}")
        return "\n".join([*lines, "}"])


def schedule(
    plan: MemoryPlan,
    tiled: dict[int, TiledNetwork],
    image: WeightImage,
    windows: dict[str, int],
    arch: Arch,
    options: ScheduleOptions,
) -> Schedule:
    """The program order of all groups.

    Parameters
    ----------
    tiled
        By number of images in the group.
    windows
        Number of the host window of each input and output tensor.
    """
    items: list[ScheduledItem] = []
    images = 0
    for group, network in enumerate(plan.groups):
        writer = _GroupWriter(plan, group, network, image, windows, arch, options, images)
        items += writer.write(tiled[network.images])
        images += network.images
    hoisted = _hoist_loads(items, arch, 0 if options.serial else options.lookahead)
    gated = options.gate > 0 and plan.resident and image.parameter_bytes > 0
    orders = _gate(hoisted, options.gate) if gated else ()
    return Schedule(items=tuple(hoisted), works=plan.groups[0].works, orders=orders)


def _gate(items: list[ScheduledItem], place: int) -> tuple[tuple[int, int], ...]:
    """Orders weights behind the parameters; earlier weights fill the FIFO meanwhile."""
    load = next(i for i, x in enumerate(items) if x.instruction.operation is _READ_WEIGHT_MEMORY)
    weights = [i for i, x in enumerate(items) if i > load and x.instruction.unit is Unit.WEIGHTS]
    return ((load, weights[place]),) if len(weights) > place else ()


class _GroupWriter:
    def __init__(
        self,
        plan: MemoryPlan,
        group: int,
        network: LoweredNetwork,
        image: WeightImage,
        windows: dict[str, int],
        arch: Arch,
        options: ScheduleOptions,
        images_before: int,
    ) -> None:
        self.plan, self.group, self.network, self.image = plan, group, network, image
        self.windows, self.arch, self.options = windows, arch, options
        self.images_before = images_before
        self.loaded: dict[str, dict[int, int]] = {}
        """Lines loaded so far, by input and plane."""
        self.whole: set[str] = {n for n in network.buffers if n not in network.inputs}
        self.whole |= plan.spills.names
        self.loads = 0
        self.parameters_due = plan.resident and group == 0

    def write(self, tiled: TiledNetwork) -> list[ScheduledItem]:
        items: list[ScheduledItem] = []
        for index, work in enumerate(tiled.works):
            if self.parameters_due and self.options.parameters_behind == 0:
                items += self._wrap(index, self._resident_parameters())
            if isinstance(work.work, PoolWork):
                instructions = self._pool(work.work)
            else:
                instructions = self._matrix(work, work.work)
            items += self._wrap(index, instructions)
        return items

    def _wrap(self, work: int, items: Iterator[Instruction]) -> Iterator[ScheduledItem]:
        for item in items:
            yield ScheduledItem(instruction=item, work=work)

    def _address(self, name: str) -> int:
        return self.plan.address(self.group, name)

    def _pool(self, work: PoolWork) -> Iterator[Instruction]:
        yield from self._load_rest(work.input)
        for plane in range(work.planes):
            yield pool_plane(
                work, plane, self.arch, self._address(work.input), self._address(work.output)
            )
            yield from self._store(work.output, plane, work.planes)

    def _matrix(self, tiled: TiledWork, work: MatrixWork) -> Iterator[Instruction]:
        place = self.image.weights[work.name]
        first_reader = work.input not in self.whole and work.input not in self.loaded
        if not first_reader:
            yield from self._load_rest(work.input)
        parameters_here = not self.plan.resident
        streams_in = work.input in self.plan.spills.names
        streams_out = work.output in self.plan.spills.names
        band, rows = -1, (-1, -1)
        together = None
        if not self.options.serial:
            together = read_all_weights(tiled, work, place, self.arch)
        for index, step in enumerate(tiled.steps):
            if step.chunk.rows != rows:
                band, rows = band + 1, step.chunk.rows
                if streams_in:
                    yield from self._load_band(work, step, band)
            if first_reader:
                yield from self._load_for(work, step)
            enough = self.loads >= self.options.parameters_behind or step.finish
            if self.parameters_due and enough:
                yield from self._resident_parameters()
            if parameters_here:
                yield from self._own_parameters(work)
                parameters_here = False
            if index == 0 and together is not None:
                yield together
            if together is None:
                yield read_weights(work, step, place, self.arch)
            source = self._address(work.input) if not streams_in else (
                self._stage(work.input, work, "in", band)
                - lines_of(work, step.chunk)[0] * work.line_bytes
            )
            yield matmul(work, step, self.arch, source)
            if not step.finish:
                continue
            offset = self.image.parameters[work.name]
            parameters = self.plan.parameter_address(self.group, work.name, offset)
            target = self._address(work.output) if not streams_out else (
                self._stage(work.output, work, "out", band)
                - rows[0] * work.out_size[1] * work.out_channels
            )
            yield requantize(work, step, self.arch, target, parameters)
            last = index + 1 == len(tiled.steps)
            if streams_out:
                if last or tiled.steps[index + 1].chunk.rows != rows:
                    yield from self._store_band(work, step, band)
            elif last or tiled.steps[index + 1].chunk.plane != step.chunk.plane:
                yield from self._store(work.output, step.chunk.plane, work.planes)
        if first_reader:
            yield from self._finish_input(work)

    # Streamed buffers

    def _stage(self, name: str, work: MatrixWork, direction: str, band: int) -> int:
        return self._address(stage_key(name, work.name, direction, band % STAGES))

    def _load_band(self, work: MatrixWork, step: Step, band: int) -> Iterator[Instruction]:
        first, end = lines_of(work, step.chunk)
        stage = self._stage(work.input, work, "in", band)
        size = (end - first) * work.line_bytes
        offset = first * work.line_bytes
        if work.input in self.network.inputs:
            self.loads += 1
            memory = self.images_before * self.network.buffers[work.input].image_bytes + offset
            yield from transfer(
                "read_host", memory=memory, ub=stage, run_bytes=size,
                window=self.windows[work.input],
            )
        else:
            memory = self.image.end + self.plan.spills.home(work.input) + offset
            yield from transfer("read_weight_memory", memory=memory, ub=stage, run_bytes=size)

    def _store_band(self, work: MatrixWork, step: Step, band: int) -> Iterator[Instruction]:
        row = work.out_size[1] * work.out_channels
        rows = step.chunk.rows
        stage = self._stage(work.output, work, "out", band)
        size, offset = (rows[1] - rows[0]) * row, rows[0] * row
        if self.network.readers(work.output):
            memory = self.image.end + self.plan.spills.home(work.output) + offset
            yield from transfer("write_weight_memory", memory=memory, ub=stage, run_bytes=size)
        if work.output in self.network.outputs:
            image_bytes = self.network.buffers[work.output].image_bytes
            yield from transfer(
                "write_host", memory=self.images_before * image_bytes + offset, ub=stage,
                run_bytes=size, window=self.windows[work.output],
            )

    # Parameters

    def _resident_parameters(self) -> Iterator[Instruction]:
        self.parameters_due = False
        yield from transfer(
            "read_weight_memory",
            memory=0,
            ub=self.plan.parameter_address(self.group, "", 0),
            run_bytes=self.image.parameter_bytes,
        )

    def _own_parameters(self, work: MatrixWork) -> Iterator[Instruction]:
        yield from transfer(
            "read_weight_memory",
            memory=self.image.parameters[work.name],
            ub=self.plan.parameter_address(self.group, work.name, 0),
            run_bytes=PARAMETER_BYTES * work.out_channels,
        )

    # Input and output

    def _load(
        self, name: str, first: int, run_bytes: int, runs: int = 1, pitch: int = 0
    ) -> Iterator[Instruction]:
        self.loads += 1
        memory = self.images_before * self.network.buffers[name].image_bytes + first
        yield from transfer(
            "read_host",
            memory=memory,
            ub=self._address(name) + first,
            run_bytes=run_bytes,
            runs=runs,
            pitch=pitch,
            window=self.windows[name],
        )

    def _load_for(self, work: MatrixWork, step: Step) -> Iterator[Instruction]:
        """Loads what `step` reads and no earlier step of `work` did."""
        chunk = step.chunk
        if work.streams:
            if step.tiles[0] > 0:
                return
            low = step.reduction[0] * self.arch.rows
            high = min(step.reduction[1] * self.arch.rows, work.step_bytes)
            reach = (chunk.rows[1] - 1) * work.steps[0] + 1
            first = chunk.rows[0] * work.steps[0]
            yield from self._load(
                work.input, first * work.line_bytes + low, high - low,
                min(reach, work.lines) - first, work.line_bytes,
            )
            return
        done = self.loaded.setdefault(work.input, {})
        have = done.get(chunk.plane, 0)
        # The first plane comes in pieces, so that work can begin; the others come ahead of it.
        need = last_line(work, chunk) if chunk.plane == 0 else work.lines
        if 8 * (work.lines - need) < work.lines:
            need = work.lines
        if need > have:
            first = (chunk.plane * work.lines + have) * work.line_bytes
            yield from self._load(work.input, first, (need - have) * work.line_bytes)
            done[chunk.plane] = need

    def _finish_input(self, work: MatrixWork) -> Iterator[Instruction]:
        """Lines that the first reader did not need, where another layer reads the input too."""
        if len(self.network.readers(work.input)) > 1:
            if work.streams:
                # Lines between strided ones: load everything again, which is always right.
                if work.steps[0] > 1:
                    yield from self._load(
                        work.input, 0, self.network.buffers[work.input].size_bytes
                    )
            else:
                for plane in range(work.planes):
                    have = self.loaded[work.input].get(plane, 0)
                    if have < work.lines:
                        first = (plane * work.lines + have) * work.line_bytes
                        rest = (work.lines - have) * work.line_bytes
                        yield from self._load(work.input, first, rest)
        self.whole.add(work.input)

    def _load_rest(self, name: str) -> Iterator[Instruction]:
        """Loads all of an input that nothing loaded yet."""
        if name not in self.whole:
            yield from self._load(name, 0, self.network.buffers[name].size_bytes)
            self.whole.add(name)

    def _store(self, name: str, plane: int, planes: int) -> Iterator[Instruction]:
        if name not in self.network.outputs:
            return
        buffer = self.network.buffers[name]
        size = buffer.size_bytes // planes
        yield from transfer(
            "write_host",
            memory=self.images_before * buffer.image_bytes + plane * size,
            ub=self._address(name) + plane * size,
            run_bytes=size,
            window=self.windows[name],
        )


def _hoist_loads(
    items: list[ScheduledItem], arch: Arch, lookahead: int
) -> list[ScheduledItem]:
    """Moves each load over up to `lookahead` matmuls, not over what it conflicts with, not over
    another load, and not over the program's first weights."""
    result: list[ScheduledItem] = []
    prints: list[Footprint | None] = []
    for item in items:
        at = len(result)
        mine = None
        if item.instruction.unit is Unit.LOAD:
            mine = footprint(item.instruction, arch)
            passed, best = 0, at
            while at > 0 and passed < lookahead:
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
                if before.unit is Unit.WEIGHTS and not any(
                    earlier.instruction.unit is Unit.WEIGHTS for earlier in result[:at]
                ):
                    best = at + 1
                    break
            at = best
        result.insert(at, item)
        prints.insert(at, mine)
    return result


def _conflict(load: Footprint, other: Footprint) -> bool:
    pairs = [(a, b) for a in load.writes for b in (*other.reads, *other.writes)]
    pairs += [(a, b) for a in load.reads for b in other.writes]
    return any(a.overlap(b) is not None for a, b in pairs)
