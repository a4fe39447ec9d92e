"""Passes over operators that only name axes anew, or move them."""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor, joined_sources, merged_sources
from systol_compiler.graph.float_graph import Graph, Node

RESHAPES: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators that keep the order of all elements."""


@dataclass(frozen=True, kw_only=True)
class NormalizeReshapes:
    """Write every reshape as Flatten(axis=1) or as Reshape with a constant shape; chains as one.

    Flatten is the form from [N, ...] to [N, rest]; it stands before classifiers. Transposes that
    move only axes of size 1 are reshapes too.
    """

    name: str = "normalize-reshapes"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        chains: dict[str, tuple[str, tuple[str, ...]]] = {}
        for node in graph.nodes:
            if not _keeps_order(node, graph):
                editor.append(node)
                continue
            source, sources = chains.get(node.inputs[0], (node.inputs[0], ()))
            sources = joined_sources(sources, node.sources)
            before, after = graph.types[source].shape, graph.types[node.outputs[0]].shape
            # A reshape of a reshape sees the first one's input, whatever came between.
            chains[node.outputs[0]] = (source, sources)
            if before == after:
                editor.rename(node.outputs[0], source)
            elif len(before) > 1 and after == (before[0], prod(before[1:])):
                editor.append(
                    node, op="Flatten", inputs=(source,), attributes={"axis": 1}, sources=sources
                )
            else:
                shape = editor.constant(f"{node.name}.shape", np.array(after, dtype=np.int64))
                editor.append(
                    node, op="Reshape", inputs=(source, shape), attributes={}, sources=sources
                )
        return editor.freeze()


def _keeps_order(node: Node, graph: Graph) -> bool:
    if node.op in RESHAPES:
        return True
    if node.op != "Transpose":
        return False
    shape = graph.types[node.inputs[0]].shape
    moved = [axis for axis in node.attributes["perm"] if shape[axis] != 1]
    return moved == sorted(moved)


@dataclass(frozen=True, kw_only=True)
class NormalizeTransposes:
    """Write chains of transposes as one, and drop those that undo each other."""

    name: str = "normalize-transposes"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        chains: dict[str, tuple[str, list[int], tuple[str, ...]]] = {}
        made: dict[tuple[str, tuple[int, ...]], str] = {}
        for node in graph.nodes:
            if node.op != "Transpose":
                editor.append(node)
                continue
            perm = list(node.attributes["perm"])
            source, before, sources = chains.get(
                node.inputs[0], (editor.resolve(node.inputs[0]), list(range(len(perm))), ())
            )
            perm = [before[axis] for axis in perm]
            sources = joined_sources(sources, node.sources)
            chains[node.outputs[0]] = (source, perm, sources)
            if perm == sorted(perm):
                editor.rename(node.outputs[0], source)
            elif (source, tuple(perm)) in made:
                editor.rename(node.outputs[0], made[source, tuple(perm)])
            else:
                made[source, tuple(perm)] = node.outputs[0]
                editor.append(node, inputs=(source,), attributes={"perm": perm}, sources=sources)
        return editor.freeze()


@dataclass(frozen=True, kw_only=True)
class SimplifyTransposes:
    """Write Reshape, Transpose, Reshape that only take axes together meanwhile as one Transpose."""

    name: str = "simplify-transposes"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            turn = graph.producers.get(node.inputs[0]) if node.op == "Reshape" else None
            first = graph.producers.get(turn.inputs[0]) if turn is not None else None
            perm = None
            if turn is not None and first is not None and turn.op == "Transpose":
                perm = _spread_order(node, turn, first, graph)
            if perm is None or turn is None or first is None:
                editor.append(node)
                continue
            editor.append(
                node,
                op="Transpose",
                inputs=first.inputs[:1],
                attributes={"perm": perm},
                sources=merged_sources(first, turn, node),
            )
        return editor.freeze()


def _spread_order(node: Node, turn: Node, first: Node, graph: Graph) -> list[int] | None:
    """The order of the axes before `first` that gives what `node` does; None if none does."""
    if first.op not in ("Reshape", "Flatten"):
        return None
    before, inner = (graph.types[name].shape for name in (first.inputs[0], first.outputs[0]))
    if 1 in inner:
        return None  # an axis of size 1 belongs to no group for certain
    groups: list[list[int]] = []
    axis = 0
    for size in inner:
        group: list[int] = []
        while axis < len(before) and prod(before[i] for i in group) < size:
            group.append(axis)
            axis += 1
        if prod(before[i] for i in group) != size:
            return None
        groups.append(group)
    groups[-1].extend(range(axis, len(before)))
    perm = [axis for group in turn.attributes["perm"] for axis in groups[group]]
    fits = tuple(before[axis] for axis in perm) == graph.types[node.outputs[0]].shape
    return perm if fits and len(perm) == len(before) else None
