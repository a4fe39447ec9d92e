"""Moves and elementwise layers in random company: views of views, claims, any order, any width."""

import numpy as np
import pytest

from quantized_cases import check
from random_operators import RandomGraph


@pytest.mark.parametrize("seed", range(25))
def test_nests_compute_what_layers_define(seed: int) -> None:
    graph = RandomGraph(seed)
    while not graph.nodes:
        graph.grow(12)
    quantized = graph.quantized((8, 16) if seed % 3 == 0 else (8,))
    check(quantized, seed=seed)


# 353: a convolution over columns that all repeat one. 5064: a sum into another order of axes.
@pytest.mark.parametrize("seed", [*range(12), 353, 5064])
def test_among_products_pools_and_normalizations(seed: int) -> None:
    graph = RandomGraph(seed)
    while not graph.nodes:
        graph.grow(14, products=True)
    check(graph.quantized((8, 16) if seed % 3 == 0 else (8,)), seed=seed)


@pytest.mark.parametrize("move", ["repeated", "reversed", "stepped"])
@pytest.mark.parametrize("axis", [2, 3])
def test_convolutions_over_any_view(move: str, axis: int) -> None:
    graph = RandomGraph(1)
    shape = [2, 8, 6, 6]
    if move == "repeated":
        shape[axis] = 1
    source = graph.computed[0]
    graph.values[source] = graph.rng.normal(size=shape).astype(np.float32)
    if move == "repeated":
        graph.add("Expand", [source, graph.integers(2, 8, 6, 6)])
    else:
        ends = (5, -9, axis, -1) if move == "reversed" else (0, 6, axis, 2)
        graph.add("Slice", [source, *(graph.integers(value) for value in ends)])
    for kernel, group in ((3, 1), (1, 1), (3, 8)):
        weights = graph.rng.normal(size=(8, 8 // group, kernel, kernel)).astype(np.float32)
        pads = [kernel // 2] * 4
        graph.add(
            "Conv", ["t0.0", graph.constant(weights), graph.constant(np.zeros(8, np.float32))],
            kernel_shape=[kernel, kernel], pads=pads, strides=[1, 1], dilations=[1, 1],
            group=group,
        )
    check(graph.quantized())
