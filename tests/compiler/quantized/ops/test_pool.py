"""Pools: against ONNX Runtime, and on three machines against their own definition."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Exporter
from quantized_cases import (
    ARCHS,
    check,
    coded,
    graph_of,
    lowered,
    node_graph,
    quantized_node,
    real,
    run_float,
)
from systol_compiler.graph.float_graph import Graph
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.ops.reductions.pool import OPERATORS, AveragePool, MaxPool, Pool

MAX, AVERAGE = OPERATORS


def case(
    op: str, shape: tuple[int, ...], seed: int = 0, **attributes: Any
) -> tuple[Graph, dict[str, Array]]:
    x = np.random.default_rng(seed).normal(0.4, 1.0, shape).astype(np.float32)
    return node_graph(op, {"x": x}, **attributes), {"x": x}


def compare(graph: Graph, quantized: QuantizedGraph, inputs: dict[str, Array], steps: float = 0.51
            ) -> None:
    values = check(quantized, coded(quantized, inputs))
    exact = run_float(graph, {"x": real(quantized, values, "x")})["y"]
    tensor, layer = quantized.by_source["y"], quantized.machine_layers[-1]
    assert isinstance(layer, Pool)
    low, high = ((code - tensor.zero_point) * tensor.scale for code in (layer.lo, layer.hi))
    exact = np.clip(np.nan_to_num(exact, nan=0.0), low, high)
    result = real(quantized, values, "y")
    exported = Exporter(quantized).run({"x": real(quantized, values, "x")})["y"]
    if not np.isnan(exported).any():
        assert np.abs(exported - result).max() <= max(1.01, 2 * steps) * tensor.scale
    error = np.abs(result - exact) / tensor.scale
    assert error.max() <= steps, (error.max(), np.argwhere(error > steps)[0])


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 5)) for _ in range(rank)]
    dilations = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in range(rank)]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    sizes = []
    for axis in range(rank):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        least = max(1, reach - pads[axis] - pads[axis + rank])
        sizes.append(draw(st.integers(least, least + 7)))
    return {
        "shape": (draw(st.integers(1, 3)), draw(st.integers(1, 40)), *sizes),
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 4)) for _ in range(rank)],
        "dilations": dilations,
        "pads": pads,
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=40)
@given(windows(), st.sampled_from([8, 16]), st.booleans(), st.booleans())
def test_any_max_pool(figures: dict[str, Any], width: int, relu: bool, ceil: bool) -> None:
    graph, inputs = case("MaxPool", **figures, ceil_mode=int(ceil))
    quantized = quantized_node(
        graph, MAX, inputs, widths={"x": width, "y": width}, least=0.0 if relu else -np.inf
    )
    compare(graph, quantized, inputs, 0.51 if relu else 0.001)


@settings(max_examples=60)
@given(
    windows(), st.sampled_from([8, 8, 16]), st.sampled_from([8, 8, 16]), st.booleans(),
    st.booleans(),
)
def test_any_average_pool(
    figures: dict[str, Any], source: int, target: int, counted: bool, relu: bool
) -> None:
    graph, inputs = case("AveragePool", **figures, count_include_pad=int(counted))
    quantized = quantized_node(
        graph, AVERAGE, inputs, widths={"x": source, "y": target}, least=0.0 if relu else -np.inf
    )
    compare(graph, quantized, inputs, 0.51 if target == 8 else 1.0)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("GlobalMaxPool", (2, 5, 7, 6)),
        ("GlobalAveragePool", (2, 40, 7, 7)),
        ("GlobalAveragePool", (1, 3, 300)),
        ("GlobalMaxPool", (1, 3, 300)),
        ("GlobalAveragePool", (1, 2, 270, 3)),
        ("GlobalMaxPool", (1, 1, 5, 1000)),
        ("GlobalAveragePool", (1, 1, 20000)),
    ],
)
@pytest.mark.parametrize("width", [8, 16])
def test_global_pools(op: str, shape: tuple[int, ...], width: int) -> None:
    compare_global(op, shape, width)


def test_a_global_pool_in_steps_along_both_axes() -> None:
    compare_global("GlobalAveragePool", (1, 1, 257, 300), 8)


def compare_global(op: str, shape: tuple[int, ...], width: int) -> None:
    operator = MAX if "Max" in op else AVERAGE
    graph, inputs = case(op, shape)
    quantized = quantized_node(graph, operator, inputs, widths={"x": width, "y": width})
    compare(graph, quantized, inputs, 0.6 if width == 8 else 3)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 4, 200), {"kernel_shape": [64], "strides": [64]}),
        ((1, 4, 3, 140), {"kernel_shape": [2, 70], "strides": [1, 70]}),
        ((1, 4, 60), {"kernel_shape": [3], "dilations": [17]}),
        ((1, 4, 40, 3), {"kernel_shape": [3, 2], "dilations": [16, 1], "pads": [2, 1, 2, 1]}),
        ((1, 4, 150), {"kernel_shape": [130], "pads": [129, 129], "strides": [8]}),
        ((1, 4, 4), {"kernel_shape": [3], "dilations": [2], "pads": [1, 1], "auto_pad": "NOTSET"}),
        ((1, 4, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((1, 4, 8, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ((1, 4, 255, 3), {"kernel_shape": [255, 1]}),
        ((1, 33, 12), {"kernel_shape": [1], "strides": [3]}),
    ],
)
def test_windows_of_uncommon_sizes(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    graph, inputs = case(op, shape, **attributes)
    quantized = quantized_node(graph, MAX if op == "MaxPool" else AVERAGE, inputs)
    compare(graph, quantized, inputs)


@pytest.mark.parametrize(
    ("op", "counted"), [("MaxPool", {}), ("AveragePool", {}),
                        ("AveragePool", {"count_include_pad": 1})],
)
def test_long_axes_are_pooled_in_stretches(op: str, counted: dict[str, int]) -> None:
    figures: dict[str, Any] = {"kernel_shape": [9], "strides": [3], "pads": [2, 4], **counted}
    graph, inputs = case(op, (1, 2, 100_000), **figures)
    quantized = quantized_node(graph, MAX if op == "MaxPool" else AVERAGE, inputs)
    compare(graph, quantized, inputs)
    for arch in ARCHS:
        (network,) = lowered(quantized, arch)
        assert 4 <= len(network.nests) < 12
        for nest in network.nests:
            assert max(operand.positions for operand in nest.reads) < 1 << 15


def test_windows_without_a_tap() -> None:
    # Dilated by 3, the one window has a tap on each side of the image's two columns.
    figures: dict[str, Any] = {"kernel_shape": [1, 2], "dilations": [1, 3],
                               "pads": [0, 1, 0, 1]}
    graph, inputs = case("AveragePool", (1, 3, 2, 2), **figures, count_include_pad=0)
    quantized = quantized_node(graph, AVERAGE, inputs)
    known = check(quantized, coded(quantized, inputs))
    assert (known["y"] == quantized.by_source["y"].zero_point).all()
    for least in (-np.inf, 0.0):
        graph, inputs = case("MaxPool", (1, 3, 2, 2), **figures)
        quantized = quantized_node(graph, MAX, inputs, least=least)
        (layer,) = quantized.machine_layers
        assert isinstance(layer, MaxPool)
        known = check(quantized, coded(quantized, inputs))
        assert (known["y"] == layer.lo).all()


def test_a_max_pool_between_other_numbers() -> None:
    tensors = {
        "x": QTensor(name="x", shape=(1, 3, 4, 4), scale=0.5, zero_point=100),
        "y": QTensor(name="y", shape=(1, 3, 2, 2), scale=0.25, zero_point=-7),
    }
    layer = MaxPool(
        name="pool", inputs=("x",), outputs=("y",), source_nodes=(), kernel=(2, 2),
        strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0), lo=-100, hi=90,
    )
    known = check(graph_of([layer], tensors))
    most = known["x"].reshape(1, 3, 2, 2, 2, 2).max(axis=(3, 5)).astype(np.int64)
    assert (known["y"] == np.clip(2 * (most - 100) - 7, -100, 90)).all()


@pytest.mark.parametrize(
    ("op", "shape", "attributes"),
    [
        ("MaxPool", (1, 1, 2, 2, 2), {"kernel_shape": [1, 1, 1]}),
        ("MaxPool", (1, 1, 300), {"kernel_shape": [256]}),
        ("AveragePool", (1, 1, 300, 3), {"kernel_shape": [300, 3], "pads": [0, 1, 0, 1]}),
        ("MaxPool", (1, 1, 20000), {"kernel_shape": [2], "strides": [64]}),
        ("AveragePool", (1, 1, 1 << 20), {"kernel_shape": [2]}),
    ],
)
def test_what_does_not_fit_is_refused(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    graph, _ = case(op, shape, **attributes)
    operator = MAX if op == "MaxPool" else AVERAGE
    assert operator.broken(graph.nodes[0], graph) is not None


def test_whole_windows_are_one_nest() -> None:
    graph, inputs = case("AveragePool", (1, 8, 6, 6), kernel_shape=[3, 3], strides=[3, 3])
    for arch in ARCHS:
        (network,) = lowered(quantized_node(graph, AVERAGE, inputs), arch)
        assert len(network.nests) == 1
    graph, inputs = case("AveragePool", (1, 8, 6, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    counts = [len(lowered(quantized_node(graph, AVERAGE, inputs), arch)[0].nests)
              for arch in ARCHS]
    assert counts == [9, 1, 1]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("width", [8, 16])
def test_large_windows_are_pooled_along_one_axis_after_the_other(op: str, width: int) -> None:
    figures: dict[str, Any] = {"kernel_shape": [9, 9], "pads": [4, 4, 4, 4]}
    if op == "AveragePool":
        figures["pads"] = [0, 0, 0, 0]
    graph, inputs = case(op, (2, 10, 14, 15), **figures)
    quantized = quantized_node(
        graph, MAX if op == "MaxPool" else AVERAGE, inputs, widths={"x": width, "y": width}
    )
    compare(graph, quantized, inputs, 0.51 if width == 8 else 2.0)
    for arch in ARCHS:
        (network,) = lowered(quantized, arch)
        assert len(network.nests) == (1 if op == "AveragePool" and width == 16 else 2)


@pytest.mark.parametrize("rows", [254, 255])
def test_sums_of_rows_keep_within_16_bits(rows: int) -> None:
    tensors = {
        "x": QTensor(name="x", shape=(1, 2, rows, 4), scale=1.0, zero_point=0),
        "y": QTensor(name="y", shape=(1, 2, 1, 3), scale=2.0**-8, zero_point=0, width=16),
    }
    layer = AveragePool(
        name="pool", inputs=("x",), outputs=("y",), source_nodes=(), kernel=(rows, 2),
        strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), lo=-32639, hi=32639,
        divisor=Fraction(2 * rows + 10),
    )
    values = {"x": np.full((1, 2, rows, 4), -128, np.int8)}
    expected = round(Fraction(-128 * 2 * rows * 2**8, 2 * rows + 10))
    assert (check(graph_of([layer], tensors), values)["y"] == expected).all()
