"""Decides what lies where: groups of images, buffers in the unified buffer, what streams."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.plan.allocation import Allocation, Overflow, Request, allocate
from systol_compiler.plan.choices import Choices
from systol_compiler.plan.fitting import Fitter, GroupPlan, plan_group
from systol_compiler.plan.requests import group_requests
from systol_compiler.plan.tasks import PINNED, Residency
from systol_compiler.plan.tiling import product_positions, tile_cycles
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import form_of, show_fields
from systol_compiler.text.statement import wrapped
from systol_hw.arch import Arch
from systol_hw.errors import UnsupportedModelError

_REUSE_LOSS = 1.01
"""By how much weight tiles may take longer in groups whose units keep out of each other's way."""
_STEADIER_TRIES = 16
"""At most about twice so many numbers of groups are tried to find such groups."""
_PINNED_SHARE = 8
"""All layers' constants stay in the unified buffer if they take at most one part in so many."""
_FIT_TRIES = 2
_FULL = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Shares of the buffer that stages may fill, tried in order: greedy placement leaves gaps."""

Lower = Callable[[int], LoweredNetwork]
"""The network for a number of images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryPlan:
    """A network cut into groups of images with an address for everything.

    Attributes
    ----------
    groups
        Plans of the groups, in order (equal groups share one object).
    apart
        Constants have banks of their own.
    ahead
        There is room for the next group's inputs while one group is computed.
    """

    groups: tuple[GroupPlan, ...]
    allocation: Allocation
    apart: bool
    ahead: bool
    pinned: Mapping[str, int] = field(default_factory=dict)
    """Offset of each constant among all of them, where they are loaded once."""
    pinned_bytes: int = 0

    @property
    def network(self) -> LoweredNetwork:
        """The first group's."""
        return self.groups[0].network

    def address(self, group: int, key: str) -> int:
        """Where a request of a group lies."""
        if key == PINNED:
            return self.allocation.addresses[PINNED]
        return self.allocation.addresses[f"{group}:{key}"]

    def steady(self, arch: Arch) -> bool:
        """Whether inputs come ahead, and Store reads no bank that another unit reads meanwhile."""
        return self.ahead and self.allocation.shared_banks(arch) == 0

    def tile_cycles(self, arch: Arch) -> int:
        """Cycles of all weight tiles, whether their rows or their weights take longer."""
        cycles = {id(group): _tile_cycles(group, arch) for group in self.groups}
        return sum(cycles[id(group)] for group in self.groups)

    def verify(self, arch: Arch) -> None:
        """Check the allocation."""
        self.allocation.verify(arch)

    def __str__(self) -> str:
        """The plan as text, which `levels.allocated.read_allocated` reads: which of the different
        groups is which, and what lies where."""
        different = list(dict.fromkeys(self.groups))
        groups = [different.index(group) for group in self.groups]
        printer = Printer()
        head = [
            "allocated", f"groups {form_of(tuple[int, ...]).show(groups, printer)}",
            f"peak {self.allocation.peak_bytes}",
            *show_fields(self, printer, ("groups", "allocation")), "{",
        ]
        return "\n".join([wrapped(head, depth=0), *self.allocation.lines(), "}"])


def _tile_cycles(group: GroupPlan, arch: Arch) -> int:
    total = 0
    for tasks in group.tasks:
        for task in tasks:
            if isinstance(task.nest, MatrixNest):
                places = task.nest.taps[0] * task.nest.taps[1]
                cost = tile_cycles(arch, product_positions(task.nest, task.tile.box))
                total += sum(
                    places * len(step.tiles) * (step.reduction[1] - step.reduction[0]) * cost
                    for step in task.tile.steps
                )
    return total


def plan_memory(
    lower: Lower, arch: Arch, *, batch: int, most_images: int | None = None, apart: bool = True,
    choices: Choices | None = None,
) -> MemoryPlan:
    """The plan with the largest groups (of at most `most_images`) that fit the unified buffer.

    With `apart`, constants have banks of their own, so that reading them never waits for the
    matrix unit; if not even one image fits so, they share banks nevertheless, and then buffers
    stream.

    Smaller groups, for which inputs come ahead and Store reads banks of its own, are taken if that
    costs less than a hundredth of the matrix unit's time.

    Raises
    ------
    UnsupportedModelError
        Not even a layer's smallest tiles fit; the message names the layer and the sizes.
    """
    planner = _Planner(lower, arch, batch, choices or Choices())
    most = batch if most_images is None else min(batch, most_images)
    for together in (True, False) if apart else (False,):
        best = planner.largest_groups(most, together)
        if best is not None:
            return planner.steadier(best) or best
    return planner.streamed()


