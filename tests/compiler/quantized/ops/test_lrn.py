"""LRN: its sets of neighbours, and its values against ONNX Runtime."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import run_operator
from systol_compiler.quantized.ops.lrn import neighbours
from systol_hw.arch import PRESETS

NANO = [PRESETS["nano"]]


def test_neighbours_of_odd_and_even_sizes() -> None:
    np.testing.assert_array_equal(
        neighbours(4, 3), [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(neighbours(3, 2), [[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    assert neighbours(3, 40).all()


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize(
    "attributes",
    [
        {"size": 5}, {"size": 5, "alpha": 1e-7}, {"size": 1, "alpha": 2.0},
        {"size": 5, "alpha": 20.0, "beta": 0.75},
        {"size": 3, "alpha": 1.0, "beta": 0.5, "bias": 0.1}, {"size": 31, "bias": 2.0},
        {"size": 3, "alpha": 0.5, "beta": 3.5},
    ],
)
def test_within_a_step(attributes: dict[str, float], width: int) -> None:
    x = np.random.default_rng(4).normal(0, 2, (2, 12, 5, 7)).astype(np.float32)
    result = run_operator(
        "LRN", {"x": x}, attributes=attributes, width=width, archs=NANO, export=1.01
    )
    assert result.steps.max() < 0.8


def test_refusals() -> None:
    assert "size" in Case(op="LRN", inputs=[(1, 3, 4, 4)], attributes={"size": 3, "bias": -1.0}
                          ).refusal()
