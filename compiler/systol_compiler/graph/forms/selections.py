"""A pass over operators that pick parts of tensors, or put something around them."""

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from systol_compiler.graph.constant_ops import picked
from systol_compiler.graph.editor import GraphEditor, joined_sources
from systol_compiler.graph.float_graph import Graph, Node


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
        editor, picks = GraphEditor(graph), _Picks()
        for node in graph.nodes:
            rule = _SELECTIONS.get(node.op)
            if rule is None or not rule(node, graph, editor, picks):
                editor.append(node)
        return editor.freeze()


_Picks: TypeAlias = dict[str, tuple[str, tuple[str, ...], list[range]]]
"""For the result of each Slice: what it picks from, for whom, and what along each axis."""


def _slice(node: Node, graph: Graph, editor: GraphEditor, picks: _Picks) -> bool:
    parts = [graph.constants.get(name) for name in node.inputs[1:]]
    if any(value is None for value in parts):
        return False
    known = [[int(item) for item in value.reshape(-1)] for value in parts if value is not None]
    shape = graph.types[node.inputs[0]].shape
    axes = known[2] if len(known) > 2 else list(range(len(known[0])))
    steps = known[3] if len(known) > 3 else [1] * len(known[0])
    ranges = [range(size) for size in shape]
    for start, end, axis, step in zip(known[0], known[1], axes, steps, strict=True):
        ranges[axis] = picked(shape[axis], start, end, step)
    _append_slice(node, node.inputs[0], ranges, editor, picks, node.outputs[0])
    return True


def _append_slice(
    node: Node,
    source: str,
    ranges: list[range],
    editor: GraphEditor,
    picks: _Picks,
    output: str | None = None,
) -> str:
    """A Slice that picks `ranges` along each axis; of a Slice, one of what that picks from."""
    sources = node.sources
    if source in picks:
        source, before, outer = picks[source]
        sources = joined_sources(before, sources)
        ranges = [_picked_from(first, then) for first, then in zip(outer, ranges, strict=True)]
    shape = editor.types[source].shape
    starts, ends, steps = [], [], []
    for size, chosen in zip(shape, ranges, strict=True):
        end = chosen.start + len(chosen) * chosen.step
        starts.append(chosen.start)
        ends.append(end if end >= 0 else -(size + 1))
        steps.append(chosen.step)
    names = [
        editor.constant(f"{node.name}.{key}", np.array(values, dtype=np.int64))
        for key, values in (
            ("starts", starts),
            ("ends", ends),
            ("axes", list(range(len(shape)))),
            ("steps", steps),
        )
    ]
    result = tuple(len(chosen) for chosen in ranges)
    if output is not None:
        inputs = (source, *names)
        editor.append(
            node, op="Slice", inputs=inputs, outputs=(output,), attributes={}, sources=sources
        )
    else:
        output = editor.insert(node, "Slice", (source, *names), result, sources=sources)
    picks[output] = (source, sources, ranges)
    return output


def _picked_from(first: range, then: range) -> range:
    """What `then` picks from the elements that `first` picks."""
    start, step = first.start + then.start * first.step, first.step * then.step
    return range(start, start + step * len(then), step)


def _gather(node: Node, graph: Graph, editor: GraphEditor, picks: _Picks) -> bool:
    indices = editor.constants.get(node.inputs[1])
    if indices is None or node.inputs[0] in editor.constants:
        return False
    shape = editor.types[node.inputs[0]].shape
    axis = node.attributes.get("axis", 0) % len(shape)
    flat = indices.reshape(-1) % shape[axis]
    after = (*shape[:axis], flat.size, *shape[axis + 1 :])
    final = editor.types[node.outputs[0]].shape
    if after == final and list(indices.shape) == [flat.size]:
        output: str | None = node.outputs[0]
    else:
        output = None
    steps = np.unique(np.diff(flat))
    if flat.size and steps.size <= 1 and (not steps.size or steps[0] != 0):
        step = int(steps[0]) if steps.size else 1
        ranges = [range(size) for size in shape]
        ranges[axis] = range(int(flat[0]), int(flat[0]) + step * flat.size, step)
        result = _append_slice(node, node.inputs[0], ranges, editor, picks, output)
    else:
        name = editor.constant(f"{node.name}.indices", flat.astype(np.int64))
        if output is not None:
            editor.append(node, inputs=(node.inputs[0], name), attributes={"axis": axis})
            return True
        result = editor.insert(
            node, "Gather", (node.inputs[0], name), after, attributes={"axis": axis}
        )
    if output is None:
        target = editor.constant(f"{node.name}.shape", np.array(final, dtype=np.int64))
        editor.append(node, op="Reshape", inputs=(result, target), attributes={})
    return True


def _pad(node: Node, graph: Graph, editor: GraphEditor, picks: _Picks) -> bool:
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
        if any(len(chosen) < 1 for chosen in ranges):
            return False
        whole = not (pads > 0).any()
        result = node.outputs[0] if whole else None
        source = _append_slice(node, source, ranges, editor, picks, result)
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


def _expand(node: Node, graph: Graph, editor: GraphEditor, picks: _Picks) -> bool:
    shape = np.array(graph.types[node.outputs[0]].shape, dtype=np.int64)
    editor.append(node, inputs=(node.inputs[0], editor.constant(f"{node.name}.shape", shape)))
    return True


def _gather_nd(node: Node, graph: Graph, editor: GraphEditor, picks: _Picks) -> bool:
    """Constant indices of the first axis alone: a Gather."""
    indices = graph.constants.get(node.inputs[1])
    if indices is None or indices.shape[-1:] != (1,) or node.attributes.get("batch_dims", 0):
        return False
    name = editor.constant(f"{node.name}.first", indices.reshape(indices.shape[:-1]))
    gather = replace(node, op="Gather", inputs=(node.inputs[0], name), attributes={"axis": 0})
    return _gather(gather, graph, editor, picks)


_SELECTIONS: Final = {
    "Slice": _slice,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Expand": _expand,
}
