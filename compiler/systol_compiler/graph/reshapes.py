"""Passes over operators that only name axes anew, move them, or pick parts along them."""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor
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
            sources = (*sources, *node.sources)
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
            sources = (*sources, *node.sources)
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
class NormalizeSelections:
    """Write Slice over all axes, Gather by constants with plain indices or as Slice, Pad by kind.

    - Slice(x, starts, ends, axes, steps) names every axis; starts lie inside, and ends where the
      last element's successor would be (behind the front: -(size + 1)).
    - Gather(x, indices) has indices of one axis, none negative; those at equal steps are a Slice.
    - Pad never crops: that part is a Slice before it; a constant mode states its value.
    - Expand states its result's whole shape.
    """

    name: str = "normalize-selections"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            rule = _SELECTIONS.get(node.op)
            if rule is None or not rule(node, graph, editor):
                editor.append(node)
        return editor.freeze()


def _slice(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    parts = [graph.constants.get(name) for name in node.inputs[1:]]
    if any(value is None for value in parts):
        return False
    known = [[int(item) for item in value.reshape(-1)] for value in parts if value is not None]
    shape = graph.types[node.inputs[0]].shape
    axes = known[2] if len(known) > 2 else list(range(len(known[0])))
    steps = known[3] if len(known) > 3 else [1] * len(known[0])
    ranges = [range(size) for size in shape]
    for start, end, axis, step in zip(known[0], known[1], axes, steps, strict=True):
        ranges[axis] = range(shape[axis])[slice(start, end, step)]
    _append_slice(node, node.inputs[0], shape, ranges, editor, node.outputs[0])
    return True


def _append_slice(
    node: Node,
    source: str,
    shape: tuple[int, ...],
    ranges: list[range],
    editor: GraphEditor,
    output: str | None = None,
) -> str:
    """A Slice that picks `ranges` along each axis."""
    starts, ends, steps = [], [], []
    for size, picked in zip(shape, ranges, strict=True):
        end = picked.start + len(picked) * picked.step
        starts.append(picked.start)
        ends.append(end if end >= 0 else -(size + 1))
        steps.append(picked.step)
    names = [
        editor.constant(f"{node.name}.{key}", np.array(values, dtype=np.int64))
        for key, values in (
            ("starts", starts),
            ("ends", ends),
            ("axes", list(range(len(shape)))),
            ("steps", steps),
        )
    ]
    result = tuple(len(picked) for picked in ranges)
    if output is not None:
        editor.append(node, op="Slice", inputs=(source, *names), outputs=(output,), attributes={})
        return output
    return editor.insert(node, "Slice", (source, *names), result)


def _gather(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    indices = graph.constants.get(node.inputs[1])
    if indices is None or node.inputs[0] in graph.constants:
        return False
    shape = graph.types[node.inputs[0]].shape
    axis = node.attributes.get("axis", 0) % len(shape)
    flat = indices.reshape(-1) % shape[axis]
    after = (*shape[:axis], flat.size, *shape[axis + 1 :])
    final = graph.types[node.outputs[0]].shape
    if after == final and list(indices.shape) == [flat.size]:
        output: str | None = node.outputs[0]
    else:
        output = None
    steps = np.unique(np.diff(flat))
    if flat.size and steps.size <= 1 and (not steps.size or steps[0] != 0):
        step = int(steps[0]) if steps.size else 1
        ranges = [range(size) for size in shape]
        ranges[axis] = range(int(flat[0]), int(flat[0]) + step * flat.size, step)
        picked = _append_slice(node, node.inputs[0], shape, ranges, editor, output)
    else:
        name = editor.constant(f"{node.name}.indices", flat.astype(np.int64))
        if output is not None:
            editor.append(node, inputs=(node.inputs[0], name), attributes={"axis": axis})
            return True
        picked = editor.insert(
            node, "Gather", (node.inputs[0], name), after, attributes={"axis": axis}
        )
    if output is None:
        target = editor.constant(f"{node.name}.shape", np.array(final, dtype=np.int64))
        editor.append(node, op="Reshape", inputs=(picked, target), attributes={})
    return True


def _pad(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    pads = graph.constants.get(node.inputs[1])
    value = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else np.float32(0)
    mode = node.attributes.get("mode", "constant")
    if pads is None or value is None:
        return False
    shape = graph.types[node.inputs[0]].shape
    begins, ends = np.split(pads.reshape(-1).astype(np.int64), 2)
    source = node.inputs[0]
    if (pads < 0).any() and mode == "constant":
        ranges = [
            range(max(-int(first), 0), size - max(-int(last), 0))
            for size, first, last in zip(shape, begins, ends, strict=True)
        ]
        if any(len(picked) < 1 for picked in ranges):
            return False
        whole = not (pads > 0).any()
        source = _append_slice(
            node, source, shape, ranges, editor, node.outputs[0] if whole else None
        )
        if whole:
            return True
        pads = np.maximum(pads, 0)
    inputs = [source, editor.constant(f"{node.name}.pads", pads.reshape(-1).astype(np.int64))]
    if mode == "constant":
        kind = graph.types[node.inputs[0]].dtype
        scalar = np.asarray(value).reshape(-1)[0]
        inputs.append(editor.constant(f"{node.name}.value", np.array(scalar, dtype=kind)))
    editor.append(node, inputs=inputs, attributes={"mode": mode})
    return True


def _expand(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    shape = np.array(graph.types[node.outputs[0]].shape, dtype=np.int64)
    editor.append(node, inputs=(node.inputs[0], editor.constant(f"{node.name}.shape", shape)))
    return True


_SELECTIONS: Final = {"Slice": _slice, "Gather": _gather, "Pad": _pad, "Expand": _expand}
