"""The quantized graph: the contract between the quantizer and the lowering.

A `QuantizedGraph` is an ordered list of integer layers over named int8 tensors, the boundaries
that quantize the model's inputs and dequantize its outputs, and the host segments at its end.
Everything is immutable; `str()` prints it and `verify()` checks every rule stated here.

Layout. A 4-D tensor is NHWC, packed, channels innermost; a 2-D tensor is [N, features]. The batch
N is a concrete number. There is no reshape layer: a `QLinear` may read a 4-D tensor, which it sees
as [N, H*W*C] in memory order, because its weights were permuted to that order.

Numbers (one layer, output channel c, all integers exact)::

    total = sum(weights[c] * x_raw) + bias[c]        |total| < 2**31, proven for every int8 x
    y = round_half_even(total * multipliers[c] / 2**shifts[c]) + zp_out
    y = min(max(saturate_int8(y), lo), hi)

`x_raw` is the stored int8 value: zero points are not subtracted, since `bias` already holds
`-zp_in * sum(weights[c])`. A tap outside the image reads `zp_in`. A stored value q stands for the
real number (q - zero_point) * scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Int8Array: TypeAlias = npt.NDArray[np.int8]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Float32Array: TypeAlias = npt.NDArray[np.float32]

INT8_MIN: Final = -128
INT8_MAX: Final = 127
MULTIPLIER_MIN: Final = 1 << 16
"""Smallest normalized multiplier (inclusive)."""
MULTIPLIER_MAX: Final = (1 << 17) - 1
"""Largest normalized multiplier (inclusive); fits a signed 18-bit operand."""
SHIFT_MAX: Final = 63
ACCUMULATOR_LIMIT: Final = 1 << 31
"""Magnitude that no accumulator, with or without its bias, may reach."""


@dataclass(frozen=True, kw_only=True)
class QTensor:
    """One int8 tensor. `scale` is positive and exactly representable in float32.

    `shape` is (N, H, W, C) or (N, features); `source` names the model's tensor whose values this
    one holds, for the debug map and for comparing with the float model.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    source: str

    @property
    def features(self) -> int:
        """Elements per image: H*W*C, or the features of a 2-D tensor."""
        return prod(self.shape[1:])

    @property
    def size_bytes(self) -> int:
        return prod(self.shape)

    def __str__(self) -> str:
        dims = "x".join(map(str, self.shape))
        return f"%{self.name} : i8[{dims}] scale={self.scale:.9g} zp={self.zero_point}"


