"""The back half in one call, and its search: the exact cycle model is the cost function."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.plan.choices import Choices, Placement, StageChoice
from systol_compiler.plan.memory_plan import Lower, MemoryPlan, plan_memory
from systol_compiler.plan.tiling import Cut
from systol_compiler.program.emit import EmittedProgram, choose_windows, emit
from systol_compiler.program.order import LATE, Schedule, ScheduleOptions, schedule
from systol_compiler.program.tokens import SerialOrderNeededError
from systol_compiler.program.weight_image import build_weight_image
from systol_hw.arch import Arch
from systol_sim.results import Counters
from systol_sim.simulator import run_timing

SEARCH_INSTRUCTIONS = 24_000
"""Instructions that a search may emit over all its candidates."""

_GROUPS = 3
"""Groups of images on which a search tries its candidates, where there are many."""

Observer = Callable[[str, object], None]
"""Called with the name of a pass and what it gave, which prints with `str`."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One candidate: what stages and scheduling are told."""

    stages: Choices = field(default_factory=Choices)
    scheduling: ScheduleOptions = field(default_factory=ScheduleOptions)
    most_images: int | None = None
    apart: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class BackendResult:
    """Every level of the back half for one choice. `counters` is the exact timing's;
    `stage_cycles` says by how much each stage ends later than those before it, over all groups."""

    choice: Choice
    plan: MemoryPlan
    order: Schedule
    emitted: EmittedProgram
    counters: Counters
    stage_cycles: tuple[int, ...]

    @property
    def cycles(self) -> int:
        """Exact cycles of the program."""
        return self.counters.cycles


def build(lower: Lower, batch: int, arch: Arch, choice: Choice) -> BackendResult:
    """Compile a machine segment for one choice.

    Parameters
    ----------
    lower
        The segment's nests for a number of images; called for `batch` or parts of it.

    Raises
    ------
    UnsupportedModelError
        The network does not fit the machine; the message names the layer and the sizes.
    """
    plan = plan_memory(
        lower, arch, batch=batch, most_images=choice.most_images, apart=choice.apart,
        choices=choice.stages,
    )
    plan.verify(arch)
    image = build_weight_image(plan.network, arch, plan.pinned)
    windows = choose_windows(plan)
    # An order in which weights stand before other work can lack tokens, or, where weights come from
    # the unified buffer, wait for what waits for them. The serial one has neither fault.
    for options in (choice.scheduling, replace(choice.scheduling, serial=True)):
        order = schedule(plan, image, windows, arch, options)
        order.verify()
        try:
            emitted = emit(plan, order, image, windows, arch)
        except SerialOrderNeededError:
            continue
        timed = run_timing(emitted.program)
        if timed.fault is None:
            break
    assert timed.fault is None, f"{timed.fault}"
    assert timed.counters is not None and timed.times is not None
    stages = len(plan.groups[0].stages)
    return BackendResult(
        choice=choice, plan=plan, order=order, emitted=emitted, counters=timed.counters,
        stage_cycles=_stage_cycles(emitted.stages, timed.times, stages),
    )


