"""Quantized graphs in numpy: boundaries, host layers, inputs."""

import numpy as np
import pytest

from small_graphs import text_graph
from small_networks import images, residual_network, weights
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_compiler.quantized.evaluate import Evaluator, evaluate, run_layers
from systol_compiler.quantized.graph import QuantizedGraph
from systol_hw.errors import InputError


@pytest.fixture(scope="module")
def network() -> QuantizedGraph:
    return quantize_graph(residual_network(), images(8, 0))


def test_boundaries_are_those_of_the_numerics_page(network: QuantizedGraph) -> None:
    feeds = {"x": images(1, 1)}
    codes, real = run_layers(network, feeds)
    tensors = network.tensors
    first, host, last = tensors["x"], tensors["t"], tensors["y"]
    np.testing.assert_array_equal(
        codes["x"], quantize(feeds["x"], first.scale, first.zero_point)
    )
    source = tensors["s"]
    before = dequantize(codes["s"], source.scale, source.zero_point)
    np.testing.assert_array_equal(real["s"], before)
    np.testing.assert_allclose(real["t"], np.cumsum(before, axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        codes["t"], quantize(real["t"], host.scale, host.zero_point)
    )
    result = evaluate(network, feeds)["y"]
    np.testing.assert_array_equal(result, dequantize(codes["y"], last.scale, last.zero_point))


def test_what_is_kept_and_what_is_dropped_agree(network: QuantizedGraph) -> None:
    evaluator, feeds = Evaluator(network), {"x": images(1, 2)}
    everything, _ = evaluator.run_layers(feeds)
    names = []
    for layer, results in evaluator.layer_results(feeds):
        for name, value in results.items():
            names.append(name)
            if name in everything and layer in network.machine_layers:
                np.testing.assert_array_equal(value, everything[name])
    assert names == ["r", "c", "s", "t", "y"]
    np.testing.assert_array_equal(evaluator.run(feeds)["y"], evaluate(network, feeds)["y"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "name every input once"),
        ({"x": np.zeros((1, 3, 8, 9), np.float32)}, "the shape must be"),
        ({"x": np.zeros((1, 3, 8, 8), np.complex64)}, "values must be float32"),
        ({"x": np.full((1, 3, 8, 8), np.nan, np.float32)}, "NaN"),
    ],
)
def test_wrong_inputs_are_refused(
    network: QuantizedGraph, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(network, inputs)


def test_an_output_that_is_an_input_passes_through() -> None:
    graph = text_graph(
        """g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y, float[1, 3, 4, 4] z) {
            y = Conv <kernel_shape = [1, 1]> (x, w)
            z = Identity(x)
        }""",
        {"w": weights((3, 3, 1, 1), 0)},
    )
    data = images(4, 0, 4)
    found = evaluate(quantize_graph(graph, data), {"x": data[:1]})
    np.testing.assert_array_equal(found["z"], data[:1])
