"""Passes over Relu and Clip: one form, one per product, directly behind it."""

from dataclasses import dataclass
from math import inf

import numpy as np

from systol_compiler.draft import Draft, exclusive_consumers
from systol_compiler.graph.float_graph import Graph, Node, TensorType


@dataclass(frozen=True, kw_only=True)
class NormalizeClip:
    """Write Relu and Clip as Clip with two scalar bounds, and chains of them as one."""

    name: str = "normalize-clip"

    def run(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        single = exclusive_consumers(graph)
        pending: dict[str, tuple[str, float, float, tuple[str, ...]]] = {}
        for node in graph.nodes:
            bounds = clip_bounds(node, graph)
            if bounds is None:
                draft.append(node)
                continue
            source, sources = node.inputs[0], node.sources
            least, greatest = bounds
            if source in pending:
                source, inner_least, inner_greatest, inner_sources = pending[source]
                # clip(clip(x, a, b), c, d) clips at both values' own images under the outer clip.
                least, greatest = (
                    min(max(inner_least, least), greatest),
                    min(max(inner_greatest, least), greatest),
                )
                sources = (*inner_sources, *sources)
            follower = single.get(node.outputs[0])
            if follower is not None and clip_bounds(follower, graph) is not None:
                pending[node.outputs[0]] = (source, least, greatest, sources)
                continue
            draft.append(
                node,
                op="Clip",
                inputs=(
                    source,
                    draft.constant(f"{node.name}.least", np.array(least, dtype=np.float32)),
                    draft.constant(f"{node.name}.greatest", np.array(greatest, dtype=np.float32)),
                ),
                attributes={},
                sources=sources,
            )
        return draft.freeze()


def clip_bounds(node: Node, graph: Graph) -> tuple[float, float] | None:
    """Bounds of a float32 Relu, or of a Clip with constant scalar bounds; else None."""
    if node.op == "Relu":
        return (0.0, inf)
    if node.op != "Clip":
        return None
    bounds = [-inf, inf]
    for position, name in enumerate(node.inputs[1:3]):
        if name:
            value = graph.constants.get(name)
            if value is None or value.size != 1 or np.isnan(value).any():
                return None
            bounds[position] = float(value.reshape(-1)[0])
    # ONNX Clip (version 13): where the bounds cross, the greatest value wins.
    return min(bounds), bounds[1]


@dataclass(frozen=True, kw_only=True)
class SinkClip:
    """Move Clip above MaxPool and Flatten, to the product that will absorb it.

    A maximum commutes with every monotone function, and a reshape with every elementwise one.
    """

    name: str = "sink-clip"

    def run(self, graph: Graph) -> Graph:
        while True:
            moved = self._move_once(graph)
            if moved is None:
                return graph
            graph = moved

    def _move_once(self, graph: Graph) -> Graph | None:
        single = exclusive_consumers(graph)
        swap: dict[str, Node] = {}
        for node in graph.nodes:
            follower = single.get(node.outputs[0]) if node.outputs else None
            if (
                node.op in ("MaxPool", "Flatten")
                and len(node.outputs) == 1
                and follower is not None
                and follower.op == "Clip"
                and clip_bounds(follower, graph) is not None
                # A Clip above a shared tensor could be absorbed by no product.
                and single.get(node.inputs[0]) is node
                and not any(f.name == node.name for f in swap.values())
            ):
                swap[node.name] = follower
        if not swap:
            return None
        moved = {clip.name for clip in swap.values()}
        draft = Draft(graph)
        for node in graph.nodes:
            if node.name in moved:
                continue
            clip = swap.get(node.name)
            if clip is None:
                draft.append(node)
                continue
            source = graph.types[node.inputs[0]]
            inner = draft.tensor(
                f"{node.inputs[0]}.clipped", TensorType(dtype=source.dtype, shape=source.shape)
            )
            draft.append(clip, inputs=(node.inputs[0], *clip.inputs[1:]), outputs=(inner,))
            draft.append(node, inputs=(inner, *node.inputs[1:]), outputs=clip.outputs)
        return draft.freeze()
