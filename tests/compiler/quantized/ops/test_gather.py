"""Gathers at constant places."""

import numpy as np
import pytest

from node_cases import Case
from quantized_cases import lowered
from systol_compiler.graph.float_graph import Graph, Node, TensorType
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.quantized.ops.moves.gather import constant_indices, repetitions, spans
from systol_hw.arch import PRESETS


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("indices", [
    2, -1, [1, 3, 5], [5, 3, 1], [0, 0, 0], [[0, 1], [2, 3]], [[0, 4], [3, 1]],
    [[[1], [0]], [[2], [2]]], [5, 0, 0, 2],
])
@pytest.mark.parametrize("widths", [8, 16])
def test_indices(axis: int, indices: object, widths: int) -> None:
    case = Case(
        op="Gather", inputs=((6, 7, 8), np.array(indices, np.int64)), attributes={"axis": axis},
        widths=widths,
    )
    assert case.check(0.0).kinds == ["gather"]


def test_regular_steps_are_views() -> None:
    case = Case(op="Gather", inputs=((6, 64), np.array([5, 3, 1])), attributes={"axis": 0})
    (network,) = lowered(case.check(0.0).graph, PRESETS["edge32"])
    assert [nest.layer for nest in network.nests] == ["y0.output"]


@pytest.mark.parametrize("widths", [8, 16])
def test_a_permutation_of_many_channels_is_a_product(widths: int) -> None:
    indices = np.random.default_rng(0).permutation(64)
    case = Case(
        op="Gather", inputs=((50, 64), indices), attributes={"axis": 1}, widths=widths
    )
    (network,) = lowered(case.check(0.0).graph, PRESETS["edge32"])
    assert all(isinstance(nest, MatrixNest) for nest in network.nests)


def test_places_outside_are_refused() -> None:
    node = Node(name="g", op="Gather", inputs=("x", "i"), outputs=("y",), sources=())
    graph = Graph(
        name="g", opset=22, inputs=("x",), outputs=(), nodes=(node,),
        constants={"i": np.array([3])}, types={"x": TensorType(dtype="float32", shape=(3,))},
    )
    assert constant_indices(node, graph) == "'i' reaches out of 3 elements"


def test_spans() -> None:
    assert [str(span) for span in spans([0, 1, 2, 7, 5, 3, 3])] == ["0:3", "7:3:-2", "3:1"]
    assert [str(span) for span in spans([0, 2, 3, 4])] == ["0:1", "2:3"]
    assert [str(span) for span in spans([4])] == ["4:1"]
    assert [index for span in spans([9, 1, 1, 4]) for index in span.indices] == [9, 1, 1, 4]


def test_repetitions() -> None:
    assert repetitions([0, 0, 1, 1, 2, 2]) == 2
    assert repetitions([3, 3, 3]) == 3
    assert repetitions([0, 0, 1]) == 1
