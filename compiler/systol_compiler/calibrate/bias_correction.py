"""Measures, layer by layer, what quantization adds to each channel's mean, for biases to take off.

Ref: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.2 and appendix D (empirical correction): the quantized layer reads the quantized
layers before it, which have been corrected, and is compared with the float model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
import numpy.typing as npt

from systol_compiler.calibrate.float_model import ChannelMean, FloatModel
from systol_compiler.calibrate.inputs.samples import Samples
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.qdq_export import QdqModel
from systol_compiler.graph.float_graph import Array, Graph, Node, TensorType
from systol_compiler.graph.host_session import HostSession
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_compiler.numbers.limits import ACCUMULATOR_LIMIT
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, MachineNode
from systol_compiler.quantized.fuse import inner_result
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.layer import Layer, Tensors
from systol_compiler.quantized.operator import Operator
from systol_compiler.quantized.placement.node_cost import node_macs
from systol_compiler.quantized.placement.partition import Partition, Unit
from systol_compiler.quantized.product import Product
from systol_hw.errors import UnsupportedModelError

Float64Array = npt.NDArray[np.float64]

_HELD_BYTES: Final = 1 << 27
"""Of one tensor, over all samples, in float32; larger tensors lessen the samples."""


class BiasCorrector:
    """Runs layers as they are built, on a few samples, and corrects the biases of products.

    Layers run as float operators between quantizations (`QdqModel`), which is a step off the
    machine's integers on rare elements and much faster. Of tensors only those are kept that a
    later layer reads.
    """

    def __init__(
        self,
        parts: Partition,
        operators: Mapping[str, Operator],
        samples: Samples,
        options: QuantizationOptions,
    ) -> None:
        self._graph = parts.graph
        largest = max(4 * prod(kind.shape) for kind in parts.graph.types.values())
        most = max(1, _HELD_BYTES // largest)
        self._runs = samples.kept(options.correction_samples)[:most]
        self._means = {
            unit.output: _channel_mean(unit, operators, parts.graph)
            for unit in parts.machine
            if _has_bias(unit, parts.graph)
        }
        self._wanted = self._float_means()
        self._last = _last_steps(parts, operators)
        self._step = 0
        self._codes: list[dict[str, Array]] = [{} for _ in self._runs]
        self._real: list[dict[str, Array]] = [dict(feeds) for feeds, _ in self._runs]

    def _float_means(self) -> dict[str, Float64Array]:
        """By output: the float model's channel means, [samples, channels]."""
        if not self._means:
            return {}
        model = FloatModel(self._graph, (), tuple(dict.fromkeys(self._means.values())))
        found: dict[str, list[Array]] = {name: [] for name in self._means}
        for feeds, rows in self._runs:
            values = model.run(feeds)
            for name, mean in self._means.items():
                found[name].append(self._counted(values[mean.name], rows))
        return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}

    def _counted(self, value: Array, rows: int) -> Array:
        """`value` without the rows that only fill up a batch, where its rows are samples."""
        batch = self._graph.types[self._graph.inputs[0]].shape[:1]
        return value[:rows] if value.shape[:1] == batch else value

    def run_host(self, layer: HostLayer, builder: LayerBuilder) -> None:
        """Run a host layer on the quantized network's values."""
        session = HostSession(layer.model, f"host layer {layer.name!r}")
        for real, codes in zip(self._real, self._codes, strict=True):
            operands = {}
            for name in layer.inputs:
                if name not in real:
                    tensor = builder.tensors[name]
                    value = dequantize(codes[name], tensor.scale, tensor.zero_point)
                else:
                    value = real[name]
                operands[name] = value
            real.update(zip(layer.outputs, session.run(layer.outputs, operands), strict=True))
        self._forget()

    def run_unit(
        self, unit: MachineNode, layers: Sequence[Layer], builder: LayerBuilder
    ) -> list[Layer]:
        """Run a unit's layers; the same layers, with a corrected bias where there is one."""
        result = list(layers)
        tensors, constants = builder.tensors, builder.constants
        written = dict.fromkeys(name for layer in layers for name in layer.outputs)
        inputs = dict.fromkeys(
            name
            for layer in layers
            for name in layer.inputs
            if name not in written and name not in constants
        )
        model = QdqModel(tensors, constants, {})
        feeds = {name: model.add_codes(name) for name in inputs}
        for layer in layers:
            layer.export(model)
        results = {
            name: model.stored(name) for name in written if tensors[name].source in self._last
        }
        outputs = {value: _stored_type(tensors[name]) for name, value in results.items()}
        wanted = self._wanted_of(unit, layers)
        before = model.before[unit.output]
        if wanted is not None:
            outputs.pop(results.pop(unit.output, ""), None)
            outputs[before] = TensorType(dtype="float32", shape=tensors[unit.output].shape)
        if outputs:
            session = model.session(unit.node.place, outputs)
            unclipped: list[Array] = []
            for index in range(len(self._runs)):
                operands = {
                    feeds[name]: self._operand(index, tensors[name]) for name in inputs
                }
                values = dict(zip(outputs, session.run(list(outputs), operands), strict=True))
                for name, value in results.items():
                    self._codes[index][name] = values[value]
                unclipped += [values[before]] if wanted is not None else []
            if wanted is not None:
                added = self._correct(
                    unit, tensors[unit.output], unclipped, wanted, model.limits[unit.output]
                )
                result = [_corrected(layer, unit.output, added, tensors) for layer in layers]
        self._forget()
        return result

    def _wanted_of(self, unit: MachineNode, layers: Sequence[Layer]) -> Float64Array | None:
        """The means that the unit's result should have, if its last layer has a bias."""
        last = next((layer for layer in layers if unit.output in layer.outputs), None)
        return self._wanted.get(unit.output) if isinstance(last, Product) else None

    def _correct(
        self,
        unit: MachineNode,
        tensor: QTensor,
        results: list[Array],
        wanted: Float64Array,
        limits: tuple[int, int],
    ) -> Float64Array:
        """What to add to each channel of a unit, whose quantized results follow from it."""
        axis = self._means[unit.output].axis
        others = tuple(each for each in range(1, len(tensor.shape)) if each != axis)
        means = [
            self._counted(value.mean(axis=others, dtype=np.float64), rows)
            for value, (_, rows) in zip(results, self._runs, strict=True)
        ]
        correction = -shrunken_mean(np.concatenate(means) - wanted)
        shape = [1] * len(tensor.shape)
        shape[axis] = -1
        added = correction.astype(np.float32).reshape(shape)
        for codes, value in zip(self._codes, results, strict=True):
            found = quantize(value + added, tensor.scale, tensor.zero_point, tensor.width)
            codes[tensor.name] = np.clip(found, *limits).astype(found.dtype, copy=False)
        return correction

    def _operand(self, index: int, tensor: QTensor) -> Array:
        codes = self._codes[index]
        if tensor.name not in codes:
            codes[tensor.name] = quantize(
                self._real[index][tensor.source], tensor.scale, tensor.zero_point, tensor.width
            )
        return codes[tensor.name]

    def _forget(self) -> None:
        """Drop what no later step reads."""
        for values in (*self._codes, *self._real):
            for name in [name for name in values if self._last.get(name, -1) <= self._step]:
                del values[name]
        self._step += 1


