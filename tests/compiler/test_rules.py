"""What the machine cannot run is refused by name: node, rule, value, remedy."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from systol_compiler.graph.importer import import_onnx
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.partition import Partition, partition
from systol_compiler.rules import RULES, supported_operators
from systol_hw.errors import UnsupportedModelError

FLOAT = np.float32
W4 = np.ones((4, 4, 3, 3), dtype=FLOAT)
M4 = np.ones((4, 4), dtype=FLOAT)
B4 = np.ones(4, dtype=FLOAT)


def model(text: str, **weights: Any) -> onnx.ModelProto:
    graph = parser.parse_graph(text)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def split(text: str, **weights: Any) -> Partition:
    return partition(run_pipeline(import_onnx(model(text, **weights))))


IMAGE = "g (float[1,4,8,8] x) => (float[A,B,C,D] y) "
ROWS = "g (float[2,4] x) => (float[A,B] y) "

REFUSED = [
    pytest.param(
        IMAGE + "{ y = Conv<group=2>(x, w) }",
        {"w": np.ones((4, 2, 3, 3), dtype=FLOAT)},
        r"node 'Conv_0' \(Conv\): grouped .* group must be 1; found group 2; write it as one",
        id="groups",
    ),
    pytest.param(
        "g (float[1,4,8,8] x, float[4,4,3,3] w) => (float[A,B,C,D] y) { y = Conv(x, w) }",
        {},
        r"\(Conv\): the second operand .* must be constants; found 'w' is computed; store",
        id="computed weights",
    ),
    pytest.param(
        "g (float[1,4,8] x) => (float[A,B,C] y) { y = Conv(x, w) }",
        {"w": np.ones((4, 4, 3), dtype=FLOAT)},
        r"\(Conv\): the input must be a 4-D NCHW tensor .*found shape \[1, 4, 8\]; write",
        id="one spatial axis",
    ),
    pytest.param(
        IMAGE + "{ y = Conv(x, w) }",
        {"w": np.full((4, 4, 3, 3), np.nan, dtype=FLOAT)},
        r"\(Conv\): weights and biases must be finite.*found NaN or infinity in 'w'; train",
        id="NaN weights",
    ),
    pytest.param(
        IMAGE + "{ c = Conv(x, w) y = BatchNormalization(c, b, b, b, v) }",
        {"w": W4, "b": B4, "v": -B4},
        r"\(Conv\): weights and biases must be finite.*variances of batch normalization",
        id="negative variance",
    ),
    pytest.param(
        IMAGE + "{ y = Conv(x, w) }",
        {"w": np.ones((4, 5, 3, 3), dtype=FLOAT)},
        r"\(Conv\): the weights must read as many channels.*\[4, 5, 3, 3\] for data \[1, 4",
        id="channels",
    ),
    pytest.param(
        "g (float[1,4,8,8] x) => (float[A,B,C,D] y, int64[E,F,G,H] i) "
        "{ y, i = MaxPool<kernel_shape=[2,2]>(x) }",
        {},
        r"\(MaxPool\): .*indices must not be used; found output 'i'; export without",
        id="pool indices",
    ),
    pytest.param(
        IMAGE + "{ y = MaxPool<kernel_shape=[2,2], pads=[2,0,0,0]>(x) }",
        {},
        r"\(MaxPool\): pads must be smaller than the kernel.*found pads \[2, 0, 0, 0\] with",
        id="pool pads",
    ),
    pytest.param(
        "g (float[1,1,1,1] x) => (float[A,B,C,D] y) "
        "{ y = MaxPool<kernel_shape=[4,1], dilations=[2,1], pads=[3,0,3,0]>(x) }",
        {},
        r"\(MaxPool\): every window must see at least one pixel.*dilations \[2, 1\]",
        id="window outside",
    ),
    pytest.param(
        "g (float[1,2,4] x) => (float[A,B,C] y) { y = MatMul(x, w) }",
        {"w": M4},
        r"\(MatMul\): data must be 2-D.*\[1, 2, 4\].*; reshape the data to \[N, features\]",
        id="3-D product",
    ),
    pytest.param(
        "g (float[2,4] x, float[4,4] v) => (float[A,B] y) { y = MatMul(x, v) }",
        {},
        r"\(MatMul\): the second operand .*'v' is computed",
        id="product of activations",
    ),
    pytest.param(
        ROWS + "{ r = Relu(x) y = MatMul(r, w) }",
        {"w": M4},
        r"'Relu_0' \(Relu\): an activation must directly follow.*it follows a model input; move",
        id="relu of an input",
    ),
    pytest.param(
        "g (float[2,4] x) => (float[A,B] y, float[C,D] h) { h = MatMul(x, w) y = Relu(h) }",
        {"w": M4},
        r"\(Relu\): an activation must .*found 1 nodes and 1 outputs read 'h'; move",
        id="relu of a shared product",
    ),
    pytest.param(
        ROWS + "{ h = MatMul(x, w) y = Add(h, x) }",
        {"w": M4},
        r"'Add_1' \(Add\): must act per channel, by constants.*'h: float32\[2x4\]'.*; fold",
        id="residual",
    ),
    pytest.param(
        ROWS + "{ h = MatMul(x, w) e = Erf(h) y = MatMul(e, w) }",
        {"w": M4},
        r"'Erf_1' \(Erf\): operator Erf is not supported; the machine runs Conv.*; replace it",
        id="unsupported operator",
    ),
    pytest.param(
        ROWS + "{ h = MatMul(x, w) s = Softmax(h) y = MatMul(s, w) }",
        {"w": M4},
        r"'MatMul_2' \(MatMul\): only host operators may follow node 'Softmax_1' \(Softmax\)",
        id="machine behind host",
    ),
    pytest.param(
        ROWS + "{ y = Softmax(x) }",
        {},
        r"at least one Conv, Gemm, MatMul or MaxPool; found only \['Softmax'\]; run it with",
        id="nothing for the machine",
    ),
]


@pytest.mark.parametrize(("text", "weights", "message"), REFUSED)
def test_refusals(text: str, weights: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        split(text, **weights)


def test_bounds_that_are_computed() -> None:
    with pytest.raises(UnsupportedModelError, match=r"\(Clip\): bounds must be constant scalars"):
        split(
            "g (float[2,4] x, float m) => (float[A,B] y) { h = MatMul(x, w) y = Clip(h, m) }",
            w=M4,
        )


def test_tail_goes_to_the_host() -> None:
    parts = split(
        """g (float[2,4] x) => (float[A,B] y, int64[C,D] k) {
            h = MatMul(x, w) r = Relu(h) y = Softmax(r) k = ArgMax<axis=1>(y)
        }""",
        w=M4,
    )
    assert [node.op for node in parts.machine] == ["Gemm", "Clip"]
    assert [node.op for node in parts.host] == ["Softmax", "ArgMax"]


def test_every_rule_is_on_the_page() -> None:
    page = supported_operators()
    for rule in RULES:
        assert rule.text[1:] in page and rule.remedy in page
        assert rule.check.__doc__ and not rule.remedy.endswith(".")
