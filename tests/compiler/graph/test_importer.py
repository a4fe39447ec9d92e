"""Importing: shapes, constants, and one clear error for whatever a stranger's file holds."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from systol_compiler.graph.reading.importer import import_onnx
from systol_hw.errors import InputError, SystolError, UnsupportedModelError

CONV = "g (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv(x, w) }"


def model(text: str, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    graph = parser.parse_graph(text)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def kernel() -> np.ndarray[Any, Any]:
    return np.ones((4, 3, 3, 3), dtype=np.float32)


def test_path_bytes_and_proto_give_the_same_graph(tmp_path: Path) -> None:
    proto = model(CONV, w=kernel())
    path = tmp_path / "conv.onnx"
    onnx.save(proto, path)
    texts = {
        str(import_onnx(source, {"N": 2}))
        for source in (proto, proto.SerializeToString(), path, str(path))
    }
    assert len(texts) == 1
    text = texts.pop()
    assert "%y = Conv(%x, %w) 'Conv_0' " in text and " : float32[2x4x6x6]" in text


def test_given_model_is_not_modified() -> None:
    proto = model(CONV, w=kernel())
    before = proto.SerializeToString(deterministic=True)
    import_onnx(proto, {"N": 2})
    assert proto.SerializeToString(deterministic=True) == before


def test_computed_shape_is_folded() -> None:
    proto = model(
        """g (float[N,3,4,4] x) => (float[N,48] y) {
            s = Shape(x) i = Constant<value_int=0>() n = Gather(s, i)
            axes = Constant<value_ints=[0]>() u = Unsqueeze(n, axes)
            rest = Constant<value_ints=[-1]>() shape = Concat<axis=0>(u, rest)
            y = Reshape(x, shape)
        }"""
    )
    graph = import_onnx(proto, {"N": 5})
    assert [node.op for node in graph.nodes] == ["Reshape"]
    assert graph.constants["shape"].tolist() == [5, -1]
    assert graph.types["y"].shape == (5, 48)


def test_unnamed_dimension_is_bound_by_input_and_axis() -> None:
    proto = model("g (float[?,3,8,8] x) => (float[M,4,6,6] y) { y = Conv(x, w) }", w=kernel())
    assert import_onnx(proto, {"x.0": 7}).types["y"].shape == (7, 4, 6, 6)
    with pytest.raises(InputError, match=r"input 'x', axis 0: .* bind it, as in x\.0=1"):
        import_onnx(proto)


def test_old_operator_set_is_converted() -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { y = Clip<min=-1.0, max=2.0>(x) }", opset=9)
    graph = import_onnx(proto)
    assert graph.opset == 21
    (node,) = graph.nodes
    assert [float(graph.constants[name]) for name in node.inputs[1:]] == [-1.0, 2.0]


def test_node_names_are_made_unique() -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { t = Relu(x) y = Relu(t) }")
    for node in proto.graph.node:
        node.name = "same"
    assert [node.name for node in import_onnx(proto).nodes] == ["same", "same.2"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"input 'x', axis 0: the dynamic dimension 'N' has no value; bind it, as in N=1"),
        ({"N": 0}, r"shape 'N': a dimension must be a positive integer, not 0"),
        ({"N": True}, r"shape 'N': a dimension must be a positive integer, not True"),
        ({"N": 1, "M": 2}, r"shape 'M' names no dimension of the model's inputs.*\['x'\]"),
        ({"N": 1, "x.1": 5}, r"input 'x', axis 1: the model fixes this dimension to 3"),
    ],
)
def test_bad_shapes(shapes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_onnx(model(CONV, w=kernel()), shapes)


def test_all_dimensions_without_a_value_are_told_at_once() -> None:
    proto = model("g (float[n,3,h,w] x, float[n,h] z) => (float[a,b,c,d] y) { y = Relu(x) }")
    with pytest.raises(InputError) as caught:
        import_onnx(proto, batch=1)
    assert str(caught.value) == (
        "input 'x', axis 2: the dynamic dimension 'h' has no value, and neither has 'w' "
        "(input 'x', axis 3); bind them, as in h=1 w=1"
    )


def test_a_dimension_of_no_size_is_not_said_to_be_bound() -> None:
    proto = model("g (float[n,0] x) => (float[n,0] y) { y = Relu(x) }")
    with pytest.raises(InputError, match="fixes this dimension to 0, but it must be"):
        import_onnx(proto, batch=1)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.*none\.onnx' cannot be read .*; check the path"):
        import_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello, world", b"\x08\xff"])
def test_bytes_that_are_no_model(data: bytes) -> None:
    with pytest.raises(InputError, match="not an ONNX file"):
        import_onnx(data)


def test_cycle() -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }")
    with pytest.raises(
        InputError, match=r"topological order, but it reads 'b', which node 'Relu_1' .*cycle"
    ):
        import_onnx(proto)


def test_undefined_tensor() -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { y = Add(x, nowhere) }")
    with pytest.raises(InputError, match=r"breaks a rule of ONNX.*nowhere"):
        import_onnx(proto)


def test_unknown_operator_is_no_onnx() -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { y = Frobnicate(x) }")
    with pytest.raises(UnsupportedModelError, match=r"of ONNX has no operator 'Frobnicate', nor"):
        import_onnx(proto)


def test_foreign_domain() -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedModelError, match=r"\(Relu\): .*is of 'com\.example'; export"):
        import_onnx(proto)


@pytest.mark.parametrize("opset", [1, 6])
def test_operator_set_too_old(opset: int) -> None:
    proto = model("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", opset=opset)
    with pytest.raises(UnsupportedModelError, match=rf"between 7 and \d+, but imports \[{opset}\]"):
        import_onnx(proto)


def test_contradictory_shapes() -> None:
    proto = model(
        "g (float[1,5] x) => (float[1,4] y) { y = MatMul(x, w) }",
        w=np.zeros((3, 4), dtype=np.float32),
    )
    with pytest.raises(InputError, match=r"shape inference found a contradiction.*MatMul"):
        import_onnx(proto)


def test_initializer_that_does_not_fill_its_shape() -> None:
    proto = model(CONV, w=kernel())
    proto.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(InputError, match=r"\bw\b"):
        import_onnx(proto, {"N": 1})


def test_huge_constant_is_never_allocated() -> None:
    proto = model(
        """g (float[1,4] x) => (float[4611686018427387904] y) {
            y = ConstantOfShape(shape)
        }""",
        shape=np.array([1 << 62], dtype=np.int64),
    )
    with pytest.raises(UnsupportedModelError, match=r"ConstantOfShape.*at most 268435456 elements"):
        import_onnx(proto)


def test_huge_activation_is_refused() -> None:
    proto = model(CONV, w=kernel())
    with pytest.raises(UnsupportedModelError, match="between 1 and 268435456 elements"):
        import_onnx(proto, {"N": 1 << 40})


def test_shape_that_depends_on_data() -> None:
    proto = model("g (float[4] x) => (int64[1,M] y) { y = NonZero(x) }")
    with pytest.raises(
        UnsupportedModelError, match=r"NonZero.*shape of its output 'y' must follow"
    ):
        import_onnx(proto)


def test_control_flow() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 4])],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch
            )
        ],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedModelError, match=r"node 'choice' \(If\): which branch"):
        import_onnx(proto)


def test_external_data(tmp_path: Path) -> None:
    path = tmp_path / "conv.onnx"
    onnx.save(
        model(CONV, w=kernel()),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert import_onnx(path, {"N": 1}).constants["w"].tolist() == kernel().tolist()
    with pytest.raises(InputError, match="tensor 'w' is stored in an external file"):
        import_onnx(path.read_bytes(), {"N": 1})
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"external data of tensor 'w'.*cannot be read"):
        import_onnx(path, {"N": 1})


def test_external_data_outside_the_models_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 108))
    proto = model(CONV, w=kernel())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    path = inner / "conv.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="external data of tensor 'w'"):
        import_onnx(path, {"N": 1})


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_only_our_errors(seed: int) -> None:
    chance = random.Random(seed)
    whole = model(CONV, w=kernel()).SerializeToString()
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        try:
            import_onnx(bytes(data), {"N": 1})
        except SystolError as error:
            refused += 1
            assert len(str(error)) > 30
    assert refused > 50
