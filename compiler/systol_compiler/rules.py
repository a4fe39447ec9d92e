"""What the machine can run, rule by rule.

Each rule is a function whose docstring is the rule: the check, the message and the page of
supported operators all come from it. A rule returns None if the node keeps it, else the value
that breaks it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from systol_compiler.graph.clips import clip_bounds
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.old_quantized import every_window_has_a_tap
from systol_hw.errors import UnsupportedModelError

MACHINE_OPERATORS: Final = ("Conv", "Gemm", "MaxPool", "Clip", "Flatten")
"""Canonical operators that become machine layers, or parts of them."""

SOURCE_OPERATORS: Final = (
    "Conv, Gemm, MatMul, MaxPool, GlobalMaxPool, Relu, Clip, Flatten, Reshape to [N, features], "
    "BatchNormalization and per-channel Add, Sub, Mul, Div beside a product, Identity, Dropout"
)

HOST_OPERATORS: Final = frozenset(
    "ArgMax ArgMin Cast Flatten HardSigmoid Identity LogSoftmax Reshape Sigmoid Softmax Squeeze "
    "Tanh TopK Transpose Unsqueeze".split()
)
"""Operators that run on the host if nothing for the machine follows."""

Check = Callable[[Node, Graph], str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`check`'s docstring is the text of the rule; `remedy` says what the author can do."""

    operators: tuple[str, ...]
    check: Check
    remedy: str

    @property
    def text(self) -> str:
        return (self.check.__doc__ or "").strip().rstrip(".")


def _float32(node: Node, graph: Graph) -> str | None:
    """tensors and weights must be float32."""
    for name in (*node.inputs, *node.outputs):
        if name and graph.types[name].dtype != "float32":
            return f"{name!r} of type {graph.types[name].dtype}"
    return None


def _finite(node: Node, graph: Graph) -> str | None:
    """weights and biases must be finite numbers, after folding too."""
    for name in node.inputs:
        if name in graph.constants and not np.isfinite(graph.constants[name]).all():
            return f"NaN or infinity in {name!r}"
    return None


def _two_dimensional_window(node: Node, graph: Graph) -> str | None:
    """the input must be a 4-D NCHW tensor (two spatial axes)."""
    shape = graph.types[node.inputs[0]].shape
    return None if len(shape) == 4 else f"shape {list(shape)}"


def _constant_weights(node: Node, graph: Graph) -> str | None:
    """the second operand (weights) and the third (bias) must be constants."""
    for name in node.inputs[1:]:
        if name and name not in graph.constants:
            return f"{name!r} is computed"
    return None


def _matching_channels(node: Node, graph: Graph) -> str | None:
    """the weights must read as many channels (features) as the data has."""
    data, weight = (graph.types[name].shape for name in node.inputs[:2])
    reads = weight[1] * int(node.attributes.get("group", 1))
    return (
        None
        if len(weight) == len(data) and reads == data[1]
        else (f"weights {list(weight)} for data {list(data)}")
    )


def _bias_per_channel(node: Node, graph: Graph) -> str | None:
    """the bias must hold one value per output channel."""
    weight, bias = (graph.types[name].shape for name in node.inputs[1:3])
    return None if bias == weight[:1] else f"bias {list(bias)} for weights {list(weight)}"


def _variable_data(node: Node, graph: Graph) -> str | None:
    """the first operand (data) must not be a constant."""
    return f"{node.inputs[0]!r} is constant" if node.inputs[0] in graph.constants else None


def _one_group(node: Node, graph: Graph) -> str | None:
    """grouped and depthwise convolutions are not supported: group must be 1."""
    group = node.attributes.get("group", 1)
    return None if group == 1 else f"group {group}"


def _conv_pads(node: Node, graph: Graph) -> str | None:
    """pads must not be negative."""
    pads = node.attributes.get("pads", [])
    return None if min(pads, default=0) >= 0 else f"pads {pads}"


def _floor_mode(node: Node, graph: Graph) -> str | None:
    """ceil_mode must be 0."""
    mode = node.attributes.get("ceil_mode", 0)
    return None if mode == 0 else f"ceil_mode {mode}"


def _no_indices(node: Node, graph: Graph) -> str | None:
    """the optional output of indices must not be used."""
    if len(node.outputs) == 1 or not node.outputs[1]:
        return None
    return f"output {node.outputs[1]!r}"


def _pool_pads(node: Node, graph: Graph) -> str | None:
    """pads must be smaller than the kernel and not negative."""
    kernel, pads = node.attributes["kernel_shape"], node.attributes.get("pads", [])
    bad = any(not 0 <= pad < kernel[axis % len(kernel)] for axis, pad in enumerate(pads))
    return f"pads {pads} with kernel {kernel}" if bad else None


def _taps_inside(node: Node, graph: Graph) -> str | None:
    """every window must see at least one pixel of the image."""
    size = graph.types[node.inputs[0]].shape[2:]
    kernel, strides, pads, dilations = (
        node.attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations")
    )
    for axis in (0, 1):
        if not every_window_has_a_tap(
            size[axis], kernel[axis], strides[axis], pads[axis], pads[axis + 2], dilations[axis]
        ):
            return f"kernel {kernel}, dilations {dilations}, pads {pads} on image {list(size)}"
    return None


