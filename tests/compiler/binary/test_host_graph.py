"""Host graphs: what is run is what was checked, and it is a plain graph of ONNX's operators."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hand_made import compiled, f32, host_segment, on_host, onnx_model
from systol_compiler.binary.host_graph import canonical, check_host_segment
from systol_compiler.binary.network import HostSegment
from systol_compiler.binary.reader import load
from systol_compiler.binary.writer import save
from systol_compiler.graph.float_graph import TensorType
from systol_hw.errors import InputError

REAL = {"x": f32(2, 3), "y": f32(2, 3)}
GOOD = onnx_model(
    [
        helper.make_node("Constant", [], ["two"], value=helper.make_tensor("", 1, [1], [2.0])),
        helper.make_node("Mul", ["x", "two"], ["twice"]),
        helper.make_node("Add", ["twice", "half"], ["y"]),
    ],
    {"x": f32(2, 3)}, {"y": f32(2, 3)}, {"half": np.float32(0.5)},
)  # fmt: skip


def changed(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(GOOD)
    change(model)
    return model


def check(model: onnx.ModelProto) -> None:
    check_host_segment(host_segment("host", model), REAL)


def with_bytes(data: bytes) -> HostSegment:
    return dataclasses.replace(host_segment("host", GOOD), model=data)


def external(tensor: TensorProto) -> None:
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")


def _external_attribute(model: onnx.ModelProto) -> None:
    external(model.graph.node[0].attribute[0].t)


def _external_sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", 1, [1], [1.0])
    external(values)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", 7, [1], [0]), [3])
    )


def _external_but_default(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="secret")


def _function(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("", 1, [1], [2.0])
    external(tensor)
    body = [helper.make_node("Constant", [], ["a"], value=tensor)]
    model.functions.append(
        helper.make_function("", "Twice", [], ["a"], body, [helper.make_opsetid("", 17)])
    )


def _foreign_node(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "org.stranger"


def _foreign_import(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"])], "body",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, [])],
        [helper.make_tensor_value_info("go_on", 9, [])],
    )  # fmt: skip
    model.graph.node.append(helper.make_node("Loop", ["", "true"], [], body=body))


def _branch(model: onnx.ModelProto) -> None:
    arm = helper.make_graph([], "arm", [], [helper.make_tensor_value_info("x", 1, [2, 3])])
    model.graph.node.append(
        helper.make_node("If", ["x"], ["z"], then_branch=arm, else_branch=arm)
    )


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "y"


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Multiply"


def _other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def _open_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def _other_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _sequence(model: onnx.ModelProto) -> None:
    kind = helper.make_tensor_type_proto(1, [2, 3])
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))


def _one_output_more(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("twice", 1, [2, 3]))


def test_the_graph_that_the_tests_damage_is_good() -> None:
    check(GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: external(m.graph.initializer[0]), "tensor 'half' lies in another file"),
        (_external_attribute, "lies in another file"),
        (_external_sparse, "tensor 's' lies in another file"),
        (_external_but_default, "tensor 'half' lies in another file"),
        (_function, "functions are not allowed"),
        (_foreign_node, "operators of domain 'org.stranger' are not allowed"),
        (_foreign_import, "operators of domain 'com.microsoft' are not allowed"),
        (_loop, "Loop holds a graph"),
        (_branch, "If holds a graph"),
        (_training, "training information"),
        (_cycle, "not a valid ONNX model"),
        (_unknown_operator, "not a valid ONNX model"),
        (_other_input, r"takes 'x': float32\[3x3\], and must take 'x': float32\[2x3\]"),
        (_open_input, r"takes 'x': float32\[0x3\], and must take"),
        (_other_output, r"gives 'y': float64\[2x3\], and must give 'y': float32"),
        (_sequence, "gives 'y': no tensor"),
    ],
)
def test_hostile_graphs(change: Callable[[onnx.ModelProto], None], message: str) -> None:
    segment = host_segment("host", changed(change))
    with pytest.raises(InputError, match=f"host segment 'host'.*{message}"):
        check_host_segment(segment, REAL)


def test_outputs_beyond_the_stated_ones_are_refused() -> None:
    segment = dataclasses.replace(
        host_segment("host", changed(_one_output_more)), outputs=("y",)
    )
    with pytest.raises(InputError, match=r"gives 'y'.*, 'twice'.*, and must give 'y'"):
        check_host_segment(segment, REAL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "canonical|not a valid"),
        (b"ORTM" + bytes(100), "not a valid ONNX model"),
        (b"\x24\x00\x00\x00ORTM" + GOOD.SerializeToString(), "not a valid|canonical"),
        # A length-delimited field 999 that this version does not know.
        (canonical(GOOD) + b"\xba\x3e\x04ORTM", "not in its canonical form"),
        # A second graph: parsers merge it, but what was written is not what is run.
        (canonical(GOOD) + b"\x3a\x02\x12\x00", "not in its canonical form"),
        # The same number, written longer than it needs to be.
        (canonical(GOOD).replace(b"\x08\x08", b"\x08\x88\x00", 1), "not in its canonical form"),
    ],
)
def test_bytes_that_another_program_could_read_otherwise_are_refused(
    data: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_host_segment(with_bytes(data), REAL)


@given(st.data())
def test_damaged_bytes_are_refused_or_are_exactly_what_is_run(data: st.DataObject) -> None:
    damaged = bytearray(canonical(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_host_segment(with_bytes(bytes(damaged)), REAL)
    except InputError:
        return
    model = onnx.ModelProto()
    model.ParseFromString(bytes(damaged))
    assert canonical(model) == bytes(damaged)


def test_unknown_fields_are_left_out_of_the_canonical_form() -> None:
    model = onnx.ModelProto()
    model.ParseFromString(GOOD.SerializeToString() + b"\xba\x3e\x04abcd")
    assert canonical(model) == canonical(GOOD)


def test_host_graphs_are_checked_at_construction_and_at_load(tmp_path: Path) -> None:
    segment = on_host(
        "host", [helper.make_node("ArgMax", ["x"], ["y"], axis=1)],
        {"x": f32(2, 3)}, {"y": TensorType(dtype="int64", shape=(2, 1))},
    )  # fmt: skip
    real = {"x": f32(2, 3), "y": TensorType(dtype="int64", shape=(2, 1))}
    model = compiled([segment], [], real, ["x"], {"y": "y"})
    save(model, tmp_path / "m.elf")
    assert load(tmp_path / "m.elf").host_segments[0].model == segment.model
    bad = dataclasses.replace(segment, model=segment.model + b"\xba\x3e\x00")
    with pytest.raises(InputError, match="canonical"):
        dataclasses.replace(model, segments=(bad,))
