"""Transposed convolutions: against ONNX Runtime, and on three machines."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Exporter
from quantized_cases import check, coded, node_graph, quantized_node, real, run_float
from systol_compiler.graph.float_graph import Graph
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.ops.products.conv_transpose import OPERATORS, ConvTranspose, phases

(TRANSPOSED,) = OPERATORS


def case(
    shape: tuple[int, ...], outputs: int, kernel: tuple[int, ...], *, seed: int = 0,
    groups: int = 1, bias: bool = True, **attributes: Any,
) -> tuple[Graph, dict[str, Array]]:
    rng = np.random.default_rng(seed)
    inputs = {"x": rng.normal(0.3, 1.0, shape).astype(np.float32)}
    constants = {
        "w": rng.normal(size=(shape[1], outputs // groups, *kernel)).astype(np.float32)
    }
    if bias:
        constants["b"] = rng.normal(size=outputs).astype(np.float32)
    return node_graph("ConvTranspose", inputs, constants, group=groups, **attributes), inputs


def compare(graph: Graph, quantized: QuantizedGraph, inputs: dict[str, Array]) -> None:
    values = check(quantized, coded(quantized, inputs))
    (layer,) = quantized.machine_layers
    assert isinstance(layer, ConvTranspose)
    given = {"x": real(quantized, values, "x")}
    exact = run_float(graph, given)["y"]
    stored = layer.weights * layer.scales.reshape(-1, *(1,) * (layer.weights.ndim - 1))
    grouped = stored.reshape(layer.groups, -1, *stored.shape[1:]).swapaxes(1, 2)
    difference = np.abs(graph.constants["w"] - grouped.reshape(graph.constants["w"].shape))
    constants = {**graph.constants, "w": difference.astype(np.float32)}
    if "b" in constants:
        constants["b"] = np.zeros_like(constants["b"])
    wrong = Graph(
        name="bound", opset=graph.opset, inputs=graph.inputs, outputs=graph.outputs,
        nodes=graph.nodes, constants=constants, types=graph.types,
    )
    bound = run_float(wrong, {"x": np.abs(given["x"])})["y"]
    tensor = quantized.by_source["y"]
    low, high = (code - tensor.zero_point for code in (layer.lo, layer.hi))
    exact = np.clip(exact, low * tensor.scale, high * tensor.scale)
    step = quantized.by_source["x"].scale * float(layer.scales.max())
    slack = bound + 0.502 * tensor.scale + 0.5 * step + 1e-4 * np.abs(exact).max()
    result = real(quantized, values, "y")
    assert (np.abs(result - exact) <= slack).all()
    # Sums in float32 are good for some 16-bit steps.
    exported = Exporter(quantized).run(given)["y"]
    assert np.abs(exported - result).max() <= (1.01 if tensor.width == 8 else 8) * tensor.scale


@st.composite
def transposed(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 9]))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    strides = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 3)) for _ in range(rank)]
    sizes = [draw(st.integers(1, 6)) for _ in range(rank)]
    full = [
        strides[i] * (sizes[i] - 1) + dilations[i] * (kernel[i] - 1) + 1 for i in range(rank)
    ]
    before = [draw(st.integers(0, min(3, n - 1))) for n in full]
    behind = [draw(st.integers(0, min(3, n - 1 - b))) for n, b in zip(full, before, strict=True)]
    more = [draw(st.integers(0, strides[i] - 1)) for i in range(rank)]
    return {
        "shape": (draw(st.integers(1, 2)), groups * draw(st.integers(1, 20 // groups)), *sizes),
        "outputs": groups * draw(st.integers(1, 20 // groups)),
        "kernel": kernel, "groups": groups, "strides": strides, "dilations": dilations,
        "pads": [*before, *behind], "output_padding": more,
        "bias": draw(st.booleans()), "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=40)
@given(transposed(), st.sampled_from([8, 8, 16]), st.sampled_from([8, 8, 16]), st.booleans())
def test_any_transposed_convolution(
    figures: dict[str, Any], source: int, target: int, relu: bool
) -> None:
    graph, inputs = case(**figures)
    quantized = quantized_node(
        graph, TRANSPOSED, inputs, widths={"x": source, "y": target},
        least=0.0 if relu else -np.inf,
    )
    compare(graph, quantized, inputs)


@pytest.mark.parametrize(
    ("outputs", "kernel", "stride", "dilation", "pad"),
    [(7, 3, 2, 1, 1), (9, 4, 3, 2, 0), (8, 2, 4, 1, 0), (10, 5, 2, 2, 3), (3, 1, 5, 1, 0)],
)
def test_phases_cover_every_output_once(
    outputs: int, kernel: int, stride: int, dilation: int, pad: int
) -> None:
    seen = []
    for phase in phases(outputs, kernel, stride, dilation, pad):
        for index in range(phase.count):
            place = phase.first + index * stride
            seen.append(place)
            for number, tap in enumerate(phase.taps):
                position = index - phase.pad + number * phase.dilation
                assert position * stride + tap * dilation - pad == place
    assert sorted(seen) == list(range(outputs))


def test_a_kernel_shorter_than_the_stride_leaves_biases() -> None:
    graph, inputs = case((1, 3, 2, 3), 4, (1, 2), strides=[3, 3], output_padding=[2, 1])
    compare(graph, quantized_node(graph, TRANSPOSED, inputs), inputs)
