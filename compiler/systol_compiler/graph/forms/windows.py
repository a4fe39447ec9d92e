"""Passes over convolutions and pools: every attribute explicit, one form for each window."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.forms.clips import clip_bounds

GLOBAL: Final = {"GlobalMaxPool": "MaxPool", "GlobalAveragePool": "AveragePool"}


@dataclass(frozen=True, kw_only=True)
class NormalizeWindows:
    """Give every convolution a bias, and write global pools as pools over the whole image.

    All windows are explicit since they were read (`window_adapters`).
    """

    name: str = "normalize-windows"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            shape = graph.types[node.inputs[0]].shape if node.inputs else ()
            if node.op in GLOBAL and 3 <= len(shape) <= 5:
                axes = len(shape) - 2
                attributes: dict[str, Any] = {
                    "kernel_shape": list(shape[2:]),
                    "strides": [1] * axes,
                    "dilations": [1] * axes,
                    "pads": [0, 0] * axes,
                }
                op = GLOBAL[node.op]
                if op == "AveragePool":
                    attributes["count_include_pad"] = 0
                editor.append(node, op=op, attributes=attributes)
            elif node.op in ("Conv", "ConvTranspose") and not (
                len(node.inputs) > 2 and node.inputs[2]
            ):
                channels = graph.types[node.outputs[0]].shape[1]
                zeros = np.zeros(channels, dtype=np.float32)
                bias = editor.constant(f"{node.name}.bias", zeros)
                editor.append(node, inputs=(*node.inputs[:2], bias))
            else:
                editor.append(node)
        return editor.freeze()


@dataclass(frozen=True, kw_only=True)
class MergePads:
    """Take a Pad of zeros into the windows that read it.

    Into Conv; into AveragePool as pads that count; into MaxPool where no value is negative, so
    that a zero never wins against what lies under every window.
    """

    name: str = "merge-pads"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            pad = graph.producers.get(node.inputs[0]) if node.inputs else None
            merged = None if pad is None else _merged(node, pad, graph)
            if merged is None or pad is None:
                editor.append(node)
                continue
            editor.append(
                node,
                inputs=(pad.inputs[0], *node.inputs[1:]),
                attributes=merged,
                sources=merged_sources(pad, node),
            )
        return editor.freeze()


def _merged(node: Node, pad: Node, graph: Graph) -> dict[str, Any] | None:
    """The window's attributes with the pads of `pad`; None where that is not the same."""
    rank = len(graph.types[pad.outputs[0]].shape)
    if (
        pad.op != "Pad"
        or node.op not in ("Conv", "MaxPool", "AveragePool")
        or pad.attributes.get("mode", "constant") != "constant"
        or rank < 3
        or len(node.outputs) > 1
    ):
        return None
    amounts = graph.constants.get(pad.inputs[1])
    value = graph.constants.get(pad.inputs[2]) if len(pad.inputs) > 2 else np.float32(0)
    if amounts is None or value is None or np.asarray(value).any() or (amounts < 0).any():
        return None
    whole = [int(item) for item in amounts.reshape(-1)]
    if whole[0] or whole[1] or whole[rank] or whole[rank + 1]:
        return None
    added = [*whole[2:rank], *whole[rank + 2 :]]
    present = list(node.attributes["pads"])
    attributes = dict(node.attributes)
    if node.op == "AveragePool":
        if any(present) and not attributes["count_include_pad"]:
            return None
        attributes["count_include_pad"] = 1
    axes = rank - 2
    kernel = node.attributes["kernel_shape"]
    total = [a + b for a, b in zip(added, present, strict=True)]
    if node.op != "Conv":
        if any(total[i] >= kernel[i % axes] for i in range(2 * axes)):
            return None
        if node.op == "MaxPool" and not _never_negative(pad.inputs[0], graph):
            return None
    attributes["pads"] = total
    return attributes


def _never_negative(name: str, graph: Graph) -> bool:
    """Whether a tensor's values follow to be at least zero."""
    node = graph.producers.get(name)
    if node is None:
        return False
    bounds = clip_bounds(node, graph)
    return node.op in ("Sigmoid", "Softmax", "Exp", "Abs") or (
        bounds is not None and bounds[0] >= 0
    )
