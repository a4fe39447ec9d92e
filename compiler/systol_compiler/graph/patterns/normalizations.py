"""Recognizes normalizations that exporters write out by their formulas."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Array, Graph, Node
from systol_compiler.graph.matching import Matcher, close


@dataclass
class _Norm:
    """x normalized over `axes`: what was matched so far.

    `scale` and `offset` are what stands behind it, or None; `last` is the tensor that the whole
    gives, and `nodes` are those that spelled it.
    """

    source: str
    axes: list[int]
    epsilon: float
    centred: bool
    last: str
    nodes: list[Node]
    scale: Array | None = None
    offset: Array | None = None


@dataclass(frozen=True, kw_only=True)
class RecognizeNormalizations:
    """Write LayerNormalization, RMSNormalization and InstanceNormalization as one node each.

    LayerNormalization(x, scale, bias) and RMSNormalization(x, scale) cover the last axes;
    InstanceNormalization(x, scale, bias) all axes behind the channels. One over the channels of
    an image is a LayerNormalization between two Transposes. Expects canonical arithmetic and
    reductions with their axes kept.
    """

    name: str = "recognize-normalizations"

    def run(self, graph: Graph) -> Graph:
        match = Matcher(graph)
        found: dict[str, _Norm] = {}
        for node in graph.nodes:
            norm = _normalized(node, match)
            if norm is not None and norm.last not in found:
                _follow(norm, match)
                found[norm.last] = norm
        editor = GraphEditor(graph)
        for node in graph.nodes:
            norm = found.get(node.outputs[0]) if node.outputs else None
            if norm is None or not _append(norm, node, graph, editor):
                if node.op == "LayerNormalization":
                    _with_bias(node, graph, editor)
                else:
                    editor.append(node)
        return editor.freeze()


def _with_bias(node: Node, graph: Graph, editor: GraphEditor) -> None:
    """State the bias of a LayerNormalization, zeros where it has none."""
    if len(node.inputs) > 2 and node.inputs[2]:
        editor.append(node)
        return
    zeros = np.zeros(graph.types[node.inputs[1]].shape, dtype=np.float32)
    bias = editor.constant(f"{node.name}.bias", zeros)
    editor.append(node, inputs=(*node.inputs[:2], bias))


def _normalized(node: Node, match: Matcher) -> _Norm | None:
    """d / Sqrt(ReduceMean(d * d) + epsilon), where d is x, or x - ReduceMean(x)."""
    if node.op == "Div":
        value, divisor, inverse = node.inputs[0], node.inputs[1], None
        root = match.producer(divisor, "Sqrt")
    elif node.op == "Mul":
        value, factor = node.inputs
        inverse = match.producer(factor, "Reciprocal", "Pow")
        if inverse is None:
            value, factor = factor, value
            inverse = match.producer(factor, "Reciprocal", "Pow")
        if inverse is None:
            return None
        if inverse.op == "Pow":
            if not close(match.scalar(inverse.inputs[1]), -0.5):
                return None
            root = inverse
        else:
            root = match.producer(inverse.inputs[0], "Sqrt")
    else:
        return None
    shifted = None if root is None else match.with_scalar(root.inputs[0], "Add")
    if root is None or shifted is None or shifted[2] < 0:
        return None
    mean = match.producer(shifted[1], "ReduceMean", "AveragePool", "GlobalAveragePool")
    square = None if mean is None else match.with_scalar(mean.inputs[0], "Pow")
    if mean is None or square is None or square[2] != 2.0 or square[1] != value:
        return None
    axes = _mean_axes(mean, match)
    if axes is None:
        return None
    nodes = [square[0], mean, shifted[0], root, *([inverse] if inverse else []), node]
    centre = match.producer(value, "Sub")
    middle = None
    if centre is not None:
        middle = match.producer(centre.inputs[1], "ReduceMean", "AveragePool", "GlobalAveragePool")
    if centre is not None and middle is not None and middle.inputs[0] == centre.inputs[0]:
        if _mean_axes(middle, match) != axes:
            return None
        source = centre.inputs[0]
        return _Norm(source, axes, shifted[2], True, node.outputs[0], [middle, centre, *nodes])
    return _Norm(value, axes, shifted[2], False, node.outputs[0], nodes)


def _mean_axes(node: Node, match: Matcher) -> list[int] | None:
    """The axes over which a node takes means, if it keeps them."""
    rank = len(match.shape(node.inputs[0]))
    if node.op == "GlobalAveragePool":
        return list(range(2, rank))
    if node.op == "AveragePool":
        whole = list(node.attributes["kernel_shape"]) == list(match.shape(node.inputs[0])[2:])
        return list(range(2, rank)) if whole and not any(node.attributes.get("pads", ())) else None
    axes = match.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not node.attributes.get("keepdims", 1):
        return None
    return sorted(int(axis) % rank for axis in axes.reshape(-1))


def _follow(norm: _Norm, match: Matcher) -> None:
    """Take in a scale and an offset behind the normalization, as far as they are constants."""
    for op in ("Mul", "Add"):
        follower = match.single.get(norm.last)
        if follower is None or follower.op != op or follower.inputs[0] != norm.last:
            continue
        value = match.constant(follower.inputs[1])
        shape = match.shape(norm.source)
        if value is None or match.shape(follower.outputs[0]) != shape:
            continue
        along = _along(value, shape, _affine_axes(norm, len(shape)))
        if along is None or (op == "Add" and not norm.centred):
            continue
        if op == "Mul":
            norm.scale = along
        else:
            norm.offset = along
        norm.last = follower.outputs[0]
        norm.nodes.append(follower)


def _affine_axes(norm: _Norm, rank: int) -> list[int]:
    """Along which axes the scale of a normalization may differ."""
    if norm.axes == list(range(2, rank)) and rank > 3 and norm.centred:
        return [1]
    return norm.axes


def _along(value: Array, shape: tuple[int, ...], axes: list[int]) -> Array | None:
    """A constant that differs along `axes` only, as one of their shape."""
    if value.ndim > len(shape):
        return None
    full = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if any(size != 1 and axis not in axes for axis, size in enumerate(full.shape)):
        return None
    wanted = tuple(shape[axis] for axis in axes)
    kept = full.reshape(tuple(full.shape[axis] for axis in axes))
    return np.broadcast_to(kept, wanted).astype(np.float32)


def _append(norm: _Norm, node: Node, graph: Graph, editor: GraphEditor) -> bool:
    """Append the normalization in place of `node`, its last one; False if it has no form."""
    shape = graph.types[norm.source].shape
    rank, axes = len(shape), norm.axes
    over = _affine_axes(norm, rank)
    sizes = tuple(shape[axis] for axis in over)
    scale = norm.scale if norm.scale is not None else np.ones(sizes, dtype=np.float32)
    offset = norm.offset if norm.offset is not None else np.zeros(sizes, dtype=np.float32)
    sources = merged_sources(*norm.nodes)
    constants = [editor.constant(f"{node.name}.scale", scale)]
    if norm.centred:
        constants.append(editor.constant(f"{node.name}.offset", offset))
    attributes: dict[str, Any] = {"epsilon": norm.epsilon}
    if over == [1] and norm.centred and axes != [1]:
        editor.append(
            node,
            op="InstanceNormalization",
            inputs=(norm.source, *constants),
            attributes=attributes,
            sources=sources,
        )
        return True
    op = "LayerNormalization" if norm.centred else "RMSNormalization"
    if axes == list(range(rank - len(axes), rank)):
        editor.append(
            node,
            op=op,
            inputs=(norm.source, *constants),
            attributes=attributes | {"axis": -len(axes)},
            sources=sources,
        )
        return True
    if axes != [1] or rank < 3:
        return False
    forth, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    last = tuple(shape[axis] for axis in forth)
    turned = editor.insert(node, "Transpose", (norm.source,), last, attributes={"perm": forth})
    normal = editor.insert(
        node,
        op,
        (turned, *constants),
        last,
        attributes=attributes | {"axis": -1},
        sources=sources,
    )
    editor.append(node, op="Transpose", inputs=(normal,), attributes={"perm": back})
    return True