def _stage_cycles(
    stage_of: Sequence[int], times: npt.NDArray[np.int64], stages: int
) -> tuple[int, ...]:
    """By how much each of a group's `stages` ends later than those before it, over all groups."""
    numbers = np.array(stage_of)
    ends = np.zeros(-(-(int(numbers.max(initial=0)) + 1) // stages) * stages, np.int64)
    known = numbers >= 0
    np.maximum.at(ends, numbers[known], times[known, 1] + 1)
    later = np.diff(np.maximum.accumulate(ends), prepend=0)
    return tuple(later.reshape(-1, stages).sum(axis=0).tolist())


def search(
    lower: Lower, batch: int, arch: Arch, *, budget: int = SEARCH_INSTRUCTIONS
) -> BackendResult:
    """The fastest of a few choices. First each stage takes those of `_STAGE_CHOICES` that suit it
    best; then one coordinate is changed at a time, and kept if it helps.

    Large programs, whose schedules matter less at their edges, try fewer: `budget` instructions
    are emitted over all candidates.
    """
    lowered: dict[int, LoweredNetwork] = {}

    def once(images: int) -> LoweredNetwork:
        if images not in lowered:
            lowered[images] = lower(images)
        return lowered[images]

    first = build(once, batch, arch, Choice())
    groups, images = len(first.plan.groups), first.plan.network.images
    if groups <= 2 * _GROUPS:
        return _climb(once, batch, arch, first, budget)
    # Groups are alike: what is best for a few of them is best for all.
    few = _GROUPS * images
    found = _climb(once, few, arch, build(once, few, arch, Choice(most_images=images)), budget)
    better = build(once, batch, arch, found.choice)
    return better if better.cycles < first.cycles else first


def _climb(
    lower: Lower, batch: int, arch: Arch, best: BackendResult, budget: int
) -> BackendResult:
    left = budget // len(best.order.items)
    best, left = _tuned(lower, batch, arch, best, left)
    for coordinate in _COORDINATES:
        start = best.choice
        for values in coordinate:
            if left <= 0:
                return best
            pinned = best.plan.pinned_bytes > 0
            candidate = _changed(start, values, best.plan.network.images)
            if candidate is None or ("parameters_behind" in values and not pinned):
                continue
            left -= 1
            found = build(lower, batch, arch, candidate)
            if found.cycles < best.cycles:
                best = found
    return best


def _tuned(
    lower: Lower, batch: int, arch: Arch, best: BackendResult, left: int
) -> tuple[BackendResult, int]:
    """The fastest that `left` candidates find, and how many are left: each of `_STAGE_CHOICES` for
    all stages, then for those alone that it suits better."""
    for stage in _STAGE_CHOICES:
        if left <= 0:
            break
        left -= 1
        whole = _restaged(lower, batch, arch, best, Choices(default=stage))
        if len(whole.stage_cycles) != len(best.stage_cycles):
            continue
        better = [
            one < other for one, other in zip(whole.stage_cycles, best.stage_cycles, strict=True)
        ]
        found = [best, whole]
        if any(better) and not all(better):
            left -= 1
            stages = best.choice.stages
            own = tuple(
                stage if take else stages.at(time) for time, take in enumerate(better)
            )
            mixed = Choices(default=stages.default, stages=own)
            found.append(_restaged(lower, batch, arch, best, mixed))
        best = min(found, key=lambda item: item.cycles)
    return best, left


def _restaged(
    lower: Lower, batch: int, arch: Arch, best: BackendResult, stages: Choices
) -> BackendResult:
    return build(lower, batch, arch, replace(best.choice, stages=stages))


_STAGE_CHOICES = (
    StageChoice(placement=Placement.ENDS),
    StageChoice(placement=Placement.MIDDLE),
    StageChoice(cut=Cut(bands=1)),
    StageChoice(cut=Cut(bands=4)),
    StageChoice(cut=Cut(bands=1, exact=True)),
)

_Values = dict[str, Any]

_COORDINATES: tuple[tuple[_Values, ...], ...] = (
    ({"apart": False},),
    ({"halves": 1},),
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
        return replace(choice, most_images=(images + 1) // 2) if images > 1 else None
    if "apart" in values:
        return replace(choice, apart=False)
    if next(iter(values)) in ScheduleOptions.__dataclass_fields__:
        return replace(choice, scheduling=replace(choice.scheduling, **values))

    def cut(stage: StageChoice) -> StageChoice:
        return replace(stage, cut=replace(stage.cut, **values))

    stages = choice.stages
    return replace(
        choice,
        stages=Choices(default=cut(stages.default), stages=tuple(map(cut, stages.stages))),
    )


def describe_choices(result: BackendResult) -> Iterator[str]:
    """The choices of `result`, in words for the report."""
    stages, order = result.choice.stages, result.choice.scheduling
    cut = stages.default.cut
    groups = ", ".join(str(group.network.images) for group in result.plan.groups)
    yield f"groups of {groups} images"
    counts = Counter(stages.at(time) for time in range(len(result.stage_cycles)))
    for stage, count in counts.most_common():
        bands = (
            f"{stage.cut.bands} bands a plane, or as many as fit the accumulators"
            if stage.cut.exact else f"up to {stage.cut.bands} times as many bands as hide most"
        )
        yield f"{count} stages: {bands}; buffers {stage.placement}"
    yield f"early start of linear layers {'on' if cut.early_start else 'off'}"
    yield f"inner tiles of linear layers finished {'together' if cut.together else 'one by one'}"
    yield f"loads hoisted over {order.lookahead} matmuls"
    yield f"parameters {'apart from' if result.plan.apart else 'beside'} activations"
    streamed = sorted(result.plan.groups[0].residency.until)
    if streamed:
        yield f"streamed through slots: {', '.join(streamed)}"
    late = order.parameters_behind == LATE
    yield f"parameters loaded {'late' if late else f'behind {order.parameters_behind} loads'}"
    if order.gate:
        yield f"weights {order.gate} instructions later wait for them"
