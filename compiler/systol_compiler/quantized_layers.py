"""Quantizes one layer: weights per output channel, bias with its zero-point term, requantization.

Ref: docs/numerics; Jacob et al., Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference, CVPR 2018, section 2, for the placement of the zero points.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from systol_compiler.arithmetic import normalize_multiplier, prove_no_overflow, quantize
from systol_compiler.fusion import FusedGraph, FusedLayer
from systol_compiler.old_quantized import (
    Float32Array,
    Int8Array,
    Int32Array,
    MachineLayer,
    QConv2D,
    QLinear,
    QMaxPool,
    QTensor,
    UInt8Array,
    window_output_size,
)

Float64Array = npt.NDArray[np.float64]

_WEIGHT_MAX = 127
_SMALLEST_FACTOR = 2.0**-40
"""Least scale_in * scale_weight / scale_out: below, no 32-bit sum moves the output by 1/256."""
_LARGEST_BIAS = 2.0**30
"""Largest bias before its zero-point term; larger ones coarsen their channel's weights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedWeights:
    """int8 weights [O, ...] and their float32 scales [O]."""

    values: Int8Array
    scales: Float32Array

    @property
    def real(self) -> Float64Array:
        """The weights that the int8 values stand for, in float64."""
        trailing = (1,) * (self.values.ndim - 1)
        wide = self.values.astype(np.float64)
        result: Float64Array = wide * self.scales.astype(np.float64).reshape(-1, *trailing)
        return result


def quantize_weights(
    weights: Float64Array, bias: Float64Array, source: QTensor, target: QTensor
) -> QuantizedWeights:
    """Symmetric per-channel quantization to -127..127, rounding half to even.

    A channel's scale is its largest magnitude / 127, unless that is so small that the bias would
    overflow in its units, or that no sum could reach the output.
    """
    flat = np.abs(weights.reshape(weights.shape[0], -1))
    scales = np.maximum.reduce(
        (
            flat.max(axis=1) / _WEIGHT_MAX,
            np.abs(bias) / (source.scale * _LARGEST_BIAS),
            np.full(bias.shape, _SMALLEST_FACTOR * target.scale / source.scale),
        )
    ).astype(np.float32)
    trailing = (1,) * (weights.ndim - 1)
    steps = np.rint(weights / scales.astype(np.float64).reshape(-1, *trailing))
    values = np.clip(steps, -_WEIGHT_MAX, _WEIGHT_MAX).astype(np.int8)
    return QuantizedWeights(values=values, scales=scales)


def build_layer(
    layer: FusedLayer,
    fused: FusedGraph,
    tensors: Mapping[str, QTensor],
    correction: Float64Array | None,
) -> MachineLayer:
    """The int8 form of `layer`; `correction` [O] is subtracted from its bias.

    Raises
    ------
    UnsupportedModelError
        An accumulator could overflow, or a requantization factor is out of range.
    """
    source = tensors[fused.views[layer.input].tensor]
    target = tensors[layer.output]
    attributes = layer.node.attributes
    if layer.node.op == "MaxPool":
        return QMaxPool(
            name=layer.node.name,
            input=source.name,
            output=target.name,
            kernel=_pair(attributes["kernel_shape"]),
            strides=_pair(attributes["strides"]),
            pads=_pads(attributes["pads"]),
            dilations=_pair(attributes["dilations"]),
            source_nodes=layer.sources,
        )
    weights, bias = _source_weights(layer, fused)
    if correction is not None:
        bias = bias - correction
    quantized = quantize_weights(weights, bias, source, target)
    stored = _stored_order(quantized.values, source)
    place = layer.node.place
    steps = _bias_steps(stored, quantized.scales, bias, source)
    prove_no_overflow(stored, steps, place)
    multipliers, shifts = _requantization(quantized.scales, source, target, place)
    lo, hi = (
        int(quantize(bound, target.scale, target.zero_point))
        for bound in (layer.least, layer.greatest)
    )
    if layer.node.op == "Gemm":
        return QLinear(
            name=layer.node.name,
            input=source.name,
            output=target.name,
            weights=stored,
            weight_scales=quantized.scales,
            bias=steps.astype(np.int32),
            multipliers=multipliers,
            shifts=shifts,
            zp_in=source.zero_point,
            zp_out=target.zero_point,
            lo=lo,
            hi=hi,
            source_nodes=layer.sources,
        )
    return QConv2D(
        name=layer.node.name,
        input=source.name,
        output=target.name,
        weights=stored,
        weight_scales=quantized.scales,
        bias=steps.astype(np.int32),
        multipliers=multipliers,
        shifts=shifts,
        strides=_pair(attributes["strides"]),
        pads=_pads(attributes["pads"]),
        dilations=_pair(attributes["dilations"]),
        groups=int(attributes["group"]),
        zp_in=source.zero_point,
        zp_out=target.zero_point,
        lo=lo,
        hi=hi,
        source_nodes=layer.sources,
    )


