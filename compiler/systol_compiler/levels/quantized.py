"""Reads the quantized graph's text."""

from collections.abc import Mapping

import numpy as np

from systol_compiler.graph.float_graph import GraphOutput, TensorType
from systol_compiler.levels.graph import read_output, read_typed
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.layer import HEAD_FIELDS, Layer
from systol_compiler.quantized.operator import layer_kinds
from systol_compiler.text.array_form import dimensions
from systol_compiler.text.arrays import Bytes
from systol_compiler.text.form import Reader
from systol_compiler.text.forms import form_of, made, read_fields
from systol_compiler.text.statement import read_head
from systol_hw.errors import InputError, SystolError

_WIDTHS = {"i8": 8, "i16": 16}


def read_quantized(text: str, arrays: Mapping[str, Bytes] | None = None) -> QuantizedGraph:
    """The graph of a text that `QuantizedGraph.text` gives; it is verified.

    `arrays` holds what the text refers to by digest.

    Raises
    ------
    InputError
        The text is none of a quantized graph, with line and column; or the graph breaks a rule.
    UnsupportedModelError
        The machine cannot hold one of a layer's figures.
    """
    reader = Reader(text, arrays)
    reader.expect("quantized")
    name = reader.string()
    draft = _Draft(reader)
    reader.last_block(draft.statement)
    graph = QuantizedGraph(
        name=name, inputs=tuple(draft.inputs), outputs=tuple(draft.outputs), real=draft.real,
        tensors=draft.tensors, constants=draft.constants, layers=tuple(draft.layers),
        notes=tuple(draft.notes),
    )
    _verify(graph)
    return graph


def _verify(graph: QuantizedGraph) -> None:
    try:
        graph.verify()
    except SystolError:
        raise
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        # Layers check what their builders could get wrong; a text can be wrong in any other way.
        raise InputError(
            f"quantized graph {graph.name!r}: the figures of its layers and tensors do not fit "
            f"each other ({type(error).__name__}: {error}); compare with the text of a graph that "
            "was compiled"
        ) from error


class _Draft:
    """The parts of a graph that were read so far."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.inputs: list[str] = []
        self.outputs: list[GraphOutput] = []
        self.real: dict[str, TensorType] = {}
        self.tensors: dict[str, QTensor] = {}
        self.constants: dict[str, Array] = {}
        self.layers: list[Layer | HostLayer] = []
        self.notes: list[str] = []

    def statement(self) -> None:
        reader = self.reader
        if reader.accept("note"):
            self.notes.append(reader.string())
        elif reader.at("input") or reader.at("real"):
            given = reader.word() == "input"
            token, (name, kind) = reader.here, read_typed(reader)
            if name in self.real:
                raise reader.error("this tensor is described twice", token)
            self.real[name] = kind
            if given:
                self.inputs.append(name)
        elif reader.accept("tensor"):
            self._tensor(self._name())
        elif reader.accept("const"):
            tensor = self._tensor(self._name())
            reader.expect("=")
            token, value = reader.here, form_of(np.ndarray).read(reader)
            if value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise reader.error(f"{tensor} does not hold", token)
            self.constants[tensor.name] = value
        elif reader.accept("output"):
            self.outputs.append(read_output(reader))
        else:
            self._layer()

    def _name(self) -> str:
        name = self.reader.tensor()
        self.reader.expect(":")
        return name

    def _tensor(self, name: str) -> QTensor:
        """A tensor whose width and shape are next."""
        reader = self.reader
        token = reader.of_kind("type", "a type such as i8[2x3],")
        width, _, dims = token.text.removesuffix("]").partition("[")
        if width not in _WIDTHS:
            raise reader.error(f"quantized tensors are of {' or '.join(_WIDTHS)}, not", token)
        if name in self.tensors:
            raise reader.error(f"tensor {name!r} is described twice, the second time as", token)
        shape = dimensions(reader, token, dims)
        if 0 in shape:
            raise reader.error("dimensions are positive, unlike those of", token)
        values = read_fields(reader, QTensor, ("name", "shape", "width", "source"))
        source = reader.tensor() if reader.accept("of") else ""
        values |= {"name": name, "shape": shape, "width": _WIDTHS[width], "source": source}
        tensor = made(reader, token, QTensor, values)
        assert isinstance(tensor, QTensor)
        low, high = tensor.bounds
        if not (0 < tensor.scale < np.inf) or not low <= tensor.zero_point <= high:
            raise reader.error(
                f"a scale is positive and finite, and a zero point lies in {low}..{high}, unlike "
                f"scale {tensor.scale!r} and zero point {tensor.zero_point} of", token,
            )
        self.tensors[name] = tensor
        return tensor

    def _layer(self) -> None:
        reader = self.reader
        head = read_head(reader)
        given = {
            "name": head.name, "inputs": head.operands, "outputs": head.results,
            "source_nodes": head.sources,
        }
        kinds: Mapping[str, type] = {"host": HostLayer, **layer_kinds()}
        kind = kinds.get(head.word)
        if kind is None:
            raise reader.error(f"layers are {', '.join(sorted(kinds))}, not", head.token)
        values = read_fields(reader, kind, HEAD_FIELDS) | given
        layer = made(reader, head.token, kind, values)
        self.layers.append(layer)
        if isinstance(layer, HostLayer):
            return
        reader.expect(":")
        for place, name in enumerate(head.results):
            if place:
                reader.expect(",")
            self._tensor(name)
