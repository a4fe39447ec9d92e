"""The front end in one call: an ONNX model in, the canonical float graph out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.importer import ModelSource, import_onnx
from systol_compiler.graph.model_file import open_model
from systol_compiler.graph.passes import Observer, run_pipeline
from systol_hw.errors import InputError

_NAMELESS = ("", "main_graph", "torch_jit", "torch-jit-export", "graph")
"""What exporters call a graph whose author gave it no name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Front:
    """Both float levels."""

    imported: Graph
    canonical: Graph


def read_model(
    model: ModelSource,
    *,
    shapes: Mapping[str, int] | None = None,
    batch: int = 1,
    observer: Observer | None = None,
) -> Front:
    """Import a model and bring it into canonical form.

    Parameters
    ----------
    model
        A file's path, a serialized model, or a ModelProto. The file's name is the graph's where
        that has none of its own.
    shapes
        Values for dynamic dimensions, by name or as "INPUT.AXIS".
    batch
        Value of inputs' first dimension where the model leaves it open and `shapes` does not say.
    observer
        Sees the graph as it was imported, and behind every pass.

    Raises
    ------
    InputError, UnsupportedModelError
        As `import_onnx`, or the batch is less than 1.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, but is {batch}")
    imported = import_onnx(model, {**open_batches(model, batch), **(shapes or {})})
    if imported.name in _NAMELESS and isinstance(model, str | os.PathLike):
        imported = replace(imported, name=Path(model).stem)
    if observer is not None:
        observer("import", imported)
    return Front(imported=imported, canonical=run_pipeline(imported, observer=observer))


def open_batches(model: ModelSource, batch: int) -> dict[str, int]:
    """Bindings for the open first dimensions of the model's inputs.

    A model that cannot be read gives none: the importer will say what is wrong with it.
    """
    try:
        graph = open_model(model).model.graph
    except InputError:
        return {}
    initializers = {tensor.name for tensor in graph.initializer}
    bound: dict[str, int] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in initializers or not dims or dims[0].HasField("dim_value"):
            continue
        bound[dims[0].dim_param or f"{value.name}.0"] = batch
    return bound
