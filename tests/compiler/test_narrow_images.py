"""Valid windows at the edges of what a window can be, as a model's first layer: kernels wider or
higher than the image, one column or row of outputs, padding on one side alone."""

import itertools
import random

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import systol
from onnx_run import run_model

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]

SIZES: tuple[Pair, ...] = tuple((h, w) for h in (1, 2, 3, 6) for w in (1, 2, 3, 6))
KERNELS: tuple[Pair, ...] = tuple((h, w) for h in (1, 2, 3) for w in (1, 2, 3))
PADS: tuple[Pads, ...] = ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 1, 0), (1, 0, 0, 0),
                          (0, 1, 0, 0), (0, 1, 0, 2), (1, 1, 1, 1))  # fmt: skip
STRIDES = ((1, 1), (1, 2), (2, 1), (2, 2))
CHOSEN: tuple[tuple[Pair, Pair, Pads, Pair], ...] = (
    ((1, 2), (1, 3), (0, 0, 0, 1), (1, 2)),
    ((2, 2), (3, 3), (0, 0, 1, 1), (2, 2)),
    ((1, 1), (3, 3), (1, 1, 1, 1), (2, 2)),
    ((4, 1), (1, 2), (0, 0, 0, 1), (1, 1)),
    ((2, 1), (3, 1), (0, 0, 1, 0), (2, 1)),
)


def _grid() -> list[tuple[Pair, Pair, Pads, Pair]]:
    every = [
        (size, kernel, pads, stride)
        for size, kernel, pads, stride in itertools.product(SIZES, KERNELS, PADS, STRIDES)
        if all(size[i] + pads[i] + pads[i + 2] >= kernel[i] for i in (0, 1))
        and any(size[i] < kernel[i] or size[i] == 1 for i in (0, 1))
    ]
    return [*CHOSEN, *random.Random(5).sample(every, 19)]


@pytest.mark.parametrize(("size", "kernel", "pads", "stride"), _grid())
def test_a_convolution_of_a_narrow_image(
    size: Pair, kernel: Pair, pads: Pads, stride: Pair
) -> None:
    rng = np.random.default_rng(hash((size, kernel, pads, stride)) % (1 << 32))
    channels = int(rng.integers(1, 4))
    weights = rng.normal(size=(4, channels, *kernel)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], kernel_shape=kernel, pads=pads, strides=stride
    )
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "narrow", [helper.make_tensor_value_info("x", floats, ["n", channels, *size])],
        [helper.make_tensor_value_info("y", floats, None)], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = rng.normal(size=(4, channels, *size)).astype(np.float32)
    compiled = systol.compile(model, arch="nano", calibration=x, batch=2, effort="fast")
    assert not compiled.host_segments
    found = systol.Device("reference").run(compiled, x).outputs["y"]
    (wanted,) = run_model(model, {"x": x})
    # Eight bits of range, and as much again for weights and inputs.
    assert np.abs(found - wanted).max() <= np.ptp(wanted, axis=None) / 40 + 1e-6
