"""How operators look on data whose axes are in another order."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Array, Graph, Node

UNARY: Final = frozenset(
    "Abs Cast Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Reciprocal "
    "Relu Selu Shrink Sigmoid Softplus Softsign Sqrt Swish Tanh ThresholdedRelu".split()
)
"""Operators on one tensor, element by element; their other operands are numbers."""

MANY: Final = frozenset("Add Div Equal Greater Less Max Min Mul PRelu Pow Sub Where".split())
"""Operators on several tensors, element by element, with broadcasting."""

ALONG: Final = frozenset("Concat LogSoftmax Softmax Split ArgMax ArgMin Gather".split())
"""Operators along one axis, given by their attribute."""

REORDERED: Final = frozenset({"Slice", "Pad"})
"""Operators with constants that have an entry for every axis."""


def inverse(perm: Sequence[int]) -> list[int]:
    """The order that undoes `perm`."""
    found = [0] * len(perm)
    for place, axis in enumerate(perm):
        found[axis] = place
    return found


def ordered(shape: Sequence[int], perm: Sequence[int]) -> tuple[int, ...]:
    """The shape behind a transpose."""
    return tuple(shape[axis] for axis in perm)


def reordered_constant(value: Array, perm: Sequence[int]) -> Array | None:
    """`value`, which broadcasts to data of `perm`'s rank, for data before that transpose."""
    if value.size == 1 and value.ndim <= len(perm):
        return value
    if value.ndim > len(perm):
        return None
    full = value.reshape((1,) * (len(perm) - value.ndim) + value.shape)
    moved = full.transpose(inverse(perm))
    # Leading axes of size 1 say nothing; per-channel constants stay in their usual form.
    lead = next((axis for axis, size in enumerate(moved.shape) if size != 1), moved.ndim - 1)
    return moved.reshape(moved.shape[lead:])


def before_transpose(
    node: Node, perm: Sequence[int], graph: Graph, editor: GraphEditor
) -> tuple[list[str], dict[str, Any]] | None:
    """Constant inputs and attributes of `node` for data before a transpose by `perm`.

    The inputs at positions of variable tensors are returned as they are; None if the operator
    cannot work on such data.
    """
    inputs, attributes = list(node.inputs), dict(node.attributes)
    if node.op in UNARY:
        return inputs, attributes
    if node.op in MANY:
        for position, name in enumerate(node.inputs):
            value = graph.constants.get(name)
            if value is None:
                continue
            moved = reordered_constant(value, perm)
            if moved is None:
                return None
            if moved is not value:
                inputs[position] = editor.constant(f"{name}.reordered", moved)
        return inputs, attributes
    if node.op in ALONG:
        if node.op.startswith("Arg") and not attributes.get("keepdims", 1):
            return None
        attributes["axis"] = perm[attributes["axis"]]
        for position, name in enumerate(node.inputs):
            if node.op == "Concat" and name in graph.constants:
                moved = graph.constants[name].transpose(inverse(perm))
                inputs[position] = editor.constant(f"{name}.reordered", moved)
        return inputs, attributes
    if node.op.startswith("Reduce") and len(inputs) == 2 and attributes.get("keepdims", 1):
        axes = graph.constants.get(inputs[1])
        if axes is None:
            return None
        moved = np.array(sorted(perm[int(axis)] for axis in axes.reshape(-1)), dtype=np.int64)
        inputs[1] = editor.constant(f"{node.name}.axes", moved)
        return inputs, attributes
    if node.op in REORDERED:
        return _reordered(node, perm, graph, editor)
    return None


def _reordered(
    node: Node, perm: Sequence[int], graph: Graph, editor: GraphEditor
) -> tuple[list[str], dict[str, Any]] | None:
    """Slice and Pad in canonical form: one entry for every axis."""
    inputs, back = list(node.inputs), inverse(perm)
    for position, name in enumerate(node.inputs[1:], start=1):
        value = graph.constants.get(name)
        if value is None:
            return None
        if node.op == "Pad" and position == 1:
            moved = value.reshape(2, -1)[:, back].reshape(-1)
        elif node.op == "Slice" and position != 3:
            moved = value[back]
        else:
            continue
        inputs[position] = editor.constant(f"{name}.reordered", moved)
    return inputs, dict(node.attributes)


def fits(node: Node) -> bool:
    """Whether `node` is of a kind that can work on reordered data at all."""
    return (
        node.op in UNARY
        or node.op in MANY
        or node.op in ALONG
        or node.op in REORDERED
        or node.op.startswith("Reduce")
    )
