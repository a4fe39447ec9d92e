"""Reads the float graph's text."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from systol_compiler.graph.float_graph import Array, Graph, GraphOutput, Node, TensorType
from systol_compiler.text.array_form import dimensions
from systol_compiler.text.arrays import Bytes
from systol_compiler.text.form import Reader
from systol_compiler.text.forms import form_of
from systol_compiler.text.statement import read_head

_STRING = "string"


def read_graph(text: str, arrays: Mapping[str, Bytes] | None = None) -> Graph:
    """The graph of a text that `Graph.text` gives; it is verified.

    `arrays` holds what the text refers to by digest. Attributes that are graphs themselves, as
    those of If and Loop, have no text.

    Raises
    ------
    InputError
        The text is none of a graph, with line and column; or the graph breaks a rule.
    """
    reader = Reader(text, arrays)
    reader.expect("graph")
    name = reader.string()
    reader.expect("opset")
    reader.expect("=")
    opset = reader.integer()
    draft = _Draft(reader)
    reader.last_block(draft.statement)
    graph = Graph(
        name=name, opset=opset, inputs=tuple(draft.inputs), outputs=tuple(draft.outputs),
        nodes=tuple(draft.nodes), constants=draft.constants, types=draft.types,
    )
    graph.verify()
    return graph


class _Draft:
    """The parts of a graph that were read so far."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.inputs: list[str] = []
        self.outputs: list[GraphOutput] = []
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.types: dict[str, TensorType] = {}

    def statement(self) -> None:
        reader = self.reader
        if reader.accept("input"):
            name, kind = read_typed(reader)
            self.inputs.append(name)
            self._define(name, kind)
        elif reader.accept("const"):
            name = reader.tensor()
            reader.expect("=")
            value = form_of(np.ndarray).read(reader)
            self.constants[name] = value
            dtype = _STRING if value.dtype == object else value.dtype.name
            self._define(name, TensorType(dtype=dtype, shape=value.shape))
        elif reader.accept("output"):
            self.outputs.append(read_output(reader))
        else:
            self._node()

    def _define(self, name: str, kind: TensorType) -> None:
        if name in self.types:
            raise self.reader.error(f"tensor {name!r} is described twice; behind it stands")
        self.types[name] = kind

    def _node(self) -> None:
        reader = self.reader
        head = read_head(reader)
        op = reader.string() if reader.accept("as") else ""
        attributes: dict[str, Any] = {}
        while reader.here.kind in ("word", "quoted") and reader.tokens.behind.text == "=":
            token = reader.here
            key = reader.string() if token.kind == "quoted" else reader.word()
            if key in attributes:
                raise reader.error("the node has this attribute once, not twice", token)
            reader.expect("=")
            attributes[key] = form_of(Any).read(reader)
        named = [name for name in head.results if name]
        if named:
            reader.expect(":")
        for place, name in enumerate(named):
            if place:
                reader.expect(",")
            self._define(name, read_type(reader))
        self.nodes.append(
            Node(
                name=head.name, op=head.word, inputs=head.operands, outputs=head.results,
                attributes=attributes, sources=head.sources, source_op=op,
            )
        )


def read_typed(reader: Reader) -> tuple[str, TensorType]:
    """A real tensor's name and type: `%x : float32[2x3]`."""
    name = reader.tensor()
    reader.expect(":")
    return name, read_type(reader)


def read_type(reader: Reader) -> TensorType:
    """A real tensor's type: `float32[2x3]`."""
    token = reader.of_kind("type", "a type such as float32[2x3],")
    dtype, _, dims = token.text.removesuffix("]").partition("[")
    return TensorType(dtype=dtype, shape=dimensions(reader, token, dims))


def read_output(reader: Reader) -> GraphOutput:
    """An output of the model, behind its word: `'y' = %tensor`."""
    name = reader.string()
    reader.expect("=")
    return GraphOutput(name=name, tensor=reader.tensor())