def _canonical_gemm(node: Node, graph: Graph) -> str | None:
    """data must be 2-D, not transposed, and the bias one value per output column."""
    if dict(node.attributes) == {"transB": 1}:
        return None
    shapes = [list(graph.types[name].shape) for name in node.inputs if name]
    return f"attributes {dict(node.attributes)} with operands of shape {shapes}"


def _constant_bounds(node: Node, graph: Graph) -> str | None:
    """bounds must be constant scalars."""
    return None if clip_bounds(node, graph) else f"bounds {list(node.inputs[1:])}"


def _follows_product(node: Node, graph: Graph) -> str | None:
    """an activation must directly follow a Conv, Gemm or MatMul that nothing else reads."""
    producer = graph.producers.get(node.inputs[0])
    if producer is None or producer.op not in ("Conv", "Gemm"):
        return f"it follows {producer.place if producer else 'a model input'}"
    readers = len(graph.consumers[node.inputs[0]])
    shown = [result.name for result in graph.outputs if result.tensor == node.inputs[0]]
    if readers > 1 or shown:
        return f"{readers} nodes and {len(shown)} outputs read {node.inputs[0]!r}"
    return None


def _keeps_batch(node: Node, graph: Graph) -> str | None:
    """the batch must stay: the axis must be 1."""
    axis = node.attributes.get("axis", 1)
    return None if axis == 1 else f"axis {axis}"


RULES: Final[tuple[Rule, ...]] = (
    Rule(operators=("MaxPool",), check=_no_indices, remedy="export without indices"),
    Rule(
        operators=("Conv", "Gemm", "MatMul", "MaxPool", "Clip", "Relu", "Flatten"),
        check=_float32,
        remedy="export the model in float32",
    ),
    Rule(
        operators=("Conv", "Gemm", "MatMul"),
        check=_constant_weights,
        remedy="store weights and bias as initializers",
    ),
    Rule(
        operators=("Conv", "Gemm", "MatMul", "MaxPool"),
        check=_variable_data,
        remedy="fold the node before exporting, or swap the operands",
    ),
    Rule(
        operators=("Conv", "Gemm"),
        check=_finite,
        remedy="train again, or check the variances of batch normalization",
    ),
    Rule(
        operators=("Conv", "MaxPool"),
        check=_two_dimensional_window,
        remedy="write the layer with two spatial axes, one of them of size 1",
    ),
    Rule(
        operators=("Conv",),
        check=_matching_channels,
        remedy="bind other input dimensions, or correct the weights",
    ),
    Rule(
        operators=("Conv",),
        check=_bias_per_channel,
        remedy="store the bias as [output channels]",
    ),
    Rule(
        operators=("Conv",),
        check=_one_group,
        remedy="write it as one convolution with zeros between the groups",
    ),
    Rule(operators=("Conv",), check=_conv_pads, remedy="slice the input instead"),
    Rule(
        operators=("MaxPool",),
        check=_floor_mode,
        remedy="pad explicitly and use ceil_mode 0",
    ),
    Rule(operators=("MaxPool",), check=_pool_pads, remedy="use smaller pads"),
    Rule(operators=("MaxPool",), check=_taps_inside, remedy="use a smaller dilation"),
    Rule(
        operators=("Gemm", "MatMul"),
        check=_canonical_gemm,
        remedy="reshape the data to [N, features]",
    ),
    Rule(
        operators=("Clip", "Relu"),
        check=_constant_bounds,
        remedy="store the bounds as initializers",
    ),
    Rule(
        operators=("Clip", "Relu"),
        check=_follows_product,
        remedy="move the activation directly behind the product, once per product",
    ),
    Rule(operators=("Flatten",), check=_keeps_batch, remedy="flatten all axes but the first"),
)


def check_machine_node(node: Node, graph: Graph) -> None:
    """Raise at the first rule that a canonical machine node breaks.

    Raises
    ------
    UnsupportedModelError
        The message names the node, the rule, the value and the remedy.
    """
    for rule in RULES:
        if node.op in rule.operators:
            value = rule.check(node, graph)
            if value is not None:
                raise UnsupportedModelError(
                    f"{node.place}: {rule.text}; found {value}; {rule.remedy}"
                )


def supported_operators() -> str:
    """The page of supported operators, in Markdown, from the rules themselves."""
    lines = [
        "# Supported operators",
        "",
        (
            f"The machine runs {SOURCE_OPERATORS}. At the end of a model the host runs "
            f"{', '.join(sorted(HOST_OPERATORS))}."
        ),
    ]
    for operator in ("Conv", "Gemm", "MatMul", "MaxPool", "Relu", "Clip", "Flatten"):
        lines += ["", f"## {operator}", ""]
        for rule in RULES:
            if operator in rule.operators:
                lines.append(f"- {rule.text[0].upper()}{rule.text[1:]}. Otherwise: {rule.remedy}.")
    return "\n".join([*lines, ""])