class _Planner:
    def __init__(self, lower: Lower, arch: Arch, batch: int, choices: Choices) -> None:
        self.arch, self.batch, self.choices = arch, batch, choices
        self._lower = lower
        self._lowered: dict[int, LoweredNetwork] = {}
        self._groups: dict[tuple[int, bool], GroupPlan] = {}

    def lowered(self, images: int) -> LoweredNetwork:
        if images not in self._lowered:
            self._lowered[images] = self._lower(images)
        return self._lowered[images]

    def group(self, images: int, pinned: bool) -> GroupPlan:
        key = (images, pinned)
        if key not in self._groups:
            network = self.lowered(images)
            self._groups[key] = plan_group(
                network, self.arch, {}, self.choices, Residency(pinned=pinned)
            )
        return self._groups[key]

    def largest_groups(self, most: int, apart: bool) -> MemoryPlan | None:
        best: MemoryPlan | None = None
        # Fitting is monotone but for accidents of the greedy placement: bisect, after the batch.
        low, high, images = 0, most + 1, most
        while high - low > 1:
            found = self.attempt(images, apart)
            if found is not None:
                low, best = images, found
            else:
                high = images
            images = (low + high) // 2
        return best

    def steadier(self, best: MemoryPlan) -> MemoryPlan | None:
        """The first steady plan of up to three times as many groups that reuses weights as well."""
        count = len(best.groups)
        if count == 1 or best.steady(self.arch):
            return None
        limit = _REUSE_LOSS * best.tile_cycles(self.arch)
        most = min(3 * count, self.batch)
        for more in range(count, most + 1, -(-count // _STEADIER_TRIES)):
            found = self.attempt(-(-self.batch // more), best.apart, steady=True)
            if found is not None and found.tile_cycles(self.arch) <= limit:
                return found
        return None

    def attempt(self, images: int, apart: bool, *, steady: bool = False) -> MemoryPlan | None:
        """A plan of groups of about `images` without streaming, or None."""
        count = -(-self.batch // images)
        sizes = [
            self.batch * (i + 1) // count - self.batch * i // count for i in range(count)
        ]
        try:
            for size in set(sizes):
                self.lowered(size)
        except UnsupportedModelError:
            if images == 1:
                raise
            return None  # folded images can pass a limit that single ones keep
        pinned_bytes = _constant_bytes(self.lowered(sizes[0]))
        stages = len(self.group(sizes[0], False).stages)
        # Loading a group ahead, and letting a store finish late, cost room: less each time.
        for lead, linger in ((stages, 1), (1, 1), (1, 0), (0, 0)):
            for pinned in (True, False):
                if pinned and pinned_bytes > self.arch.ub_bytes // _PINNED_SHARE:
                    continue
                groups = tuple(self.group(size, pinned) for size in sizes)
                found = self.allocate(groups, apart, lead=lead, linger=linger)
                if isinstance(found, MemoryPlan) and (found.steady(self.arch) or not steady):
                    return found
        return None

    def allocate(
        self, groups: tuple[GroupPlan, ...], apart: bool, *, lead: int, linger: int
    ) -> MemoryPlan | Overflow:
        requests: list[Request] = []
        stages = len(groups[0].stages)
        offsets, size = _pinned(groups[0].network)
        if not groups[0].residency.pinned:
            offsets, size = {}, 0
        if size:
            requests.append(
                Request(
                    name=PINNED, size_bytes=size, first=-1, last=stages * len(groups), high=True
                )
            )
        for index, group in enumerate(groups):
            requests += group_requests(
                group.uses, group=index, base=index * stages, choices=self.choices, lead=lead,
                linger=linger,
            )
        found = allocate(requests, self.arch, apart=apart)
        if isinstance(found, Overflow):
            return found
        return MemoryPlan(
            groups=groups, allocation=found, apart=apart, ahead=lead > 0, pinned=offsets,
            pinned_bytes=size,
        )

    def streamed(self) -> MemoryPlan:
        """Single images, with what does not fit streamed through slots."""
        fitter = Fitter(self.lowered(1), self.arch, self.choices)
        for share in _FULL:
            fitter.room = int(self.arch.ub_bytes * share)
            group = fitter.fit()
            found = self._allocate_streamed(group)
            for _ in range(_FIT_TRIES):
                if isinstance(found, MemoryPlan):
                    return found
                # Stages whose pieces found no place need relief, whatever their sum is.
                time = max(0, found.request.first) % len(group.stages)
                group = fitter.fit((time,))
                found = self._allocate_streamed(group)
            if isinstance(found, MemoryPlan):
                return found
        assert isinstance(found, Overflow)
        raise fitter.too_big(group, max(0, found.request.first) % len(group.stages))

    def _allocate_streamed(self, group: GroupPlan) -> MemoryPlan | Overflow:
        groups = (group,) * self.batch
        for lead, linger in ((1, 1), (1, 0), (0, 0)):
            found = self.allocate(groups, False, lead=lead, linger=linger)
            if isinstance(found, MemoryPlan):
                break
        return found


def _constants(network: LoweredNetwork) -> list[str]:
    """Parameters and tables, in order of use; operands that are constant come like inputs."""
    return list(dict.fromkeys(name for nest in network.nests for name in nest.constants))


def _pinned(network: LoweredNetwork) -> tuple[dict[str, int], int]:
    offsets, end = {}, 0
    for name in _constants(network):
        offsets[name] = end
        end += -(-network.buffers[name].size_bytes // 8) * 8
    return offsets, end


def _constant_bytes(network: LoweredNetwork) -> int:
    return _pinned(network)[1]


def streamed_homes(group: GroupPlan) -> dict[str, int]:
    """Offsets of the streamed buffers that have no other home, in the spill area."""
    homes, end = {}, 0
    for name in sorted(group.residency.until):
        buffer = group.network.buffers[name]
        if buffer.home is Home.NONE:
            homes[name] = end
            end += -(-buffer.size_bytes // 64) * 64
    return homes