def mean_error(
    layer: FusedLayer, fused: FusedGraph, tensors: Mapping[str, QTensor], mean: Float64Array
) -> Float64Array:
    """Mean over data and output positions of (rounded - real weights) * input, per channel.

    `mean` is the layer's mean input in the source layout: [C, H, W], or [I]. Exact, since the
    product is linear: the mean output error is the error on the mean input.
    """
    source = tensors[fused.views[layer.input].tensor]
    weights, bias = _source_weights(layer, fused)
    error = quantize_weights(weights, bias, source, tensors[layer.output]).real - weights
    if layer.node.op == "Gemm":
        result: Float64Array = error @ mean
        return result
    groups = int(layer.node.attributes["group"])
    taps = _mean_taps(layer, mean)
    per_group = error.reshape(groups, -1, *error.shape[1:])
    grouped_taps = taps.reshape(groups, -1, *taps.shape[1:])
    means: Float64Array = np.einsum("goikl,gikl->go", per_group, grouped_taps).reshape(-1)
    return means


def _mean_taps(layer: FusedLayer, mean: Float64Array) -> Float64Array:
    """Mean over output positions of what each kernel tap sees: [C, kh, kw], pads being zero."""
    attributes = layer.node.attributes
    kernel, strides = _pair(attributes["kernel_shape"]), _pair(attributes["strides"])
    pads, dilations = _pads(attributes["pads"]), _pair(attributes["dilations"])
    padded = np.pad(mean, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    counts = [
        window_output_size(
            mean.shape[1 + axis],
            kernel[axis],
            strides[axis],
            pads[axis],
            pads[axis + 2],
            dilations[axis],
        )
        for axis in (0, 1)
    ]
    taps = np.empty((mean.shape[0], *kernel))
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            top, left = y * dilations[0], x * dilations[1]
            seen = padded[
                :,
                top : top + (counts[0] - 1) * strides[0] + 1 : strides[0],
                left : left + (counts[1] - 1) * strides[1] + 1 : strides[1],
            ]
            taps[:, y, x] = seen.mean(axis=(1, 2))
    return taps


def _source_weights(layer: FusedLayer, fused: FusedGraph) -> tuple[Float64Array, Float64Array]:
    """Weights [O, I] or [O, I, kh, kw] and bias [O], in float64."""
    constants = fused.graph.constants
    return (
        constants[layer.node.inputs[1]].astype(np.float64),
        constants[layer.node.inputs[2]].astype(np.float64),
    )


def _stored_order(values: Int8Array, source: QTensor) -> Int8Array:
    """Weights in the order in which the NHWC input lies in memory."""
    if values.ndim == 4:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    if len(source.shape) == 4:
        _, height, width, channels = source.shape
        unfolded = values.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(unfolded.reshape(values.shape))
    return np.ascontiguousarray(values)


def _bias_steps(
    weights: Int8Array, scales: Float32Array, bias: Float64Array, source: QTensor
) -> npt.NDArray[np.int64]:
    """`round_half_even(bias / (s_in * s_w)) - zp_in * sum(weights)` per channel, exactly."""
    unit = Fraction(source.scale)
    rounded = [
        round(Fraction(float(value)) / (unit * Fraction(float(scale))))
        for value, scale in zip(bias, scales, strict=True)
    ]
    sums = weights.reshape(weights.shape[0], -1).sum(axis=1, dtype=np.int64)
    steps: npt.NDArray[np.int64] = np.array(rounded, dtype=np.int64) - source.zero_point * sums
    return steps


def _requantization(
    scales: Float32Array, source: QTensor, target: QTensor, place: str
) -> tuple[Int32Array, UInt8Array]:
    factor = Fraction(source.scale) / Fraction(target.scale)
    pairs = [
        normalize_multiplier(factor * Fraction(float(scale)), f"{place}, output channel {channel}")
        for channel, scale in enumerate(scales)
    ]
    return (
        np.array([multiplier for multiplier, _ in pairs], dtype=np.int32),
        np.array([shift for _, shift in pairs], dtype=np.uint8),
    )


def _pair(values: list[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _pads(values: list[int]) -> tuple[int, int, int, int]:
    return int(values[0]), int(values[1]), int(values[2]), int(values[3])
