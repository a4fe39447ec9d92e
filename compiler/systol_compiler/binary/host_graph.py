"""Host segments' ONNX graphs: parsed once, checked, and run only as what was checked.

A binary may be a stranger's, and ONNX can say more than a graph of operators: tensors in other
files, operators of other libraries, functions that hide either, loops without an end. None of that
is in a host segment. Bytes that ONNX Runtime could read differently than the parser here (another
file format, fields that this version does not know) are refused, because a segment's bytes must be
those that serializing the parsed model gives (`canonical`).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from systol_compiler.binary.network import HostSegment
from systol_compiler.graph.float_graph import TensorType, dtype_name
from systol_hw.errors import InputError

DOMAINS = ("", "ai.onnx")
"""Operator sets of host graphs: ONNX's own. Any other needs a library, or reads files."""
MAX_NODES = 100_000
"""Nodes of one host graph."""


def canonical(model: onnx.ModelProto) -> bytes:
    """`model` as a host segment holds it: serialized in ONNX's own order, without unknown fields.

    Raises
    ------
    InputError
        It does not fit ONNX's limit of 2 GiB.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.DiscardUnknownFields()
    try:
        return bytes(copy.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise InputError(f"the host's part of the model cannot be serialized: {error}") from error


def check_host_segment(segment: HostSegment, real: Mapping[str, TensorType]) -> None:
    """Check a host segment's model, and that its graph is what the segment says.

    Raises
    ------
    InputError
        The model does not parse or is not in its canonical form, breaks a rule of ONNX, refers to
        files outside itself, holds functions, graphs inside nodes or operators of other domains,
        or its inputs and outputs are others than `real` describes.
    """

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise InputError(f"host segment {segment.name!r}: {message}")

    model = onnx.ModelProto()
    try:
        model.ParseFromString(segment.model)
    except (DecodeError, ValueError) as error:
        raise InputError(
            f"host segment {segment.name!r}: not a valid ONNX model: {error}"
        ) from error
    require(not model.functions, "functions are not allowed; write their nodes out")
    require(not model.training_info, "training information is not allowed")
    for item in model.opset_import:
        require(item.domain in DOMAINS, f"operators of domain {item.domain!r} are not allowed")
    require(len(model.graph.node) <= MAX_NODES, f"it has more than {MAX_NODES} nodes")
    for node in model.graph.node:
        require(node.domain in DOMAINS, f"operators of domain {node.domain!r} are not allowed")
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        require(not inner, f"{node.op_type} holds a graph: loops and branches are not allowed")
    # Before the checker, which would open the file.
    for tensor in _stored_tensors(model.graph):
        require(
            tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data,
            f"tensor {tensor.name!r} lies in another file",
        )
    require(canonical(model) == segment.model, "its model is not in its canonical form")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, EncodeError) as error:
        raise InputError(
            f"host segment {segment.name!r}: not a valid ONNX model: {error}"
        ) from error
    stored = {tensor.name for tensor in model.graph.initializer}
    taken = [_description(value) for value in model.graph.input if value.name not in stored]
    expected = [(name, real[name]) for name in segment.inputs]
    require(taken == expected, f"its graph takes {_words(taken)}, and must take {_words(expected)}")
    gives = [_description(value) for value in model.graph.output]
    expected = [(name, real[name]) for name in segment.outputs]
    require(gives == expected, f"its graph gives {_words(gives)}, and must give {_words(expected)}")


def _description(value: onnx.ValueInfoProto) -> tuple[str, TensorType]:
    kind = value.type.tensor_type
    known = value.type.HasField("tensor_type")
    shape = tuple(dimension.dim_value for dimension in kind.shape.dim)
    return value.name, TensorType(
        dtype=_dtype(kind.elem_type) if known else "no tensor", shape=shape
    )


def _dtype(element: int) -> str:
    try:
        return np.dtype(dtype_name(element)).name
    except TypeError:
        return f"element type {element}"


def _words(values: list[tuple[str, TensorType]]) -> str:
    return ", ".join(f"{name!r}: {kind}" for name, kind in values) or "nothing"


def _stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that `graph`, whose nodes hold no graphs, stores."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
