"""Reading nodes: old forms, functions, branches, loops, element types, and all blockers at once."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnx_run import Array, run_model
from systol_compiler.graph.float_graph import OPSET, Graph
from systol_compiler.graph.reading.importer import import_onnx
from systol_hw.errors import InputError, UnsupportedModelError


def model(
    text: str,
    *,
    opset: int = 17,
    inputs: str = "float[2,4] x",
    outputs: str = "float[A] y",
    **weights: Any,
) -> onnx.ModelProto:
    graph = parser.parse_graph(f"g ({inputs}) => ({outputs}) {{ {text} }}")
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def same(proto: onnx.ModelProto, **feeds: Array) -> Graph:
    """The imported graph, after a check that it gives what the model gives."""
    graph = import_onnx(proto)
    assert graph.opset == OPSET
    wanted, found = run_model(proto, feeds), run_model(graph.to_onnx(), feeds)
    for right, value in zip(wanted, found, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-5)
    return graph


X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def test_all_blockers_are_told_at_once() -> None:
    proto = model(
        """a = Relu(x) b = RandomUniformLike(a) c = SequenceConstruct(a, a) d = Add(b, a)
           n = NonZero(x) e = Exp(a) q = StringNormalizer(e) y = Add(e, d)"""
    )
    foreign = helper.make_node("Fancy", ["a"], ["f"], domain="com.example", name="fancy")
    proto.graph.node.insert(1, foreign)
    with pytest.raises(UnsupportedModelError) as caught:
        import_onnx(proto)
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 things stand in the way of this model:"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "- node 'fancy' (Fancy)",
        "- node 'RandomUniformLike_2' (RandomUniformLike)",
        "- node 'SequenceConstruct_3' (SequenceConstruct)",
        "- node 'NonZero_5' (NonZero)",
        "- node 'StringNormalizer_7' (StringNormalizer)",
    ]


def test_what_follows_a_blocker_is_passed_over() -> None:
    proto = model("a = RandomUniformLike(x) b = Exp(a) y = Add(b, x)")
    with pytest.raises(UnsupportedModelError, match=r"^node 'RandomUniformLike_0'.*differ from"):
        import_onnx(proto)


def test_blockers_behind_others_are_told_too() -> None:
    proto = model("b = Frobnicate(a) c = Gelu(b) d = Upsample(c) e = ReduceSum(d) y = Twist(e)",
                  opset=13)  # fmt: skip
    proto.graph.node.insert(0, helper.make_node("Fancy", ["x"], ["a"], domain="com.example"))
    with pytest.raises(UnsupportedModelError) as caught:
        import_onnx(proto)
    _, *lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "- node 'Fancy_0' (Fancy)", "- node 'Frobnicate_1' (Frobnicate)", "- node 'Gelu_2' (Gelu)",
        "- node 'Twist_5' (Twist)",
    ]  # fmt: skip
    assert "no operator 'Frobnicate', nor has any other" in lines[1]
    assert "'Gelu', which began in 20; export the model with that one or a later" in lines[2]


def test_who_reads_what_nothing_defines_is_named_though_it_has_no_name() -> None:
    proto = model("a = Relu(x) y = Add(a, nobody)")
    with pytest.raises(InputError, match=r"node 'Add_1' \(Add\).*reads tensor 'nobody'"):
        import_onnx(proto)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_inputs_keep_their_type_behind_a_cast(kind: str) -> None:
    proto = model("h = Relu(x) y = Add(h, x)", inputs=f"{kind}[2,4] x", outputs=f"{kind}[A] y")
    graph = import_onnx(proto)
    name = {"double": "float64"}.get(kind, kind)
    assert graph.types["x"].dtype == name
    assert [node.op for node in graph.nodes] == ["Cast", "Relu", "Add"]
    assert graph.types["y"].dtype == "float32"
    (value,) = run_model(graph.to_onnx(), {"x": X.astype(name)})
    np.testing.assert_allclose(value, np.maximum(X, 0) + X, rtol=1e-2)


def test_sizes_computed_in_float64_keep_their_precision() -> None:
    """In float32 the floor would be 19: 13 * 1.538461538461539 = 20.00000000000001."""
    proto = model(
        """s = Shape(x) n = Gather(s, one) d = Cast<to=11>(n) m = Mul(d, factor) k = Floor(m)
           i = Cast<to=7>(k) u = Unsqueeze(i, zero) e = Expand(c, u) y = Mul(e, c)""",
        inputs="float[2,13] x", one=np.int64(1), zero=np.array([0]),
        factor=np.float64(20 / 13 + 1e-15), c=np.ones(1, dtype=np.float32),
    )  # fmt: skip
    assert import_onnx(proto).constants["y"].shape == (20,)


def test_a_half_precision_cast_in_between_disappears() -> None:
    proto = model("h = Cast<to=10>(x) k = Cast<to=1>(h) y = Relu(k)")
    graph = import_onnx(proto)
    assert all(kind.dtype == "float32" for kind in graph.types.values())


def test_input_that_is_an_output_too_and_output_without_type() -> None:
    proto = model("h = Relu(x) y = Neg(h)", outputs="float[A] y, float[A] x")
    proto.graph.output.append(onnx.ValueInfoProto(name="h"))
    graph = same(proto, x=X)
    assert [(item.name, item.tensor) for item in graph.outputs] == [
        ("y", "y"), ("x", "x"), ("h", "h"),
    ]  # fmt: skip


def test_constant_output() -> None:
    same(model("y = Add(a, b)", a=X, b=X), x=X)


def test_branch_by_shape_and_by_data() -> None:
    def choice(condition: str) -> onnx.ModelProto:
        proto = model(f"s = Shape(x) n = Size(x) {condition} y = Identity(x)",
                      k=np.int64(8), two=np.float32(2))  # fmt: skip
        info = helper.make_tensor_value_info
        arms = [
            helper.make_graph(
                [
                    helper.make_node("Constant", [], [f"{arm}c"], value_float=factor),
                    helper.make_node("Mul", ["x", f"{arm}c"], [f"{arm}h"]),
                    helper.make_node("Add", [f"{arm}h", "two"], [f"{arm}r"]),
                ],
                "arm", [], [info(f"{arm}r", TensorProto.FLOAT, None)],
            )
            for arm, factor in (("a", 3.0), ("b", 5.0))
        ]  # fmt: skip
        proto.graph.node[-1].CopyFrom(
            helper.make_node("If", ["c"], ["y"], "pick", then_branch=arms[0], else_branch=arms[1])
        )
        return proto

    graph = same(choice("c = Equal(n, k)"), x=X)
    assert [node.op for node in graph.nodes] == ["Mul", "Add"]
    assert graph.nodes[0].name == "pick/Mul_1" and graph.nodes[0].sources == ("pick",)
    same(choice("c = Less(n, k)"), x=X)
    with pytest.raises(UnsupportedModelError, match=r"node 'pick' \(If\): which branch runs"):
        import_onnx(choice("m = ReduceMax<keepdims=0>(x) c = Less(m, two)"))


def looped(trips: str, condition: str, steps: str = "still = Identity(on)") -> onnx.ModelProto:
    proto = model("m = ReduceMax<keepdims=0>(x) i = Cast<to=7>(m) y = Identity(x)",
                  outputs="float[A] y, float[A] z", n=np.int64(3), t=np.array(True),
                  two=np.int64(2))  # fmt: skip
    body = parser.parse_graph(
        f"body (int64 i, bool on, float a) => (bool still, float b, float seen) {{ {steps}"
        " f = Cast<to=1>(i) s = Add(a, f) b = Tanh(s) seen = ReduceSum<keepdims=0>(b) }"
    )
    for value in (*body.input, *body.output):
        value.type.tensor_type.ClearField("shape")
    for value in (body.input[0], body.input[1], body.output[0]):
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [])
        )
    proto.graph.node[-1].CopyFrom(
        helper.make_node("Loop", [trips, condition, "x"], ["y", "z"], "again", body=body)
    )
    return proto


def test_loops_of_known_trips_are_written_out() -> None:
    same(looped("n", "t"), x=X)
    same(looped("n", ""), x=X)
    graph = same(looped("", "t", "still = Less(i, two)"), x=X)
    assert graph.types[graph.outputs[1].tensor].shape == (3,)


def test_loops_that_depend_on_data_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"node 'again' \(Loop\): the number of its"):
        import_onnx(looped("i", "t"))
    with pytest.raises(UnsupportedModelError, match=r"node 'again' \(Loop\): the number of its"):
        import_onnx(looped("n", "t", "q = ReduceMax<keepdims=0>(a) z0 = Cast<to=9>(q) "
                                     "still = And(z0, on)"))  # fmt: skip


def test_functions_inside_functions_with_defaults() -> None:
    proto = model("y = Relu(x)")
    inner = parser.parse_function(
        """<domain: "own", opset_import: ["" : 17]>
        Lean <alpha: float = 0.25>(x) => (y) { y = LeakyRelu<alpha: float = @alpha>(x) }"""
    )
    outer = parser.parse_function(
        """<domain: "own", opset_import: ["" : 13, "own" : 1]>
        Twice <slope>(x) => (y) { a = own.Lean<alpha: float = @slope>(x) y = own.Lean(a) }"""
    )
    proto.functions.extend([inner, outer])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].CopyFrom(
        helper.make_node("Twice", ["x"], ["y"], "both", domain="own", slope=0.5)
    )
    graph = same(proto, x=X)
    assert [node.attributes["alpha"] for node in graph.nodes] == [0.5, 0.25]
    assert {node.sources for node in graph.nodes} == {("both",)}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 21, 23, 25])
def test_computed_reshape_at_every_operator_set(opset: int) -> None:
    unsqueeze = "u = Unsqueeze(d, ax)" if opset >= 13 else "u = Unsqueeze<axes=[0]>(d)"
    extra: dict[str, Any] = {"ax": np.array([0])} if opset >= 13 else {}
    proto = model(
        f"s = Shape(x) d = Gather<axis=0>(s, i) {unsqueeze} t = Concat<axis=0>(u, m)"
        " y = Reshape(x, t)",
        opset=opset, inputs="float[2,3,4] x", i=np.int64(0), m=np.array([-1]), **extra,
    )  # fmt: skip
    graph = import_onnx(proto)
    assert [node.op for node in graph.nodes] == ["Reshape"]
    assert graph.types["y"].shape == (2, 12)


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        ("y = Softmax<axis=5>(x)", {}, r"axis must be between -2 and 1, but is 5"),
        ("y = Transpose<perm=[0,0]>(x)", {}, r"Transpose"),
        ("y, z = Split(x, s)", {"s": np.array([1, 2])}, r"2 parts must add up to 2"),
        ("y = Reshape(x, s)", {"s": np.array([3, -1])}, r"Reshape"),
        ("y = Gemm(x, w, b)", {"w": np.ones((4, 5), np.float32), "b": np.ones((3, 5), np.float32)},
         r"the bias must broadcast to \[2, 5\], but is \[3, 5\]"),
        ("y = PRelu(x, s)", {"s": np.ones(3, np.float32)}, r"PRelu"),
        ("y = Clip(x, b)", {"b": np.ones(3, np.float32)}, r"Clip"),
        ("y = Relu(x) x = Neg(y)", {}, r"tensor 'x' is defined twice"),
        ("y = Relu()", {}, r"breaks a rule of ONNX"),
        ("y = Relu<alpha=1>(x)", {}, r"breaks a rule of ONNX.*alpha"),
        ("y = Add(, x)", {}, r"breaks a rule of ONNX.*input 0"),
        ("y = GatherND<batch_dims=-2>(x, i)", {"i": np.array([[0], [1]])}, r"batch_dims must lie"),
        ("y = Reshape(x, s)", {"s": np.array([4.0, 2.0], np.float32)},
         r"input 'shape' may not be of type float32"),
        ("y = Pad(x, n)", {"n": np.array([0.0] * 4)}, r"input 'pads' may not be of type float64"),
    ],
)  # fmt: skip
def test_rules_that_are_broken(text: str, weights: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_onnx(model(text, **weights))


def test_messages_name_the_author_s_node() -> None:
    proto = model("c = Conv<group=3>(x, w) y = Relu(c)", inputs="float[1,4,8,8] x",
                  w=np.ones((6, 1, 3, 3), dtype=np.float32))  # fmt: skip
    proto.graph.node[0].name = "stem"
    with pytest.raises(InputError, match=r"node 'stem' \(Conv\)"):
        import_onnx(proto)


def test_batch_statistics_are_refused() -> None:
    proto = model(
        "y, m, v = BatchNormalization<training_mode=1>(x, s, b, s, s)", opset=15,
        inputs="float[2,4] x", s=np.ones(4, np.float32), b=np.zeros(4, np.float32),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"export the model in evaluation mode"):
        import_onnx(proto)


def test_statistics_that_old_exporters_put_out() -> None:
    proto = model(
        "y, m, v, a, b = BatchNormalization(x, s, t, s, s)", opset=7,
        inputs="float[2,4] x", s=np.ones(4, np.float32), t=np.zeros(4, np.float32),
    )  # fmt: skip
    assert [node.op for node in import_onnx(proto).nodes] == ["BatchNormalization"]


def test_names_of_inner_tensors_do_not_collide() -> None:
    """A function's tensors are called like the model's own."""
    proto = model("a = Relu(x) y = Neg(a)")
    proto.functions.append(
        parser.parse_function(
            """<domain: "own", opset_import: ["" : 17]>
            F (x) => (y) { a = Exp(x) y = Log(a) }"""
        )
    )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node.insert(1, helper.make_node("F", ["a"], ["f/a"], "f", domain="own"))
    proto.graph.node.insert(2, helper.make_node("F", ["f/a"], ["F_0/a"], "F_0", domain="own"))
    proto.graph.node[3].input[0] = "F_0/a"
    graph = same(proto, x=X)
    assert len({node.name for node in graph.nodes}) == 6
