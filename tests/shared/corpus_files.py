"""Writes the models of tests/compiler/models and their index, `index.json`.

Each entry of the index has the model's `name` (its file is NAME.onnx), the `exporter` that made
it, its operator set, what it `covers`, the `shapes` that bind its dynamic dimensions, and its
`inputs` with bound shapes. `below` bounds integer inputs (token ids); floats are standard normal
unless `low` and `high` are given.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

FOLDER: Final = Path(__file__).parent.parent / "compiler" / "models"
INDEX: Final = FOLDER / "index.json"


def save(
    model: onnx.ModelProto,
    name: str,
    *,
    exporter: str,
    covers: Sequence[str] = (),
    shapes: Mapping[str, int] | None = None,
    ranges: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Write one model, without what its exporter says of the place it ran in; its index entry."""
    shapes = dict(shapes or {})
    strip(model)
    (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = {}
    for value in model.graph.input:
        if value.name in constant:
            continue
        kind = value.type.tensor_type
        inputs[value.name] = {
            "dtype": str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))),
            "shape": [
                dim.dim_value
                if dim.HasField("dim_value")
                else shapes.get(f"{value.name}.{axis}", shapes.get(dim.dim_param, 0))
                for axis, dim in enumerate(kind.shape.dim)
            ],
            **(ranges or {}).get(value.name, {}),
        }
    return {
        "name": name,
        "exporter": exporter,
        "opset": next(entry.version for entry in model.opset_import if not entry.domain),
        "covers": sorted(covers),
        "shapes": shapes,
        "inputs": inputs,
    }


def strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and other notes that exporters leave."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in graph.value_info:
        value.doc_string = ""
        del value.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def update_index(entries: Sequence[Mapping[str, Any]], exporters: set[str]) -> None:
    """Replace the index's entries of `exporters`; one line an entry, sorted by name."""
    present = json.loads(INDEX.read_text()) if INDEX.exists() else []
    kept = [entry for entry in present if entry["exporter"] not in exporters]
    rows = sorted([*kept, *entries], key=lambda entry: str(entry["name"]))
    INDEX.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
