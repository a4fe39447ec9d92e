"""Passes over arithmetic and reductions: two operands, constants behind, reduced axes kept."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Array, Graph, Node


@dataclass(frozen=True, kw_only=True)
class NormalizeArithmetic:
    """Write arithmetic with two operands, a constant one last, and in few words.

    - Sum, Mean, Max and Min of many are chains of two; Mean ends in a product.
    - x - c is Add, x / c is Mul; c - x and c / x stay, 1 / x is Reciprocal.
    - x + x is Mul by 2, x * x is Pow with exponent 2; exponents are float32 scalars where they
      are uniform; Pow by 1/2 is Sqrt, by -1 Reciprocal.
    - PRelu of one slope is LeakyRelu.
    - An operand that was expanded is read as it was before, where broadcasting does the same.
    """

    name: str = "normalize-arithmetic"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            node = _unexpanded(node, graph)
            rule = _RULES.get(node.op)
            floats = graph.types[node.outputs[0]].dtype == "float32"
            if rule is None or not floats or not rule(node, graph, editor):
                editor.append(node)
        return editor.freeze()


def _unexpanded(node: Node, graph: Graph) -> Node:
    """`node` without those Expand before it that its own broadcasting makes needless."""
    if node.op not in _BROADCASTING:
        return node
    inputs = list(node.inputs)
    shapes = [graph.types[name].shape for name in inputs]
    changed = False
    for position, name in enumerate(inputs):
        expand = graph.producers.get(name)
        if expand is None or expand.op != "Expand":
            continue
        before = graph.types[expand.inputs[0]].shape
        others = shapes[:position] + shapes[position + 1 :]
        if np.broadcast_shapes(before, *others) == graph.types[node.outputs[0]].shape:
            inputs[position], shapes[position], changed = expand.inputs[0], before, True
    return replace(node, inputs=tuple(inputs)) if changed else node


_BROADCASTING: Final = frozenset("Add Div Max Mean Min Mul Pow Sub Sum Where".split())


def _value(graph: Graph, name: str) -> Array | None:
    return graph.constants.get(name)


def _uniform(value: Array | None) -> float | None:
    """The one number that a constant consists of."""
    if value is None or not value.size or value.size > 1 << 20:
        return None
    first = value.reshape(-1)[0]
    return float(first) if (value == first).all() else None


def _scalar(editor: GraphEditor, node: Node, part: str, value: float) -> str:
    return editor.constant(f"{node.name}.{part}", np.array(value, dtype=np.float32))


def _chain(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    """Many operands, two at a time; constants come last."""
    op = {"Sum": "Add", "Mean": "Add"}.get(node.op, node.op)
    mean = node.op == "Mean"
    names = sorted(node.inputs, key=lambda name: name in graph.constants)
    count = len(names)
    if count == 1 or (count == 2 and node.op in ("Max", "Min")):
        if count == 2 and list(node.inputs) != names:
            editor.append(node, inputs=names)
            return True
        return False
    total, shape = names[0], graph.types[names[0]].shape
    for index, name in enumerate(names[1:], start=2):
        shape = np.broadcast_shapes(shape, graph.types[name].shape)
        if index == count and not mean:
            editor.append(node, op=op, inputs=(total, name), attributes={})
        else:
            total = editor.insert(node, op, (total, name), shape)
    if mean:
        part = _scalar(editor, node, "share", 1 / count)
        editor.append(node, op="Mul", inputs=(total, part), attributes={})
    return True


def _add(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    a, b = node.inputs
    if a == b:
        editor.append(node, op="Mul", inputs=(a, _scalar(editor, node, "factor", 2)))
        return True
    if a in graph.constants and b not in graph.constants:
        editor.append(node, inputs=(b, a))
        return True
    return False


def _sub(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    value = _value(graph, node.inputs[1])
    if value is None or node.inputs[0] in graph.constants:
        return False
    negative = editor.constant(f"{node.inputs[1]}.negative", -value)
    editor.append(node, op="Add", inputs=(node.inputs[0], negative))
    return True


def _mul(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    a, b = node.inputs
    if a == b and a not in graph.constants:
        editor.append(node, op="Pow", inputs=(a, _scalar(editor, node, "exponent", 2)))
        return True
    if a in graph.constants and b not in graph.constants:
        editor.append(node, inputs=(b, a))
        return True
    return False


def _div(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    a, b = node.inputs
    if a in graph.constants and b not in graph.constants:
        same = graph.types[b].shape == graph.types[node.outputs[0]].shape
        if _uniform(_value(graph, a)) == 1.0 and same:
            editor.append(node, op="Reciprocal", inputs=(b,))
            return True
        return False
    value = _value(graph, b)
    if value is None or not value.all():
        return False
    factor = (1 / value.astype(np.float64)).astype(np.float32)
    if not np.isfinite(factor).all():
        return False
    editor.append(node, op="Mul", inputs=(a, editor.constant(f"{b}.reciprocal", factor)))
    return True


def _pow(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    exponent = _uniform(_value(graph, node.inputs[1]))
    source = node.inputs[0]
    if exponent is None or graph.types[source].shape != graph.types[node.outputs[0]].shape:
        return False
    single = {0.5: "Sqrt", -1.0: "Reciprocal"}.get(exponent)
    if single is not None:
        editor.append(node, op=single, inputs=(source,))
    else:
        editor.append(node, inputs=(source, _scalar(editor, node, "exponent", exponent)))
    return True


def _prelu(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    slope = _uniform(_value(graph, node.inputs[1]))
    if slope is None:
        return False
    editor.append(node, op="LeakyRelu", inputs=node.inputs[:1], attributes={"alpha": slope})
    return True


_RULES: Final = {
    "Add": _add,
    "Div": _div,
    "Max": _chain,
    "Mean": _chain,
    "Min": _chain,
    "Mul": _mul,
    "PRelu": _prelu,
    "Pow": _pow,
    "Sub": _sub,
    "Sum": _chain,
}


@dataclass(frozen=True, kw_only=True)
class NormalizeReductions:
    """Write reductions with their axes kept (keepdims=1), and a Reshape where they were not.

    ReduceMean and ReduceMax over all axes of an image become global pools. Axes are one constant,
    ascending; ArgMax and ArgMin likewise keep their axis.
    """

    name: str = "normalize-reductions"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.op in ("ArgMax", "ArgMin") or (
                node.op.startswith("Reduce") and len(node.inputs) == 2
            ):
                self._append(node, graph, editor)
            else:
                editor.append(node)
        return editor.freeze()

    @staticmethod
    def _append(node: Node, graph: Graph, editor: GraphEditor) -> None:
        shape = graph.types[node.inputs[0]].shape
        if node.op.startswith("Arg"):
            axes = [int(node.attributes["axis"])]
        else:
            known = graph.constants.get(node.inputs[1])
            if known is None:
                editor.append(node)
                return
            axes = sorted(int(axis) % len(shape) for axis in known.reshape(-1))
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        op, inputs = node.op, node.inputs
        attributes = dict(node.attributes) | {"keepdims": 1}
        pool = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}.get(node.op)
        if pool and 3 <= len(shape) <= 5 and axes == list(range(2, len(shape))):
            op, inputs, attributes = pool, inputs[:1], {}
        if node.attributes.get("keepdims", 1):
            editor.append(node, op=op, inputs=inputs, attributes=attributes)
            return
        reduced = editor.insert(node, op, inputs, kept, attributes=attributes)
        after = np.array(graph.types[node.outputs[0]].shape, dtype=np.int64)
        target = editor.constant(f"{node.name}.shape", after)
        editor.append(node, op="Reshape", inputs=(reduced, target), attributes={})
