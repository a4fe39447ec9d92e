"""Moves and elementwise layers in random company: views of views, claims, any order, any width."""

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
