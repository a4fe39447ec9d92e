"""Decides what lies where: groups of images, buffers in the unified buffer, the weight image."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systol_compiler.allocate import Allocation, Request, allocate
from systol_compiler.lowering import lower
from systol_compiler.quantized import QuantizedGraph
from systol_compiler.work import LoweredNetwork, MatrixWork
from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.errors import UnsupportedModelError

_RESIDENT_SHARE = 8
"""All layers' parameters stay in the unified buffer if they take at most one part in so many."""


@dataclass(frozen=True, kw_only=True)
class WeightPlace:
    """Where a work's weights lie in weight memory: tile rows of `pitch` bytes.

    The tile of column tile n and reduction row k begins at `address + n * tile_stride + k * pitch`.
    """

    address: int
    pitch: int
    tile_stride: int


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightImage:
    """Weight memory without the code: parameters of all works, then their weights.

    `parameters` and `weights` are by work name; `parameter_bytes` is the size of the part at the
    front that holds all parameters.
    """

    data: npt.NDArray[np.uint8]
    parameters: Mapping[str, int]
    parameter_bytes: int
    weights: Mapping[str, WeightPlace]


def build_weight_image(network: LoweredNetwork, arch: Arch) -> WeightImage:
    """Lay out parameters and weights in the order in which layers use them.

    A tile row is one run of the weight port. Its pitch is a multiple of the port's width, or a
    power of two below it, so that no row touches more aligned words than it must.
    """
    works = [work for work in network.works if isinstance(work, MatrixWork)]
    parts: list[npt.NDArray[np.uint8]] = []
    parameters: dict[str, int] = {}
    end = 0
    for work in works:
        parameters[work.name] = end
        parts.append(work.parameters())
        end += parts[-1].size
    parameter_bytes = end
    places: dict[str, WeightPlace] = {}
    width = arch.weight_port.width_bytes
    for work in works:
        padding = -end % max(64, arch.burst_bytes)
        parts.append(np.zeros(padding, np.uint8))
        end += padding
        live = min(work.out_channels, arch.columns)
        pitch = -(-live // width) * width if live >= width else 1 << (live - 1).bit_length()
        tiles = -(-work.out_channels // arch.columns)
        reduction = work.weights.reshape(-1, work.out_channels)
        stored = np.zeros((tiles, len(reduction), pitch), np.int8)
        for tile in range(tiles):
            columns = reduction[:, tile * arch.columns : (tile + 1) * arch.columns]
            stored[tile, :, : columns.shape[1]] = columns
        places[work.name] = WeightPlace(
            address=end, pitch=pitch, tile_stride=len(reduction) * pitch
        )
        parts.append(stored.reshape(-1).view(np.uint8))
        end += stored.size
    data = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return WeightImage(
        data=data, parameters=parameters, parameter_bytes=parameter_bytes, weights=places
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryPlan:
    """A network cut into groups of images with an address for everything.

    `groups` are the lowered networks of the groups, in order (equal groups share one object).
    Addresses are by `group_key`; `resident` says that all parameters are loaded once.
    """

    groups: tuple[LoweredNetwork, ...]
    allocation: Allocation
    resident: bool

    def address(self, group: int, name: str) -> int:
        """Where the buffer `name` of a group lies."""
        return self.allocation.addresses[group_key(group, name)]

    def parameter_address(self, group: int, work: str, offset: int) -> int:
        """Where a work's parameters lie, given their offset among all parameters."""
        if self.resident:
            return self.allocation.addresses[_PARAMETERS] + offset
        return self.allocation.addresses[_parameter_key(group, work)]

    def verify(self, arch: Arch) -> None:
        """Check the allocation."""
        self.allocation.verify(arch)

    def __str__(self) -> str:
        sizes = ", ".join(str(group.images) for group in self.groups)
        return f"groups of {sizes} images\n{self.allocation}"


_PARAMETERS = "parameters"


def group_key(group: int, name: str) -> str:
    """The request name of a group's buffer."""
    return f"{group}:{name}"


def _parameter_key(group: int, work: str) -> str:
    return f"{group}:{work}:parameters"


def plan_memory(
    graph: QuantizedGraph, arch: Arch, *, most_images: int | None = None, apart: bool = True
) -> MemoryPlan:
    """The plan with the largest groups (of at most `most_images`) that fit the unified buffer.

    With `apart`, parameters have banks of their own, so that reading them never waits for the
    matrix unit; if not even one image fits so, they share banks nevertheless.

    Raises
    ------
    UnsupportedModelError
        Not even one image fits; the message names the layer and the sizes.
    """
    batch = graph.tensors[graph.inputs[0].tensor].shape[0]
    most = batch if most_images is None else min(batch, most_images)
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
    if best is None and apart:
        return plan_memory(graph, arch, most_images=most_images, apart=False)
    if best is None:
        raise _too_big(graph, arch)
    return best


def _try_plan(
    graph: QuantizedGraph, arch: Arch, batch: int, images: int, apart: bool
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
            if allocation is not None:
                return MemoryPlan(groups=groups, allocation=allocation, resident=resident)
    return None


def _requests(
    groups: tuple[LoweredNetwork, ...], lead: int, linger: int, resident: bool
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
        for name, buffer in network.buffers.items():
            written = [t for t, work in enumerate(network.works) if work.output == name]
            read = [t for t, work in enumerate(network.works) if work.input == name]
            first = base + (written[0] if written else min(read) - lead)
            last = base + max(read + written)
            if name in network.outputs:
                last += linger
            requests.append(
                Request(
                    name=group_key(index, name), size_bytes=buffer.size_bytes, first=first,
                    last=last,
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
        f"{arch.ub_bytes} bytes; choose a machine with a larger one, or a smaller image"
    )
