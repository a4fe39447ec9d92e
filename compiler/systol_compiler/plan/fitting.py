"""Makes a group of images fit the unified buffer: streams buffers, cuts stages more finely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.vector import VectorNest
from systol_compiler.plan.background import spread
from systol_compiler.plan.choices import Choices
from systol_compiler.plan.requests import Use, collect_uses
from systol_compiler.plan.stages import Stage, TiledStage, form_stages, tile_stage
from systol_compiler.plan.tasks import Residency, Task, TaskBuilder
from systol_compiler.plan.tiling import Banks, Cut
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import form_of, show_fields
from systol_compiler.text.statement import wrapped
from systol_compiler.text.tokens import quote
from systol_hw.arch import Arch
from systol_hw.errors import UnsupportedModelError

_ROUNDS = 60
"""Attempts at most; each streams buffers or halves tiles wherever too much is alive."""

STAGE_HEAD = ("stage", "tiles", "order")
"""Fields of a stage that its text has before all others, or in its tasks."""
TASK_HEAD = ("stage", "nest")
"""Fields of a task that its text does not have among the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupPlan:
    """A lowered network with its stages, tiles and tasks."""

    network: LoweredNetwork
    stages: tuple[TiledStage, ...]
    tasks: tuple[tuple[Task, ...], ...]
    residency: Residency
    uses: Mapping[str, Use]
    cuts: Mapping[int, Cut] = field(default_factory=dict)

    def pressure(self, time: int) -> int:
        """Bytes alive in a stage."""
        return sum(
            use.size_bytes for use in self.uses.values()
            if use.touched is not None and use.touched[0] <= time <= use.touched[1]
        )

    def __str__(self) -> str:
        """The plan as text, which `levels.tiled.read_tiled` reads."""
        printer = Printer()
        residency = form_of(Residency).show(self.residency, printer)
        name, images = quote(self.network.name), self.network.images
        lines = [f"tiled {name} images={images} residency={residency} {{"]
        for time, (tiled, tasks) in enumerate(zip(self.stages, self.tasks, strict=True)):
            nests = ", ".join(quote(self.network.nests[i].name) for i in tiled.stage.nests)
            head = [f"stage {nests or 'none'}"]
            if time in self.cuts:
                head.append(f"cut {form_of(Cut).show(self.cuts[time], printer)}")
            lines.append(wrapped([*head, *show_fields(tiled, printer, STAGE_HEAD)]))
            for task, (_, number) in zip(tasks, tiled.order, strict=True):
                named = f"task {quote(task.nest.name)} {number}"
                lines.append(wrapped([named, *show_fields(task, printer, TASK_HEAD)], depth=2))
        return "\n".join([*lines, "}"])


Tilings = dict[tuple[int, Cut, tuple[int, int]], tuple[TiledStage, tuple[int, int]]]
"""By stage, cut and the accumulator bank that is next: the tiled stage, and the bank behind it."""


def plan_group(
    network: LoweredNetwork, arch: Arch, cuts: Mapping[int, Cut], choices: Choices,
    residency: Residency, known: Tilings | None = None,
) -> GroupPlan:
    """The tasks of a group under given decisions; `cuts` by stage go before those of `choices`.

    `known` keeps tilings of this network from one call to the next.
    """
    banks = Banks(arch)
    tiled = []
    known = {} if known is None else known
    for time, stage in enumerate(form_stages(network)):
        key = (time, cuts.get(time, choices.at(time).cut), banks.state)
        if key not in known:
            found = tile_stage(network, stage, arch, key[1], banks)
            known[key] = (found, banks.state)
        found, banks.state = known[key]
        tiled.append(found)
    tiled = spread(network, tiled, arch)
    tasks = TaskBuilder(network, tiled, residency, arch).build()
    return GroupPlan(
        network=network, stages=tuple(tiled), tasks=tuple(tuple(stage) for stage in tasks),
        residency=residency, uses=collect_uses(network, tasks), cuts=cuts,
    )


