"""Convolutions: against ONNX Runtime, and on three machines against their own definition."""

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
from systol_compiler.quantized.ops.pointwise.channel_affine import ChannelAffine
from systol_compiler.quantized.ops.products.conv import OPERATORS, Conv

(CONV,) = OPERATORS


def case(
    shape: tuple[int, ...], outputs: int, kernel: tuple[int, ...], *, seed: int = 0,
    groups: int = 1, bias: bool = True, **attributes: Any,
) -> tuple[Graph, dict[str, Array]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3, 1.0, shape).astype(np.float32)
    weights = rng.normal(size=(outputs, shape[1] // groups, *kernel)).astype(np.float32)
    constants = {"w": weights}
    if bias:
        constants["b"] = rng.normal(size=outputs).astype(np.float32)
    inputs = {"x": x}
    return node_graph("Conv", inputs, constants, group=groups, **attributes), inputs


def compare_channels(
    quantized: QuantizedGraph, layer: ChannelAffine, values: dict[str, Array], exact: Array
) -> None:
    """What is one factor and one offset for each channel has exact ones: only codes are rounded,
    and offsets to a small part of a code."""
    tensor = quantized.by_source["y"]
    low, high = (code - tensor.zero_point for code in (layer.lo, layer.hi))
    wanted = np.clip(exact, low * tensor.scale, high * tensor.scale)
    step = quantized.by_source["x"].scale * np.abs(layer.factors).max() / layer.steps
    slack = 0.502 * tensor.scale + 2.0**-16 * np.abs(exact).max()
    slack += tensor.scale / 16 if layer.steps == 1 else step / 2
    assert (np.abs(real(quantized, values, "y") - wanted) <= slack).all()


def compare(graph: Graph, quantized: QuantizedGraph, inputs: dict[str, Array], **clip: float
            ) -> None:
    """Machines against the layer; the layer against float within what quantization explains."""
    values = check(quantized, coded(quantized, inputs))
    (layer,) = quantized.machine_layers
    given = {"x": real(quantized, values, "x")}
    exact = run_float(graph, given)["y"]
    if isinstance(layer, ChannelAffine):
        compare_channels(quantized, layer, values, exact)
        return
    assert isinstance(layer, Conv)
    shape = (-1,) + (1,) * (layer.weights.ndim - 1)
    stored = layer.weights * layer.scales.reshape(shape)
    constants = {**graph.constants, "w": np.abs(graph.constants["w"] - stored)}
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
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8, 18]))
    per_group = draw(st.integers(1, 40 // groups))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    dilations = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    pads = [draw(st.integers(0, 4)) for _ in range(2 * rank)]
    sizes = []
    for axis in range(rank):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        least = max(1, reach - pads[axis] - pads[axis + rank])
        sizes.append(draw(st.integers(least, least + 6)))
    return {
        "shape": (draw(st.integers(1, 3)), groups * per_group, *sizes),
        "outputs": groups * draw(st.integers(1, 40 // groups)),
        "kernel": kernel,
        "groups": groups,
        "strides": [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)],
        "dilations": dilations,
        "pads": pads,
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=60)
@given(convolutions(), st.sampled_from([8, 8, 16]), st.sampled_from([8, 8, 16]), st.booleans())
def test_any_convolution(figures: dict[str, Any], source: int, target: int, relu: bool) -> None:
    graph, inputs = case(**figures)
    widths = {"x": source, "y": target}
    quantized = quantized_node(
        graph, CONV, inputs, widths=widths, least=0.0 if relu else -np.inf
    )
    compare(graph, quantized, inputs)


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "pads"),
    [
        ((2, 2, 2, 2), (3, 3), [2, 2], [0, 0, 1, 1]),
        ((2, 2, 1, 1), (3, 3), [2, 2], [1, 1, 1, 1]),
        ((2, 2, 1, 2), (1, 3), [1, 2], [0, 0, 0, 1]),
        ((2, 2, 4, 1), (1, 2), [1, 1], [0, 0, 0, 1]),
        ((2, 2, 2, 1), (3, 1), [2, 1], [0, 0, 1, 0]),
        ((3, 2, 3, 3), (3, 5), [1, 1], [1, 4, 1, 0]),
        ((1, 3, 2, 2), (5, 5), [1, 1], [6, 6, 0, 0]),
        ((2, 1, 1, 300), (1, 280), [1, 3], [0, 0, 0, 0]),
        ((2, 2, 5, 3), (3, 2), [1, 2], [0, 0, 0, 0]),
    ],
)
def test_kernels_wider_than_the_image(
    shape: tuple[int, ...], kernel: tuple[int, int], strides: list[int], pads: list[int]
) -> None:
    # Ref: tensorflow/tensorflow#17654 has the second and third.
    graph, inputs = case(shape, 3, kernel, strides=strides, pads=pads)
    compare(graph, quantized_node(graph, CONV, inputs), inputs)


@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "groups", "attributes"),
    [
        ((1, 96, 5, 5), 96, (3, 3), 96, {"pads": [1, 1, 1, 1]}),
        ((2, 48, 6, 5), 48, (3, 3), 48, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((1, 40, 9, 9), 80, (5, 5), 40, {"dilations": [2, 1]}),
        ((1, 64, 5, 5), 64, (3, 3), 8, {"pads": [1, 1, 1, 1]}),
        ((1, 6, 8, 8), 90, (3, 3), 2, {}),
        ((1, 24, 20), 24, (7,), 24, {"pads": [3, 3]}),
        ((2, 3, 30), 5, (9,), 1, {"strides": [4], "dilations": [3]}),
        ((3, 16, 7, 7), 20, (7, 7), 1, {}),
        ((3, 16, 7, 7), 20, (1, 1), 1, {"strides": [2, 2]}),
        ((4, 20, 6, 6), 9, (1, 1), 1, {"strides": [2, 2]}),
        ((2, 1, 40, 16), 12, (5, 16), 1, {"pads": [2, 0, 2, 0]}),
    ],
)
def test_shapes_with_a_way_of_their_own(
    shape: tuple[int, ...], outputs: int, kernel: tuple[int, ...], groups: int,
    attributes: dict[str, Any],
) -> None:
    graph, inputs = case(shape, outputs, kernel, groups=groups, **attributes)
    compare(graph, quantized_node(graph, CONV, inputs), inputs)


@pytest.mark.parametrize("shape", [(2, 40, 5, 6), (1, 3, 7, 4), (2, 9, 11), (1, 70, 1, 3)])
@pytest.mark.parametrize("target", [8, 16])
def test_one_weight_a_channel_takes_no_product(shape: tuple[int, ...], target: int) -> None:
    graph, inputs = case(shape, shape[1], (1,) * (len(shape) - 2), groups=shape[1])
    quantized = quantized_node(graph, CONV, inputs, widths={"y": target})
    compare(graph, quantized, inputs)
    (layer,) = quantized.machine_layers
    assert isinstance(layer, ChannelAffine) and layer.steps == 257


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}])
def test_one_weight_a_channel_that_moves_is_a_product(attributes: dict[str, Any]) -> None:
    graph, inputs = case((1, 3, 3, 3), 3, (1, 1), groups=3, **attributes)
    (layer,) = quantized_node(graph, CONV, inputs).machine_layers
    assert isinstance(layer, Conv)
