"""What names mean where a node stands: in the main graph, a branch, a loop's body, a function."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper

from systol_compiler.graph.tracing.tensors import tensor_value
from systol_hw.errors import InputError, UnsupportedModelError


@dataclass(frozen=True, kw_only=True, eq=False)
class Scope:
    """One level of names.

    Attributes
    ----------
    names
        The graph's tensor for each name that was defined at this level.
    outer
        The level around a branch or a loop's body; functions see nothing around them.
    opsets
        Operator set by domain, as the model or the function imports them.
    attributes
        The values of the function's attributes in this call.
    prefix
        What names of nodes and tensors begin with, "" at the top.
    source
        The model's own node that all nodes here stand for, "" at the top.
    depth
        Levels above this one.
    """

    names: dict[str, str] = field(default_factory=dict)
    outer: "Scope | None" = None
    opsets: Mapping[str, int]
    attributes: Mapping[str, AttributeProto] = field(default_factory=dict)
    prefix: str = ""
    source: str = ""
    depth: int = 0

    def find(self, name: str) -> str | None:
        """The graph's tensor that `name` stands for, here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None

    def inner(self, prefix: str, source: str) -> "Scope":
        """The level of a branch or body that begins here."""
        return replace(
            self, names={}, outer=self, prefix=prefix, source=source, depth=self.depth + 1
        )

    @property
    def opset(self) -> int:
        """The default domain's operator set here."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 0))

    def attribute_values(self, node: onnx.NodeProto, place: str) -> dict[str, Any]:
        """The attributes of a node, references to the function's own resolved.

        Tensors become arrays; inner graphs are left as they are.
        """
        values = {}
        for item in self.resolved(node, place):
            values[item.name] = attribute_value(item, place)
        return values

    def resolved(self, node: onnx.NodeProto, place: str) -> list[AttributeProto]:
        """The attributes of a node, with references replaced; an absent optional one drops out."""
        found = []
        for item in node.attribute:
            if not item.ref_attr_name:
                found.append(item)
            elif item.ref_attr_name in self.attributes:
                copy = AttributeProto()
                copy.CopyFrom(self.attributes[item.ref_attr_name])
                copy.name = item.name
                found.append(copy)
        return found


def attribute_value(item: AttributeProto, place: str) -> Any:
    """One attribute's value in Python's own types.

    Raises
    ------
    InputError
        It holds nothing, or a tensor that lies in another file.
    UnsupportedModelError
        It holds a sparse tensor or a type.
    """
    match item.type:
        case AttributeProto.TENSOR:
            return inline_tensor(item.t, place)
        case AttributeProto.TENSORS:
            return [inline_tensor(tensor, place) for tensor in item.tensors]
        case AttributeProto.STRING:
            return item.s.decode("utf-8", "replace")
        case AttributeProto.STRINGS:
            return [text.decode("utf-8", "replace") for text in item.strings]
        case AttributeProto.FLOAT:
            return float(np.float32(item.f))
        case AttributeProto.SPARSE_TENSOR | AttributeProto.SPARSE_TENSORS:
            raise UnsupportedModelError(
                f"{place}: sparse tensors are not supported, found attribute {item.name!r}; store "
                "the tensor densely"
            )
        case _:
            try:
                value = helper.get_attribute_value(item)
            except ValueError as error:
                raise InputError(
                    f"{place}: attribute {item.name!r} has no value; export the model again"
                ) from error
            return list(value) if isinstance(value, list | tuple) else value


def inline_tensor(tensor: onnx.TensorProto, place: str) -> Any:
    """The values of a tensor inside a node."""
    refuse_external(tensor, place)
    return tensor_value(tensor)


def refuse_external(tensor: onnx.TensorProto, place: str) -> None:
    """Refuse a tensor inside a node that lies in another file.

    Raises
    ------
    InputError
        It does.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise InputError(
            f"{place}: tensor {tensor.name!r} is stored in an external file, which only "
            "initializers of the main graph may be; save the model in one file"
        )


def require_text(place: str, *values: object) -> None:
    """Refuse names that are no UTF-8 text, which protobuf hands over as bytes.

    Raises
    ------
    InputError
        One of `values` is none.
    """
    for value in values:
        if not isinstance(value, str):
            raise InputError(
                f"{place}: names in a model must be UTF-8 text, found {value!r}; the file is "
                "damaged: export the model again"
            )
