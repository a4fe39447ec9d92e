"""Recognizes LRN that exporters write as an average over channels."""

from dataclasses import dataclass

from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.matching import Matcher


@dataclass(frozen=True, kw_only=True)
class RecognizeLocalResponse:
    """x / (k + alpha * average of x^2 over some channels) ^ beta, as one LRN.

    The average is an AveragePool of [size, 1, 1] over data reshaped to [N, 1, C, H, W]. Expects
    canonical arithmetic and reshapes.
    """

    name: str = "recognize-local-response"

    def run(self, graph: Graph) -> Graph:
        editor, match = GraphEditor(graph), Matcher(graph)
        for node in graph.nodes:
            if node.op != "Div" or not _append(node, match, editor):
                editor.append(node)
        return editor.freeze()


def _append(node: Node, match: Matcher, editor: GraphEditor) -> bool:
    source = node.inputs[0]
    power = match.with_scalar(node.inputs[1], "Pow")
    added = None if power is None else match.with_scalar(power[1], "Add")
    scaled = None if added is None else match.with_scalar(added[1], "Mul")
    if power is None or added is None or scaled is None:
        return False
    back = match.producer(scaled[1], "Reshape")
    pool = None if back is None else match.producer(back.inputs[0], "AveragePool")
    forth = None if pool is None else match.producer(pool.inputs[0], "Reshape")
    square = None if forth is None else match.with_scalar(forth.inputs[0], "Pow")
    if back is None or pool is None or forth is None or square is None:
        return False
    n, c, *image = match.shape(source)
    size = int(pool.attributes["kernel_shape"][0])
    inner = match.shape(forth.outputs[0])
    before, after = (size - 1) // 2, size // 2
    if (
        square[1:] != (source, 2.0)
        or inner != (n, 1, c, *image)
        or match.shape(back.outputs[0]) != match.shape(source)
        or match.shape(pool.outputs[0]) != inner
        or any(item != 1 for item in pool.attributes["kernel_shape"][1:])
        or any(item != 1 for item in pool.attributes.get("strides", ()))
        or not pool.attributes.get("count_include_pad", 0)
        or list(pool.attributes["pads"])
        != [before, *([0] * len(image)), after, *([0] * len(image))]
        or size % 2 == 0
        or len(image) != 2
    ):
        return False
    attributes = {"size": size, "alpha": scaled[2], "beta": power[2], "bias": added[2]}
    nodes = (square[0], forth, pool, back, scaled[0], added[0], power[0], node)
    editor.append(
        node, op="LRN", inputs=(source,), attributes=attributes, sources=merged_sources(*nodes)
    )
    return True
