"""Chooses a schedule: the exact cycle model is the cost function."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from systol_compiler.emit import EmittedProgram, choose_windows, emit
from systol_compiler.memory_plan import MemoryPlan, plan_memory
from systol_compiler.old_quantized import QuantizedGraph
from systol_compiler.schedule import LATE, Schedule, ScheduleOptions, schedule
from systol_compiler.tiling import TiledNetwork, TilingOptions, tile
from systol_compiler.tokens import SerialOrderNeededError
from systol_compiler.weight_image import build_weight_image
from systol_hw.arch import Arch
from systol_sim.results import Counters
from systol_sim.simulator import run_timing

_SEARCH_INSTRUCTIONS = 12_000
"""Instructions that a search may emit over all its candidates."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One candidate: what tiling and scheduling are told."""

    tiling: TilingOptions = field(default_factory=TilingOptions)
    scheduling: ScheduleOptions = field(default_factory=ScheduleOptions)
    most_images: int | None = None
    apart: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class BackendResult:
    """Every level of the back half for one choice. `counters` is the exact timing's."""

    choice: Choice
    plan: MemoryPlan
    tiled: dict[int, TiledNetwork]
    order: Schedule
    emitted: EmittedProgram
    counters: Counters

    @property
    def cycles(self) -> int:
        """Exact cycles of the program."""
        return self.counters.cycles


def build(graph: QuantizedGraph, arch: Arch, choice: Choice) -> BackendResult:
    """Compile the machine's part of `graph` for one choice.

    Raises
    ------
    UnsupportedModelError
        The network does not fit the machine; the message names the layer and the sizes.
    """
    plan = plan_memory(
        graph, arch, most_images=choice.most_images, apart=choice.apart, tiling=choice.tiling
    )
    plan.verify(arch)
    tiling = plan.tiling or choice.tiling
    tiled = {group.images: tile(group, arch, tiling) for group in set(plan.groups)}
    for network in tiled.values():
        network.verify(arch)
    image = build_weight_image(plan.groups[0], arch)
    windows = choose_windows(graph, plan)
    order = schedule(plan, tiled, image, windows, arch, choice.scheduling)
    order.verify()
    try:
        emitted = emit(graph, plan, order, image, windows, arch)
    except SerialOrderNeededError:
        serial = dataclasses.replace(choice.scheduling, serial=True)
        order = schedule(plan, tiled, image, windows, arch, serial)
        emitted = emit(graph, plan, order, image, windows, arch)
    timed = run_timing(emitted.program)
    assert timed.fault is None, f"{timed.fault}"
    assert timed.counters is not None
    return BackendResult(
        choice=choice, plan=plan, tiled=tiled, order=order, emitted=emitted,
        counters=timed.counters,
    )


def search(graph: QuantizedGraph, arch: Arch) -> BackendResult:
    """The fastest of a few choices: one coordinate is changed at a time, and kept if it helps.

    Large programs, whose schedules matter less at their edges, try fewer.
    """
    best = build(graph, arch, Choice())
    left = _SEARCH_INSTRUCTIONS // len(best.order.items)
    for coordinate in _COORDINATES:
        start = best.choice
        for values in coordinate:
            if left <= 0:
                return best
            candidate = _changed(start, values, best.plan.groups[0].images)
            if candidate is None:
                continue
            left -= 1
            found = build(graph, arch, candidate)
            if found.cycles < best.cycles:
                best = found
    return best


_Values = dict[str, int | bool]

_COORDINATES: tuple[tuple[_Values, ...], ...] = (
    ({"apart": False},),
    ({"halves": 1},),
    ({"least_chunks": 2}, {"least_chunks": 4}),
    (
        {"parameters_behind": 0},
        *({"parameters_behind": 1, "gate": gate} for gate in (1, 2)),
        *({"parameters_behind": 2, "gate": gate} for gate in (0, 1, 2, 3)),
        {"parameters_behind": LATE},
    ),
    ({"lookahead": 1}, {"lookahead": 4}),
    ({"early_start": False},),
    ({"together": False},),
)


def _changed(choice: Choice, values: _Values, images: int) -> Choice | None:
    if "halves" in values:
        return dataclasses.replace(choice, most_images=(images + 1) // 2) if images > 1 else None
    if "apart" in values:
        return dataclasses.replace(choice, apart=False)
    part = "tiling" if hasattr(choice.tiling, next(iter(values))) else "scheduling"
    changed = dataclasses.replace(getattr(choice, part), **values)
    return dataclasses.replace(choice, **{part: changed})


def describe_choices(result: BackendResult) -> Iterator[str]:
    """The choices of `result`, in words for the report."""
    tiling = result.plan.tiling or result.choice.tiling
    order = result.choice.scheduling
    yield f"groups of {', '.join(str(g.images) for g in result.plan.groups)} images"
    yield f"at least {tiling.least_chunks} chunks a plane"
    yield f"early start of linear layers {'on' if tiling.early_start else 'off'}"
    yield f"inner tiles of linear layers finished {'together' if tiling.together else 'one by one'}"
    yield f"loads hoisted over {order.lookahead} matmuls"
    yield f"parameters {'apart from' if result.plan.apart else 'beside'} activations"
    if result.plan.spills.names:
        yield f"streamed through bands: {', '.join(sorted(result.plan.spills.names))}"
    late = order.parameters_behind == LATE
    yield f"parameters loaded {'late' if late else f'behind {order.parameters_behind} loads'}"
    if order.gate:
        yield f"weights {order.gate} instructions later wait for them"
