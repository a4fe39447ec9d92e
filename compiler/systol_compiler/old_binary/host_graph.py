"""Checks the ONNX graph of a host segment like any input: the file may be a stranger's."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from systol_compiler.old_quantized import HostSegment, QTensor
from systol_hw.errors import BinaryFormatError

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator sets that ONNX Runtime brings; any other would need a library of the stranger's."""


def check_host_segment(segment: HostSegment, tensors: Mapping[str, QTensor]) -> None:
    """Check a host segment's model, and that its graph is what the segment says.

    Raises
    ------
    BinaryFormatError
        The model does not parse, breaks a rule of ONNX, refers to files outside itself or to
        operators that no library of ours brings, or its inputs and outputs are others.
    """
    place = f"host segment {segment.name!r}"
    try:
        model = onnx.load_model_from_string(segment.model)
        # Before the checker, which would open the file.
        for tensor in _stored_tensors(model):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                raise BinaryFormatError(f"{place}: tensor {tensor.name!r} lies in another file")
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise BinaryFormatError(f"{place}: not a valid ONNX model: {error}") from error
    for domain in (item.domain for item in model.opset_import):
        if domain not in DOMAINS:
            raise BinaryFormatError(f"{place}: operators of domain {domain!r} are not allowed")
    stored = {tensor.name for tensor in model.graph.initializer}
    found = [_description(value) for value in model.graph.input if value.name not in stored]
    expected = [(name, "int8", tensors[name].shape) for name in segment.inputs]
    if found != expected:
        raise BinaryFormatError(f"{place}: its graph takes {found}, and must take {expected}")
    results = [_description(value)[:2] for value in model.graph.output]
    if results != [(output.name, output.dtype) for output in segment.outputs]:
        raise BinaryFormatError(f"{place}: its graph gives {results}, which is not what it states")


def _description(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int, ...]]:
    tensor_type = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)).name
    except (KeyError, TypeError, ValueError):
        dtype = "unknown"
    shape = tuple(dimension.dim_value for dimension in tensor_type.shape.dim)
    return value.name, dtype, shape


def _stored_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    nodes = [node for function in model.functions for node in function.node]
    graphs = [model.graph]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [attribute.g, *attribute.graphs]
