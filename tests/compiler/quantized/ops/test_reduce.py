"""Reductions as operators: against ONNX Runtime, exact against their nests, exported."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from node_cases import Case
from operator_cases import run_operator
from systol_compiler.quantized.operator import registry
from systol_compiler.quantized.ops.reductions.reduce import constant_axes
from systol_compiler.quantized.ops.reductions.row_reduce import RowSum
from systol_hw.arch import PRESETS

NANO = [PRESETS["nano"]]
SUMS = ("ReduceSum", "ReduceMean")


def case(op: str, shape: tuple[int, ...], axes: tuple[int, ...] | None = None, **more: Any) -> Case:
    rest = () if axes is None else (np.array(axes),)
    widths = more.pop("widths", 8)
    return Case(op=op, inputs=(shape, *rest), attributes=more, widths=widths)


@pytest.mark.parametrize(
    "op",
    [*SUMS, "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceL2"],
)
@pytest.mark.parametrize("axes", [(1,), (2, 3), (0, 2), (-1,)])
def test_over_axes(op: str, axes: tuple[int, ...]) -> None:
    steps = 0.9 if op in ("ReduceSumSquare", "ReduceL2") else 0.52
    for keepdims, width in ((1, 8), (0, 16)):
        widths = {"x0": width, "y0": 8}
        case(op, (2, 5, 6, 7), axes, keepdims=keepdims, widths=widths).check(steps, NANO)


def test_without_axes_over_all_or_none() -> None:
    case("ReduceSum", (3, 4)).check(0.52, NANO)
    case("ReduceSum", (3, 4), noop_with_empty_axes=1).check(0.52, NANO)
    case("ReduceMax", (3, 4), keepdims=0).check(0.01, NANO)


def test_means_over_more_elements_than_a_sum_holds_take_two_steps() -> None:
    x = np.random.default_rng(0).normal(size=(1, 400, 300)).astype(np.float32) + 2
    result = run_operator(
        "ReduceMean", {"x": x}, constants={"axes": np.array([1, 2])}, width=16, archs=[]
    )
    assert result.steps.max() < 0.6
    assert sum(isinstance(layer, RowSum) for layer in result.graph.layers) == 2
    result = run_operator(
        "ReduceL2", {"x": x}, constants={"axes": np.array([1, 2])}, width=16, archs=[]
    )
    assert result.steps.max() < 1.0


@pytest.mark.parametrize("spread", [0.05, 1.0, 20.0])
def test_norms_of_rows_of_any_size(spread: float) -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(20, 50)) * np.geomspace(0.02, 1, 20)[:, None] * spread)
    result = run_operator(
        "ReduceL2", {"x": x.astype(np.float32)}, constants={"axes": np.array([1])}, archs=[]
    )
    assert result.steps.max() < 1.5


def test_refuses_long_axes_and_computed_ones() -> None:
    assert "at most 65,000" in case("ReduceSum", (1, 70_000), (1,)).refusal()
    graph = case("ReduceSum", (2, 3), (1,)).float_graph()
    computed = replace(graph, inputs=("x0", "x1"), constants={})
    broken = registry()["ReduceSum"].broken(graph.nodes[0], computed)
    assert broken is not None and broken[0].check is constant_axes
