"""The last level: instructions with tokens and debug tags, weight image, windows, debug map."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.nest import Nest
from systol_compiler.plan.memory_plan import MemoryPlan, streamed_homes
from systol_compiler.program.order import Schedule, WindowPlace
from systol_compiler.program.tokens import BARRIER, synchronize
from systol_compiler.program.weight_image import WeightImage
from systol_hw.arch import TAGS, WINDOWS, Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.isa.assembly import format_word
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.faults import Unit

WINDOW_ALIGNMENT = 64
"""Tensors that share a window begin at multiples of this."""
_TRANSFERS = (Unit.LOAD, Unit.STORE, Unit.CONTROL)


@dataclass(frozen=True, kw_only=True)
class EmittedBinding:
    """A quantized tensor in a host window, in the memory order `order` of its axes."""

    tensor: str
    window: str
    offset_bytes: int
    order: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EmittedRange:
    """Instructions `first .. first + count - 1` work for `layer` and run under `tag`."""

    layer: str
    first: int
    count: int
    tag: int
    source_nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class EmittedProgram:
    """A program with the bindings of its windows and its debug map.

    `stages` has for each instruction the stage that it works for, or -1.
    """

    program: Program
    inputs: tuple[EmittedBinding, ...]
    outputs: tuple[EmittedBinding, ...]
    layers: tuple[EmittedRange, ...]
    stages: tuple[int, ...]

    def __str__(self) -> str:
        names = {item.first: item.layer for item in self.layers}
        lines = []
        for pc, data in enumerate(self.program.code):
            if pc in names:
                lines.append(f"; layer {names[pc]}")
            lines.append(format_word(data.tobytes()))
        return "\n".join(lines)


def choose_windows(plan: MemoryPlan) -> dict[str, WindowPlace]:
    """Where each buffer that crosses between host and machine lies in the host's windows, by buffer
    name: in a window of its own, or, where there are more of them than windows, inputs together in
    one and outputs in another."""
    network = plan.network
    inputs, outputs = network.of_home(Home.INPUT), network.of_home(Home.OUTPUT)
    crossing = [*inputs, *outputs]
    if len(crossing) <= WINDOWS:
        return {
            buffer.name: WindowPlace(index=index, name=buffer.name)
            for index, buffer in enumerate(crossing)
        }
    batch = sum(group.network.images for group in plan.groups)
    places: dict[str, WindowPlace] = {}
    for index, (name, buffers) in enumerate((("inputs", inputs), ("outputs", outputs))):
        offset = 0
        for buffer in buffers:
            places[buffer.name] = WindowPlace(index=index, name=name, offset_bytes=offset)
            size = _window_bytes(buffer, network.images, batch)
            offset += -(-size // WINDOW_ALIGNMENT) * WINDOW_ALIGNMENT
    return places


def _windows(plan: MemoryPlan, places: Mapping[str, WindowPlace]) -> tuple[Window, ...]:
    network = plan.network
    batch = sum(group.network.images for group in plan.groups)
    sizes: dict[str, int] = {}
    for name, place in places.items():
        end = place.offset_bytes + _window_bytes(network.buffers[name], network.images, batch)
        sizes[place.name] = max(end, sizes.get(place.name, 0))
    return tuple(Window(name=name, size_bytes=size) for name, size in sizes.items())


def emit(
    plan: MemoryPlan, order: Schedule, image: WeightImage, windows: Mapping[str, WindowPlace],
    arch: Arch,
) -> EmittedProgram:
    """The program of `order`."""
    bare = [item.instruction for item in order.items]
    items, origins = synchronize(arch, bare, order.orders)
    code: list[Instruction] = []
    stages: list[int] = []
    ranges: list[EmittedRange] = []
    tags: dict[str, int] = {}
    current: Nest | None = None
    first, tag = 0, 0
    for item, origin in zip(items, origins, strict=True):
        nest = order.items[origin].nest if origin != BARRIER else current
        # Hoisted loads run under the tag of the layer that they run beside.
        changes = nest is not None and (
            current is None or (nest.layer != current.layer and item.unit not in _TRANSFERS)
        )
        if changes:
            assert nest is not None
            _close(ranges, current, first, len(code), tag)
            current, first = nest, len(code)
            # One for each range, even where the tag stays: so the simulator can count by layer
            # however many there are (`systol_sim.tag_windows`).
            tag = tags.setdefault(nest.layer, len(tags)) % (TAGS - 1) + 1
            code.append(instruction("tag", tag=tag))
            stages.append(-1)
        code.append(item)
        stages.append(-1 if origin == BARRIER else order.items[origin].stage)
    _close(ranges, current, first, len(code), tag)
    code.append(instruction("halt"))
    network = plan.network
    padding = np.zeros(image.end - image.data.size, np.uint8)
    program = make_program(
        arch,
        code,
        weight_image=np.concatenate([image.data, padding]) if padding.size else image.data,
        spare_weight_bytes=_spare(plan),
        windows=_windows(plan, windows),
    )
    return EmittedProgram(
        program=program,
        inputs=_bindings(network.of_home(Home.INPUT), windows),
        outputs=_bindings(network.of_home(Home.OUTPUT), windows),
        layers=tuple(ranges),
        stages=(*stages, -1),
    )


def _spare(plan: MemoryPlan) -> int:
    most = 0
    for group in set(plan.groups):
        for name, offset in streamed_homes(group).items():
            most = max(most, offset + group.network.buffers[name].size_bytes)
    return -(-most // 64) * 64


def _window_bytes(buffer: Buffer, images: int, batch: int) -> int:
    plane = buffer.plane_bytes // images * batch
    return plane if buffer.planes == 1 else -(-plane // 64) * 64 + plane


def _bindings(
    buffers: tuple[Buffer, ...], places: Mapping[str, WindowPlace]
) -> tuple[EmittedBinding, ...]:
    return tuple(
        EmittedBinding(
            tensor=b.tensor, window=places[b.name].name,
            offset_bytes=places[b.name].offset_bytes, order=b.order,
        )
        for b in buffers
    )


def _close(
    ranges: list[EmittedRange], nest: Nest | None, first: int, end: int, tag: int
) -> None:
    if nest is not None and end > first:
        ranges.append(
            EmittedRange(
                layer=nest.layer, first=first, count=end - first, tag=tag,
                source_nodes=nest.source_nodes,
            )
        )
