"""From float graphs to quantized ones: numbers, host layers, corrections, overrides."""

import numpy as np
import pytest

from small_graphs import text_graph
from small_networks import Array, images, residual_network, weights
from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.options import Override, QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize, quantize_graph
from systol_compiler.graph.float_graph import Graph
from systol_compiler.quantized.evaluate import evaluate
from systol_compiler.quantized.graph import QuantizedGraph
from systol_hw.errors import InputError, UnsupportedModelError


def decibels(graph: Graph, quantized: QuantizedGraph, data: Array) -> float:
    """Signal to noise of the first output over samples [count, ...]."""
    name, tensor = graph.outputs[0].name, graph.outputs[0].tensor
    model = FloatModel(graph, [tensor])
    signal = noise = 0.0
    for sample in data:
        feeds = {graph.inputs[0]: sample[None]}
        real = model.run(feeds)[tensor]
        found = evaluate(quantized, feeds)[name]
        signal += float((real**2).sum())
        noise += float(((found - real) ** 2).sum())
    return 10 * float(np.log10(signal / noise))


def test_a_network_with_a_host_layer_in_its_middle_runs_and_is_close() -> None:
    graph = residual_network()
    quantized = quantize_graph(graph, images(32, 0))
    assert [part.name for part in quantized.parts] == ["machine", "host", "machine.1"]
    (host,) = quantized.host_layers
    assert host.operators == ("CumSum",) and host.inputs == ("s",) and host.outputs == ("t",)
    assert "no CumSum" in host.reason
    assert decibels(graph, quantized, images(16, 1)) > 30


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (quantize_graph(residual_network(), images(8, 0)) for _ in range(2))
    assert str(first) == str(second)
    assert [h.model for h in first.host_layers] == [h.model for h in second.host_layers]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_the_default_method_is_about_the_best(method: str) -> None:
    graph = residual_network()
    data = images(32, 0)
    found = decibels(graph, quantize_graph(graph, data), images(32, 1))
    options = QuantizationOptions(method=method)  # type: ignore[arg-type]
    other = decibels(graph, quantize_graph(graph, data, options), images(32, 1))
    # Ranges that leave room for what calibration did not see cost a little where it saw all.
    assert found > other - 0.8


def test_bias_correction_takes_the_mean_error_off() -> None:
    """Inputs far from zero make rounded weights shift whole channels."""
    graph = text_graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 8, 6, 6] y) {
            a = Conv <kernel_shape = [3, 3]> (x, w1)
            y = Relu(a)
        }""",
        {"w1": weights((8, 3, 3, 3), 1)},
    )
    data = images(64, 0) * 0.1 + 3
    plain = quantize_graph(graph, data, QuantizationOptions(bias_correction=False))
    corrected = quantize_graph(graph, data)
    assert decibels(graph, corrected, data) > decibels(graph, plain, data) + 1


def test_a_batch_is_corrected_as_single_samples_are() -> None:
    single, batched = (
        quantize_graph(residual_network(batch), images(8, 0)) for batch in (1, 4)
    )
    for one, four in zip(single.machine_layers, batched.machine_layers, strict=True):
        if hasattr(one, "bias"):
            assert hasattr(four, "bias")
            assert np.abs(one.bias - four.bias).max() <= 2


def test_moves_share_numbers_and_a_table_has_those_that_its_definition_bounds() -> None:
    graph = text_graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y) {
            a = Conv <kernel_shape = [1, 1]> (x, w1)
            b = Sigmoid(a)
            c = Mul(a, b)
            d = Relu(c)
            y = Conv <kernel_shape = [1, 1]> (d, w2)
        }""",
        {"w1": weights((8, 3, 1, 1), 1), "w2": weights((8, 8, 1, 1), 2)},
    )
    assert decibels(graph, quantize_graph(graph, images(32, 0)), images(8, 1)) > 25


def test_overrides_fix_numbers() -> None:
    overrides = {
        "r": Override(scale=0.5, zero_point=-128),
        "s": Override(bits=16),
        "y": Override(range=(-4.0, 8.0)),
    }
    quantized = quantize_graph(
        residual_network(), images(8, 0), QuantizationOptions(overrides=overrides)
    )
    assert (quantized.tensors["r"].scale, quantized.tensors["r"].zero_point) == (0.5, -128)
    assert (quantized.tensors["s"].width, quantized.tensors["s"].zero_point) == (16, 0)
    assert quantized.tensors["y"].scale == pytest.approx(12 / 255)


def test_an_override_of_nothing_names_what_is_close() -> None:
    overrides = {"yy": Override(bits=16)}
    with pytest.raises(InputError, match=r"'yy'.*close are.*'y'"):
        quantize_graph(residual_network(), images(4, 0), QuantizationOptions(overrides=overrides))


def test_a_constant_tensor_is_exact_and_named() -> None:
    quantized = quantize_graph(residual_network(), np.full((4, 3, 8, 8), 0.25, np.float32))
    assert any("'x' is 0.25" in note for note in quantized.notes)
    tensor = quantized.tensors["x"]
    code = round(0.25 / tensor.scale) + tensor.zero_point
    assert (code - tensor.zero_point) * tensor.scale == pytest.approx(0.25, rel=1e-6)
    zeros = quantize_graph(residual_network(), np.zeros((4, 3, 8, 8), np.float32))
    assert zeros.tensors["x"].scale == 1


def test_random_calibration_is_noted() -> None:
    assert "random" in quantize_graph(residual_network(), "random").notes[0]


def test_values_that_are_not_finite_name_the_tensor() -> None:
    graph = text_graph(
        "g (float[1, 3, 2, 2] x) => (float[1, 3, 2, 2] y) { h = Log(x)  y = Conv(h, w) }",
        {"w": weights((3, 3, 1, 1), 0)},
    )
    with pytest.raises(InputError, match=r"tensor 'h'.*stay finite"):
        quantize_graph(graph, -np.ones((1, 3, 2, 2), np.float32))


def test_strict_refuses_a_host_layer() -> None:
    with pytest.raises(UnsupportedModelError, match=r"CumSum"):
        quantize(residual_network(), images(4, 0), strict=True)


def test_integers_and_constants_pass_by_the_machine() -> None:
    graph = text_graph(
        """g (int64[1, 4] ids) => (float[1, 4, 8] y, int64[1, 4] twice, float[2] k) {
            e = Gather(table, ids)
            i = Unsqueeze(e, zero)
            c = Conv <kernel_shape = [1, 1]> (i, w)
            y = Squeeze(c, zero)
            twice = Add(ids, ids)
            k = Identity(constant)
        }""",
        {
            "table": weights((10, 8), 0), "zero": np.array([0], np.int64),
            "w": weights((1, 1, 1, 1), 1), "constant": np.array([1, 2], np.float32),
        },
    )  # fmt: skip
    quantized = quantize_graph(graph, "random")
    found = evaluate(quantized, {"ids": np.array([[0, 1, 2, 9]])})
    assert found["twice"].tolist() == [[0, 2, 4, 18]]
    assert found["k"].tolist() == [1, 2]
    assert found["y"].shape == (1, 4, 8)


def test_bytes_are_inputs() -> None:
    graph = text_graph(
        """g (uint8[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {
            f = Cast <to = 1> (x)
            y = Conv <kernel_shape = [1, 1]> (f, w)
        }""",
        {"w": weights((4, 3, 1, 1), 1)},
    )
    data = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8)
    quantized = quantize_graph(graph, data)
    assert decibels(graph, quantized, data) > 35
