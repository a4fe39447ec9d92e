"""Passes over Gemm and MatMul: constant weights in one place, biases of one form."""

from dataclasses import dataclass
from math import prod

import numpy as np

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Array, Graph, Node


@dataclass(frozen=True, kw_only=True)
class NormalizeProducts:
    """Write products of 2-D data by constants as Gemm, all others as MatMul.

    - Gemm(x [N, I], weight [O, I], bias [O]) with transB=1 alone; a bias that differs from row
      to row, or is no constant, is an Add behind it.
    - MatMul(a, b) of two activations, or of data of another rank by a constant, without any
      transposition or factor of its own: those become Transpose and Mul.
    - Vectors become matrices of one row or column, with a Reshape around the product.
    - A constant matrix on the left is a product by its transpose, between two Transposes.
    """

    name: str = "normalize-products"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.op == "Gemm":
                _gemm(node, graph, editor)
            elif node.op == "MatMul":
                _mat_mul(node, graph, editor)
            else:
                editor.append(node)
        return editor.freeze()


def _constant(editor: GraphEditor, node: Node, part: str, value: Array) -> str:
    return editor.constant(f"{node.name}.{part}", value)


def _gemm(node: Node, graph: Graph, editor: GraphEditor) -> None:
    attributes = node.attributes
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    a, b = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 and beta != 0 else ""
    rows, columns = graph.types[node.outputs[0]].shape
    if attributes.get("transA", 0):
        a = _transposed(editor, node, a)
    weight = graph.constants.get(b)
    if weight is None or a in graph.constants or weight.dtype != np.float32:
        if attributes.get("transB", 0):
            b = _transposed(editor, node, b)
        product = _scaled(editor, node, alpha, "MatMul", (a, b), not bias)
    else:
        stored = weight if attributes.get("transB", 0) else weight.T
        known = graph.constants.get(bias) if bias else np.zeros((), dtype=np.float32)
        same_rows = known is not None and (known.ndim < 2 or known.shape[0] == 1 or rows == 1)
        absorbed = known is not None and same_rows
        factor = np.zeros(columns, dtype=np.float32)
        if absorbed and known is not None:
            factor = np.broadcast_to(known * np.float32(beta), (rows, columns))[0].copy()
            bias = ""
        inputs = (
            a,
            _constant(editor, node, "weight", _times(stored, alpha)),
            _constant(editor, node, "bias", factor.astype(np.float32)),
        )
        if not bias:
            editor.append(node, inputs=inputs, attributes={"transB": 1})
            return
        product = editor.insert(node, "Gemm", inputs, (rows, columns), attributes={"transB": 1})
    if not bias:
        return
    if beta != 1.0:
        known = graph.constants.get(bias)
        if known is not None:
            bias = _constant(editor, node, "bias", known * np.float32(beta))
        else:
            scale = _constant(editor, node, "beta", np.array(beta, dtype=np.float32))
            bias = editor.insert(node, "Mul", (bias, scale), graph.types[bias].shape)
    editor.append(node, op="Add", inputs=(product, bias), attributes={})


def _times(weight: Array, alpha: float) -> Array:
    """`weight` * alpha; the same array where alpha is 1, since weights are large."""
    return weight if alpha == 1.0 else (weight * np.float32(alpha)).astype(np.float32)


def _transposed(editor: GraphEditor, node: Node, name: str) -> str:
    shape = editor.types[name].shape
    return editor.insert(
        node, "Transpose", (name,), (shape[1], shape[0]), attributes={"perm": [1, 0]}
    )


def _scaled(
    editor: GraphEditor, node: Node, alpha: float, op: str, inputs: tuple[str, ...], last: bool
) -> str:
    """The product times alpha; as the node itself if it is the `last` step."""
    shape = editor.types[node.outputs[0]].shape
    if alpha == 1.0:
        if last:
            editor.append(node, op=op, inputs=inputs, attributes={})
            return node.outputs[0]
        return editor.insert(node, op, inputs, shape)
    product = editor.insert(node, op, inputs, shape)
    factor = _constant(editor, node, "alpha", np.array(alpha, dtype=np.float32))
    if last:
        editor.append(node, op="Mul", inputs=(product, factor), attributes={})
        return node.outputs[0]
    return editor.insert(node, "Mul", (product, factor), shape)