def _corrected(layer: Layer, output: str, added: Float64Array, tensors: Tensors) -> Layer:
    """`layer` with `added` (real units) in its bias, if it writes `output`; as it was if its
    accumulators then could overflow."""
    if not isinstance(layer, Product) or output not in layer.outputs:
        return layer
    step = np.float64(tensors[layer.inputs[0]].scale) * layer.scales.astype(np.float64)
    # Where a layer has several matrices, all have the same correction.
    bias = layer.bias.astype(np.float64) + np.rint(np.resize(added, step.shape) / step)
    if np.abs(bias).max() >= ACCUMULATOR_LIMIT:
        return layer
    changed = replace(layer, bias=bias.astype(np.int32))
    try:
        changed.verify(tensors)
    except UnsupportedModelError:
        return layer
    return changed


def shrunken_mean(errors: Float64Array) -> Float64Array:
    """The mean of `errors` [samples, channels] over samples, less what chance explains of it.

    Ref: James and Stein, Estimation with Quadratic Loss, 1961 (the positive part).
    """
    mean: Float64Array = errors.mean(axis=0)
    if len(errors) == 1:
        return mean
    spread = errors.var(axis=0, ddof=1) / len(errors)
    square = mean**2
    kept = np.maximum(1 - spread / np.where(square > 0, square, 1), 0)
    result: Float64Array = mean * kept
    return result


def _channel_mean(
    unit: MachineNode, operators: Mapping[str, Operator], graph: Graph
) -> ChannelMean:
    tensor = inner_result(unit, graph)
    rank = len(graph.types[tensor].shape)
    return ChannelMean(tensor=tensor, axis=operators[unit.node.op].channel_axis % rank)


def _has_bias(unit: MachineNode, graph: Graph) -> bool:
    """Whether a unit is a product with constant weights, over more than one axis."""
    weights = (graph.constants.get(name) for name in unit.node.inputs)
    return (
        node_macs(unit.node, graph) > 0
        and len(graph.types[unit.output].shape) > 1
        and any(value is not None and value.ndim > 1 for value in weights)
    )


def _last_steps(parts: Partition, operators: Mapping[str, Operator]) -> dict[str, int]:
    """The last step (unit, or whole host segment) that reads each float tensor.

    A layer may read what a move before its node reads (a product its unflattened operand), so
    what is moved is kept as long as the result.
    """
    steps: list[tuple[Unit, ...]] = []
    for segment in parts.segments:
        steps += [segment] if isinstance(segment[0], Node) else [(unit,) for unit in segment]
    last: dict[str, int] = {}
    for index, step in reversed(list(enumerate(steps))):
        for unit in step:
            moved = index
            if isinstance(unit, MachineNode) and operators[unit.node.op].moves:
                moved = max(index, last.get(unit.output, index))
            for name in _inputs(unit):
                if name:
                    last[name] = max(moved, last.get(name, moved))
    return last


def _inputs(unit: Unit) -> Iterable[str]:
    return unit.node.inputs if isinstance(unit, MachineNode) else unit.inputs


def _stored_type(tensor: QTensor) -> TensorType:
    return TensorType(dtype=str(tensor.dtype), shape=tensor.shape)
