"""What a group's tasks ask of the unified buffer: sizes and times by request."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from systol_compiler.nests.buffer import PLANE_ALIGNMENT, Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Box
from systol_compiler.plan.allocation import Request, Times
from systol_compiler.plan.choices import Choices
from systol_compiler.plan.tasks import PINNED, Move, Place, Task


@dataclass(kw_only=True)
class Use:
    """Sizes and times of one key; times are stages of the group."""

    size_bytes: int = 0
    constant: bool = False
    touched: Times | None = None
    read: Times | None = None
    vector_read: Times | None = None
    stored: Times | None = None
    loaded: Times | None = None
    written: Times | None = None


def slot_bytes(box: Box, byte_planes: int) -> int:
    """Bytes of a packed box; the high plane begins at a multiple of 64."""
    return slot_plane_pitch(box) * (byte_planes - 1) + box.size


def slot_plane_pitch(box: Box) -> int:
    """Bytes from the low to the high plane of a packed box."""
    return -(-box.size // PLANE_ALIGNMENT) * PLANE_ALIGNMENT


def collect_uses(network: LoweredNetwork, stages: Sequence[Sequence[Task]]) -> dict[str, Use]:
    """The use of every key by the tasks of one group."""
    uses: dict[str, Use] = {}

    def touch(place: Place, name: str, time: int, kind: str) -> None:
        use = uses.setdefault(place.key, Use())
        buffer = network.buffers[name]
        size = buffer.size_bytes
        if place.slot is not None:
            size = slot_bytes(place.slot, buffer.planes)
        use.size_bytes = max(use.size_bytes, size)
        use.constant |= buffer.home is Home.CONSTANT
        use.touched = _wider(use.touched, time)
        setattr(use, kind, _wider(getattr(use, kind), time))

    for time, tasks in enumerate(stages):
        for task in tasks:
            for operand, place in zip(task.nest.reads, task.reads, strict=True):
                by_array = isinstance(task.nest, MatrixNest)
                touch(place, operand.buffer, time, "read" if by_array else "vector_read")
            for name, place in zip(task.nest.constants, task.constants, strict=True):
                if place.key != PINNED:
                    touch(place, name, time, "vector_read")
            touch(task.output, task.nest.output.buffer, time, "written")
            for move in _loads(task):
                touch(move.place, move.operand.buffer, time, "loaded")
            for move in task.stores:
                touch(move.place, move.operand.buffer, time, "stored")
    return uses


def _loads(task: Task) -> Iterable[Move]:
    yield from task.loads
    for moves in task.step_loads.values():
        yield from moves


def _wider(times: Times | None, time: int) -> Times:
    return (time, time) if times is None else (min(times[0], time), max(times[1], time))


def group_requests(
    uses: Mapping[str, Use], *, group: int, base: int, choices: Choices, lead: int, linger: int
) -> list[Request]:
    """Requests of one group whose first stage has the time `base`.

    Where each looks for a place, the stage that reads it first says. `lead` is the number of
    stages that loads may come ahead, `linger` that stores may be late.
    """
    requests = []
    for key, use in uses.items():
        assert use.touched is not None
        first, last = use.touched
        whole = use.touched
        if use.loaded is not None and use.written is None and use.loaded[0] == first:
            first -= lead if not use.constant else min(lead, 1)
        stored = use.stored
        if stored is not None and use.written is not None:
            if whole[1] == stored[1]:
                last += linger
            # The last band is stored when the next stage runs already.
            stored = (stored[0], stored[1] + 1)
        requests.append(
            Request(
                name=f"{group}:{key}", size_bytes=use.size_bytes, first=base + first,
                last=base + last, high=use.constant,
                placement=choices.at(_first_read(use)).placement,
                read=_at(use.read, base), vector_read=_at(use.vector_read, base),
                stored=_at(stored, base),
                loaded=None if use.loaded is None else (base + first, base + use.loaded[1]),
                written=_at(use.written, base),
            )
        )
    return requests


def _first_read(use: Use) -> int:
    """The stage that reads it first: whoever writes meets nobody there."""
    assert use.touched is not None
    reads = [times[0] for times in (use.read, use.vector_read) if times is not None]
    return min(reads, default=use.touched[0])


def _at(times: Times | None, base: int) -> Times | None:
    return None if times is None else (base + times[0], base + times[1])
