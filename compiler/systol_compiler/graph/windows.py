"""Passes over convolutions and pools: every attribute explicit, one form for each window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from systol_compiler.graph.clips import clip_bounds
from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Graph, Node

WINDOWS: Final = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
GLOBAL: Final = {"GlobalMaxPool": "MaxPool", "GlobalAveragePool": "AveragePool"}


@dataclass(frozen=True, kw_only=True)
class NormalizeWindows:
    """State kernel, strides, dilations, pads and group; no auto_pad, output_shape or ceil_mode.

    Convolutions get a bias. Global pools become pools over the whole image. A pool that rounds up
    gets the pads at its end that give the same size; those of AveragePool never count, so that
    where declared pads do, they move into a Pad before it.
    """

    name: str = "normalize-windows"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            shape = graph.types[node.inputs[0]].shape if node.inputs else ()
            if node.op in GLOBAL and 3 <= len(shape) <= 5:
                node = _whole(node, shape)
            if node.op not in WINDOWS or len(shape) < 3:
                editor.append(node)
            elif node.op == "Conv":
                _conv(node, graph, editor)
            elif node.op == "ConvTranspose":
                _conv_transpose(node, graph, editor)
            else:
                _pool(node, graph, editor)
        return editor.freeze()


def _whole(node: Node, shape: Sequence[int]) -> Node:
    """A global pool as a pool over the whole image."""
    return Node(
        name=node.name,
        op=GLOBAL[node.op],
        inputs=node.inputs,
        outputs=node.outputs,
        attributes={"kernel_shape": list(shape[2:])},
        sources=node.sources,
        source_op=node.source_op or node.op,
    )


def _stated(node: Node, graph: Graph, kernel: Sequence[int]) -> dict[str, Any]:
    """The attributes of any window, but for its pads; those of `auto_pad` are left in."""
    ones = [1] * len(kernel)
    given = dict(node.attributes)
    return {
        **given,
        "kernel_shape": list(kernel),
        "strides": list(given.get("strides", ones)),
        "dilations": list(given.get("dilations", ones)),
    }


def _bias(node: Node, channels: int, editor: GraphEditor) -> tuple[str, ...]:
    if len(node.inputs) > 2 and node.inputs[2]:
        return node.inputs
    zeros = np.zeros(channels, dtype=np.float32)
    return (*node.inputs[:2], editor.constant(f"{node.name}.bias", zeros))


def _conv(node: Node, graph: Graph, editor: GraphEditor) -> None:
    weight = graph.types[node.inputs[1]].shape
    attributes = _stated(node, graph, weight[2:])
    attributes["group"] = int(attributes.get("group", 1))
    attributes["pads"] = explicit_pads(attributes, graph.types[node.inputs[0]].shape)
    attributes.pop("auto_pad", None)
    editor.append(node, inputs=_bias(node, weight[0], editor), attributes=attributes)


def explicit_pads(attributes: dict[str, Any], shape: Sequence[int]) -> list[int]:
    """Pads [begins..., ends...]; auto_pad as ONNX Conv (version 11) defines it."""
    mode = attributes.get("auto_pad", "NOTSET")
    axes = range(len(attributes["kernel_shape"]))
    if mode == "NOTSET":
        return list(attributes.get("pads", [0, 0] * len(axes)))
    if mode == "VALID":
        return [0, 0] * len(axes)
    before, after = [], []
    for axis in axes:
        kernel, stride, dilation = (
            int(attributes[key][axis]) for key in ("kernel_shape", "strides", "dilations")
        )
        size = shape[2 + axis]
        steps = -(-size // stride)
        total = max((steps - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(large if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else large)
    return [*before, *after]


def _conv_transpose(node: Node, graph: Graph, editor: GraphEditor) -> None:
    """Ref: ONNX ConvTranspose (version 11), the equations of its pads."""
    weight = graph.types[node.inputs[1]].shape
    attributes = _stated(node, graph, weight[2:])
    group = attributes["group"] = int(attributes.get("group", 1))
    axes = range(len(weight) - 2)
    extra = list(attributes.get("output_padding", [0] * len(axes)))
    pads = list(attributes.get("pads", [0, 0] * len(axes)))
    mode = attributes.pop("auto_pad", "NOTSET")
    declared = attributes.pop("output_shape", None)
    if mode == "VALID":
        pads = [0, 0] * len(axes)
    if declared is not None or mode.startswith("SAME"):
        size_in = graph.types[node.inputs[0]].shape[2:]
        size_out = graph.types[node.outputs[0]].shape[2:]
        for axis in axes:
            kernel, stride, dilation = (
                int(attributes[key][axis]) for key in ("kernel_shape", "strides", "dilations")
            )
            full = stride * (size_in[axis] - 1) + extra[axis] + dilation * (kernel - 1) + 1
            total = full - size_out[axis]
            if total < 0:
                extra[axis] -= total
                total = 0
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
            pads[axis], pads[len(axes) + axis] = begin, total - begin
    attributes |= {"pads": pads, "output_padding": extra}
    editor.append(node, inputs=_bias(node, weight[1] * group, editor), attributes=attributes)


def _pool(node: Node, graph: Graph, editor: GraphEditor) -> None:
    attributes = _stated(node, graph, node.attributes["kernel_shape"])
    shape = graph.types[node.inputs[0]].shape
    pads = explicit_pads(attributes, shape)
    axes = len(pads) // 2
    rest = []
    for axis in range(axes):
        kernel, stride, dilation = (
            attributes[key][axis] for key in ("kernel_shape", "strides", "dilations")
        )
        steps = graph.types[node.outputs[0]].shape[2 + axis]
        reach = (steps - 1) * stride + dilation * (kernel - 1) + 1
        rest.append(max(reach - shape[2 + axis] - pads[axis] - pads[axes + axis], 0))
    kept = {key: attributes[key] for key in ("kernel_shape", "strides", "dilations")}
    source = node.inputs[0]
    if node.op == "MaxPool":
        if attributes.get("storage_order", 0):
            kept["storage_order"] = attributes["storage_order"]
    else:
        counted = bool(attributes.get("count_include_pad", 0)) and any(pads)
        if counted and any(rest):
            source = _padded(node, graph, editor, pads)
            pads, counted = [0, 0] * axes, False
        kept["count_include_pad"] = int(counted)
    kept["pads"] = [*pads[:axes], *(a + b for a, b in zip(pads[axes:], rest, strict=True))]
    editor.append(node, inputs=(source,), attributes=kept)


def _padded(node: Node, graph: Graph, editor: GraphEditor, pads: Sequence[int]) -> str:
    """The window's input with its pads as zeros."""
    shape, axes = graph.types[node.inputs[0]].shape, len(pads) // 2
    whole = [0, 0, *pads[:axes], 0, 0, *pads[axes:]]
    sizes = (*shape[:2], *(shape[2 + i] + pads[i] + pads[axes + i] for i in range(axes)))
    return editor.insert(
        node,
        "Pad",
        (
            node.inputs[0],
            editor.constant(f"{node.name}.pads", np.array(whole, dtype=np.int64)),
            editor.constant(f"{node.name}.zero", np.array(0, dtype=np.float32)),
        ),
        sizes,
        attributes={"mode": "constant"},
    )


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
