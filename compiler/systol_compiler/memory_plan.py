"""Decides what lies where: groups of images, buffers in the unified buffer, spills."""

import dataclasses
from dataclasses import dataclass

from systol_compiler.allocate import Allocation, Request, allocate
from systol_compiler.lowering import lower
from systol_compiler.old_quantized import QuantizedGraph
from systol_compiler.spill import (
    NO_SPILLS,
    STAGES,
    Spills,
    can_stream,
    plan_spills,
    stage_bytes,
    stage_key,
)
from systol_compiler.tiling import TiledNetwork, TilingOptions, tile
from systol_compiler.work import LoweredNetwork, MatrixWork
from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.errors import UnsupportedModelError

_REUSE_LOSS = 1.01
"""By how much weight tiles may take longer in groups whose units keep out of each other's way."""
_STEADIER_TRIES = 16
"""At most about twice so many numbers of groups are tried to find such groups."""
_RESIDENT_SHARE = 8
"""All layers' parameters stay in the unified buffer if they take at most one part in so many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryPlan:
    """A network cut into groups of images with an address for everything.

    `groups` are the lowered networks of the groups, in order (equal groups share one object).
    Addresses are by `group_key`; `resident` says that all parameters are loaded once.
    """

    groups: tuple[LoweredNetwork, ...]
    allocation: Allocation
    resident: bool
    apart: bool = False
    """Parameters have banks of their own."""
    ahead: bool = False
    """There is room for the next group's inputs while one group is computed."""
    spills: Spills = NO_SPILLS
    tiling: TilingOptions | None = None
    """How the works must be tiled for the stages to suffice; None if nothing streams."""

    def address(self, group: int, name: str) -> int:
        """Where the buffer `name` of a group lies."""
        return self.allocation.addresses[group_key(group, name)]

    def parameter_address(self, group: int, work: str, offset: int) -> int:
        """Where a work's parameters lie, given their offset among all parameters."""
        if self.resident:
            return self.allocation.addresses[_PARAMETERS] + offset
        return self.allocation.addresses[_parameter_key(group, work)]

    def steady(self, arch: Arch) -> bool:
        """Whether inputs come ahead, and Store reads no bank that another unit reads meanwhile."""
        return self.ahead and self.allocation.shared_banks(arch) == 0

    def tile_cycles(self, arch: Arch) -> int:
        """Cycles of all weight tiles, whether their rows or their weights take longer."""
        cycles = {
            network: sum(work.cycles(arch) for work in tile(network, arch, TilingOptions()).works)
            for network in set(self.groups)
        }
        return sum(cycles[network] for network in self.groups)

    def verify(self, arch: Arch) -> None:
        """Check the allocation."""
        self.allocation.verify(arch)

    def __str__(self) -> str:
        sizes = ", ".join(str(group.images) for group in self.groups)
        spilled = ", ".join(f"%{name}" for name in sorted(self.spills.names)) or "nothing"
        return f"groups of {sizes} images, streamed: {spilled}\n{self.allocation}"


_PARAMETERS = "parameters"


def group_key(group: int, name: str) -> str:
    """The request name of a group's buffer."""
    return f"{group}:{name}"


def _parameter_key(group: int, work: str) -> str:
    return f"{group}:{work}:parameters"


def plan_memory(
    graph: QuantizedGraph, arch: Arch, *, most_images: int | None = None, apart: bool = True,
    tiling: TilingOptions | None = None,
) -> MemoryPlan:
    """The plan with the largest groups (of at most `most_images`) that fit the unified buffer.

    With `apart`, parameters have banks of their own, so that reading them never waits for the
    matrix unit; if not even one image fits so, they share banks nevertheless.

    Smaller groups, for which inputs come ahead and Store reads banks of its own, are taken if that
    costs less than a hundredth of the matrix unit's time.

    Raises
    ------
    UnsupportedModelError
        Not even one image fits; the message names the layer and the sizes.
    """
    batch = graph.tensors[graph.inputs[0].tensor].shape[0]
    most = batch if most_images is None else min(batch, most_images)
    best = _largest_groups(graph, arch, batch, most, apart)
    if best is not None:
        return _steadier(graph, arch, batch, best) or best
    if apart:
        return plan_memory(graph, arch, most_images=most_images, apart=False, tiling=tiling)
    spilled = _spilled_plan(graph, arch, batch, tiling or TilingOptions())
    if spilled is None:
        raise _too_big(graph, arch)
    return spilled