class Fitter:
    """Streams and cuts until a group fits `room` bytes at every stage. Decisions only ever get
    smaller: less room needs no new beginning."""

    def __init__(self, network: LoweredNetwork, arch: Arch, choices: Choices) -> None:
        self.network, self.arch, self.choices = network, arch, choices
        self.room = arch.ub_bytes
        self.until: dict[str, int] = {}
        self.sliced: set[int] = set()
        self.cuts: dict[int, Cut] = {}
        self._known: Tilings = {}
        self.stages: Sequence[Stage] = ()
        self._touched: dict[str, list[int]] = {}
        self._times: dict[int, set[int]] = {}

    def _study(self, group: GroupPlan) -> None:
        """Note which stages touch which buffers, and in which a nest has tiles."""
        self.stages = [tiled.stage for tiled in group.stages]
        touched: dict[str, set[int]] = {}
        self._times = {}
        for time, stage in enumerate(self.stages):
            for place in stage.nests:
                self._times.setdefault(place, set()).add(time)
                nest = self.network.nests[place]
                for name in (nest.output.buffer, *(operand.buffer for operand in nest.reads)):
                    touched.setdefault(name, set()).add(time)
        self._touched = {name: sorted(times) for name, times in touched.items()}

    def plan(self) -> GroupPlan:
        """The group under the present decisions."""
        residency = Residency(until=dict(self.until), sliced=frozenset(self.sliced))
        group = plan_group(
            self.network, self.arch, dict(self.cuts), self.choices, residency, self._known
        )
        self._study(group)
        return group

    def fit(self, extra: Sequence[int] = ()) -> GroupPlan:
        """A plan in which no stage has more than `room` bytes alive; `extra` are stages that need
        relief all the same (their pieces found no place).

        Raises
        ------
        UnsupportedModelError
            Even the smallest tiles of a layer do not fit.
        """
        group = self.plan()
        forced = list(extra)
        for _ in range(_ROUNDS):
            over = self._pressures(group)
            wanted = [time for time, size in enumerate(over) if size > self.room]
            wanted = sorted({*wanted, *forced})
            if not wanted:
                return group
            changed = False
            for time in wanted:
                excess = over[time] - self.room
                if time in forced:
                    excess = max(excess, 1)
                # What an earlier stage's relief streams may be enough here, too.
                if excess > 0:
                    changed |= self._relieve(group, time, excess, over)
            forced = []
            if not changed:
                raise self.too_big(group, wanted[0])
            group = self.plan()
        raise self.too_big(group, wanted[0])

    def _pressures(self, group: GroupPlan) -> list[int]:
        change = [0] * (len(self.stages) + 1)
        for use in group.uses.values():
            assert use.touched is not None
            change[use.touched[0]] += use.size_bytes
            change[use.touched[1] + 1] -= use.size_bytes
        total, result = 0, []
        for step in change[:-1]:
            total += step
            result.append(total)
        return result

    def _relieve(self, group: GroupPlan, time: int, excess: int, over: list[int]) -> bool:
        """Stream the buffers that cost the least traffic for the room that they give; where none
        is left that gives any, cut the stage's tiles. `over` is kept up to date."""
        candidates = sorted(
            (self._price(group, name, use, time), name, use) for name, use in group.uses.items()
            if name in self._touched and use.touched is not None
            and use.touched[0] <= time <= use.touched[1]
            and time <= self.until.get(name, time)
        )
        slots = max(
            (use.size_bytes for key, use in group.uses.items()
             if key not in self._touched and use.touched is not None
             and use.touched[0] <= time <= use.touched[1]), default=0,
        )
        changed = False
        for _, name, use in candidates:
            if excess <= 0:
                return True
            busy = time in self._touched[name]
            if busy and use.size_bytes < slots:
                # Streaming what is smaller than the pieces that stream already gains nothing.
                continue
            assert use.touched is not None
            before = [t for t in self._touched[name] if t < time]
            self.until[name] = before[-1] if before else -1
            for later in range(max(self.until[name] + 1, use.touched[0]), use.touched[1] + 1):
                over[later] -= use.size_bytes
            excess -= use.size_bytes
            changed = True
        if excess <= 0:
            return True
        if changed:
            # How large the pieces are that stream from now on, the next plan shows.
            return True
        if self._cut(group, time):
            return True
        for _, name, _ in candidates:
            if time <= self.until.get(name, time):
                before = [t for t in self._touched[name] if t < time]
                self.until[name] = before[-1] if before else -1
                return True
        return False

    def _price(self, group: GroupPlan, name: str, use: Use, time: int) -> tuple[float, int, str]:
        """Traffic for each byte of room: that of the home less what comes or goes all the same.
        What a stage writes and reads itself would make each band wait for memory twice."""
        buffer, touched = self.network.buffers[name], self._touched[name]
        later = [t for t in touched if t >= time]
        writes = set().union(*(self._times[place] for place in self.network.writers[name]))
        reads = set().union(*(self._times[place] for place in self.network.readers[name]))
        loads = len(
            [t for t in later
             if t in reads and not (t in writes and name in group.stages[t].banded)]
        )
        stores = 0 if buffer.home is Home.OUTPUT or not writes else 1
        if buffer.home in (Home.INPUT, Home.CONSTANT):
            loads -= 1
        inside = any(
            t in writes and t in reads and name not in group.stages[t].banded for t in later
        )
        return (loads + stores) * (4.0 if inside else 1.0), -use.size_bytes, name

    def _cut(self, group: GroupPlan, time: int) -> bool:
        """Halve the stage's largest pieces; False if they are as small as they can be."""
        nests = [self.network.nests[place] for place in self.stages[time].nests]
        cut = self.cuts.get(time)
        if cut is None:
            bands = len({tile.unit.lines for tile in group.stages[time].tiles[0]})
            cut = replace(self.choices.at(time).cut, bands=bands, exact=True)
        prefix = f"{time}/"
        sizes: dict[str, int] = {}
        for key, use in group.uses.items():
            if key.startswith(prefix):
                kind = "parameters" if use.constant else key.rsplit(".", 2)[-2]
                sizes[kind] = sizes.get(kind, 0) + use.size_bytes
        lines = max(nest.output.lines for nest in nests)
        positions = max(nest.output.positions for nest in nests)
        groups = max(-(-nest.output.width // self.arch.columns) for nest in nests)
        parameters = sizes.pop("parameters", 0)
        data = sum(sizes.values())
        # Pieces that are many times too large are cut at once to about what fits.
        factor = 2
        while factor < 64 and factor * self.room < group.pressure(time):
            factor *= 2
        if parameters > data and groups > 1 and (cut.channels < groups):
            self.sliced.add(time)
            self.cuts[time] = replace(cut, channels=min(groups, factor * cut.channels))
            return True
        if cut.bands < lines:
            self.cuts[time] = replace(cut, bands=min(lines, factor * cut.bands))
            return True
        if cut.columns < positions:
            self.cuts[time] = replace(cut, columns=min(positions, factor * cut.columns))
            return True
        if self._unfold(time):
            return True
        steps = max(
            (-(-nest.step_bytes // self.arch.rows) for nest in nests
             if isinstance(nest, MatrixNest)), default=1,
        )
        if isinstance(nests[0], MatrixNest) and cut.reduction < steps and self._splits(nests[0]):
            self.cuts[time] = replace(cut, reduction=min(steps, factor * cut.reduction))
            return True
        if cut.channels < groups and (parameters or isinstance(nests[0], VectorNest)):
            if parameters:
                self.sliced.add(time)
            self.cuts[time] = replace(cut, channels=min(groups, factor * cut.channels))
            return True
        return False

    def _splits(self, nest: MatrixNest) -> bool:
        return nest.tile_bytes == 0 and nest.step_bytes <= nest.input.width

    def _unfold(self, time: int) -> bool:
        """Let a step reach over one position alone, so that the reduction can be cut."""
        place = self.stages[time].nests[0]
        nest = self.network.nests[place]
        if not isinstance(nest, MatrixNest) or nest.folded == 1 or nest.taps[1] != 1:
            return False
        nests = list(self.network.nests)
        nests[place] = nest.unfolded()
        self.network = replace(self.network, nests=tuple(nests))
        self._known = {key: value for key, value in self._known.items() if key[0] != time}
        return True

    def too_big(self, group: GroupPlan, time: int) -> UnsupportedModelError:
        """The error for a stage whose smallest tiles do not fit."""
        nest = self.network.nests[self.stages[time].nests[0]]
        return UnsupportedModelError(
            f"layer {nest.layer!r}: its smallest tiles and what they read, {group.pressure(time)} "
            f"bytes, must fit the unified buffer's {self.arch.ub_bytes} bytes; choose a machine "
            "with a larger buffer"
        )
