"""Products with constant matrices: against float, and on three machines."""

from dataclasses import replace
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
    random_inputs,
    real,
    run_float,
)
from systol_compiler.graph.float_graph import Graph, GraphOutput, Node, TensorType
from systol_compiler.nests.buffer import Home
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.interpret import interpret
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, MachineNode, Numbers
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.operator import registry
from systol_compiler.quantized.ops.products.linear import OPERATORS, Linear

(GEMM,) = OPERATORS
MATMUL = registry()["MatMul"]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0.2, 1, shape).astype(np.float32)


def compare(graph: Graph, quantized: QuantizedGraph, inputs: dict[str, Array], bias: str = ""
            ) -> None:
    """Machines against the layer; the layer against float within what quantization explains."""
    values = check(quantized, coded(quantized, inputs))
    (layer,) = quantized.machine_layers
    assert isinstance(layer, Linear)
    given = {"x": real(quantized, values, "x")}
    exact = run_float(graph, given)["y"] + (graph.constants[bias] if bias else 0)
    scales = layer.scales.reshape(*layer.weights.shape[:-1], 1)
    stored = (layer.weights * scales).swapaxes(-1, -2)
    weights = graph.constants["w"]
    if graph.nodes[0].op == "Gemm":
        weights = weights.T
    x = np.abs(given["x"])
    bound = x @ np.abs(weights.reshape(stored.shape) - stored)
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


@settings(max_examples=30)
@given(
    st.integers(1, 5), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.booleans(),
    st.sampled_from([8, 16]), st.sampled_from([8, 16]),
)
def test_gemm(
    rows: int, length: int, outputs: int, bias: bool, relu: bool, source: int, target: int
) -> None:
    inputs = {"x": normal(rows, length)}
    constants = {"w": normal(outputs, length, seed=1)}
    if bias:
        constants["b"] = normal(outputs, seed=2)
    graph = node_graph("Gemm", inputs, constants, transB=1)
    quantized = quantized_node(
        graph, GEMM, inputs, widths={"x": source, "y": target}, least=0.0 if relu else -np.inf
    )
    compare(graph, quantized, inputs)


