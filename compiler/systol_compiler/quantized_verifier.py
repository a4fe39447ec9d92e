"""Checks every rule of the quantized graph that `systol_compiler.quantized` states."""

from collections.abc import Mapping
from math import isfinite, prod

import numpy as np
import onnx

from systol_compiler.arithmetic import prove_no_overflow
from systol_compiler.old_quantized import (
    INT8_MAX,
    INT8_MIN,
    MULTIPLIER_MAX,
    MULTIPLIER_MIN,
    SHIFT_MAX,
    DequantizeOutput,
    HostSegment,
    Layer,
    QConv2D,
    QLinear,
    QMaxPool,
    QTensor,
    QuantizedGraph,
    QuantizeInput,
    every_window_has_a_tap,
    window_output_size,
)
from systol_hw.errors import InputError


def verify(graph: QuantizedGraph) -> None:
    """Raise InputError or UnsupportedModelError at the first rule that `graph` breaks."""
    for key, tensor in graph.tensors.items():
        _verify_tensor(key, tensor)
    written: set[str] = set()
    for entry in graph.inputs:
        _verify_boundary(entry, graph.tensors)
        _define(entry.tensor, f"input {entry.name!r}", written, graph.tensors)
    host_outputs: set[str] = set()
    names: set[str] = set()
    for layer in graph.layers:
        _require(layer.name not in names, layer.name, "layer names must be unique")
        names.add(layer.name)
        for name in layer.inputs if isinstance(layer, HostSegment) else (layer.input,):
            _require(
                name in written, layer.name, f"reads tensor {name!r} before any layer writes it"
            )
        if isinstance(layer, HostSegment):
            _verify_host_segment(layer)
            host_outputs.update(value.name for value in layer.outputs)
            continue
        _require(not host_outputs, layer.name, "no machine layer may follow a host segment")
        _define(layer.output, layer.name, written, graph.tensors)
        _verify_layer(layer, graph.tensors[layer.input], graph.tensors[layer.output])
    _require(bool(graph.inputs), graph.name, "a graph needs at least one input")
    _require(bool(graph.outputs), graph.name, "a graph needs at least one output")
    _require(
        written == set(graph.tensors),
        graph.name,
        f"tensors {sorted(set(graph.tensors) - written)} are written by no layer",
    )
    for result in graph.outputs:
        if isinstance(result, DequantizeOutput):
            _require(
                result.tensor in written, result.name, f"output reads unknown {result.tensor!r}"
            )
            _verify_boundary(result, graph.tensors)
        else:
            _require(
                result.name in host_outputs, result.name, "output is written by no host segment"
            )
    outputs = [result.name for result in graph.outputs]
    _require(len(set(outputs)) == len(outputs), graph.name, f"outputs repeat in {outputs}")


def _require(condition: bool, place: str, rule: str) -> None:
    if not condition:
        raise InputError(
            f"quantized graph, {place!r}: {rule}; build the graph with the quantizer, or mend it"
        )


def _define(name: str, place: str, written: set[str], tensors: Mapping[str, QTensor]) -> None:
    _require(name in tensors, place, f"writes tensor {name!r}, which has no description")
    _require(name not in written, place, f"tensor {name!r} is written twice")
    written.add(name)


def _verify_tensor(key: str, tensor: QTensor) -> None:
    _require(key == tensor.name, key, f"is listed under another name than {tensor.name!r}")
    _require(
        len(tensor.shape) in (2, 4) and all(d > 0 for d in tensor.shape),
        key,
        f"shape must be (N, H, W, C) or (N, features), positive, but is {tensor.shape}",
    )
    _require(
        isfinite(tensor.scale)
        and tensor.scale > 0.0
        and float(np.float32(tensor.scale)) == tensor.scale,
        key,
        f"scale must be a positive float32 number, but is {tensor.scale!r}",
    )
    _require_int8(tensor.zero_point, key, "zero point")


def _require_int8(value: int, place: str, what: str) -> None:
    _require(INT8_MIN <= value <= INT8_MAX, place, f"{what} must be in -128..127, but is {value}")


def _verify_boundary(
    entry: QuantizeInput | DequantizeOutput, tensors: Mapping[str, QTensor]
) -> None:
    _require(entry.tensor in tensors, entry.name, f"names unknown tensor {entry.tensor!r}")
    tensor = tensors[entry.tensor]
    _require(
        (entry.scale, entry.zero_point) == (tensor.scale, tensor.zero_point),
        entry.name,
        f"scale and zero point must equal those of tensor {tensor.name!r}",
    )
    permuted = entry.source_shape if isinstance(entry, QuantizeInput) else tensor.shape
    _require(
        sorted(entry.permutation) == list(range(len(permuted))),
        entry.name,
        f"permutation {entry.permutation} must reorder the axes of shape {permuted}",
    )
    _require(
        prod(entry.source_shape) == prod(tensor.shape),
        entry.name,
        f"shape {entry.source_shape} must have as many elements as {tensor.shape}",
    )


