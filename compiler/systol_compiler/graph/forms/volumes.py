"""Writes convolutions over three dimensions as convolutions over images."""

from dataclasses import dataclass

import numpy as np

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Graph, Node

_SWAPPED = [0, 2, 1, 3, 4]
"""[N, C, D, H, W] as [N, D, C, H, W], and back."""


@dataclass(frozen=True, kw_only=True)
class WriteVolumesAsImages:
    """Write a Conv of [N, C, D, H, W] with constant weights, of one group, as one of images.

    The slices of a volume that one slice of the result is computed of lie side by side as channels
    of an image; the kernel's first dimension becomes a part of the weights' channels. The sum over
    it stays a sum in the accumulators.
    """

    name: str = "volumes-as-images"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if _is_volume(node, graph):
                _append(node, graph, editor)
            else:
                editor.append(node)
        return editor.freeze()


def _is_volume(node: Node, graph: Graph) -> bool:
    return (
        node.op == "Conv"
        and len(graph.types[node.inputs[0]].shape) == 5
        and node.inputs[1] in graph.constants
        and node.attributes.get("group", 1) == 1
        and "pads" in node.attributes
        and min(node.attributes["pads"]) >= 0
    )


def _append(node: Node, graph: Graph, editor: GraphEditor) -> None:
    strides, dilations, pads = (
        [int(value) for value in node.attributes[key]] for key in ("strides", "dilations", "pads")
    )
    images, channels, depth, height, width = graph.types[node.inputs[0]].shape
    _, outputs, slices, rows, columns = graph.types[node.outputs[0]].shape
    weights = graph.constants[node.inputs[1]]
    taps = weights.shape[2]
    name = node.inputs[0]
    if pads[0] or pads[3]:
        depth += pads[0] + pads[3]
        ends = [0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0]
        constant = editor.constant(f"{node.name}.pads", np.array(ends, np.int64))
        zero = editor.constant(f"{node.name}.zero", np.zeros((), weights.dtype))
        name = editor.insert(
            node, "Pad", (name, constant, zero), (images, channels, depth, height, width),
            attributes={"mode": "constant"},
        )
    name = editor.insert(
        node, "Transpose", (name,), (images, depth, channels, height, width),
        attributes={"perm": _SWAPPED},
    )
    parts = [
        _slices(node, editor, name, tap * dilations[0], strides[0], slices) for tap in range(taps)
    ]
    if taps > 1:
        parts = [
            editor.insert(
                node, "Concat", parts, (images, slices, taps * channels, height, width),
                attributes={"axis": 2},
            )
        ]
    image = _reshaped(node, editor, parts[0], (images * slices, taps * channels, height, width))
    flat = weights.swapaxes(1, 2).reshape(outputs, taps * channels, *weights.shape[3:])
    stored = editor.constant(f"{node.inputs[1]}.images", np.ascontiguousarray(flat))
    result = editor.insert(
        node, "Conv", (image, stored, *node.inputs[2:]), (images * slices, outputs, rows, columns),
        attributes={
            "dilations": dilations[1:], "group": 1, "kernel_shape": list(weights.shape[3:]),
            "pads": [*pads[1:3], *pads[4:]], "strides": strides[1:],
        },
    )
    volume = _reshaped(node, editor, result, (images, slices, outputs, rows, columns))
    editor.append(node, op="Transpose", inputs=(volume,), attributes={"perm": _SWAPPED})


def _slices(
    node: Node, editor: GraphEditor, name: str, first: int, step: int, count: int
) -> str:
    """Every `step`th slice of [N, D, C, H, W] from `first` on."""
    shape = editor.types[name].shape
    if (first, step, count) == (0, 1, shape[1]):
        return name
    starts, ends, steps = [0] * 5, list(shape), [1] * 5
    starts[1], ends[1], steps[1] = first, first + count * step, step
    constants = [
        editor.constant(f"{node.name}.{key}", np.array(values, np.int64))
        for key, values in (
            ("starts", starts), ("ends", ends), ("axes", list(range(5))), ("steps", steps)
        )
    ]
    return editor.insert(node, "Slice", (name, *constants), (shape[0], count, *shape[2:]))


def _reshaped(node: Node, editor: GraphEditor, name: str, shape: tuple[int, ...]) -> str:
    target = editor.constant(f"{node.name}.shape", np.array(shape, np.int64))
    return editor.insert(node, "Reshape", (name, target), shape)
