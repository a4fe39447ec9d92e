"""Reads a tiled group's text: stages, with the tasks of each in program order."""

from typing import Any

from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Box, Operand
from systol_compiler.plan.fitting import STAGE_HEAD, TASK_HEAD, GroupPlan
from systol_compiler.plan.requests import collect_uses
from systol_compiler.plan.stages import Stage, TiledStage
from systol_compiler.plan.tasks import Move, Residency, Task
from systol_compiler.plan.tiling import Cut, Tile
from systol_compiler.text.form import Reader
from systol_compiler.text.forms import form_of, made, read_fields
from systol_compiler.text.statement import read_strings
from systol_compiler.text.tokens import Token


def read_tiled(text: str, network: LoweredNetwork) -> GroupPlan:
    """The plan of a text that a `GroupPlan` prints as, for the network that it is a plan of.

    What tasks use follows from the tasks and is not in the text.

    Raises
    ------
    InputError
        The text is none of a plan for this network, with line and column.
    """
    reader = Reader(text)
    reader.expect("tiled")
    token, name = reader.here, reader.string()
    reader.expect("images")
    reader.expect("=")
    images = reader.integer()
    if (name, images) != (network.name, network.images):
        raise reader.error(
            f"the network is {network.name!r} for {network.images} images, not {images} of", token
        )
    reader.expect("residency")
    reader.expect("=")
    residency = form_of(Residency).read(reader)
    draft = _Draft(reader, network)
    reader.last_block(draft.stage)
    return GroupPlan(
        network=network, stages=tuple(draft.stages), tasks=tuple(draft.tasks),
        residency=residency, uses=collect_uses(network, draft.tasks), cuts=draft.cuts,
    )


class _Draft:
    """The stages that were read so far."""

    def __init__(self, reader: Reader, network: LoweredNetwork) -> None:
        self.reader, self.network = reader, network
        self.places = {nest.name: place for place, nest in enumerate(network.nests)}
        self.stages: list[TiledStage] = []
        self.tasks: list[tuple[Task, ...]] = []
        self.cuts: dict[int, Cut] = {}

    def stage(self) -> None:
        reader, time = self.reader, len(self.stages)
        token = reader.expect("stage")
        names = [] if reader.accept("none") else read_strings(reader)
        if len(set(names)) != len(names) or not self.places.keys() >= set(names):
            raise reader.error("nests of the network stand here, each once, unlike in", token)
        stage = Stage(nests=tuple(self.places[name] for name in names))
        if reader.accept("cut"):
            self.cuts[time] = form_of(Cut).read(reader)
        values = read_fields(reader, TiledStage, STAGE_HEAD)
        tasks: list[Task] = []
        order: list[tuple[int, int]] = []
        tiles: list[dict[int, Tile]] = [{} for _ in stage.nests]
        while reader.at("task"):
            place, number, task = self._task(time, stage)
            if number in tiles[place]:
                raise reader.error(f"tile {number} of {task.nest.name!r} is there twice, before")
            tiles[place][number] = task.tile
            order.append((place, number))
            tasks.append(task)
        for place, found in zip(stage.nests, tiles, strict=True):
            if sorted(found) != list(range(len(found))) or not found:
                nest = self.network.nests[place].name
                raise reader.error(f"tiles of {nest!r} are missing in the stage that begins", token)
        self.tasks.append(tuple(tasks))
        self.stages.append(
            TiledStage(
                stage=stage, order=tuple(order),
                tiles=tuple(
                    tuple(found[number] for number in range(len(found))) for found in tiles
                ),
                **values,
            )
        )

    def _task(self, time: int, stage: Stage) -> tuple[int, int, Task]:
        reader = self.reader
        token = reader.expect("task")
        name = reader.string()
        if self.places.get(name, -1) not in stage.nests:
            raise reader.error(f"the stage has no nest {name!r}, which is named by", token)
        number = reader.integer()
        nest = self.network.nests[self.places[name]]
        values: dict[str, Any] = {"stage": time, "nest": nest}
        values |= read_fields(reader, Task, TASK_HEAD)
        task = made(reader, token, Task, values)
        assert isinstance(task, Task)
        self._check(token, task)
        return stage.nests.index(self.places[name]), number, task

    def _check(self, token: Token, task: Task) -> None:
        """What planning guarantees, and a text does not."""
        nest, reader = task.nest, self.reader
        if len(task.reads) != len(nest.reads) or len(task.constants) != len(nest.constants):
            raise reader.error("a place is needed for each operand of the nest, unlike in", token)
        boxes = [(nest.domain, task.tile.box), (nest.domain, task.tile.unit)]
        moves = [*task.loads, *task.stores, *(m for some in task.step_loads.values() for m in some)]
        boxes += [(move.operand.box, move.box) for move in moves]
        if any(not _within(inner, outer) for outer, inner in boxes):
            raise reader.error("a box leaves what it is a part of, in", token)
        if bool(task.tile.steps) != isinstance(nest, MatrixNest):
            raise reader.error("matrix nests, and nothing else, have steps, unlike", token)
        for move in moves:
            self._check_buffer(token, move)

    def _check_buffer(self, token: Token, move: Move) -> None:
        operand: Operand = move.operand
        buffer = self.network.buffers.get(operand.buffer)
        if buffer is None:
            raise self.reader.error(f"no buffer is called {operand.buffer!r}, as in", token)
        low, high = operand.span(move.box)
        if low < 0 or high > buffer.plane_bytes:
            raise self.reader.error(f"a transfer leaves buffer {buffer.name!r}, in", token)


def _within(inner: Box, outer: Box) -> bool:
    """Whether a box has elements, all of them in another."""
    return all(
        first <= low < high <= end
        for (low, high), (first, end) in zip(inner.ranges, outer.ranges, strict=True)
    )
