"""The back half in one call, and its search: the exact cycle model is the cost function."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from systol_compiler.nests.network import LoweredNetwork
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
    """One candidate: what tiling and scheduling are told."""

    cut: Cut = field(default_factory=Cut)
    scheduling: ScheduleOptions = field(default_factory=ScheduleOptions)
    most_images: int | None = None
    apart: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class BackendResult:
    """Every level of the back half for one choice. `counters` is the exact timing's."""

    choice: Choice
    plan: MemoryPlan
    order: Schedule
    emitted: EmittedProgram
    counters: Counters

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
        default=choice.cut,
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
    assert timed.counters is not None
    return BackendResult(
        choice=choice, plan=plan, order=order, emitted=emitted, counters=timed.counters
    )


def search(
    lower: Lower, batch: int, arch: Arch, *, budget: int = SEARCH_INSTRUCTIONS
) -> BackendResult:
    """The fastest of a few choices: one coordinate is changed at a time, and kept if it helps.

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
    for coordinate in _COORDINATES:
        start = best.choice
        for values in coordinate:
            if left <= 0:
                return best
            candidate = _changed(start, values, best.plan.network.images)
            if candidate is None:
                continue
            left -= 1
            found = build(lower, batch, arch, candidate)
            if found.cycles < best.cycles:
                best = found
    return best


_Values = dict[str, int | bool]

_COORDINATES: tuple[tuple[_Values, ...], ...] = (
    ({"bands": 1}, {"bands": 4}, {"bands": 1, "exact": True}),
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
    part = "cut" if hasattr(choice.cut, next(iter(values))) else "scheduling"
    changed = replace(getattr(choice, part), **values)
    return replace(choice, **{part: changed})


def describe_choices(result: BackendResult) -> Iterator[str]:
    """The choices of `result`, in words for the report."""
    cut, order = result.choice.cut, result.choice.scheduling
    groups = ", ".join(str(group.network.images) for group in result.plan.groups)
    yield f"groups of {groups} images"
    if cut.exact:
        yield f"{cut.bands} bands a plane, or as many as fit the accumulators"
    else:
        yield f"up to {cut.bands} times as many bands as hide most"
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
