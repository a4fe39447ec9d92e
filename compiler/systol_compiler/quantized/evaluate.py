"""Runs a quantized graph: machine layers in exact integers, host layers in ONNX Runtime."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from systol_compiler.graph.host_session import HostSession
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.layer import Layer
from systol_hw.errors import InputError

Inputs = Mapping[str, npt.ArrayLike]


class Evaluator:
    """Runs one graph many times; sessions of host layers are made at first use."""

    def __init__(self, graph: QuantizedGraph) -> None:
        self.graph = graph
        self._sessions: dict[str, HostSession] = {}
        self._last: dict[int, list[str]] = {}
        seen: dict[str, int] = {}
        for index, layer in enumerate(graph.layers):
            for name in (*layer.inputs, *layer.outputs):
                seen[_key(layer, name, graph)] = index
        kept = {_output_key(output.tensor, graph) for output in graph.outputs}
        for name, index in seen.items():
            if name not in kept:
                self._last.setdefault(index, []).append(name)

    def run(self, inputs: Inputs) -> dict[str, Array]:
        """The model's outputs, by name, in the model's own types and shapes.

        Raises
        ------
        InputError
            An input is missing, of the wrong type or shape, or contains NaN.
        """
        real = check_inputs(self.graph, inputs)
        quantized: dict[str, Array] = {}
        for index, _ in enumerate(self._steps(real, quantized)):
            for name in self._last.get(index, ()):
                quantized.pop(name, None)
        return {
            output.name: self._real(output.tensor, real, quantized)
            for output in self.graph.outputs
        }

    def run_layers(self, inputs: Inputs) -> tuple[dict[str, Array], dict[str, Array]]:
        """All quantized tensors by name, constants left out, and all real ones at borders."""
        real = check_inputs(self.graph, inputs)
        quantized: dict[str, Array] = {}
        for _ in self._steps(real, quantized):
            pass
        for output in self.graph.outputs:
            real[output.tensor] = self._real(output.tensor, real, quantized)
        return quantized, real

    def layer_results(
        self, inputs: Inputs
    ) -> Iterator[tuple[Layer | HostLayer, dict[str, Array]]]:
        """Each layer with the tensors that it gives, in order; what is past its use is dropped."""
        real = check_inputs(self.graph, inputs)
        quantized: dict[str, Array] = {}
        for index, layer in enumerate(self._steps(real, quantized)):
            values = real if isinstance(layer, HostLayer) else quantized
            yield layer, {name: values[name] for name in layer.outputs}
            for name in self._last.get(index, ()):
                quantized.pop(name, None)

    def _steps(
        self, real: dict[str, Array], quantized: dict[str, Array]
    ) -> Iterator[Layer | HostLayer]:
        """Add each layer's results to the tensors that it belongs to."""
        graph = self.graph
        for layer in graph.layers:
            if isinstance(layer, HostLayer):
                for name in layer.inputs:
                    real[name] = self._real(name, real, quantized)
                results = self._session(layer).run(
                    layer.outputs, {name: real[name] for name in layer.inputs}
                )
                real.update(zip(layer.outputs, results, strict=True))
            else:
                operands = [self._quantized(name, real, quantized) for name in layer.inputs]
                results = layer.evaluate(operands, graph.tensors)
                quantized.update(zip(layer.outputs, results, strict=True))
            yield layer

    def _session(self, layer: HostLayer) -> HostSession:
        if layer.name not in self._sessions:
            self._sessions[layer.name] = HostSession(
                layer.model, f"host layer {layer.name!r}", rewrite=False
            )
        return self._sessions[layer.name]

    def _real(
        self, name: str, real: Mapping[str, Array], quantized: Mapping[str, Array]
    ) -> Array:
        if name in real:
            return real[name]
        tensor = self.graph.by_source[name]
        return dequantize(quantized[tensor.name], tensor.scale, tensor.zero_point)

    def _quantized(
        self, name: str, real: Mapping[str, Array], quantized: dict[str, Array]
    ) -> Array:
        if name in self.graph.constants:
            return self.graph.constants[name]
        if name not in quantized:
            tensor = self.graph.tensors[name]
            quantized[name] = quantize(
                real[tensor.source], tensor.scale, tensor.zero_point, tensor.width
            )
        return quantized[name]


def evaluate(graph: QuantizedGraph, inputs: Inputs) -> dict[str, Array]:
    """The model's outputs, by name, for inputs of the model's own types and shapes.

    Raises
    ------
    InputError
        An input is missing, of the wrong type or shape, or contains NaN.
    """
    return Evaluator(graph).run(inputs)


def run_layers(
    graph: QuantizedGraph, inputs: Inputs
) -> tuple[dict[str, Array], dict[str, Array]]:
    """All quantized tensors by name, constants left out, and all real ones at borders."""
    return Evaluator(graph).run_layers(inputs)


def check_inputs(graph: QuantizedGraph, inputs: Inputs) -> dict[str, npt.NDArray[Any]]:
    """`inputs` as arrays of the model's own types and shapes.

    Raises
    ------
    InputError
        An input is missing, or of the wrong type or shape.
    """
    if set(inputs) != set(graph.inputs):
        raise InputError(
            f"inputs are named {sorted(inputs)}, but the model's are {sorted(graph.inputs)}; "
            "name every input once"
        )
    values: dict[str, npt.NDArray[Any]] = {}
    for name in graph.inputs:
        kind, value = graph.real[name], np.asarray(inputs[name])
        if value.shape != kind.shape:
            raise InputError(
                f"input {name!r}: the shape must be {list(kind.shape)}, but is "
                f"{list(value.shape)}; reshape the data, or compile for another batch"
            )
        if kind.dtype != "string":
            wanted = np.dtype(kind.dtype)
            if not np.can_cast(value.dtype, wanted, "same_kind"):
                raise InputError(
                    f"input {name!r}: values must be {wanted}, but are {value.dtype}; convert them"
                )
            value = value.astype(wanted, copy=False)
        values[name] = value
    return values


def _key(layer: Layer | HostLayer, name: str, graph: QuantizedGraph) -> str:
    """The quantized tensor that holds what `layer` calls `name`, or `name`."""
    return _output_key(name, graph) if isinstance(layer, HostLayer) else name


def _output_key(real: str, graph: QuantizedGraph) -> str:
    tensor = graph.by_source.get(real)
    return real if tensor is None else tensor.name
