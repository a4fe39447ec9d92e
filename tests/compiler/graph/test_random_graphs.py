"""Networks drawn at random keep their meaning through import and all passes together."""

import numpy as np
import pytest

from canonical_forms import broken_forms
from onnx_run import run_model
from random_models import random_model
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx


def agrees(seed: int, *, every_pass: bool = False) -> Graph:
    """The canonical graph of the network `seed`, after a check of its values and forms."""
    proto = random_model(seed)
    rng = np.random.default_rng(seed)
    feeds = {
        value.name: rng.normal(
            size=[dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in proto.graph.input
    }
    wanted = run_model(proto, feeds)

    def check(stage: str, graph: Graph) -> None:
        graph.verify()
        for right, found in zip(wanted, run_model(graph.to_onnx(), feeds), strict=True):
            assert found.shape == right.shape, (seed, stage)
            scale = max(1.0, float(np.abs(right).max()))
            np.testing.assert_allclose(
                found, right, rtol=1e-3, atol=1e-3 * scale, err_msg=f"seed {seed} after {stage}"
            )

    graph = run_pipeline(import_onnx(proto), observer=check if every_pass else None)
    check("all passes", graph)
    assert list(broken_forms(graph)) == [], seed
    return graph


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_random_networks(first: int) -> None:
    for seed in range(first, first + 25):
        agrees(seed)


@pytest.mark.parametrize("seed", range(10_000, 10_010))
def test_random_networks_after_every_pass(seed: int) -> None:
    agrees(seed, every_pass=True)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20_000, 22_000, 250))
def test_many_random_networks(first: int) -> None:
    for seed in range(first, first + 250):
        agrees(seed)
