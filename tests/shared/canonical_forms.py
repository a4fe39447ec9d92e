"""What `passes` promises of a canonical graph, checked node by node."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node

NEVER: Final = frozenset(
    "BatchNormalization CastLike Constant ConstantOfShape Dropout Einsum GlobalAveragePool "
    "GlobalMaxPool Identity If Loop Mean Relu Shape Size Squeeze Sum Unsqueeze Upsample".split()
)
"""Operators that no graph of the corpus keeps."""


def broken_forms(graph: Graph) -> Iterator[str]:
    """Every node that is in no canonical form, with what is wrong."""
    for node in graph.nodes:
        if node.op in NEVER:
            yield f"{node.place}: must be gone"
        rule = _RULES.get(node.op)
        wrong = rule(node, graph) if rule is not None else ""
        if wrong:
            yield f"{node}: {wrong}"


def _constants(node: Node, graph: Graph, count: int) -> list[Any]:
    """The values of the inputs behind the first, `count` of them; [] where they are others."""
    values = [graph.constants.get(name) for name in node.inputs[1:]]
    known = len(values) == count and all(value is not None for value in values)
    return values if known else []


def _conv(node: Node, graph: Graph) -> str:
    rank = len(graph.types[node.inputs[0]].shape)
    wanted = {"kernel_shape", "strides", "dilations", "pads", "group"}
    wanted |= {"output_padding"} if node.op == "ConvTranspose" else set()
    if set(node.attributes) != wanted:
        return "attributes"
    if len(node.attributes["pads"]) != 2 * (rank - 2) or min(node.attributes["pads"]) < 0:
        return "pads"
    values = _constants(node, graph, 2)
    if values and values[1].shape != graph.types[node.outputs[0]].shape[1:2]:
        return "bias"
    return "" if values else "weight and bias"


def _pool(node: Node, graph: Graph) -> str:
    wanted = {"kernel_shape", "strides", "dilations", "pads"}
    wanted |= {"count_include_pad"} if node.op == "AveragePool" else set()
    return "" if set(node.attributes) == wanted else "attributes"


def _gemm(node: Node, graph: Graph) -> str:
    values = _constants(node, graph, 2)
    if dict(node.attributes) != {"transB": 1} or not values:
        return "form"
    outputs = graph.types[node.outputs[0]].shape[1]
    return "" if values[1].shape == (outputs,) else "bias"


def _mat_mul(node: Node, graph: Graph) -> str:
    ranks = [len(graph.types[name].shape) for name in node.inputs]
    flat = ranks == [2, 2] and node.inputs[1] in graph.constants
    return "should be Gemm" if flat else "vector" if 1 in ranks else ""


def _commutative(node: Node, graph: Graph) -> str:
    return "constant first" if node.inputs[0] in graph.constants else ""


def _no_constant_second(node: Node, graph: Graph) -> str:
    return "constant second" if node.inputs[1] in graph.constants else ""


def _clip(node: Node, graph: Graph) -> str:
    values = _constants(node, graph, 2)
    return "" if values and all(value.shape == () for value in values) else "bounds"


def _affine(count: int) -> Callable[[Node, Graph], str]:
    return lambda node, graph: "" if _constants(node, graph, count) else "parameters"


def _reduce(node: Node, graph: Graph) -> str:
    values = _constants(node, graph, 1)
    return "" if values and node.attributes["keepdims"] == 1 else "axes"


def _slice(node: Node, graph: Graph) -> str:
    values = _constants(node, graph, 4)
    rank = len(graph.types[node.inputs[0]].shape)
    fine = values and values[2].tolist() == list(range(rank)) and (values[0] >= 0).all()
    return "" if fine else "not over all axes"


def _pad(node: Node, graph: Graph) -> str:
    constant = node.attributes["mode"] == "constant"
    values = _constants(node, graph, 2 if constant else 1)
    return "" if values and (values[0] >= 0).all() else "pads"


def _reshape(node: Node, graph: Graph) -> str:
    values = _constants(node, graph, 1)
    same = values and tuple(values[0]) == graph.types[node.outputs[0]].shape
    return "" if same and not node.attributes else "shape"


def _axis(node: Node, graph: Graph) -> str:
    return "" if node.attributes["axis"] >= 0 else "axis"


def _transpose(node: Node, graph: Graph) -> str:
    shape = graph.types[node.inputs[0]].shape
    moved = [axis for axis in node.attributes["perm"] if shape[axis] != 1]
    return "moves nothing" if moved == sorted(moved) else ""


def _pow(node: Node, graph: Graph) -> str:
    exponent = graph.constants.get(node.inputs[1])
    return "exponent" if exponent is not None and exponent.dtype != np.float32 else ""


_RULES: Final[dict[str, Callable[[Node, Graph], str]]] = {
    "Add": _commutative,
    "ArgMax": lambda node, graph: "" if node.attributes["keepdims"] == 1 else "keepdims",
    "AveragePool": _pool,
    "Clip": _clip,
    "Concat": _axis,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Div": _no_constant_second,
    "Flatten": lambda node, graph: "" if node.attributes["axis"] == 1 else "axis",
    "Gather": _axis,
    "Gelu": lambda node, graph: "" if "approximate" in node.attributes else "approximate",
    "Gemm": _gemm,
    "GroupNormalization": _affine(2),
    "InstanceNormalization": _affine(2),
    "LayerNormalization": _affine(2),
    "LogSoftmax": _axis,
    "MatMul": _mat_mul,
    "Max": _commutative,
    "MaxPool": _pool,
    "Min": _commutative,
    "Mul": _commutative,
    "Pad": _pad,
    "Pow": _pow,
    "RMSNormalization": _affine(1),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _axis,
    "Split": _affine(1),
    "Sub": _no_constant_second,
    "Swish": lambda node, graph: "" if "alpha" in node.attributes else "alpha",
    "Transpose": _transpose,
    **{f"Reduce{kind}": _reduce for kind in ("L2", "Max", "Mean", "Min", "Prod", "Sum")},
}
