"""Opens a model: a path, bytes or a ModelProto; weights stay where they lie."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from systol_compiler.graph.float_graph import Array
from systol_compiler.graph.reading.wire import Span, strip_weights
from systol_compiler.graph.tracing.tensors import ExternalData, map_file, tensor_value
from systol_hw.errors import InputError

ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto

MAX_BYTES = (1 << 31) - 1
"""Greatest size of a model's own message; protobuf allows no more."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A parsed model, its large weights apart.

    Attributes
    ----------
    model
        The message; initializers may lack their data.
    weights
        The values of every initializer, by name: views of the file where it holds raw data.
    size
        Bytes of the message and of its external data that is used.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Array]
    size: int


def open_model(source: ModelSource) -> ModelFile:
    """Read a model. External data is read only for a path, from that file's own folder.

    Raises
    ------
    InputError
        The file is missing or damaged, or its weights are.
    """
    if isinstance(source, onnx.ModelProto):
        return _finish(source, [None] * len(source.graph.initializer), memoryview(b""), None)
    if isinstance(source, bytes):
        data, folder = memoryview(source), None
    else:
        path = Path(source)
        folder = path.parent
        try:
            data = map_file(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"model file {str(path)!r} cannot be read ({reason}); check the path"
            ) from error
    try:
        text, spans = strip_weights(data)
        if len(text) > MAX_BYTES:
            raise ValueError("it has more than 2 GiB besides its raw weights")
        model = onnx.load_model_from_string(text)
    except InputError:
        raise
    except Exception as error:  # protobuf raises classes of its own
        detail = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"the model ({len(data)} bytes) is not an ONNX file, or a damaged one: {detail}; "
            "export the model again and test it with onnx.checker.check_model"
        ) from error
    return _finish(model, spans, data, folder)


def _finish(
    model: onnx.ModelProto, spans: Iterable[Span | None], data: memoryview, folder: Path | None
) -> ModelFile:
    if not model.graph.node:
        raise InputError(
            "the model has no nodes: it is empty, or not an ONNX file; export it again"
        )
    external = None if folder is None else ExternalData(folder)
    weights: dict[str, Array] = {}
    size = max(len(data), sum(1 for _ in model.graph.node))
    for tensor, span in zip(model.graph.initializer, spans, strict=True):
        if tensor.name in weights:
            raise InputError(
                f"tensor {tensor.name!r} is stored twice; names of initializers must be unique"
            )
        raw = None if span is None else data[span.start : span.stop]
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            if external is None:
                raise InputError(
                    f"tensor {tensor.name!r} is stored in an external file, which is only read "
                    "for a model given by path; pass the path, or save the model in one file"
                )
            raw = external.raw(tensor)
            size += len(raw)
        weights[tensor.name] = tensor_value(tensor, raw)
        if not len(data):
            size += weights[tensor.name].nbytes
    return ModelFile(model=model, weights=weights, size=size)
