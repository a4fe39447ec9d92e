"""Values of ONNX tensors as arrays: views of the file where it holds raw data."""

import mmap
import os
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from systol_compiler.graph.float_graph import Array, dtype_name
from systol_hw.errors import InputError, UnsupportedModelError

MAX_ELEMENTS: Final = 1 << 28
"""Greatest number of elements of any tensor in a model."""

MAX_RANK: Final = 32
"""Greatest number of axes of any tensor; numpy itself ends at 64."""

_PLAIN: Final[dict[int, Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype("<u2"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.INT16: np.dtype("<i2"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.UINT32: np.dtype("<u4"),
    TensorProto.INT64: np.dtype("<i8"),
    TensorProto.UINT64: np.dtype("<u8"),
    TensorProto.BOOL: np.dtype("?"),
}
"""Element types whose raw data is an array as it stands (of bfloat16, the upper halves)."""


def tensor_value(tensor: onnx.TensorProto, raw: memoryview | None = None) -> Array:
    """The values of a tensor.

    bfloat16, which numpy has not, becomes float32, without loss.

    Parameters
    ----------
    raw
        Its bytes, where they are not in the message; the result is then a read-only view of them.

    Raises
    ------
    InputError
        The stored data does not fill the stated shape.
    UnsupportedModelError
        The element type is text or unknown.
    """
    shape = tuple(tensor.dims)
    place = f"tensor {tensor.name!r}"
    if tensor.data_type == TensorProto.STRING or tensor.data_type not in _KNOWN:
        raise UnsupportedModelError(
            f"{place}: elements must be numbers, but are of type {dtype_name(tensor.data_type)}; "
            "keep text outside the model"
        )
    if min(shape, default=1) < 0 or prod(shape) > MAX_ELEMENTS or len(shape) > MAX_RANK:
        raise InputError(
            f"{place}: a tensor must have at most {MAX_RANK} axes and {MAX_ELEMENTS} elements, "
            f"but its stated shape is {str(list(shape))[:200]}; its data does not fit; export "
            "the model again"
        )
    kind = _PLAIN.get(tensor.data_type)
    try:
        if kind is None:
            if raw is not None:
                tensor.raw_data = bytes(raw)
            return np.array(numpy_helper.to_array(tensor))
        if raw is None and not tensor.HasField("raw_data"):
            stored = np.array(numpy_helper.to_array(tensor))
            wide = tensor.data_type == TensorProto.BFLOAT16
            return stored.astype(np.float32) if wide else stored
        data = tensor.raw_data if raw is None else raw
        if len(data) != prod(shape) * kind.itemsize:
            raise ValueError(f"{len(data)} bytes instead of {prod(shape) * kind.itemsize}")
        values: Array = np.frombuffer(data, dtype=kind).reshape(shape)
        if tensor.data_type == TensorProto.BFLOAT16:
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values
    except Exception as error:  # numpy and onnx raise several classes for damaged data
        raise InputError(
            f"{place}: its data does not fit its stated shape "
            f"{list(shape)} ({' '.join(str(error).split())[:200]}); export the model again"
        ) from error


_KNOWN: Final = frozenset(helper.get_all_tensor_dtypes()) - {
    TensorProto.COMPLEX64,
    TensorProto.COMPLEX128,
}


class ExternalData:
    """Tensors in files beside the model, mapped; never from outside the model's own folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._maps: dict[Path, memoryview] = {}

    def raw(self, tensor: onnx.TensorProto) -> memoryview:
        """The bytes of an external tensor.

        Raises
        ------
        InputError
            The file is missing, outside the folder, irregular or too short.
        """
        entries = {item.key: item.value for item in tensor.external_data}
        place = f"external data of tensor {tensor.name!r} cannot be read"
        location = entries.get("location", "")
        path = Path(os.path.realpath(self._folder / location)) if location else None
        # The real path: neither "..", nor an absolute path, nor a link leads elsewhere.
        if path is None or "\0" in location or self._folder not in path.parents:
            raise InputError(
                f"{place}: its file {location!r} must lie in the model's own folder; put it "
                "beside the model and save the model again"
            )
        try:
            offset = int(entries.get("offset") or 0)
            data = self._map(path)
            length = int(entries.get("length") or len(data) - offset)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{place}: file {location!r}: {str(error)[:200]}; put it beside the model"
            ) from error
        if offset < 0 or length < 0 or offset + length > len(data):
            raise InputError(
                f"{place}: file {location!r} has {len(data)} bytes, but the tensor needs "
                f"{length} from byte {offset}; copy the file again"
            )
        return data[offset : offset + length]

    def _map(self, path: Path) -> memoryview:
        if path not in self._maps:
            self._maps[path] = map_file(path)
        return self._maps[path]


def map_file(path: Path) -> memoryview:
    """The bytes of a regular file, mapped and read-only."""
    # Without blocking: a pipe of that name would else wait for its writer.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        if not os.path.isfile(path):
            raise OSError(0, "not a regular file")
        size = os.fstat(handle).st_size
        if not size:
            return memoryview(b"")
        return memoryview(mmap.mmap(handle, size, access=mmap.ACCESS_READ))
    finally:
        os.close(handle)
