"""Factors moved between products keep the network and take rounding noise away."""

import numpy as np
import pytest

from small_graphs import text_graph
from small_networks import Array, images, weights
from systol_compiler.calibrate.equalize import equalize
from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.inputs.samples import Samples
from systol_compiler.calibrate.options import Override, QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.graph.float_graph import Graph
from systol_compiler.quantized.evaluate import evaluate

UNEVEN = np.geomspace(1, 500, 8).astype(np.float32)
"""Ranges of channels that one scale cannot serve."""


def network(between: str, second: str, w2: Array, out: str) -> Graph:
    """A convolution with uneven channels, what lies between, and a product."""
    w1 = weights((8, 3, 3, 3), 1) * UNEVEN[:, None, None, None]
    return text_graph(
        f"""g (float[1, 3, 18, 18] x) => (float[{out}] y) {{
            a = Conv <kernel_shape = [3, 3]> (x, w1, b1)
            {between}
            y = {second}
        }}""",
        {"w1": w1, "b1": weights((8,), 2) * UNEVEN, "w2": w2, "six": np.array(6, np.float32),
         "zero": np.array(0, np.float32)},
    )  # fmt: skip


def conv() -> Graph:
    w2 = weights((4, 8, 1, 1), 3) / UNEVEN[None, :, None, None]
    return network("r = Relu(a)", "Conv <kernel_shape = [1, 1]> (r, w2)", w2, "1, 4, 16, 16")


def pooled() -> Graph:
    w2 = weights((16, 4, 1, 1), 3) / UNEVEN.reshape(2, 4)[[0] * 8 + [1] * 8][:, :, None, None]
    return network(
        "r = Relu(a)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)",
        "Conv <kernel_shape = [1, 1], group = 2> (p, w2)", w2, "1, 16, 8, 8",
    )  # fmt: skip


def flattened() -> Graph:
    columns = np.repeat(UNEVEN, 64)
    w2 = weights((10, 512), 3) / columns
    between = "r = Relu(a)  p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r)"
    return network(
        f"{between}  f = Flatten(p)", "Gemm <transB = 1> (f, w2)", w2.astype(np.float32), "1, 10"
    )


def results(graph: Graph, data: Array) -> Array:
    model = FloatModel(graph, ["y"])
    return np.concatenate([model.run({"x": image[None]})["y"] for image in data])


def quantized_decibels(graph: Graph, options: QuantizationOptions) -> float:
    data = images(32, 0, 18)
    quantized = quantize(graph, data, options).quantized
    tests = images(8, 1, 18)
    wanted = results(graph, tests)
    found = np.concatenate([evaluate(quantized, {"x": image[None]})["y"] for image in tests])
    return 10 * float(np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


@pytest.mark.parametrize("make", [conv, pooled, flattened])
def test_the_network_stays_the_same_and_loses_less(make: object) -> None:
    graph = make()  # type: ignore[operator]
    data = images(8, 0, 18)
    changed = equalize(graph, Samples(graph, data, "test", 100), ())
    assert changed is not graph
    np.testing.assert_allclose(results(changed, data), results(graph, data), rtol=1e-4, atol=1e-4)
    with_factors = quantized_decibels(graph, QuantizationOptions())
    without = quantized_decibels(graph, QuantizationOptions(equalize=False))
    assert with_factors > without + 3


def test_channels_that_calibration_never_saw_do_not_coarsen_the_others() -> None:
    """As behind a BatchNormalization that divided a dead channel by next to nothing."""
    w1, b1 = weights((8, 3, 3, 3), 1), np.zeros(8, np.float32)
    w1[5:], b1[5:] = 0, -1
    w2 = weights((4, 8, 1, 1), 3)
    w2[:, 5:] *= 1000
    graph = text_graph(
        """g (float[1, 3, 18, 18] x) => (float[1, 4, 16, 16] y) {
            a = Conv <kernel_shape = [3, 3]> (x, w1, b1)
            r = Relu(a)
            y = Conv <kernel_shape = [1, 1]> (r, w2)
        }""",
        {"w1": w1, "b1": b1, "w2": w2},
    )
    assert quantized_decibels(graph, QuantizationOptions()) > 30
    assert quantized_decibels(graph, QuantizationOptions(equalize=False)) < 15


@pytest.mark.parametrize(
    "between",
    ["r = Sigmoid(a)", "r = Clip(a, zero, six)", "r = LeakyRelu(a)  s = Neg(r)", "r = Relu(a)"],
)
def test_what_does_not_commute_or_is_read_elsewhere_stays(between: str) -> None:
    graph = network(between, "Conv <kernel_shape = [1, 1]> (r, w2)", weights((4, 8, 1, 1), 3),
                    "1, 4, 16, 16")  # fmt: skip
    fixed = ("r",) if between == "r = Relu(a)" else ()
    assert equalize(graph, Samples(graph, images(8, 0, 18), "test", 100), fixed) is graph


def test_an_overridden_tensor_stays_as_it_is() -> None:
    graph = conv()
    options = QuantizationOptions(overrides={"r": Override(range=(0.0, 100.0))})
    assert quantize(graph, images(8, 0, 18), options).graph is graph


def test_random_data_moves_nothing() -> None:
    graph = conv()
    assert quantize(graph, "random").graph is graph