def _verify_layer(layer: Layer, source: QTensor, target: QTensor) -> None:
    if isinstance(layer, QConv2D):
        _verify_conv(layer, source, target)
    elif isinstance(layer, QLinear):
        shape = (source.shape[0], layer.out_channels)
        _require(
            layer.weights.ndim == 2 and layer.weights.shape[1] == source.features,
            layer.name,
            f"weights must be [O, {source.features}], but are {list(layer.weights.shape)}",
        )
        _require(
            target.shape == shape, layer.name, f"output must be {shape}, but is {target.shape}"
        )
        _verify_requantization(layer, source, target)
    elif isinstance(layer, QMaxPool):
        _verify_pool(layer, source, target)


def _verify_conv(layer: QConv2D, source: QTensor, target: QTensor) -> None:
    _require(
        layer.weights.ndim == 4 and len(source.shape) == 4,
        layer.name,
        "weights and input must be 4-D",
    )
    channels = source.shape[3]
    _require(
        layer.groups >= 1 and layer.out_channels % layer.groups == 0,
        layer.name,
        f"groups {layer.groups} must divide the {layer.out_channels} output channels",
    )
    _require(
        layer.weights.shape[3] * layer.groups == channels,
        layer.name,
        f"weights read {layer.weights.shape[3]} x {layer.groups} channels; the input has "
        f"{channels}",
    )
    _verify_window(layer, source, target, layer.out_channels)
    _verify_requantization(layer, source, target)


def _verify_pool(layer: QMaxPool, source: QTensor, target: QTensor) -> None:
    _require(len(source.shape) == 4, layer.name, "input must be 4-D")
    _verify_window(layer, source, target, source.shape[3])
    _require(
        (source.scale, source.zero_point) == (target.scale, target.zero_point),
        layer.name,
        "input and output must share scale and zero point",
    )
    for size, extent in zip(
        (layer.pads[0], layer.pads[2], layer.pads[1], layer.pads[3]),
        (layer.kernel[0], layer.kernel[0], layer.kernel[1], layer.kernel[1]),
        strict=True,
    ):
        _require(size < extent, layer.name, f"pads {layer.pads} must be below {layer.kernel}")
    for axis in (0, 1):
        inside = every_window_has_a_tap(
            source.shape[1 + axis],
            layer.kernel[axis],
            layer.strides[axis],
            layer.pads[axis],
            layer.pads[axis + 2],
            layer.dilations[axis],
        )
        _require(inside, layer.name, f"a window along axis {axis} lies outside the image")


def _verify_window(
    layer: QConv2D | QMaxPool, source: QTensor, target: QTensor, channels: int
) -> None:
    _require(
        min(*layer.kernel, *layer.strides, *layer.dilations) >= 1 and min(layer.pads) >= 0,
        layer.name,
        "kernel, strides and dilations must be positive, pads not negative",
    )
    sizes = tuple(
        window_output_size(
            source.shape[1 + axis],
            layer.kernel[axis],
            layer.strides[axis],
            layer.pads[axis],
            layer.pads[axis + 2],
            layer.dilations[axis],
        )
        for axis in (0, 1)
    )
    shape = (source.shape[0], *sizes, channels)
    _require(target.shape == shape, layer.name, f"output must be {shape}, but is {target.shape}")


def _verify_requantization(layer: QConv2D | QLinear, source: QTensor, target: QTensor) -> None:
    for array, dtype in (
        (layer.weights, np.int8),
        (layer.weight_scales, np.float32),
        (layer.bias, np.int32),
        (layer.multipliers, np.int32),
        (layer.shifts, np.uint8),
    ):
        _require(array.dtype == dtype, layer.name, f"{np.dtype(dtype)} wanted, not {array.dtype}")
        _require(
            array.ndim > 1 or array.shape == (layer.out_channels,),
            layer.name,
            f"per-channel arrays must be [{layer.out_channels}], not {list(array.shape)}",
        )
    _require(int(layer.weights.min()) > INT8_MIN, layer.name, "weights must be in -127..127")
    _require(
        MULTIPLIER_MIN <= int(layer.multipliers.min())
        and int(layer.multipliers.max()) <= MULTIPLIER_MAX,
        layer.name,
        "multipliers must be in 2**16..2**17-1",
    )
    _require(int(layer.shifts.max()) <= SHIFT_MAX, layer.name, "shifts must be in 0..63")
    _require(
        layer.zp_in == source.zero_point and layer.zp_out == target.zero_point,
        layer.name,
        "zero points must equal those of the input and output tensors",
    )
    _require_int8(layer.lo, layer.name, "lo")
    _require_int8(layer.hi, layer.name, "hi")
    _require(layer.lo <= layer.hi, layer.name, f"lo {layer.lo} must not exceed hi {layer.hi}")
    prove_no_overflow(layer.weights, layer.bias, f"layer {layer.name!r}")


def _verify_host_segment(segment: HostSegment) -> None:
    try:
        model = onnx.load_model_from_string(segment.model)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and checker raise classes of their own
        raise InputError(
            f"quantized graph, {segment.name!r}: the embedded ONNX model is damaged ({error}); "
            "compile again"
        ) from error
    inputs = tuple(value.name for value in model.graph.input)
    outputs = tuple(value.name for value in model.graph.output)
    _require(inputs == segment.inputs, segment.name, f"embedded inputs differ: {inputs}")
    _require(
        outputs == tuple(value.name for value in segment.outputs),
        segment.name,
        f"embedded outputs differ: {outputs}",
    )
