"""Types of a node's outputs, by the ONNX project's own inference, one node at a time.

Constants are known as values here, so that shapes that the model computes are simply read; and
no weight is ever handed over, so that a model's size does not matter.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from systol_compiler.graph.float_graph import OPSET, Array, TensorType, dtype_name

MAX_SEEN: Final = 4096
"""Constants of more elements are weights: inference sees their types only."""


_LIKE_FIRST: Final = frozenset({"GroupNormalization"})
"""Operators for which ONNX states no inference: their result is like their first input."""


class TypeInference:
    """Infers types of nodes of operator set `OPSET` (or of the newest, where that lacks one)."""

    def __init__(self) -> None:
        self._protos: dict[TensorType, onnx.TypeProto] = {}
        self._schemas: dict[str, tuple[Any, list[onnx.OperatorSetIdProto]]] = {}

    def infer(
        self,
        op: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        attributes: Mapping[str, Any],
        types: Mapping[str, TensorType],
        constants: Mapping[str, Array],
    ) -> dict[str, TensorType]:
        """Types of those outputs that follow from the inputs' types and known values.

        Raises
        ------
        Exception
            The inputs contradict each other; the class is the ONNX library's own.
        """
        if op in _LIKE_FIRST:
            return {outputs[0]: types[inputs[0]]}
        schema, opsets = self._schema(op)
        node = onnx_proto(op, inputs, outputs, attributes)
        read = [name for name in dict.fromkeys(inputs) if name]
        with np.errstate(over="ignore"):  # the least float64 stands for minus infinity
            values = {
                name: numpy_helper.from_array(
                    np.asarray(constants[name], dtype=types[name].dtype, order="C"), name
                )
                for name in read
                if name in constants and constants[name].size <= MAX_SEEN
            }
        found = shape_inference.infer_node_outputs(
            schema,
            node,
            {name: self.proto(types[name]) for name in read},
            values,
            opset_imports=opsets,
            ir_version=10,
        )
        result = {}
        for name, proto in found.items():
            kind = proto.tensor_type
            known = proto.HasField("tensor_type") and kind.HasField("shape")
            if known and all(dim.HasField("dim_value") for dim in kind.shape.dim):
                shape = tuple(int(dim.dim_value) for dim in kind.shape.dim)
                result[name] = TensorType(dtype=dtype_name(kind.elem_type), shape=shape)
        return result

    def _schema(self, op: str) -> tuple[Any, list[onnx.OperatorSetIdProto]]:
        if op not in self._schemas:
            version = schema_version(op)
            self._schemas[op] = (
                defs.get_schema(op, version, ""),
                [helper.make_opsetid("", version)],
            )
        return self._schemas[op]

    def proto(self, kind: TensorType) -> onnx.TypeProto:
        """A type in ONNX's own form."""
        if kind not in self._protos:
            element = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
            self._protos[kind] = helper.make_tensor_type_proto(element, kind.shape)
        return self._protos[kind]


def schema_version(op: str) -> int:
    """The operator set that defines `op` for a graph: `OPSET`, or the newest if it came later."""
    if defs.has(op, OPSET, ""):
        return OPSET
    return defs.onnx_opset_version()


def onnx_proto(
    op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], attributes: Mapping[str, Any]
) -> onnx.NodeProto:
    """A node in ONNX's own form; array attributes become tensors."""
    return helper.make_node(
        op,
        inputs,
        outputs,
        **{
            key: numpy_helper.from_array(value, key) if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()
        },
    )


FLOATS: Final = frozenset({"float16", "float64", "bfloat16", "float32"})
"""Element types that a graph holds as float32."""


def as_float32(kind: TensorType) -> TensorType:
    """The type that stands for `kind` in a graph."""
    if kind.dtype in FLOATS and kind.dtype != "float32":
        return TensorType(dtype="float32", shape=kind.shape)
    return kind


def size_of(kind: TensorType) -> int:
    """Number of elements."""
    return prod(kind.shape)


def float32_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a node whose float tensors are all float32: element types follow."""
    result = dict(attributes)
    for key in ("to", "dtype", "stash_type", "output_dtype"):
        if result.get(key) in (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
            result[key] = int(TensorProto.FLOAT)
    for key, value in result.items():
        if isinstance(value, np.ndarray) and value.dtype.name in FLOATS:
            result[key] = value.astype(np.float32)
    return result
