"""Writes Einsum by the operators that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Graph, Node


@dataclass(frozen=True, kw_only=True)
class WriteEinsumAsMatMul:
    """Write an Einsum of two operands as Transpose, Reshape and one MatMul.

    Left as they are: more operands, an ellipsis, a letter twice in one operand, and letters that
    only one operand has and the result has not.
    """

    name: str = "einsum-as-matmul"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.op != "Einsum" or not _append(node, graph, editor):
                editor.append(node)
        return editor.freeze()


def _append(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    equation = str(node.attributes["equation"]).replace(" ", "")
    left, _, result = equation.partition("->")
    terms = left.split(",")
    if "->" not in equation or len(terms) != 2 or len(node.inputs) != 2 or "." in equation:
        return False
    a, b = terms
    if any(len(set(term)) != len(term) for term in (a, b, result)):
        return False
    if (set(a) ^ set(b)) - set(result):
        return False
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.inputs, strict=True):
        shape = graph.types[name].shape
        if len(shape) != len(term) or 1 in shape:
            return False  # an axis of size 1 may be broadcast
        sizes |= dict(zip(term, shape, strict=True))
    batch = [letter for letter in a if letter in b and letter in result]
    summed = [letter for letter in a if letter in b and letter not in result]
    rows = [letter for letter in a if letter not in b]
    columns = [letter for letter in b if letter not in a]
    if not summed:
        return False
    lead = [sizes[letter] for letter in batch]
    m, k, n = (prod(sizes[letter] for letter in part) for part in (rows, summed, columns))
    first = _arranged(node, node.inputs[0], a, [*batch, *rows, *summed], [*lead, m, k], editor)
    second = _arranged(node, node.inputs[1], b, [*batch, *summed, *columns], [*lead, k, n], editor)
    product = editor.insert(node, "MatMul", (first, second), (*lead, m, n))
    order = [*batch, *rows, *columns]
    spread = tuple(sizes[letter] for letter in order)
    target = editor.constant(f"{node.name}.shape", np.array(spread, dtype=np.int64))
    perm = [order.index(letter) for letter in result]
    if perm == sorted(perm):
        editor.append(node, op="Reshape", inputs=(product, target), attributes={})
        return True
    whole = editor.insert(node, "Reshape", (product, target), spread)
    editor.append(node, op="Transpose", inputs=(whole,), attributes={"perm": perm})
    return True


def _arranged(
    node: Node,
    name: str,
    letters: str,
    order: Sequence[str],
    shape: Sequence[int],
    editor: GraphEditor,
) -> str:
    """An operand with its axes in `order`, some of them taken together in `shape`."""
    perm = [letters.index(letter) for letter in order]
    value = editor.constants.get(name)
    if value is not None:
        return editor.constant(f"{name}.matrix", value.transpose(perm).reshape(shape))
    sizes = tuple(editor.types[name].shape[axis] for axis in perm)
    if perm != sorted(perm):
        name = editor.insert(node, "Transpose", (name,), sizes, attributes={"perm": perm})
    if sizes != tuple(shape):
        target = editor.constant(f"{node.name}.matrix", np.array(shape, dtype=np.int64))
        name = editor.insert(node, "Reshape", (name, target), tuple(shape))
    return name
