"""The last level: instructions with tokens and debug tags, weight image, windows, debug map."""

from dataclasses import dataclass

import numpy as np

from systol_compiler.memory_plan import MemoryPlan
from systol_compiler.model import Binding, LayerRange
from systol_compiler.old_quantized import QuantizedGraph
from systol_compiler.schedule import Schedule
from systol_compiler.tokens import BARRIER, synchronize
from systol_compiler.weight_image import WeightImage
from systol_compiler.work import Work
from systol_hw.arch import TAGS, WINDOWS, Arch
from systol_hw.errors import UnsupportedModelError
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Program, Window, make_program

_TRANSFERS = (Unit.LOAD, Unit.STORE, Unit.CONTROL)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmittedProgram:
    """A program with the bindings of its windows and its debug map."""

    program: Program
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    layers: tuple[LayerRange, ...]


def tag_of(work: int) -> int:
    """The debug tag of the work at this place: from 1 on; the last tag is shared."""
    return min(work + 1, TAGS - 1)


def choose_windows(graph: QuantizedGraph, plan: MemoryPlan) -> dict[str, int]:
    """A host window for each tensor that crosses between host and machine, by tensor name.

    Raises
    ------
    UnsupportedModelError
        There are more of them than windows.
    """
    network = plan.groups[0]
    names = (*network.inputs, *network.outputs)
    if len(names) > WINDOWS:
        raise UnsupportedModelError(
            f"graph {graph.name!r}: at most {WINDOWS} tensors can cross between host and machine, "
            f"but {len(names)} do ({', '.join(names)}); join inputs or outputs"
        )
    return {name: index for index, name in enumerate(names)}


def emit(
    graph: QuantizedGraph,
    plan: MemoryPlan,
    order: Schedule,
    image: WeightImage,
    windows: dict[str, int],
    arch: Arch,
) -> EmittedProgram:
    """The program of `order`."""
    bare = [item.instruction for item in order.items]
    items, origins = synchronize(arch, bare, order.orders)
    code: list[Instruction] = []
    ranges: list[LayerRange] = []
    current, first, tag = -1, 0, 0
    works = order.works
    for item, origin in zip(items, origins, strict=True):
        work = order.items[origin].work if origin != BARRIER else current
        # Hoisted loads run under the tag of the work that they run beside.
        changes = work != current and (current < 0 or item.unit not in _TRANSFERS)
        if changes:
            _close(ranges, works, current, first, len(code), tag)
            current, first = work, len(code)
            if tag_of(work) != tag:
                tag = tag_of(work)
                code.append(instruction("tag", tag=tag))
        code.append(item)
    _close(ranges, works, current, first, len(code), tag)
    code.append(instruction("halt"))
    network = plan.groups[0]
    padding = np.zeros(image.end - image.data.size, np.uint8)
    program = make_program(
        arch,
        code,
        weight_image=np.concatenate([image.data, padding]),
        spare_weight_bytes=plan.spills.size_bytes,
        windows=tuple(
            Window(name=name, size_bytes=graph.tensors[name].size_bytes) for name in windows
        ),
    )
    return EmittedProgram(
        program=program,
        inputs=tuple(Binding(tensor=name, window=name) for name in network.inputs),
        outputs=tuple(Binding(tensor=name, window=name) for name in network.outputs),
        layers=tuple(ranges),
    )


def _close(
    ranges: list[LayerRange], works: tuple[Work, ...], work: int, first: int, end: int, tag: int
) -> None:
    if work >= 0 and end > first:
        ranges.append(
            LayerRange(
                layer="+".join(works[work].layers),
                first=first,
                count=end - first,
                tag=tag,
                source_nodes=works[work].source_nodes,
            )
        )
