"""Exports a quantized graph as an ONNX model in QDQ form, for other runtimes and for checking.

Ref: ONNX operators QuantizeLinear and DequantizeLinear, version 13.
"""

from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from systol_compiler.fusion import TO_NCHW, TO_NHWC
from systol_compiler.graph.float_graph import Array, TensorType, wrap_nodes
from systol_compiler.old_quantized import (
    DequantizeOutput,
    HostSegment,
    QConv2D,
    QLinear,
    QMaxPool,
    QTensor,
    QuantizedGraph,
)

_OPSET = 17
"""Least operator set of an export; host segments of newer models raise it to their own."""


def export_qdq(graph: QuantizedGraph) -> onnx.ModelProto:
    """`graph` as an ONNX model with the same inputs and outputs.

    Products appear as DequantizeLinear -> Conv or Gemm -> QuantizeLinear, with int8 weights and
    int32 biases; their requantization is then ONNX's float formula, which may differ from the
    machine's fixed point by one step on rare elements. A clip that is narrower than int8 appears
    as Clip before QuantizeLinear. Host segments are inlined.

    Images are NCHW inside, as ONNX wants them.
    """
    return _Exporter(graph).export()


class _Exporter:
    def __init__(self, graph: QuantizedGraph) -> None:
        self._graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._numbers = count()
        # Dequantized float form of each int8 tensor, NCHW, and its int8 form, also NCHW.
        self._real: dict[str, str] = {}
        self._stored: dict[str, str] = {}

    def export(self) -> onnx.ModelProto:
        graph = self._graph
        for entry in graph.inputs:
            tensor = graph.tensors[entry.tensor]
            value = self._reshape(entry.name, _nchw_shape(tensor))
            self._quantize(value, tensor)
        outputs: dict[str, TensorType] = {}
        segments: list[HostSegment] = []
        for layer in graph.layers:
            if isinstance(layer, QConv2D):
                self._product(layer, "Conv", layer.weights.transpose(0, 3, 1, 2))
            elif isinstance(layer, QLinear):
                self._product(layer, "Gemm", _source_order(layer, graph.tensors[layer.input]))
            elif isinstance(layer, QMaxPool):
                self._pool(layer)
            else:
                segments.append(layer)
        for result in graph.outputs:
            if isinstance(result, DequantizeOutput):
                # Both permutations end in the source's order, so a reshape is all that is left.
                self._dequantize(result.tensor, result.source_shape, output=result.name)
                kind = TensorType(dtype="float32", shape=result.source_shape)
            else:
                kind = TensorType(dtype=result.dtype, shape=result.source_shape)
            outputs[result.name] = kind
        for segment in segments:
            self._inline(segment)
        model = wrap_nodes(
            name=graph.name,
            opset=max([_OPSET, *(_opset(segment) for segment in segments)]),
            nodes=self._nodes,
            inputs={
                entry.name: TensorType(dtype="float32", shape=entry.source_shape)
                for entry in graph.inputs
            },
            outputs=outputs,
            constants=self._constants,
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _emit(
        self, op: str, inputs: list[str], *, output: str | None = None, **attributes: Any
    ) -> str:
        result = output or self._fresh(op)
        self._nodes.append(
            helper.make_node(op, inputs, [result], name=f"{op}.{result}", **attributes)
        )
        return result

    def _fresh(self, stem: str) -> str:
        return f"qdq.{stem}.{next(self._numbers)}"

    def _constant(self, stem: str, value: Array) -> str:
        name = self._fresh(stem)
        self._constants[name] = np.ascontiguousarray(value) if value.ndim else value
        return name

    def _reshape(self, value: str, shape: tuple[int, ...]) -> str:
        return self._emit(
            "Reshape", [value, self._constant("shape", np.array(shape, dtype=np.int64))]
        )

    def _numbers_of(self, tensor: QTensor) -> list[str]:
        return [
            self._constant("scale", np.array(tensor.scale, dtype=np.float32)),
            self._constant("zero_point", np.array(tensor.zero_point, dtype=np.int8)),
        ]

    def _quantize(self, value: str, tensor: QTensor) -> None:
        numbers = self._numbers_of(tensor)
        stored = self._emit("QuantizeLinear", [value, *numbers])
        self._stored[tensor.name] = stored
        self._real[tensor.name] = self._emit("DequantizeLinear", [stored, *numbers])

    def _dequantize(self, name: str, shape: tuple[int, ...], *, output: str | None = None) -> str:
        """A tensor's real value in another shape.

        The reshape comes first: ONNX Runtime 1.32 moves a DequantizeLinear through a reshape
        behind it, and from operator set 21 on gives what it inserts the wrong type.
        """
        stored = self._reshape(self._stored[name], shape)
        numbers = self._numbers_of(self._graph.tensors[name])
        return self._emit("DequantizeLinear", [stored, *numbers], output=output)

    def _product(self, layer: QConv2D | QLinear, op: str, weights: Array) -> None:
        source, target = (self._graph.tensors[name] for name in (layer.input, layer.output))
        sums = layer.weights.reshape(layer.out_channels, -1).sum(axis=1, dtype=np.int64)
        bias = (layer.bias + layer.zp_in * sums).astype(np.int32)
        units = (np.float64(source.scale) * layer.weight_scales).astype(np.float32)
        operands = [
            self._per_channel("weights", weights, layer.weight_scales),
            self._per_channel("bias", bias, units),
        ]
        value = self._real[source.name]
        if isinstance(layer, QConv2D):
            value = self._emit(
                op,
                [value, *operands],
                kernel_shape=list(layer.kernel),
                strides=list(layer.strides),
                pads=list(layer.pads),
                dilations=list(layer.dilations),
                group=layer.groups,
            )
        else:
            if len(source.shape) == 4:
                value = self._dequantize(source.name, (source.shape[0], source.features))
            value = self._emit(op, [value, *operands], transB=1)
        if (layer.lo, layer.hi) != (-128, 127):
            least, greatest = (
                np.array((limit - target.zero_point) * np.float32(target.scale), dtype=np.float32)
                for limit in (layer.lo, layer.hi)
            )
            value = self._emit(
                "Clip",
                [value, self._constant("least", least), self._constant("greatest", greatest)],
            )
        self._quantize(value, target)

    def _per_channel(self, stem: str, values: Array, scales: Array) -> str:
        zeros = np.zeros(scales.shape, dtype=values.dtype)
        return self._emit(
            "DequantizeLinear",
            [
                self._constant(stem, values),
                self._constant(f"{stem}.scale", scales),
                self._constant(f"{stem}.zero_point", zeros),
            ],
            axis=0,
        )

    def _pool(self, layer: QMaxPool) -> None:
        target = self._graph.tensors[layer.output]
        value = self._emit(
            "MaxPool",
            [self._real[layer.input]],
            kernel_shape=list(layer.kernel),
            strides=list(layer.strides),
            pads=list(layer.pads),
            dilations=list(layer.dilations),
        )
        self._quantize(value, target)

    def _inline(self, segment: HostSegment) -> None:
        """Append a segment's nodes, its inner names prefixed and its inputs fed in NHWC."""
        inner = onnx.load_model_from_string(segment.model).graph
        prefix = self._fresh(segment.name) + "."
        renamed = compose.add_prefix_graph(inner, prefix)
        outer = {prefix + value.name: value.name for value in segment.outputs}
        for name in segment.inputs:
            tensor = self._graph.tensors[name]
            stored = self._stored[name]
            if len(tensor.shape) == 4:
                stored = self._emit("Transpose", [stored], perm=list(TO_NHWC))
            outer[prefix + name] = stored
        for tensor_proto in renamed.initializer:
            self._constants[tensor_proto.name] = numpy_helper.to_array(tensor_proto)
        for node in renamed.node:
            for names in (node.input, node.output):
                mapped = [outer.get(name, name) for name in names]
                del names[:]
                names.extend(mapped)
            self._nodes.append(node)


def _opset(segment: HostSegment) -> int:
    model = onnx.load_model_from_string(segment.model)
    return max(int(entry.version) for entry in model.opset_import)


def _nchw_shape(tensor: QTensor) -> tuple[int, ...]:
    if len(tensor.shape) == 4:
        return tuple(tensor.shape[axis] for axis in TO_NCHW)
    return tensor.shape


def _source_order(layer: QLinear, source: QTensor) -> Array:
    """Weights in the order of an NCHW image, flattened; the inverse of the quantizer's order."""
    if len(source.shape) != 4:
        return layer.weights
    _, height, width, channels = source.shape
    unfolded = layer.weights.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return unfolded.reshape(layer.weights.shape)
