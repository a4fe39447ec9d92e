"""Quantized layers as an ONNX model in QDQ form, for other runtimes, for checking, and to simulate.

Ref: ONNX operators QuantizeLinear and DequantizeLinear, version 21 (the first with 16 bits).
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from systol_compiler.graph.float_graph import OPSET, Array, TensorType, wrap_nodes
from systol_compiler.graph.host_session import HostSession, declare_large
from systol_compiler.numbers.limits import INT16_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.host import HostLayer
from systol_hw.errors import UnsupportedModelError

_PREFIX: Final = "qdq"


def export_qdq(graph: QuantizedGraph) -> onnx.ModelProto:
    """`graph` as an ONNX model with the same inputs and outputs.

    Layers appear as float operators between DequantizeLinear and QuantizeLinear, with int8 weights
    and int32 biases; their requantization is then ONNX's float formula, which may differ from the
    machine's fixed point by one step on rare elements. Host layers are inlined.

    ONNX Runtime 1.32 replaces such patterns by integer kernels of its own unless
    "session.disable_quant_qdq" is set; those round in yet another way.
    """
    model = QdqModel(graph.tensors, graph.constants, graph.real)
    for name in graph.inputs:
        model.add_input(name)
    for layer in graph.layers:
        if isinstance(layer, HostLayer):
            model.inline(layer, {name: _real(model, graph, name) for name in layer.inputs})
        else:
            for name in layer.inputs:
                source = graph.tensors[name].source
                if not model.holds(name):
                    model.result(name, model.real_value(source))
            layer.export(model)
    outputs = {}
    for output in graph.outputs:
        model.rename(_real(model, graph, output.tensor), output.name)
        outputs[output.name] = graph.real[output.tensor]
    result = model.finish(graph.name, outputs)
    onnx.checker.check_model(result, full_check=True)
    return result


def _real(model: "QdqModel", graph: QuantizedGraph, name: str) -> str:
    """The value of a real tensor, dequantized where the machine gives it."""
    if model.has_real(name):
        return model.real_value(name)
    return model.real(graph.by_source[name].name)


class QdqModel:
    """Collects nodes: the `QdqExporter` that layers write themselves to.

    Parameters
    ----------
    tensors
        Quantized tensors that layers name.
    constants
        Codes of those that are constant.
    types
        Types of the real tensors that are inputs.
    """

    def __init__(
        self,
        tensors: Mapping[str, QTensor],
        constants: Mapping[str, Array],
        types: Mapping[str, TensorType],
    ) -> None:
        self._tensors = tensors
        self._codes = constants
        self._types = types
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, Array] = {}
        self._numbers = count()
        self._inputs: dict[str, TensorType] = {}
        self._stored: dict[str, str] = {}
        """int8 or int16 value of each quantized tensor."""
        self._dequantized: dict[str, str] = {}
        self._given: dict[str, str] = {}
        """Value of each real tensor."""
        self.before: dict[str, str] = {}
        """float32 value that each quantized tensor was made from, before any clip."""
        self.limits: dict[str, tuple[int, int]] = {}
        """Least and greatest code that each quantized tensor was clipped to."""

    def add_input(self, name: str) -> None:
        """Let the user give the real tensor `name`."""
        self._inputs[name] = self._types[name]
        self._given[name] = name

    def add_codes(self, tensor: str) -> str:
        """Let the user give the quantized tensor `tensor` as integers; the input's name."""
        kind = self._tensors[tensor]
        name = self._fresh("codes")
        self._inputs[name] = TensorType(dtype=str(kind.dtype), shape=kind.shape)
        self._stored[tensor] = name
        return name

    def holds(self, tensor: str) -> bool:
        """Whether a quantized tensor has a value."""
        return tensor in self._stored or tensor in self._codes

    def has_real(self, name: str) -> bool:
        """Whether a real tensor is given by the user or a host layer."""
        return name in self._given

    def real_value(self, name: str) -> str:
        """The value of a real tensor that is given."""
        return self._given[name]

    def stored(self, tensor: str) -> str:
        """The integers of a quantized tensor."""
        return self._stored[tensor]

    def tensor(self, name: str) -> QTensor:
        """As `QdqExporter.tensor`."""
        return self._tensors[name]

    def real(self, tensor: str) -> str:
        """As `QdqExporter.real`."""
        if tensor not in self._dequantized:
            if tensor not in self._stored:
                self._stored[tensor] = self.constant(self._codes[tensor])
            (self._dequantized[tensor],) = self.node(
                "DequantizeLinear", [self._stored[tensor], *self._scale_of(tensor)]
            )
        return self._dequantized[tensor]

    def weights(self, name: str, codes: Array, scales: Array, axis: int) -> str:
        """As `QdqExporter.weights`."""
        scale = self.constant(np.asarray(scales, np.float32))
        value = self._initializer(name, codes)
        (result,) = self.node("DequantizeLinear", [value, scale], axis=axis)
        return result

    def constant(self, values: Array) -> str:
        """As `QdqExporter.constant`."""
        return self._initializer("constant", values)

    def node(
        self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """As `QdqExporter.node`."""
        results = [self._fresh(op) for _ in range(outputs)]
        self._nodes.append(
            helper.make_node(op, list(inputs), results, name=results[0], **attributes)
        )
        return results

    def result(
        self, tensor: str, value: str, lo: int | None = None, hi: int | None = None
    ) -> None:
        """As `QdqExporter.result`."""
        kind = self._tensors[tensor]
        self.before[tensor] = value
        low, high = kind.bounds
        lo, hi = low if lo is None else lo, high if hi is None else hi
        self.limits[tensor] = lo, hi
        # QuantizeLinear saturates at the type's own bounds, and those of 16 bits lie further out.
        if (lo, hi) != (low, high) or high == INT16_LIMIT:
            bounds = [
                self.constant(
                    np.array(np.float32(code - kind.zero_point) * np.float32(kind.scale))
                )
                for code in (lo, hi)
            ]
            (value,) = self.node("Clip", [value, *bounds])
        (self._stored[tensor],) = self.node("QuantizeLinear", [value, *self._scale_of(tensor)])
        self._dequantized.pop(tensor, None)

    def inline(self, layer: HostLayer, operands: Mapping[str, str]) -> None:
        """Append a host layer's nodes, its inner names prefixed.

        Raises
        ------
        UnsupportedModelError
            The layer is of another operator set than `OPSET`.
        """
        model = onnx.load_model_from_string(layer.model)
        versions = {entry.version for entry in model.opset_import if not entry.domain}
        if versions != {OPSET}:
            raise UnsupportedModelError(
                f"host layer {layer.name!r}: QDQ export joins models of operator set {OPSET}, but "
                f"it has {sorted(versions)}; import the source again"
            )
        prefix = self._fresh("host") + "."
        inner = compose.add_prefix_graph(model.graph, prefix)
        outer = {prefix + name: value for name, value in operands.items()}
        for tensor in inner.initializer:
            self._initializers[tensor.name] = numpy_helper.to_array(tensor)
        for node in inner.node:
            for names in (node.input, node.output):
                mapped = [outer.get(name, name) for name in names]
                del names[:]
                names.extend(mapped)
            self._nodes.append(node)
        for name in layer.outputs:
            self._given[name] = prefix + name

    def rename(self, value: str, name: str) -> None:
        """Give `value` the name `name`, which the user sees, by an Identity."""
        if value != name:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"out.{name}"))

    def finish(self, name: str, outputs: Mapping[str, TensorType]) -> onnx.ModelProto:
        """The model with the values `outputs`."""
        return wrap_nodes(
            name=name, opset=OPSET, nodes=self._nodes, inputs=self._inputs, outputs=outputs,
            constants=self._initializers,
        )

    def session(self, place: str, outputs: Mapping[str, TensorType]) -> HostSession:
        """A session of the model, whose large constants are used where they lie."""
        model = wrap_nodes(
            name=place, opset=OPSET, nodes=self._nodes, inputs=self._inputs, outputs=outputs,
            constants={},
        )
        large = declare_large(model, self._initializers)
        return HostSession(model.SerializeToString(), place, initializers=large)

    def _scale_of(self, tensor: str) -> list[str]:
        kind = self._tensors[tensor]
        return [
            self.constant(np.array(kind.scale, np.float32)),
            self.constant(np.array(kind.zero_point, kind.dtype)),
        ]

    def _initializer(self, stem: str, values: Array) -> str:
        name = self._fresh(stem)
        self._initializers[name] = values
        return name

    def _fresh(self, stem: str) -> str:
        return f"{_PREFIX}.{stem}.{next(self._numbers)}"
