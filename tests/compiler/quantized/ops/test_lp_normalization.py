"""LpNormalization along any axis."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import run_operator
from systol_hw.arch import PRESETS


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("case", [((6, 40), -1), ((2, 12, 5), 1), ((7,), 0)])
def test_within_a_step(case: tuple[tuple[int, ...], int], width: int) -> None:
    shape, axis = case
    x = np.random.default_rng(2).normal(0.3, 1, shape).astype(np.float32)
    result = run_operator(
        "LpNormalization", {"x": x}, attributes={"axis": axis, "p": 2}, width=width,
        archs=[PRESETS["nano"]], export=1.01,
    )
    assert result.steps.max() < 1.5


def test_of_absolute_values_it_is_refused() -> None:
    assert "p must be 2" in Case(
        op="LpNormalization", inputs=[(3, 4)], attributes={"p": 1}
    ).refusal()
