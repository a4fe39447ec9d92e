"""How a quantized tensor lies in a host window (`Binding`)."""

from collections.abc import Sequence

import numpy as np

from systol_compiler.nests.buffer import PLANE_ALIGNMENT
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.numbers.limits import Array, UInt8Array
from systol_compiler.numbers.tensor import QTensor


def window_size(tensor: QTensor) -> int:
    """Bytes that `tensor` takes in a window."""
    if tensor.width == 8:
        return tensor.size
    return -(-tensor.size // PLANE_ALIGNMENT) * PLANE_ALIGNMENT + tensor.size


def to_window(codes: Array, tensor: QTensor, order: Sequence[int]) -> UInt8Array:
    """The bytes of `codes`, int8 or int16 in the axes' order of `tensor`: uint8 (window_size,)."""
    return byte_planes(codes.transpose(order), tensor.width)


def from_window(data: UInt8Array, tensor: QTensor, order: Sequence[int]) -> Array:
    """The inverse of `to_window`: a copy, int8 or int16 of the shape of `tensor`."""
    flat = from_byte_planes(data, tensor.size, tensor.width)
    stored = flat.reshape([tensor.shape[axis] for axis in order])
    return np.array(stored.transpose(np.argsort(order)), order="C")
