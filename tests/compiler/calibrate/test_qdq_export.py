"""QDQ models, run by ONNX Runtime, against the exact evaluation."""

import numpy as np
import onnx
import pytest

from small_graphs import text_graph
from small_networks import images, residual_network, weights
from systol_compiler.calibrate.options import Override, QuantizationOptions
from systol_compiler.calibrate.qdq_export import export_qdq
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.host_session import HostSession
from systol_compiler.quantized.evaluate import evaluate
from systol_compiler.quantized.graph import QuantizedGraph


def steps_apart(quantized: QuantizedGraph, feeds: dict[str, np.ndarray]) -> tuple[int, float]:
    """Greatest difference of the outputs in steps of their tensors, and the share that differs."""
    model = export_qdq(quantized)
    onnx.checker.check_model(model, full_check=True)
    names = [output.name for output in quantized.outputs]
    assert [value.name for value in model.graph.output] == names
    assert [value.name for value in model.graph.input] == list(quantized.inputs)
    session = HostSession(model.SerializeToString(), "the export")
    expected = evaluate(quantized, feeds)
    apart = []
    for output, value in zip(quantized.outputs, session.run(names, feeds), strict=True):
        tensor = quantized.by_source[output.tensor]
        steps = (value - expected[output.name]) / tensor.scale
        apart.append(np.abs(np.rint(steps)))
    return int(max(each.max() for each in apart)), float(np.mean([each > 0 for each in apart]))


def activations() -> Graph:
    return text_graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y) {
            a = Conv <kernel_shape = [1, 1]> (x, w1)
            b = Sigmoid(a)
            c = Mul(a, b)
            y = Clip(c, low, high)
        }""",
        {
            "w1": weights((8, 3, 1, 1), 1), "low": np.array(-0.1, np.float32),
            "high": np.array(0.9, np.float32),
        },
    )  # fmt: skip


@pytest.mark.parametrize("make", [residual_network, activations])
@pytest.mark.parametrize("bits", [8, 16])
def test_an_export_is_within_a_step_of_the_definition(make: object, bits: int) -> None:
    graph = make()  # type: ignore[operator]
    middle = "r" if "r" in graph.types else "a"
    options = QuantizationOptions(overrides={middle: Override(bits=bits)})
    quantized = quantize_graph(graph, images(8, 0), options)
    worst, share = steps_apart(quantized, {"x": images(1, 1)})
    # CumSum spreads a step of one element over many.
    assert worst <= (1 if make is activations else 2) and share < 0.1


def test_weights_stay_integers() -> None:
    model = export_qdq(quantize_graph(residual_network(), images(8, 0)))
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.INT8}
    assert {node.op_type for node in model.graph.node} >= {"Conv", "QuantizeLinear", "CumSum"}