def _mat_mul(node: Node, graph: Graph, editor: GraphEditor) -> None:
    a, b = node.inputs
    shapes = [graph.types[name].shape for name in (a, b)]
    if len(shapes[0]) == 1 or len(shapes[1]) == 1:
        _vectors(node, graph, editor)
        return
    left, right = graph.constants.get(a), graph.constants.get(b)
    if right is not None and left is None and right.dtype == np.float32:
        if len(shapes[0]) == 2 and len(shapes[1]) == 2:
            inputs = (
                a,
                _constant(editor, node, "weight", right.T),
                _constant(editor, node, "bias", np.zeros(shapes[1][1], dtype=np.float32)),
            )
            editor.append(node, op="Gemm", inputs=inputs, attributes={"transB": 1})
            return
        if len(shapes[1]) > 2 and prod(shapes[1][:-2]) == 1 and len(shapes[0]) >= len(shapes[1]):
            matrix = _constant(editor, node, "weight", right.reshape(shapes[1][-2:]))
            editor.append(node, inputs=(a, matrix))
            return
    if left is not None and right is None and left.ndim == 2 and left.dtype == np.float32:
        _constant_left(node, graph, editor, left)
        return
    editor.append(node)


def _constant_left(node: Node, graph: Graph, editor: GraphEditor, left: Array) -> None:
    """W @ x is the transpose of (x transposed) @ (W transposed)."""
    source = node.inputs[1]
    shape, result = graph.types[source].shape, graph.types[node.outputs[0]].shape
    rank = len(shape)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    turned = editor.insert(
        node,
        "Transpose",
        (source,),
        tuple(shape[axis] for axis in perm),
        attributes={"perm": perm},
    )
    after = tuple(result[axis] for axis in perm)
    if rank == 2:
        inputs = (
            turned,
            _constant(editor, node, "weight", left),
            _constant(editor, node, "bias", np.zeros(left.shape[0], dtype=np.float32)),
        )
        product = editor.insert(node, "Gemm", inputs, after, attributes={"transB": 1})
    else:
        weight = _constant(editor, node, "weight", left.T)
        product = editor.insert(node, "MatMul", (turned, weight), after)
    editor.append(node, op="Transpose", inputs=(product,), attributes={"perm": perm})


def _vectors(node: Node, graph: Graph, editor: GraphEditor) -> None:
    """MatMul with a vector: as a matrix of one row or column, reshaped behind."""
    a, b = node.inputs
    left, right = (graph.types[name].shape for name in (a, b))
    if len(left) == 1:
        left = (1, *left)
        a = _reshaped(editor, node, a, left)
    if len(right) == 1:
        right = (*right, 1)
        b = _reshaped(editor, node, b, right)
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    after = (*batch, left[-2], right[-1])
    weight = editor.constants.get(b)
    if weight is not None and len(left) == 2 and len(right) == 2 and a not in editor.constants:
        inputs = (
            a,
            _constant(editor, node, "weight", weight.T),
            _constant(editor, node, "bias", np.zeros(right[1], dtype=np.float32)),
        )
        product = editor.insert(node, "Gemm", inputs, after, attributes={"transB": 1})
    else:
        product = editor.insert(node, "MatMul", (a, b), after)
    final = np.array(graph.types[node.outputs[0]].shape, dtype=np.int64)
    target = editor.constant(f"{node.name}.shape", final)
    editor.append(node, op="Reshape", inputs=(product, target), attributes={})


def _reshaped(editor: GraphEditor, node: Node, name: str, shape: tuple[int, ...]) -> str:
    known = editor.constants.get(name)
    if known is not None:
        return editor.constant(f"{node.name}.matrix", known.reshape(shape))
    target = editor.constant(f"{node.name}.matrix", np.array(shape, dtype=np.int64))
    return editor.insert(node, "Reshape", (name, target), shape)