@dataclass(frozen=True, kw_only=True)
class QuantizeInput:
    """A float32 model input, quantized on the host.

    `tensor = q(x.transpose(permutation).reshape(tensor shape))` where `q(x)` is
    `saturate_int8(round_half_even(x / scale) + zero_point)`, in float32. `source_shape` is the
    shape the user supplies; an NCHW image has `permutation` (0, 2, 3, 1).
    """

    name: str
    source_shape: tuple[int, ...]
    permutation: tuple[int, ...]
    tensor: str
    scale: float
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class DequantizeOutput:
    """A float32 model output, dequantized on the host.

    `y = ((tensor - zero_point) * scale).transpose(permutation).reshape(source_shape)`, in
    float32. An NHWC tensor shown as NCHW, or flattened from it, has `permutation` (0, 3, 1, 2).
    """

    name: str
    source_shape: tuple[int, ...]
    permutation: tuple[int, ...]
    tensor: str
    scale: float
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class HostOutput:
    """A model output that a host segment computes; it needs no conversion."""

    name: str
    source_shape: tuple[int, ...]
    dtype: str
    """numpy's name of the element type, such as "float32" or "int64"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QConv2D:
    """2-D cross-correlation, fused with its requantization and clip (ONNX Conv, version 11).

    Attributes
    ----------
    name, input, output
        Unique layer name; names of the int8 tensors, both 4-D NHWC.
    weights
        int8 [O, kh, kw, I / groups], symmetric, in -127..127.
    weight_scales
        float32 [O]; real weight = weights * scale. The machine needs it not; reports and
        exports do.
    bias
        int32 [O], in units of `scale_in * weight_scales`, with `-zp_in * sum(weights)` inside.
    multipliers, shifts
        int32 [O] in 2**16..2**17-1; uint8 [O] in 0..63.
    strides, dilations
        (vertical, horizontal).
    pads
        (top, left, bottom, right), in pixels of value `zp_in`.
    groups
        Output channel c reads input channels of group c // (O / groups).
    zp_in, zp_out, lo, hi
        int8 zero points of input and output tensor; the clip, inclusive.
    source_nodes
        Names of the model's nodes that this layer computes, in order.
    """

    name: str
    input: str
    output: str
    weights: Int8Array
    weight_scales: Float32Array
    bias: Int32Array
    multipliers: Int32Array
    shifts: UInt8Array
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int
    zp_in: int
    zp_out: int
    lo: int
    hi: int
    source_nodes: tuple[str, ...]

    def __post_init__(self) -> None:
        _freeze(self.weights, self.weight_scales, self.bias, self.multipliers, self.shifts)

    @property
    def out_channels(self) -> int:
        return int(self.weights.shape[0])

    @property
    def kernel(self) -> tuple[int, int]:
        return int(self.weights.shape[1]), int(self.weights.shape[2])


@dataclass(frozen=True, kw_only=True, eq=False)
class QLinear:
    """Matrix product with per-channel requantization (ONNX Gemm or MatMul plus Add).

    `weights` is int8 [O, I] with I in the memory order of the input tensor: for a 4-D NHWC input,
    I runs over (h, w, c). The other fields are those of `QConv2D`; the output is [N, O].
    """

    name: str
    input: str
    output: str
    weights: Int8Array
    weight_scales: Float32Array
    bias: Int32Array
    multipliers: Int32Array
    shifts: UInt8Array
    zp_in: int
    zp_out: int
    lo: int
    hi: int
    source_nodes: tuple[str, ...]

    def __post_init__(self) -> None:
        _freeze(self.weights, self.weight_scales, self.bias, self.multipliers, self.shifts)

    @property
    def out_channels(self) -> int:
        return int(self.weights.shape[0])


@dataclass(frozen=True, kw_only=True)
class QMaxPool:
    """Exact maximum over windows of an NHWC tensor (ONNX MaxPool, version 12, ceil_mode 0).

    Input and output have the same scale and zero point. Taps outside the image are excluded; no
    window lies wholly outside. Fields as in `QConv2D`.
    """

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    source_nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HostSegment:
    """What the machine cannot do: an ONNX model that ONNX Runtime runs on the host.

    `model` is a serialized ModelProto whose graph inputs are exactly `inputs`, int8 in the layout
    of the quantized graph (it dequantizes and restores the source layout itself), and whose graph
    outputs are exactly the names in `outputs`. `operators` lists the source operators inside and
    `reason` says, for the compile report, why they are here. No machine layer follows.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[HostOutput, ...]
    model: bytes
    operators: tuple[str, ...]
    reason: str
    source_nodes: tuple[str, ...]


MachineLayer: TypeAlias = QConv2D | QLinear | QMaxPool
Layer: TypeAlias = MachineLayer | HostSegment
Output: TypeAlias = DequantizeOutput | HostOutput


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedGraph:
    """A whole quantized network.

    `inputs` and `outputs` follow the order of the model's. `tensors` maps each int8 tensor's name
    to its description, in order of definition. `layers` is in topological order with host
    segments last. Each tensor is written once: by an input boundary or by one layer.
    """

    name: str
    inputs: tuple[QuantizeInput, ...]
    outputs: tuple[Output, ...]
    tensors: Mapping[str, QTensor]
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @property
    def machine_layers(self) -> tuple[MachineLayer, ...]:
        return tuple(la for la in self.layers if not isinstance(la, HostSegment))

    @property
    def host_segments(self) -> tuple[HostSegment, ...]:
        return tuple(la for la in self.layers if isinstance(la, HostSegment))

    def verify(self) -> None:
        """Check every rule of this module.

        Raises
        ------
        UnsupportedModelError
            Some input could overflow an accumulator.
        InputError
            The graph breaks another rule. Both messages name the layer, the rule and the value.
        """
        # Imported here because the checks read these classes.
        from systol_compiler.quantized_verifier import verify

        verify(self)

    def __str__(self) -> str:
        from systol_compiler.quantized_printer import print_graph

        return print_graph(self)


def window_output_size(
    size: int, kernel: int, stride: int, pad_before: int, pad_after: int, dilation: int
) -> int:
    """Number of window positions along one axis (floor division; may be <= 0 if none fits)."""
    return (size + pad_before + pad_after - dilation * (kernel - 1) - 1) // stride + 1


def every_window_has_a_tap(
    size: int, kernel: int, stride: int, pad_before: int, pad_after: int, dilation: int
) -> bool:
    """Whether, along one axis, every window position sees at least one pixel of the image.

    Pads below the kernel grant it for dilation 1 only: a dilated window can straddle the image.
    """
    count = window_output_size(size, kernel, stride, pad_before, pad_after, dilation)
    starts = np.arange(count, dtype=np.int64) * stride - pad_before
    first = np.maximum(-(starts // dilation), 0)
    return bool(((first < kernel) & (starts + first * dilation < size)).all())


def _freeze(*arrays: npt.NDArray[np.generic]) -> None:
    for array in arrays:
        array.setflags(write=False)
