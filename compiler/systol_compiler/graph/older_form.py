"""Operators that are newer than a graph's operator set, written out by older ones.

A graph keeps such an operator as one node, since one node is what a compiler wants to see; ONNX
Runtime then runs this. Ref: the function bodies in https://onnx.ai/onnx/operators.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper


def written_out(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """`node`, or the nodes that stand for it in operator set `opset`."""
    rule = _RULES.get(node.op_type)
    if rule is None or node.domain or defs.has(node.op_type, opset, ""):
        return [node]
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    steps = rule(node, attributes)
    for index, step in enumerate(steps):
        step.name = node.name if index == len(steps) - 1 else f"{node.name}/{index}"
    return steps


def _constant(name: str, value: Any) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.asarray(value))
    return helper.make_node("Constant", [], [name], value=tensor)


def _swish(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    """x * Sigmoid(alpha * x)."""
    (source,), (result,) = node.input, node.output
    alpha = attributes.get("alpha", 1.0)
    steps, inner = [], source
    if alpha != 1.0:
        inner = f"{result}/scaled"
        steps += [
            _constant(f"{result}/alpha", np.float32(alpha)),
            helper.make_node("Mul", [source, f"{result}/alpha"], [inner]),
        ]
    return [
        *steps,
        helper.make_node("Sigmoid", [inner], [f"{result}/gate"]),
        helper.make_node("Mul", [source, f"{result}/gate"], [result]),
    ]


def _rms_normalization(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[onnx.NodeProto]:
    """x / Sqrt(ReduceMean(x * x) + epsilon) * scale.

    `axis` must be negative: the rank is not known here, and all axes from it on are reduced.
    """
    source, scale = node.input
    (result,) = node.output
    axes = np.arange(attributes.get("axis", -1), 0, dtype=np.int64)
    epsilon = np.float32(attributes.get("epsilon", 1e-5))
    names = {part: f"{result}/{part}" for part in
             ("square", "axes", "mean", "epsilon", "sum", "root", "normal")}  # fmt: skip
    return [
        helper.make_node("Mul", [source, source], [names["square"]]),
        _constant(names["axes"], axes),
        helper.make_node("ReduceMean", [names["square"], names["axes"]], [names["mean"]]),
        _constant(names["epsilon"], epsilon),
        helper.make_node("Add", [names["mean"], names["epsilon"]], [names["sum"]]),
        helper.make_node("Sqrt", [names["sum"]], [names["root"]]),
        helper.make_node("Div", [source, names["root"]], [names["normal"]]),
        helper.make_node("Mul", [names["normal"], scale], [result]),
    ]


_RULES: Final[Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Any]], list[onnx.NodeProto]]]] = {
    "RMSNormalization": _rms_normalization,
    "Swish": _swish,
}
