"""Every node of the source has a row before compiling: place, reason, remedy, cost."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from hand_made import f32, onnx_model
from systol_compiler.compile import import_graph
from systol_compiler.graph.float_graph import TensorType
from systol_compiler.inspection import inspect_model
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError

MODELS = Path(__file__).with_name("models")


def small() -> onnx.ModelProto:
    """A product, a shape computed by nodes, and something that only the host has."""
    node = helper.make_node
    return onnx_model(
        [
            node("Conv", ["x", "w"], ["c"], name="conv"),
            node("Shape", ["c"], ["s"], name="shape"),
            node("Slice", ["s", "zero", "one"], ["n"], name="slice"),
            node("Concat", ["n", "rest"], ["to"], name="concat", axis=0),
            node("Reshape", ["c", "to"], ["r"], name="reshape"),
            node("Det", ["r"], ["d"], name="det"),
        ],
        {"x": f32(2, 1, 4, 4)}, {"d": f32(2, 2)},
        {
            "w": np.ones((8, 1, 1, 1), np.float32), "zero": np.array([0]), "one": np.array([1]),
            "rest": np.array([2, 8, 8]),
        },
    )  # fmt: skip


def test_every_node_of_the_source_has_one_row_in_its_order() -> None:
    found = inspect_model(small())
    assert [row["node"] for row in found.nodes] == [
        "conv", "shape", "slice", "concat", "reshape", "det"
    ]  # fmt: skip
    places = [row["place"] for row in found.nodes]
    assert places[0] == "machine" and places[1:4] == ["folded"] * 3 and places[-1] == "host"
    assert found.nodes[0]["macs"] == 2 * 8 * 16 and found.nodes[0]["bytes"] > 0
    assert "Det" in found.nodes[-1]["reason"] and found.nodes[-1]["remedy"]
    values = found.to_json(PRESETS["edge16"])
    assert values["inputs"] == {"x": "float32[2x1x4x4]"}
    assert values["summary"]["folded"] == 3 and values["summary"]["host"] >= 1
    assert values["summary"]["least_cycles"] == 1
    assert {"tensor": "x", "to": "machine", "elements": 32} in values["crossings"]


def test_what_is_refused_is_listed_with_everything_else() -> None:
    model = small()
    model.graph.node[-1].op_type = "Bernoulli"
    model.graph.node.append(helper.make_node("Multinomial", ["r"], ["e"], name="draw"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("e", 6, [2, 2]))
    found = inspect_model(model)
    assert found.partition is None and len(found.blockers) == 2
    refused = {row["node"]: row["reason"] for row in found.nodes if row["place"] == "refused"}
    assert set(refused) == {"det", "draw"} and "random" in refused["det"]
    summary = found.to_json(PRESETS["nano"])["summary"]
    assert (summary["refused"], summary["open"]) == (2, 5)


def test_a_single_blocker_is_found_too() -> None:
    model = small()
    model.graph.node[-1].op_type = "Bernoulli"
    found = inspect_model(model)
    assert [row["node"] for row in found.nodes if row["place"] == "refused"] == ["det"]


@pytest.mark.parametrize(
    "name", ["residual_dynamo", "transformer_block_dynamo", "reshape_computed_opset11", "topk_host"]
)
def test_networks_of_exporters_have_a_row_for_every_node(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    rows = inspect_model(path).nodes
    wanted = [node.name for node in onnx.load(path).graph.node if node.name]
    assert set(wanted) <= {row["node"] for row in rows}
    assert len({row["node"] for row in rows}) == len(rows)


def test_open_batches_are_bound_and_others_are_named() -> None:
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    kind = import_graph(model, batch=3).types["x"]
    assert kind == TensorType(dtype="float32", shape=(3, 1, 4, 4))
    assert import_graph(model, batch=3, shapes={"n": 5}).types["x"].shape[0] == 5
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    with pytest.raises(InputError, match="'h' has no value"):
        inspect_model(model)


def test_a_graph_without_a_name_has_its_files(tmp_path: Path) -> None:
    model = small()
    model.graph.name = "main_graph"
    onnx.save(model, tmp_path / "lenet.onnx")
    assert import_graph(tmp_path / "lenet.onnx").name == "lenet"
    model.graph.name = "mine"
    onnx.save(model, tmp_path / "lenet.onnx")
    assert import_graph(tmp_path / "lenet.onnx").name == "mine"
