"""Small float graphs written as text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx

Array = npt.NDArray[Any]


def text_model(body: str, constants: Mapping[str, Array] | None = None) -> onnx.ModelProto:
    """An ONNX model of operator set 21 from its graph in ONNX's own textual form.

    `constants` become initializers.
    """
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{body}')
    for name, value in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def text_graph(
    body: str, constants: Mapping[str, Array] | None = None, *, canonical: bool = True
) -> Graph:
    """`text_model`, imported; through the canonical pipeline unless told otherwise."""
    graph = import_onnx(text_model(body, constants))
    return run_pipeline(graph) if canonical else graph