def _largest_groups(
    graph: QuantizedGraph, arch: Arch, batch: int, most: int, apart: bool
) -> MemoryPlan | None:
    best: MemoryPlan | None = None
    # Fitting is monotone but for accidents of the greedy placement: bisect, after the whole batch.
    low, high, images = 0, most + 1, most
    while high - low > 1:
        found = _try_plan(graph, arch, batch, images, apart)
        if found is not None:
            low, best = images, found
        else:
            high = images
        images = (low + high) // 2
    return best


def _steadier(
    graph: QuantizedGraph, arch: Arch, batch: int, best: MemoryPlan
) -> MemoryPlan | None:
    """The first steady plan of up to three times as many groups that reuses weights as well."""
    count = len(best.groups)
    if count == 1 or best.steady(arch):
        return None
    limit = _REUSE_LOSS * best.tile_cycles(arch)
    for more in range(count, min(3 * count, batch) + 1, -(-count // _STEADIER_TRIES)):
        found = _try_plan(graph, arch, batch, -(-batch // more), best.apart, steady=True)
        if found is not None and found.tile_cycles(arch) <= limit:
            return found
    return None


def _try_plan(
    graph: QuantizedGraph, arch: Arch, batch: int, images: int, apart: bool, *, steady: bool = False
) -> MemoryPlan | None:
    count = -(-batch // images)
    sizes = [batch * (i + 1) // count - batch * i // count for i in range(count)]
    try:
        lowered = {size: lower(graph, arch, size) for size in set(sizes)}
    except UnsupportedModelError:
        if images == 1:
            raise
        return None  # folded images can pass a limit that single ones keep
    groups = tuple(lowered[size] for size in sizes)
    steps = len(groups[0].works)
    # Loading a group ahead, and letting a store finish late, cost room: less of it each time.
    for lead, linger in ((steps, 1), (1, 1), (1, 0), (0, 0)):
        for resident in (True, False):
            requests = _requests(groups, lead, linger, resident)
            if resident and requests[0].size_bytes > arch.ub_bytes // _RESIDENT_SHARE:
                continue
            allocation = allocate(requests, arch, apart=apart)
            if allocation is None:
                continue
            plan = MemoryPlan(
                groups=groups, allocation=allocation, resident=resident, apart=apart, ahead=lead > 0
            )
            if plan.steady(arch) or not steady:
                return plan
    return None


def _spilled_plan(
    graph: QuantizedGraph, arch: Arch, batch: int, tiling: TilingOptions
) -> MemoryPlan | None:
    """Streams buffers, the largest first, until single images fit; None if they never do."""
    network = lower(graph, arch, 1)
    groups = (network,) * batch
    candidates = sorted(
        (name for name in network.buffers if can_stream(network, name)),
        key=lambda name: (-network.buffers[name].size_bytes, name),
    )
    tallest = max((w.out_size[0] for w in network.works), default=1)
    for count in range(1, len(candidates) + 1):
        spills = plan_spills(network, frozenset(candidates[:count]))
        chunks = tiling.least_chunks
        # Flatter bands need smaller stages.
        while chunks < 2 * tallest:
            narrow = dataclasses.replace(tiling, least_chunks=chunks)
            tiled = tile(network, arch, narrow)
            for resident in (True, False):
                requests = _requests(groups, 0, 0, resident, spills, tiled)
                if resident and requests[0].size_bytes > arch.ub_bytes // _RESIDENT_SHARE:
                    continue
                allocation = allocate(requests, arch)
                if allocation is not None:
                    return MemoryPlan(
                        groups=groups, allocation=allocation, resident=resident, spills=spills,
                        tiling=narrow,
                    )
            chunks *= 2
    return None


def _stage_requests(
    tiled: TiledNetwork, group: int, base: int, spills: Spills
) -> list[Request]:
    """Two stages for each streamed input and output of each work, while it runs."""
    requests = []
    for time, work in enumerate(tiled.lowered.works):
        for name, direction in ((work.input, "in"), (work.output, "out")):
            if name not in spills.names:
                continue
            assert isinstance(work, MatrixWork)
            size = stage_bytes(tiled, work, direction)
            now = (base + time, base + time)
            requests += [
                Request(
                    name=group_key(group, stage_key(name, work.name, direction, stage)),
                    size_bytes=size, first=base + time, last=base + time,
                    read=now if direction == "in" else None,
                    loaded=now if direction == "in" else None,
                    stored=now if direction == "out" else None,
                    written=now if direction == "out" else None,
                )
                for stage in range(STAGES)
            ]
    return requests


def _requests(
    groups: tuple[LoweredNetwork, ...], lead: int, linger: int, resident: bool,
    spills: Spills = NO_SPILLS, tiled: TiledNetwork | None = None,
) -> tuple[Request, ...]:
    requests: list[Request] = []
    steps = len(groups[0].works)
    if resident:
        channels = sum(w.out_channels for w in groups[0].works if isinstance(w, MatrixWork))
        requests.append(
            Request(
                name=_PARAMETERS, size_bytes=max(1, PARAMETER_BYTES * channels), first=0,
                last=steps * len(groups), high=True,
            )
        )
    for index, network in enumerate(groups):
        base = index * steps
        if tiled is not None:
            requests += _stage_requests(tiled, index, base, spills)
        for name, buffer in network.buffers.items():
            if name in spills.names:
                continue
            written = [t for t, work in enumerate(network.works) if work.output == name]
            read = [t for t, work in enumerate(network.works) if work.input == name]
            first = base + (written[0] if written else min(read) - lead)
            last = base + max(read + written)
            stored = None
            if name in network.outputs:
                # Whole planes are stored: a single one when the next work runs already.
                begins = base + max(written) + (network.works[max(written)].planes == 1)
                stored = (begins, base + max(written) + 1)
                last += linger
            requests.append(
                Request(
                    name=group_key(index, name), size_bytes=buffer.size_bytes, first=first,
                    last=last, read=(base + min(read), base + max(read)) if read else None,
                    stored=stored,
                    # Inputs come ahead, the last of them while the first work runs.
                    loaded=None if written else (first, base + min(read)),
                    written=(base + written[0], base + written[-1]) if written else None,
                )
            )
        if not resident:
            requests += [
                Request(
                    name=_parameter_key(index, work.name),
                    size_bytes=PARAMETER_BYTES * work.out_channels,
                    first=base + time,
                    last=base + time,
                    high=True,
                )
                for time, work in enumerate(network.works)
                if isinstance(work, MatrixWork)
            ]
    return tuple(requests)


def _too_big(graph: QuantizedGraph, arch: Arch) -> UnsupportedModelError:
    network = lower(graph, arch, 1)
    need, worst = 0, network.works[0]
    for work in network.works:
        size = network.buffers[work.input].size_bytes + network.buffers[work.output].size_bytes
        if isinstance(work, MatrixWork):
            size += PARAMETER_BYTES * work.out_channels
        if size > need:
            need, worst = size, work
    return UnsupportedModelError(
        f"layer {worst.name!r}: the input ({network.buffers[worst.input].size_bytes} bytes), the "
        f"output ({network.buffers[worst.output].size_bytes} bytes) and the parameters of one "
        f"image, {need} bytes with what else is alive, must fit the unified buffer's "
        f"{arch.ub_bytes} bytes; only convolutions can stream what does not fit, and two bands of "
        "theirs must; choose a machine with a larger buffer, or a smaller image"
    )
