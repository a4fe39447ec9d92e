"""The exact evaluator against rational arithmetic and ONNX's own integer operators."""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from systol_compiler.old_quantized import QConv2D, QLinear, QMaxPool
from systol_compiler.quantized_reference import conv2d, linear, max_pool, requantize

Array = np.ndarray[Any, Any]


def linear_layer(weights: Array, **fields: Any) -> QLinear:
    channels = weights.shape[0]
    defaults: dict[str, Any] = {
        "name": "layer",
        "input": "x",
        "output": "y",
        "weights": weights.astype(np.int8),
        "weight_scales": np.ones(channels, dtype=np.float32),
        "bias": np.zeros(channels, dtype=np.int32),
        "multipliers": np.full(channels, 1 << 16, dtype=np.int32),
        "shifts": np.full(channels, 16, dtype=np.uint8),
        "zp_in": 0,
        "zp_out": 0,
        "lo": -128,
        "hi": 127,
        "source_nodes": ("layer",),
    }
    return QLinear(**(defaults | fields))


def round_half_even(value: Fraction) -> int:
    below, above = floor(value), ceil(value)
    if value - below == above - value:
        return below if below % 2 == 0 else above
    return below if value - below < above - value else above


@settings(max_examples=500)
@given(
    total=st.integers(-(2**31) + 1, 2**31 - 1),
    multiplier=st.integers(2**16, 2**17 - 1),
    shift=st.integers(0, 63),
    zero_point=st.integers(-128, 127),
    limits=st.tuples(st.integers(-128, 127), st.integers(-128, 127)).map(sorted),
)
def test_requantization_is_exact(
    total: int, multiplier: int, shift: int, zero_point: int, limits: list[int]
) -> None:
    layer = linear_layer(
        np.ones((1, 1)),
        multipliers=np.array([multiplier], dtype=np.int32),
        shifts=np.array([shift], dtype=np.uint8),
        zp_out=zero_point,
        lo=limits[0],
        hi=limits[1],
    )
    exact = round_half_even(Fraction(total * multiplier, 2**shift)) + zero_point
    wanted = min(max(min(max(exact, -128), 127), limits[0]), limits[1])
    assert requantize(layer, np.array([total], dtype=np.int64)).tolist() == [wanted]


@pytest.mark.parametrize(
    ("total", "wanted"), [(1, 0), (3, 2), (5, 2), (-1, 0), (-3, -2), (-5, -2), (4, 2), (-2, -1)]
)
def test_ties_round_to_even(total: int, wanted: int) -> None:
    layer = linear_layer(np.ones((1, 1)), shifts=np.array([17], dtype=np.uint8))
    assert requantize(layer, np.array([total], dtype=np.int64)).tolist() == [wanted]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    zero_point=st.integers(-128, 127),
)
def test_convolution_agrees_with_onnx(
    seed: int,
    groups: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    zero_point: int,
) -> None:
    for axis in (0, 1):
        assume(size[axis] + pads[axis] + pads[axis + 2] > (kernel[axis] - 1) * dilations[axis])
    rng = np.random.default_rng(seed)
    inputs, outputs = 2 * groups, 3 * groups
    weights = rng.integers(-127, 128, size=(outputs, *kernel, 2)).astype(np.int8)
    bias = rng.integers(-20000, 20000, size=outputs).astype(np.int32)
    folded = bias - zero_point * weights.reshape(outputs, -1).sum(axis=1, dtype=np.int32)
    image = rng.integers(-128, 128, size=(2, *size, inputs)).astype(np.int8)
    layer = QConv2D(
        name="layer",
        input="x",
        output="y",
        weights=weights,
        weight_scales=np.ones(outputs, dtype=np.float32),
        bias=folded.astype(np.int32),
        multipliers=np.full(outputs, 1 << 16, dtype=np.int32),
        shifts=np.full(outputs, 16 + 10, dtype=np.uint8),
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
        zp_in=zero_point,
        zp_out=-3,
        lo=-100,
        hi=90,
        source_nodes=("layer",),
    )
    # float32 holds these sums exactly: |sum| < 18 * 255 * 127 + 20000 < 2**24.
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=groups,
    )
    real = image.astype(np.float32) - zero_point
    sums = run_node(
        node,
        x=real.transpose(0, 3, 1, 2),
        w=weights.transpose(0, 3, 1, 2).astype(np.float32),
        b=bias.astype(np.float32),
    ).transpose(0, 2, 3, 1)
    wanted = np.clip(np.rint(sums.astype(np.float64) / 1024) - 3, -100, 90)
    np.testing.assert_array_equal(conv2d(layer, image), wanted)


def run_node(node: Any, **values: Array) -> Array:
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in values.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: Array = session.run(None, values)[0]
    return result


def test_linear_reads_images_in_memory_order() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-128, 128, size=(2, 3, 2, 4)).astype(np.int8)
    weights = rng.integers(-127, 128, size=(5, 24)).astype(np.int8)
    layer = linear_layer(weights, shifts=np.full(5, 26, dtype=np.uint8))
    wanted = [
        [
            round_half_even(
                Fraction(sum(int(a) * int(b) for a, b in zip(row.flat, w, strict=True)), 1024)
            )
            for w in weights
        ]
        for row in image
    ]
    assert linear(layer, image).tolist() == np.clip(wanted, -128, 127).tolist()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    data=st.data(),
)
def test_max_pool_is_onnx_max_pool(
    seed: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    data: st.DataObject,
) -> None:
    top, left, bottom, right = (
        data.draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4)
    )
    pads = (top, left, bottom, right)
    rng = np.random.default_rng(seed)
    image = rng.integers(-128, -100, size=(2, 6, 5, 3)).astype(np.int8)
    layer = QMaxPool(
        name="layer",
        input="x",
        output="y",
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        source_nodes=("layer",),
    )
    node = helper.make_node(
        "MaxPool",
        ["x"],
        ["y"],
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
    )
    wanted = run_node(node, x=image.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_array_equal(max_pool(layer, image), wanted.transpose(0, 2, 3, 1))
