"""The float graph: an ONNX model with concrete shapes, as an immutable, printable value.

Operators keep ONNX's names and meaning in operator set `OPSET`, so that at every stage the graph
can be written back with `to_onnx` and run by ONNX Runtime: that is how passes are tested and how
calibration runs. RMSNormalization and Swish, which came later, are written out there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from systol_compiler.graph.older_form import written_out
from systol_compiler.text.arrays import Arrays
from systol_compiler.text.form import Printer
from systol_compiler.text.forms import form_of
from systol_compiler.text.statement import show_head, wrapped
from systol_compiler.text.tokens import quote, reference
from systol_hw.errors import InputError

Array: TypeAlias = npt.NDArray[Any]

OPSET: Final = 21
"""Graphs are of this operator set, whatever the model's own: the newest that ONNX Runtime has known
for years, and the first in which GroupNormalization has one scale for each channel."""


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """Element type (numpy's name, such as "float32") and concrete shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class GraphOutput:
    """A model output: the name its user sees, and the tensor that holds it."""

    name: str
    tensor: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operator of the default ONNX domain.

    `inputs` may hold "" for an omitted optional input. `sources` names the model's nodes that
    this one stands for, in order; `name` is unique in the graph. `source_op` is the operator that
    the model's author wrote, where a pass has chosen another form.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...]
    source_op: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    @property
    def place(self) -> str:
        """How messages name this node."""
        return f"node {self.name!r} ({self.source_op or self.op})"

    def text_parts(self, printer: Printer) -> list[str]:
        """The text's parts: head, operator that the author wrote, attributes."""
        head = show_head(
            self.op, name=self.name, sources=self.sources, results=self.outputs,
            operands=self.inputs,
        )
        written = [f"as {quote(self.source_op)}"] if self.source_op else []
        anything = form_of(Any)
        attributes = [
            f"{key if key.isidentifier() else quote(key)}={anything.show(value, printer)}"
            for key, value in sorted(self.attributes.items())
        ]
        return [head, *written, *attributes]

    def __str__(self) -> str:
        return " ".join(self.text_parts(Printer()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A float network in topological order.

    `types` describes every tensor (inputs, constants and node outputs); `constants` holds the
    values of those that are known. `inputs` are names, in the model's order.
    """

    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[GraphOutput, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    types: Mapping[str, TensorType]

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", MappingProxyType(dict(self.constants)))
        object.__setattr__(self, "types", MappingProxyType(dict(self.types)))
        for value in self.constants.values():
            value.setflags(write=False)

    def verify(self) -> None:
        """Check that names are defined once, before use, and described with concrete shapes.

        Raises
        ------
        InputError
            A rule is broken; the message names the node and the tensor.
        """
        defined = set(self.inputs) | set(self.constants)
        names: set[str] = set()
        for node in self.nodes:
            if node.name in names:
                raise InputError(f"{node.place}: node names must be unique; rename one of the two")
            names.add(node.name)
            for name in node.inputs:
                if name and name not in defined:
                    raise InputError(
                        f"{node.place}: reads tensor {name!r}, which nothing before it defines; "
                        "order the nodes and break any cycle"
                    )
            for name in node.outputs:
                if name in defined:
                    raise InputError(
                        f"{node.place}: tensor {name!r} is defined twice; rename one of the two"
                    )
                defined.add(name)
        for result in self.outputs:
            if result.tensor not in defined:
                raise InputError(
                    f"output {result.name!r}: tensor {result.tensor!r} is defined nowhere; "
                    "connect it to a node"
                )
        for name in sorted(defined - set(self.constants) - {""}):
            if name not in self.types or min(self.types[name].shape, default=1) < 1:
                raise InputError(
                    f"tensor {name!r}: every tensor needs a concrete, positive shape, but has "
                    f"{self.types.get(name, 'none')}; bind its dynamic dimensions"
                )

    @cached_property
    def consumers(self) -> Mapping[str, list[Node]]:
        """Nodes that read each tensor; a tensor read by none is absent."""
        table: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    table.setdefault(name, []).append(node)
        return table

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that writes each tensor; inputs and constants are absent."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def to_onnx(self, observe: Iterable[str] = ()) -> onnx.ModelProto:
        """This graph as an ONNX model.

        `observe` adds tensors, under their own names, to the model's outputs.
        """
        outputs = {result.name: result.tensor for result in self.outputs}
        produced = self.producers
        nodes = [onnx_node(node) for node in self.nodes]
        for name, tensor in outputs.items():
            if name != tensor:
                nodes.append(helper.make_node("Identity", [tensor], [name]))
        seen = {name: outputs[name] for name in outputs}
        for tensor in observe:
            if tensor in seen:
                continue
            if tensor not in produced and tensor not in self.inputs:
                raise InputError(f"tensor {tensor!r} cannot be observed: no node produces it")
            if tensor not in self.inputs:
                seen[tensor] = tensor
        return wrap_nodes(
            name=self.name,
            opset=self.opset,
            nodes=nodes,
            inputs={name: self.types[name] for name in self.inputs},
            outputs={name: self.types[tensor] for name, tensor in seen.items()},
            constants=self.constants,
        )

    def text(self, arrays: Arrays | None = None) -> str:
        """The graph as text, which `levels.graph.read_graph` reads; `arrays` takes up the larger
        constants, to which the text refers by digest."""
        printer, array = Printer(arrays), form_of(np.ndarray)
        lines = [f"graph {quote(self.name)} opset={self.opset} {{"]
        lines += [f"  input {reference(name)} : {self.types[name]}" for name in self.inputs]
        for name, value in self.constants.items():
            lines.append(f"  const {reference(name)} = {array.show(value, printer)}")
        for node in self.nodes:
            types = ", ".join(str(self.types[name]) for name in node.outputs if name)
            lines.append(wrapped([*node.text_parts(printer), f": {types}" if types else ""]))
        for result in self.outputs:
            lines.append(f"  output {quote(result.name)} = {reference(result.tensor)}")
        return "\n".join([*lines, "}"])

    def __str__(self) -> str:
        return self.text()


def onnx_node(node: Node) -> onnx.NodeProto:
    """`node` in ONNX's own form."""
    return helper.make_node(
        node.op, list(node.inputs), list(node.outputs), name=node.name, **dict(node.attributes)
    )


def wrap_nodes(
    *,
    name: str,
    opset: int,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    """An ONNX model of `nodes`; of `constants`, it holds those that are read or put out.

    Operators that came after operator set `opset` are written out by older ones.
    """
    nodes = [part for node in nodes for part in written_out(node, opset)]
    read = {used for node in nodes for used in node.input} | set(outputs)
    graph = helper.make_graph(
        nodes,
        name or "graph",
        [_value_info(key, kind) for key, kind in inputs.items()],
        [_value_info(key, kind) for key, kind in outputs.items()],
        [numpy_helper.from_array(value, key) for key, value in constants.items() if key in read],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="systol"
    )
    model.ir_version = 8 if opset < 19 else 10
    return model


def _value_info(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
    return helper.make_tensor_value_info(name, element, list(kind.shape))


def dtype_name(element: int) -> str:
    """numpy's name of an ONNX element type; ONNX's own name where numpy has none."""
    if element == TensorProto.STRING:
        return "string"
    try:
        return str(helper.tensor_dtype_to_np_dtype(element).name)
    except (KeyError, ValueError, TypeError):
        return f"element type {element}"
