"""Evaluates a quantized graph layer by layer, in plain exact 64-bit integer arithmetic.

The oracle of the compiler's own stages: written from the rules in `quantized`, for clarity, and
sharing no arithmetic with the simulator.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from systol_compiler.arithmetic import dequantize, quantize
from systol_compiler.old_quantized import (
    INT8_MAX,
    INT8_MIN,
    DequantizeOutput,
    HostSegment,
    Int8Array,
    QConv2D,
    QLinear,
    QMaxPool,
    QuantizedGraph,
    QuantizeInput,
    window_output_size,
)
from systol_hw.errors import InputError

Int64Array = npt.NDArray[np.int64]


def evaluate(
    graph: QuantizedGraph, inputs: Mapping[str, npt.ArrayLike]
) -> dict[str, npt.NDArray[Any]]:
    """The model's outputs, by name, for float inputs of the model's own shapes.

    Raises
    ------
    InputError
        An input is missing, of the wrong shape, or contains NaN.
    """
    tensors, outputs = run_layers(graph, quantize_inputs(graph, inputs))
    for result in graph.outputs:
        if isinstance(result, DequantizeOutput):
            real = dequantize(tensors[result.tensor], result.scale, result.zero_point)
            outputs[result.name] = real.transpose(result.permutation).reshape(result.source_shape)
    return {result.name: outputs[result.name] for result in graph.outputs}


def quantize_inputs(
    graph: QuantizedGraph, inputs: Mapping[str, npt.ArrayLike]
) -> dict[str, Int8Array]:
    """The int8 input tensors, by tensor name, for float inputs by model input name."""
    if set(inputs) != {entry.name for entry in graph.inputs}:
        raise InputError(
            f"inputs are named {sorted(inputs)}, but the model's are "
            f"{sorted(entry.name for entry in graph.inputs)}; name every input once"
        )
    return {
        entry.tensor: _quantize_input(graph, entry, inputs[entry.name]) for entry in graph.inputs
    }


def run_layers(
    graph: QuantizedGraph, tensors: Mapping[str, Int8Array]
) -> tuple[dict[str, Int8Array], dict[str, npt.NDArray[Any]]]:
    """All int8 tensors, and the host segments' outputs, for given int8 input tensors."""
    values = dict(tensors)
    outputs: dict[str, npt.NDArray[Any]] = {}
    for layer in graph.layers:
        if isinstance(layer, QConv2D):
            values[layer.output] = conv2d(layer, values[layer.input])
        elif isinstance(layer, QLinear):
            values[layer.output] = linear(layer, values[layer.input])
        elif isinstance(layer, QMaxPool):
            values[layer.output] = max_pool(layer, values[layer.input])
        else:
            outputs |= run_host_segment(layer, values)
    return values, outputs


def requantize(layer: QConv2D | QLinear, total: Int64Array) -> Int8Array:
    """`total` [..., O], bias included, to int8: exact, half to even, saturated, clipped."""
    product = total * layer.multipliers.astype(np.int64)
    # |product| < 2**48, so every shift past 62 gives zero just as 62 does, and leaves a sign bit.
    shift = np.minimum(layer.shifts.astype(np.int64), 62)
    floor = product >> shift
    twice_remainder = (product - (floor << shift)) * 2
    unit = np.int64(1) << shift
    round_up = (twice_remainder > unit) | ((twice_remainder == unit) & (floor % 2 == 1))
    saturated = np.clip(floor + round_up + layer.zp_out, INT8_MIN, INT8_MAX)
    result: Int8Array = np.clip(saturated, layer.lo, layer.hi).astype(np.int8)
    return result


def conv2d(layer: QConv2D, image: Int8Array) -> Int8Array:
    """NHWC convolution; taps outside the image read the input's zero point."""
    batch, height, width, channels = image.shape
    top, left, bottom, right = layer.pads
    padded = np.full(
        (batch, height + top + bottom, width + left + right, channels), layer.zp_in, dtype=np.int64
    )
    padded[:, top : top + height, left : left + width] = image
    rows, columns = (
        window_output_size(
            (height, width)[axis],
            layer.kernel[axis],
            layer.strides[axis],
            layer.pads[axis],
            layer.pads[axis + 2],
            layer.dilations[axis],
        )
        for axis in (0, 1)
    )
    per_group_in, per_group_out = channels // layer.groups, layer.out_channels // layer.groups
    total = np.broadcast_to(
        layer.bias.astype(np.int64), (batch, rows, columns, layer.out_channels)
    ).copy()
    weights = layer.weights.astype(np.int64)
    for y in range(layer.kernel[0]):
        for x in range(layer.kernel[1]):
            down, across = y * layer.dilations[0], x * layer.dilations[1]
            seen = padded[
                :,
                down : down + (rows - 1) * layer.strides[0] + 1 : layer.strides[0],
                across : across + (columns - 1) * layer.strides[1] + 1 : layer.strides[1],
            ]
            for group in range(layer.groups):
                reads = slice(group * per_group_in, (group + 1) * per_group_in)
                writes = slice(group * per_group_out, (group + 1) * per_group_out)
                total[..., writes] += seen[..., reads] @ weights[writes, y, x].T
    return requantize(layer, total)


def linear(layer: QLinear, rows: Int8Array) -> Int8Array:
    """Product of [N, I] (or NHWC, read in memory order) by the weights."""
    flat = rows.reshape(rows.shape[0], -1).astype(np.int64)
    return requantize(layer, flat @ layer.weights.astype(np.int64).T + layer.bias)


def max_pool(layer: QMaxPool, image: Int8Array) -> Int8Array:
    """NHWC maximum over windows; taps outside the image do not take part."""
    _, height, width, _ = image.shape
    top, left, bottom, right = layer.pads
    # The least int8 value never wins over a real tap, so it stands for an excluded one.
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=INT8_MIN)
    rows, columns = (
        window_output_size(
            (height, width)[axis],
            layer.kernel[axis],
            layer.strides[axis],
            layer.pads[axis],
            layer.pads[axis + 2],
            layer.dilations[axis],
        )
        for axis in (0, 1)
    )
    result: Int8Array | None = None
    for y in range(layer.kernel[0]):
        for x in range(layer.kernel[1]):
            down, across = y * layer.dilations[0], x * layer.dilations[1]
            seen = padded[
                :,
                down : down + (rows - 1) * layer.strides[0] + 1 : layer.strides[0],
                across : across + (columns - 1) * layer.strides[1] + 1 : layer.strides[1],
            ]
            result = seen.copy() if result is None else np.maximum(result, seen)
    assert result is not None
    return result


def run_host_segment(
    segment: HostSegment, tensors: Mapping[str, Int8Array]
) -> dict[str, npt.NDArray[Any]]:
    """The segment's outputs by name, from ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        segment.model, options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in segment.outputs]
    results = session.run(names, {name: tensors[name] for name in segment.inputs})
    return dict(zip(names, results, strict=True))


def _quantize_input(graph: QuantizedGraph, entry: QuantizeInput, value: npt.ArrayLike) -> Int8Array:
    real = np.asarray(value, dtype=np.float32)
    if real.shape != entry.source_shape:
        raise InputError(
            f"input {entry.name!r}: the shape must be {list(entry.source_shape)}, but is "
            f"{list(real.shape)}; reshape the data, or compile for another batch"
        )
    shape = graph.tensors[entry.tensor].shape
    ordered = real.transpose(entry.permutation).reshape(shape)
    return np.ascontiguousarray(quantize(ordered, entry.scale, entry.zero_point))