@pytest.mark.parametrize(
    ("data", "weights"),
    [
        ((3, 7), (7, 5)),
        ((2, 3, 7), (7, 40)),
        ((2, 3, 4, 7), (7, 5)),
        ((2, 3, 7), (2, 7, 5)),
        ((2, 3, 4, 7), (3, 7, 5)),
        ((2, 1, 4, 7), (1, 3, 7, 5)),
        ((1, 3, 7), (4, 7, 5)),
        ((3, 7), (2, 2, 7, 1)),
        ((1, 40, 33), (33, 34)),
    ],
)
def test_matmul_by_the_rules_of_numpy(
    data: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    inputs = {"x": normal(*data)}
    fused = normal(weights[-1], seed=3)
    graph = node_graph(
        "MatMul", inputs, {"w": normal(*weights, seed=1), "extra": fused}, order=("x", "w")
    )
    compare(graph, quantized_node(graph, MATMUL, inputs), inputs)
    compare(graph, quantized_node(graph, MATMUL, inputs, bias="extra"), inputs, bias="extra")


@pytest.mark.parametrize(
    ("operator", "op", "data", "constants", "attributes"),
    [
        (GEMM, "Gemm", (7, 3), {"w": (7, 5)}, {"transA": 1}),
        (GEMM, "Gemm", (3, 7), {"w": (7, 5)}, {"alpha": 0.5}),
        (GEMM, "Gemm", (3, 7), {"w": (7, 5), "b": (3, 1)}, {}),
        (GEMM, "Gemm", (3, 7), {"w": (7, 5), "b": (3, 5)}, {}),
        (MATMUL, "MatMul", (7,), {"w": (7, 5)}, {}),
        (MATMUL, "MatMul", (3, 7), {"w": (7,)}, {}),
    ],
)
def test_what_has_no_layer_is_refused(
    operator: Any, op: str, data: tuple[int, ...], constants: dict[str, tuple[int, ...]],
    attributes: dict[str, Any],
) -> None:
    graph = node_graph(
        op, {"x": normal(*data)}, {name: normal(*shape) for name, shape in constants.items()},
        **attributes,
    )
    assert operator.broken(graph.nodes[0], graph) is not None


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = normal(7, 5)
    weights[3, 2] = np.inf
    graph = node_graph("MatMul", {"x": normal(3, 7)}, {"w": weights})
    rule, value = MATMUL.broken(graph.nodes[0], graph) or (None, "")
    assert rule is not None and "finite" in value


def linear(weights: Array, contract: tuple[int, ...], scale: float = 0.01) -> Linear:
    outputs = weights.shape[0]
    return Linear(
        name="fc", inputs=("x",), outputs=("y",), source_nodes=(), weights=weights,
        scales=np.full(outputs, 0.02, np.float32), bias=np.arange(outputs, dtype=np.int32),
        source_scale=scale, multipliers=np.full(outputs, 70000, np.int32),
        shifts=np.full(outputs, 23, np.int32), lo=-128, hi=127, contract=contract, rows=1,
    )


def test_an_image_that_lies_channels_last_is_not_moved() -> None:
    scale = float(np.float32(0.01))
    weights = np.random.default_rng(0).integers(-127, 128, (9, 5 * 4 * 3)).astype(np.int8)
    tensors = {
        "x": QTensor(name="x", shape=(2, 5, 4, 3), scale=scale, zero_point=3),
        "y": QTensor(name="y", shape=(2, 9), scale=1.0, zero_point=-4),
    }
    layer = linear(weights, (1, 2, 3), scale)
    graph = graph_of([layer], tensors)
    known = check(graph)
    # In memory order N, H, W, C the same numbers come from one nest and no copy.
    for arch in ARCHS:
        builder = NestBuilder(arch, graph.tensors, {"x": (0, 2, 3, 1), "y": (0, 1)})
        builder.add_input("x")
        builder.layer = "fc"
        layer.lower(builder)
        assert len(builder.nests) == 1
        name = builder.view("y").buffer
        builder.buffers[name] = replace(
            builder.buffers[name], home=Home.OUTPUT, tensor="y", order=(0, 1)
        )
        network = LoweredNetwork(
            name="n", images=2, buffers=builder.buffers, nests=tuple(builder.nests)
        )
        got = interpret(network, graph.tensors, {"x": known["x"]}, arch)
        assert (got["y"] == known["y"]).all()


def test_a_flattened_image_is_read_as_it_was() -> None:
    types = {
        "x": TensorType(dtype="float32", shape=(2, 5, 4, 3)),
        "f": TensorType(dtype="float32", shape=(2, 60)),
        "w": TensorType(dtype="float32", shape=(7, 60)),
        "y": TensorType(dtype="float32", shape=(2, 7)),
    }
    nodes = (
        Node(name="flatten", op="Flatten", inputs=("x",), outputs=("f",), sources=("flatten",)),
        Node(name="fc", op="Gemm", inputs=("f", "w"), outputs=("y",), attributes={"transB": 1},
             sources=("fc",)),
    )
    graph = Graph(
        name="g", opset=19, inputs=("x",), outputs=(GraphOutput(name="y", tensor="y"),),
        nodes=nodes, constants={"w": normal(7, 60)}, types=types,
    )
    numbers = {
        name: Numbers(scale=float(np.float32(0.02)), zero_point=2) for name in ("x", "f", "y")
    }
    builder = LayerBuilder(graph, numbers)
    builder.current = MachineNode(node=nodes[1], output="y", sources=("fc",))
    GEMM.build(nodes[1], builder)
    (layer,) = builder.layers
    assert layer.inputs == ("x",) and isinstance(layer, Linear) and layer.contract == (1, 2, 3)
    # Where the reshape has other numbers than its input, it must be read itself.
    other = LayerBuilder(graph, {**numbers, "f": Numbers(scale=0.5, zero_point=0)})
    other.current = builder.current
    GEMM.build(nodes[1], other)
    assert other.layers[0].inputs == ("f",)
    quantized = QuantizedGraph(
        name="g", inputs=("x",), outputs=graph.outputs, real={"x": types["x"], "y": types["y"]},
        tensors=builder.tensors, constants={}, layers=(layer,),
    )
    known = check(quantized, random_inputs(quantized))
    flat = (known["x"].astype(np.int64) - 2).reshape(2, 60)
    total = flat @ layer.weights.T.astype(np.int64) + layer.bias
    expected = layer.finish(total, builder.tensors["y"])
    assert (known["y"] == expected).all()


def test_rows_of_a_sequence_are_one_nest() -> None:
    tensors = {
        "x": QTensor(name="x", shape=(3, 50, 16), scale=1.0, zero_point=0),
        "y": QTensor(name="y", shape=(3, 50, 4), scale=1.0, zero_point=0),
    }
    graph = graph_of([linear(np.ones((4, 16), np.int8), (2,), 1.0)], tensors)
    for arch in ARCHS:
        ((nest,),) = (network.nests for network in lowered(graph, arch))
        assert isinstance(nest, MatrixNest) and nest.size == (150, 1) and nest.streams


def test_more_rows_than_an_instruction_counts() -> None:
    tensors = {
        "x": QTensor(name="x", shape=(40_000, 3), scale=1.0, zero_point=2),
        "y": QTensor(name="y", shape=(40_000, 4), scale=1.0, zero_point=0),
    }
    weights = np.arange(12, dtype=np.int8).reshape(4, 3)
    check(graph_of([linear(weights, (1,), 1.0)], tensors), archs=ARCHS[:1])
