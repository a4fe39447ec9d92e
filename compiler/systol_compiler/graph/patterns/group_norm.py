"""Recognizes GroupNormalization that exporters write as a normalization of reshaped data."""

from dataclasses import dataclass

import numpy as np

from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Array, Graph, Node
from systol_compiler.graph.matching import Matcher


@dataclass
class _Group:
    """A GroupNormalization of `source`, in place of the node that writes `last`."""

    source: str
    groups: int
    epsilon: float
    scale: Array
    bias: Array
    last: str
    nodes: list[Node]


@dataclass(frozen=True, kw_only=True)
class RecognizeGroupNormalization:
    """Reshape [N, groups, rest], normalize, reshape back, scale: as one GroupNormalization.

    Expects reshapes in canonical form.
    """

    name: str = "recognize-group-normalization"

    def run(self, graph: Graph) -> Graph:
        match = Matcher(graph)
        found = {}
        for node in graph.nodes:
            group = _group(node, match)
            if group is not None:
                _follow(group, match)
                found[group.last] = group
        editor = GraphEditor(graph)
        for node in graph.nodes:
            group = found.get(node.outputs[0]) if node.outputs else None
            if group is None:
                editor.append(node)
                continue
            editor.append(
                node,
                op="GroupNormalization",
                inputs=(
                    group.source,
                    editor.constant(f"{node.name}.scale", group.scale),
                    editor.constant(f"{node.name}.bias", group.bias),
                ),
                attributes={"num_groups": group.groups, "epsilon": group.epsilon},
                sources=merged_sources(*group.nodes),
            )
        return editor.freeze()


def _group(node: Node, match: Matcher) -> _Group | None:
    """A reshape back behind a normalization of [N, groups, rest]."""
    if node.op not in ("Reshape", "Flatten"):
        return None
    norm = match.producer(node.inputs[0], "InstanceNormalization", "LayerNormalization")
    forth = None if norm is None else match.producer(norm.inputs[0], "Reshape", "Flatten")
    if norm is None or forth is None:
        return None
    before, inner = match.shape(forth.inputs[0]), match.shape(norm.inputs[0])
    if match.shape(node.outputs[0]) != before or len(before) < 2 or len(inner) < 3:
        return None
    if inner[0] != before[0] or before[1] % inner[1]:
        return None
    scale, bias = (match.constant(name) for name in norm.inputs[1:3])
    if scale is None or bias is None:
        return None
    groups, each = inner[1], before[1] // inner[1]
    if norm.op == "LayerNormalization":
        # Its scale lies along the normalized elements: only one that is alike everywhere fits.
        if norm.attributes["axis"] != 2 - len(inner) or _varies(scale) or _varies(bias):
            return None
        scale = np.broadcast_to(scale.reshape(-1)[:1], (groups,))
        bias = np.broadcast_to(bias.reshape(-1)[:1], (groups,))
    return _Group(
        source=forth.inputs[0],
        groups=groups,
        epsilon=float(norm.attributes.get("epsilon", 1e-5)),
        scale=np.repeat(scale, each),
        bias=np.repeat(bias, each),
        last=node.outputs[0],
        nodes=[forth, norm, node],
    )


def _varies(value: Array) -> bool:
    return bool((value != value.reshape(-1)[0]).any())


def _follow(group: _Group, match: Matcher) -> None:
    """Take in the channels' scale and offset behind it."""
    for op in ("Mul", "Add"):
        follower = match.single.get(group.last)
        if follower is None or follower.op != op or follower.inputs[0] != group.last:
            continue
        value = match.constant(follower.inputs[1])
        shape = match.shape(group.source)
        if value is None or value.ndim > len(shape):
            continue
        full = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
        if any(size != 1 and axis != 1 for axis, size in enumerate(full.shape)):
            continue
        along = np.broadcast_to(full.reshape(-1), (shape[1],))
        if op == "Mul":
            group.scale, group.bias = group.scale * along, group.bias * along
        else:
            group.bias = group.bias + along
        group.last = follower.outputs[0]
        group.nodes.append(follower)
