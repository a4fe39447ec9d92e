"""Operators that ONNX defines by others, and that are written out so."""

from typing import Any, Final

import onnx
from onnx import defs, helper

from systol_compiler.graph.float_graph import OPSET
from systol_compiler.graph.inference import as_float32, onnx_proto, schema_version
from systol_compiler.graph.tracing.trace import Call, Trace

_EXPANDED: Final = frozenset(
    "AffineGrid Attention BlackmanWindow CastLike CausalConvWithState CenterCropPad FlexAttention "
    "HammingWindow HannWindow LinearAttention MeanVarianceNormalization NegativeLogLikelihoodLoss "
    "ReduceL1 ReduceLogSum ReduceLogSumExp ReduceSumSquare RotaryEmbedding SoftmaxCrossEntropyLoss "
    "SwiGLU".split()
)
"""The others keep their one node: they are activations and normalizations with a form of their
own, or ONNX Runtime has a kernel for them."""

_NEWER_KEPT: Final = frozenset({"RMSNormalization", "Swish"})
"""Of operator sets behind `OPSET`; `to_onnx` writes them out."""


def is_expanded(call: Call) -> bool:
    """Whether the operator stands for others."""
    if call.op in _EXPANDED:
        return True
    return call.op not in _NEWER_KEPT and not defs.has(call.op, OPSET, "")


def function_body(
    call: Call, trace: Trace
) -> tuple[onnx.FunctionProto, dict[str, onnx.AttributeProto]] | None:
    """ONNX's definition of the operator for these operands, and its attributes' values.

    None if ONNX defines it by no others.
    """
    version = schema_version(call.op)
    schema: Any = defs.get_schema(call.op, version, "")
    attributes = {
        key: item.default_value
        for key, item in schema.attributes.items()
        if item.default_value.type != onnx.AttributeProto.UNDEFINED
    } | {key: helper.make_attribute(key, value) for key, value in call.attributes.items()}
    function: onnx.FunctionProto | None = None
    if schema.has_context_dependent_function:
        node = onnx_proto(call.op, call.inputs, call.outputs, call.attributes)
        types = [
            trace.type_proto(as_float32(trace.types[name])) if name else onnx.TypeProto()
            for name in call.inputs
        ]
        versions = schema.context_dependent_function_opset_versions
        chosen = max((v for v in versions if v <= version), default=min(versions))
        text = schema.get_context_dependent_function_with_opset_version(
            chosen, node.SerializeToString(), [item.SerializeToString() for item in types]
        )
        if text:
            function = onnx.FunctionProto()
            function.ParseFromString(text)
    elif schema.has_function:
        function = schema.function_body
    if function is None or not function.node:
        return None
    return function, attributes
