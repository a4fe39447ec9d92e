"""The quantized graph's verifier and printer."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from systol_compiler.frontend import quantize_model
from systol_compiler.old_quantized import (
    HostSegment,
    QConv2D,
    QLinear,
    QuantizedGraph,
    every_window_has_a_tap,
    window_output_size,
)
from systol_compiler.quantized_reference import evaluate
from systol_hw.errors import InputError, UnsupportedModelError


def network() -> QuantizedGraph:
    rng = np.random.default_rng(0)
    graph = parser.parse_graph(
        """g (float[2,3,6,6] image) => (float[2,5] logits, float[2,5] shares) {
            c = Conv(image, w) r = Relu(c)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            f = Flatten(p) logits = MatMul(f, v) shares = Softmax(logits)
        }"""
    )
    for name, shape in {"w": (4, 3, 3, 3), "v": (16, 5)}.items():
        value = rng.normal(size=shape).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(value, name))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = rng.normal(size=(8, 3, 6, 6)).astype(np.float32)
    return quantize_model(model, calibration=samples).quantized


GRAPH = network()


def with_layer(index: int, **changes: Any) -> QuantizedGraph:
    layers = list(GRAPH.layers)
    layers[index] = replace(layers[index], **changes)
    return replace(GRAPH, layers=tuple(layers))


def with_tensor(key: str, /, **changes: Any) -> QuantizedGraph:
    tensors = dict(GRAPH.tensors)
    tensors[key] = replace(tensors[key], **changes)
    return replace(GRAPH, tensors=tensors)


def conv() -> QConv2D:
    layer = GRAPH.layers[0]
    assert isinstance(layer, QConv2D)
    return layer


def dense() -> QLinear:
    layer = GRAPH.layers[2]
    assert isinstance(layer, QLinear)
    return layer


def segment() -> HostSegment:
    layer = GRAPH.layers[3]
    assert isinstance(layer, HostSegment)
    return layer


def test_quantizer_gives_a_valid_graph() -> None:
    GRAPH.verify()


BROKEN = [
    pytest.param(with_layer(0, lo=5, hi=4), "'Conv_0': lo 5 must not exceed hi 4", id="limits"),
    pytest.param(with_layer(0, hi=128), "'Conv_0': hi must be in -128..127, but is 128", id="hi"),
    pytest.param(with_layer(0, zp_in=99), "'Conv_0': zero points must equal", id="zero point"),
    pytest.param(with_layer(0, pads=(1, 1, 1, 1)), r"output must be \(2, 6, 6, 4\)", id="shape"),
    pytest.param(with_layer(0, strides=(0, 1)), "must be positive, pads not", id="stride"),
    pytest.param(with_layer(0, groups=3), "groups 3 must divide the 4 output", id="groups"),
    pytest.param(with_layer(0, groups=2), "weights read 3 x 2 channels; the input", id="channels"),
    pytest.param(
        with_layer(0, multipliers=conv().multipliers >> 1), r"in 2\*\*16\.\.2\*\*17-1", id="m"
    ),
    pytest.param(
        with_layer(0, shifts=np.full(4, 64, dtype=np.uint8)), r"must be in 0\.\.63", id="s"
    ),
    pytest.param(
        with_layer(0, bias=conv().bias.astype(np.int64)), "int32 wanted, not int64", id="dtype"
    ),
    pytest.param(with_layer(0, bias=conv().bias[:3].copy()), r"\[4\], not \[3\]", id="length"),
    pytest.param(
        with_layer(0, weights=np.full((4, 3, 3, 3), -128, dtype=np.int8)),
        r"weights must be in -127\.\.127",
        id="-128",
    ),
    pytest.param(with_layer(1, input="image"), "output must be", id="pool shape"),
    pytest.param(with_layer(1, input="p"), "reads tensor 'p' before any", id="order"),
    pytest.param(with_layer(2, output="r"), "tensor 'r' is written twice", id="twice"),
    pytest.param(with_layer(2, output="q"), "'q', which has no description", id="unknown"),
    pytest.param(with_layer(2, name="Conv_0"), "layer names must be unique", id="names"),
    pytest.param(
        with_layer(2, weights=dense().weights[:, :8].copy()), r"must be \[O, 16\]", id="width"
    ),
    pytest.param(with_layer(3, model=b"junk"), "'host': the embedded ONNX model", id="host model"),
    pytest.param(with_layer(3, inputs=("r",)), "'host': embedded inputs differ", id="host input"),
    pytest.param(with_layer(3, outputs=()), "'host': embedded outputs differ", id="host output"),
    pytest.param(
        replace(GRAPH, layers=(GRAPH.layers[3], *GRAPH.layers[:3])), "before any", id="host first"
    ),
    pytest.param(replace(GRAPH, layers=GRAPH.layers[:3]), "written by no host", id="no host"),
    pytest.param(replace(GRAPH, inputs=()), "before any layer writes it", id="no input"),
    pytest.param(replace(GRAPH, outputs=()), "needs at least one output", id="no output"),
    pytest.param(
        replace(GRAPH, outputs=(GRAPH.outputs[0], GRAPH.outputs[0])), "outputs repeat", id="repeat"
    ),
    pytest.param(with_tensor("r", scale=0.1), "'r': scale must be a positive float32", id="f64"),
    pytest.param(with_tensor("r", scale=-1.0), "'r': scale must be a positive", id="scale"),
    pytest.param(with_tensor("r", scale=1.0), "'MaxPool_2': input and output must", id="pool"),
    pytest.param(with_tensor("r", zero_point=300), "zero point must be in -128", id="zp"),
    pytest.param(with_tensor("r", shape=(2, 4)), "'Conv_0': output must be", id="rank"),
    pytest.param(with_tensor("r", shape=(2, 4, 4)), "must be .N, H, W, C. or", id="3-D"),
    pytest.param(with_tensor("r", name="s"), "under another name than 's'", id="key"),
    pytest.param(
        replace(GRAPH, inputs=(replace(GRAPH.inputs[0], permutation=(0, 1, 2, 2)),)),
        "must reorder the axes",
        id="permutation",
    ),
    pytest.param(
        replace(GRAPH, inputs=(replace(GRAPH.inputs[0], scale=1.0),)),
        "'image': scale and zero point must equal",
        id="boundary",
    ),
    pytest.param(
        replace(GRAPH, inputs=(replace(GRAPH.inputs[0], source_shape=(2, 3, 6, 7)),)),
        "must have as many elements",
        id="elements",
    ),
]


@pytest.mark.parametrize(("graph", "message"), BROKEN)
def test_verifier_refuses(graph: QuantizedGraph, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph.verify()


def test_verifier_proves_that_nothing_overflows() -> None:
    bias = conv().bias.copy()
    bias[2] = 2**31 - 1000
    with pytest.raises(UnsupportedModelError, match=r"layer 'Conv_0': .*below 2\*\*31.*channel 2"):
        with_layer(0, bias=bias).verify()


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.data(), st.integers(1, 4))
def test_window_without_a_tap(
    size: int, kernel: int, stride: int, data: st.DataObject, dilation: int
) -> None:
    before, after = (data.draw(st.integers(0, kernel - 1)) for _ in range(2))
    count = window_output_size(size, kernel, stride, before, after, dilation)
    starts = [index * stride - before for index in range(max(count, 0))]
    wanted = all(
        any(0 <= start + tap * dilation < size for tap in range(kernel)) for start in starts
    )
    assert every_window_has_a_tap(size, kernel, stride, before, after, dilation) == wanted


def test_printed_graph() -> None:
    text = str(GRAPH)
    for line in (
        "quantized graph 'g' {",
        "input 'image' f32[2x3x6x6] permute[0, 2, 3, 1] quantize -> %image : i8[2x6x6x3] scale=",
        "conv2d 'Conv_0' (%image) weights=i8[4x3x3x3] strides=1x1 pads=[0, 0, 0, 0]",
        "from Conv_0, Relu_1",
        "maxpool 'MaxPool_2' (%r) kernel=2x2 strides=2x2",
        "linear 'MatMul_4' (%p) weights=i8[5x16]",
        "host 'host' (%logits) runs Softmax: the machine has no Softmax, first met in node 'Soft",
        "output 'logits' f32[2x5] = dequantize %logits permute[0, 1]",
        "output 'shares' float32[2x5] from host",
    ):
        assert line in text


def test_quantization_is_deterministic() -> None:
    again = network()
    assert str(again) == str(GRAPH)
    other = again.layers[3]
    assert isinstance(other, HostSegment) and other.model == segment().model


def test_graph_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        GRAPH.tensors["new"] = GRAPH.tensors["r"]  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        conv().weights[0] = 0


def test_host_segment_is_a_model_of_its_own() -> None:
    model = onnx.load_model_from_string(segment().model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == [
        "Transpose",
        "Reshape",
        "Cast",
        "Sub",
        "Mul",
        "Softmax",
    ]


def test_evaluating_needs_the_models_inputs() -> None:
    with pytest.raises(InputError, match=r"inputs are named \['x'\], but the model's are"):
        evaluate(GRAPH, {"x": np.zeros((2, 3, 6, 6))})
    with pytest.raises(InputError, match=r"input 'image': the shape must be \[2, 3, 6, 6\], but"):
        evaluate(GRAPH, {"image": np.zeros((1, 3, 6, 6))})
    with pytest.raises(InputError, match="NaN"):
        evaluate(GRAPH, {"image": np.full((2, 3, 6, 6), np.nan)})
