"""Levels as text: what each prints, how it is read again, and whether two values are alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from systol_compiler.compile import CompileOptions, compile_quantized
from systol_compiler.graph.float_graph import Graph
from systol_compiler.levels.allocated import read_allocated
from systol_compiler.levels.graph import read_graph
from systol_compiler.levels.lowered import read_lowered
from systol_compiler.levels.quantized import read_quantized
from systol_compiler.levels.scheduled import read_scheduled
from systol_compiler.levels.tiled import read_tiled
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.plan.fitting import GroupPlan
from systol_compiler.plan.memory_plan import MemoryPlan
from systol_compiler.program.order import Schedule
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.text.arrays import Arrays
from systol_hw.arch import Arch


@dataclass(frozen=True, kw_only=True)
class LevelText:
    """A level's value with its text; `read` makes a value of a text of that level."""

    level: str
    value: Any
    text: str
    read: Callable[[str], Any]


def graph_text(graph: Graph) -> LevelText:
    arrays = Arrays()
    return LevelText(
        level="graph", value=graph, text=graph.text(arrays), read=lambda t: read_graph(t, arrays)
    )


def quantized_text(graph: QuantizedGraph) -> LevelText:
    arrays = Arrays()
    return LevelText(
        level="quantized", value=graph, text=graph.text(arrays),
        read=lambda t: read_quantized(t, arrays),
    )


def lowered_text(network: LoweredNetwork) -> LevelText:
    arrays = Arrays()
    return LevelText(
        level="lowered", value=network, text=network.text(arrays),
        read=lambda t: read_lowered(t, arrays),
    )


def machine_texts(graph: QuantizedGraph, arch: Arch) -> Iterator[LevelText]:
    """The levels of the back half for every machine part, in the compiler's order."""
    seen: list[tuple[str, object]] = []
    compile_quantized(
        graph, arch=arch, options=CompileOptions(effort="fast"),
        observer=lambda level, value: seen.append((level, value)),
    )
    groups: list[GroupPlan] = []
    for level, value in seen:
        if isinstance(value, LoweredNetwork):
            groups = []
            yield lowered_text(value)
        elif isinstance(value, GroupPlan):
            groups.append(value)
            yield tiled_text(value)
        elif isinstance(value, MemoryPlan):
            yield allocated_text(value, groups)
        elif isinstance(value, Schedule):
            yield scheduled_text(value, groups)
        else:
            assert level in ("quantized", "asm")


def tiled_text(plan: GroupPlan) -> LevelText:
    return LevelText(
        level="tiled", value=plan, text=str(plan), read=lambda t: read_tiled(t, plan.network)
    )


def allocated_text(plan: MemoryPlan, groups: list[GroupPlan]) -> LevelText:
    return LevelText(
        level="allocated", value=plan, text=str(plan), read=lambda t: read_allocated(t, groups)
    )


def scheduled_text(order: Schedule, groups: list[GroupPlan]) -> LevelText:
    # Groups of different sizes have nests of the same names: the last one's serve.
    nests = {nest.name: nest for group in groups for nest in group.network.nests}
    return LevelText(
        level="scheduled", value=order, text=str(order), read=lambda t: read_scheduled(t, nests)
    )


def check_round_trip(item: LevelText) -> None:
    """The text gives a value alike, whose text is the same."""
    again = item.read(item.text)
    assert str(again) == str(item.value), item.level
    if item.level == "scheduled":
        left, right = ([part.instruction for part in v.items] for v in (again, item.value))
        assert left == right
        return
    found = difference(again, item.value)
    assert found is None, f"{item.level}: {found}"


def difference(left: Any, right: Any, place: str = "") -> str | None:
    """Where two values differ in what their classes declare; None where they are alike.

    Of a graph's types those count that belong to a tensor that there is.
    """
    if isinstance(left, np.ndarray):
        same = isinstance(right, np.ndarray) and left.dtype == right.dtype
        same = same and left.shape == right.shape and (
            left.tolist() == right.tolist() if left.dtype == object
            else left.tobytes() == right.tobytes()
        )
        return None if same else place
    if isinstance(left, Mapping):
        if place.endswith(".types"):
            right = {name: right[name] for name in left}
        if left.keys() != right.keys():
            return place
        parts = [(f"{place}[{key!r}]", left[key], right[key]) for key in left]
    elif is_dataclass(left):
        if type(left) is not type(right):
            return place
        parts = [
            (f"{place}.{item.name}", getattr(left, item.name), getattr(right, item.name))
            for item in fields(left) if item.init
        ]
    elif isinstance(left, list | tuple):
        if len(left) != len(right):
            return place
        parts = [(f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(left, right, strict=True))]
    else:
        return None if left == right or (left != left and right != right) else place
    for name, a, b in parts:
        found = difference(a, b, name)
        if found is not None:
            return found
    return None
