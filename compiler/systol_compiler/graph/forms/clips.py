"""Passes over Relu and Clip: one form, one per product, directly behind it."""

from dataclasses import dataclass
from math import inf

import numpy as np

from systol_compiler.graph.editor import GraphEditor, exclusive_consumers, joined_sources
from systol_compiler.graph.float_graph import Graph, Node, TensorType


@dataclass(frozen=True, kw_only=True)
class NormalizeClip:
    """Write Relu, Clip, and Min and Max with a number as Clip with two bounds; chains as one."""

    name: str = "normalize-clip"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        single = exclusive_consumers(graph)
        pending: dict[str, tuple[str, float, float, tuple[str, ...]]] = {}
        for node in graph.nodes:
            bounds = clip_bounds(node, graph)
            if bounds is None:
                editor.append(node)
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
                sources = joined_sources(inner_sources, sources)
            follower = single.get(node.outputs[0])
            if follower is not None and clip_bounds(follower, graph) is not None:
                pending[node.outputs[0]] = (source, least, greatest, sources)
                continue
            editor.append(
                node,
                op="Clip",
                inputs=(
                    source,
                    editor.constant(f"{node.name}.least", np.array(least, dtype=np.float32)),
                    editor.constant(f"{node.name}.greatest", np.array(greatest, dtype=np.float32)),
                ),
                attributes={},
                sources=sources,
            )
        return editor.freeze()


def clip_bounds(node: Node, graph: Graph) -> tuple[float, float] | None:
    """Bounds of a Relu, of a Clip, Min or Max with constant scalar bounds; else None."""
    if node.op not in ("Relu", "Clip", "Min", "Max"):
        return None
    if graph.types[node.outputs[0]].dtype != "float32":
        return None
    if node.op == "Relu":
        return (0.0, inf)
    if node.op in ("Min", "Max"):
        bound = graph.constants.get(node.inputs[1]) if len(node.inputs) == 2 else None
        if bound is None or bound.size != 1 or np.isnan(bound).any():
            return None
        if graph.types[node.inputs[0]] != graph.types[node.outputs[0]]:
            return None
        number = float(bound.reshape(-1)[0])
        return (-inf, number) if node.op == "Min" else (number, inf)
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
    """Move Clip above MaxPool, reshapes and transposes, to the product that will absorb it.

    A maximum commutes with every monotone function, and a move with every elementwise one.
    """

    name: str = "sink-clip"

    def run(self, graph: Graph) -> Graph:
        single = exclusive_consumers(graph)
        above: dict[str, Node] = {}
        behind: dict[str, Node] = {}
        for clip in graph.nodes:
            if clip.op != "Clip" or clip_bounds(clip, graph) is None:
                continue
            # A Clip above a shared tensor could be absorbed by no product.
            last, first = graph.producers.get(clip.inputs[0]), None
            mover = last
            while mover is not None and _moves(mover) and mover.outputs[0] in single:
                if mover.inputs[0] not in single:
                    break
                first, mover = mover, graph.producers.get(mover.inputs[0])
            if first is not None and last is not None:
                above[first.name], behind[last.name] = clip, clip
        moved = {clip.name for clip in above.values()}
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.name in moved:
                continue
            inputs, sunk = node.inputs, above.get(node.name)
            if sunk is not None:
                source = graph.types[inputs[0]]
                kind = TensorType(dtype=source.dtype, shape=source.shape)
                inner = editor.tensor(f"{inputs[0]}.clipped", kind)
                editor.append(sunk, inputs=(inputs[0], *sunk.inputs[1:]), outputs=(inner,))
                inputs = (inner, *inputs[1:])
            final = behind.get(node.name)
            editor.append(
                node, inputs=inputs, outputs=node.outputs if final is None else final.outputs
            )
        return editor.freeze()


def _moves(node: Node) -> bool:
    """Whether a node commutes with every monotone function of its elements."""
    return len(node.outputs) == 1 and node.op in ("MaxPool", "Flatten", "Reshape", "Transpose")
