"""Averages before the pointwise convolutions that they follow."""

from dataclasses import dataclass
from math import prod
from typing import Final

from systol_compiler.graph.editor import GraphEditor, exclusive_consumers, merged_sources
from systol_compiler.graph.float_graph import Graph, Node

_WIDER: Final = 4
"""By how much a convolution's input may be wider than its result: it is what the pool then
reads."""


@dataclass(frozen=True, kw_only=True)
class PoolBeforePointwise:
    """Swap Conv 1x1 and the AveragePool that alone reads it.

    Both are linear, and each works along axes that the other leaves alone: a mean of sums over
    channels is the sum of the means, and a bias is its own mean where no window is cut short. The
    convolution then has as many positions less as the pool takes away, three in four between the
    blocks of a DenseNet.
    """

    name: str = "pool-before-pointwise"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        single = exclusive_consumers(graph)
        swapped: dict[str, Node] = {}
        for node in graph.nodes:
            pool = single.get(node.outputs[0]) if node.op == "Conv" else None
            if pool is not None and _gains(node, pool, graph):
                swapped[pool.name] = node
                continue
            conv = swapped.get(node.name)
            if conv is None:
                editor.append(node)
                continue
            source, result = conv.inputs[0], graph.types[node.outputs[0]].shape
            shape = (*graph.types[source].shape[:2], *result[2:])
            pooled = editor.insert(
                node, node.op, (source,), shape, attributes=node.attributes, sources=node.sources
            )
            editor.append(
                conv, inputs=(pooled, *conv.inputs[1:]), outputs=node.outputs,
                sources=merged_sources(conv),
            )
        return editor.freeze()


def _gains(conv: Node, pool: Node, graph: Graph) -> bool:
    """Whether the two can be swapped, and the convolution then has fewer positions."""
    if pool.op != "AveragePool" or any(pool.attributes.get("pads", [1])):
        return False
    weights = graph.types[conv.inputs[1]].shape
    source, result = (graph.types[name].shape for name in (conv.inputs[0], conv.outputs[0]))
    pooled = graph.types[pool.outputs[0]].shape
    return (
        prod(weights[2:]) == 1
        and source[2:] == result[2:]
        and not any(conv.attributes.get("pads", [1]))
        and 2 * prod(pooled[2:]) <= prod(result[2:])
        and source[1] <= _WIDER * result[1]
    )
