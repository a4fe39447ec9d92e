"""LRN: its sets of neighbours, and its values against ONNX Runtime."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Case
from operator_cases import run_operator
from systol_compiler.quantized.graph import MachinePart
from systol_compiler.quantized.ops.reductions.lrn import neighbours
from systol_compiler.quantized.ops.reductions.lrn_precision import LARGEST_ERROR, Response, Widths
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


@settings(max_examples=40)
@given(
    st.sampled_from([1, 3, 5, 7]), st.floats(-5, 1.2), st.floats(0.3, 3), st.floats(-2, 2),
    st.booleans(), st.sampled_from([8, 16]), st.integers(0, 99),
)
def test_errors_stay_below_the_bound(
    size: int, ratio: float, beta: float, bias: float, positive: bool, width: int, seed: int
) -> None:
    """`ratio` is about how many times the bias the largest sums are."""
    x = np.random.default_rng(seed).normal(0, 3, (1, 10, 3, 4)).astype(np.float32)
    alpha = 10 ** (bias + ratio - 2)
    result = run_operator(
        "LRN", {"x": abs(x) if positive else x},
        attributes={"size": size, "alpha": alpha, "beta": beta, "bias": 10**bias},
        width=width, archs=NANO,
    )
    assert result.steps.max() < 0.52 + LARGEST_ERROR


@pytest.mark.parametrize(
    ("greatest", "layers"),
    [
        (1.0, {"product": 8}),
        (9.0, {"square": 8, "sets": 8, "power": 8, "product": 8}),
        (60.0, {"square": 8, "sets": 8, "power": 16, "product": 8}),
        (120.0, {"square": 16, "sets": 8, "power": 16, "product": 8}),
        (300.0, {"square": 16, "sets": 16, "power": 16, "product": 8}),
    ],
)
def test_bits_by_the_range(greatest: float, layers: dict[str, int]) -> None:
    x = np.linspace(0, greatest, 10 * 16).reshape(1, 10, 4, 4).astype(np.float32)
    result = run_operator("LRN", {"x": x}, attributes={"size": 5}, archs=NANO, export=1.01)
    (part,), tensors = result.graph.parts, result.graph.tensors
    assert isinstance(part, MachinePart)
    found = {
        layer.name.removeprefix("node."): tensors[layer.outputs[0]].width
        for layer in part.layers
    }
    assert found == layers
    assert result.steps.max() < 0.52 + LARGEST_ERROR


RESPONSE = Response(bias=1.0, share=2e-5, beta=0.75, most=5, largest=12.0, step=12 / 255)


def test_turns() -> None:
    assert Widths(squares=8, sums=8, factor=8).turns == 4
    assert Widths(squares=8, sums=8, factor=16).turns == 6
    assert Widths(squares=16, sums=16, factor=16).turns == 9


def test_the_cheapest_widths() -> None:
    assert RESPONSE.widths(8) == Widths(squares=8, sums=8, factor=8)
    assert replace(RESPONSE, step=RESPONSE.step / 2).widths(8) == Widths(
        squares=8, sums=8, factor=16
    )
    assert replace(RESPONSE, step=1e-9).widths(8) is None
    wide = RESPONSE.widths(16)
    assert wide is not None
    assert wide.squares == 16


def test_refusals() -> None:
    assert "size" in Case(op="LRN", inputs=[(1, 3, 4, 4)], attributes={"size": 3, "bias": -1.0}
                          ).refusal()
