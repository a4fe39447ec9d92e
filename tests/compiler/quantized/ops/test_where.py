"""Where: masks, bounds, products with masks."""

import numpy as np
import pytest

from node_cases import Case
from systol_compiler.quantized.build import Numbers

MASK = np.random.default_rng(3).random((4, 50)) < 0.5


@pytest.mark.parametrize("widths", [8, 16])
def test_two_tensors(widths: int) -> None:
    checked = Case(op="Where", inputs=(MASK, (4, 50), (50,)), widths=widths).check()
    assert checked.kinds == ["elementwise"] * 3


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("value", [-np.inf, -100.0, -3.5, np.inf, 50.0])
def test_a_bound_takes_one_layer(value: float, first: bool) -> None:
    numbers = {"y0": Numbers(scale=6 / 255, zero_point=20)}
    inputs = ((4, 50), np.float32(value))
    checked = Case(
        op="Where", inputs=(MASK, *(inputs[::-1] if first else inputs)), numbers=numbers
    ).check(export=None if np.isinf(value) else 1.01)
    assert checked.kinds == ["elementwise"]
    chosen = ~MASK if first else MASK
    assert (checked.codes["y0"][~chosen] == (127 if value > 0 else -128)).all()


def test_values_in_between_take_two() -> None:
    others = np.random.default_rng(1).uniform(-2, 1, (4, 50)).astype(np.float32)
    checked = Case(op="Where", inputs=(MASK, (4, 50), others)).check(0.54)
    assert checked.kinds == ["elementwise", "elementwise"]


def test_a_condition_that_broadcasts_the_operands() -> None:
    Case(op="Where", inputs=(MASK, (1, 50), np.float32(0.3))).check(0.54)
    Case(op="Where", inputs=(MASK[:, :1], (4, 50), (4, 1))).check()


def test_a_computed_condition_is_refused() -> None:
    case = Case(op="Where", inputs=(MASK, MASK.astype(np.float32), np.float32(1)))
    assert "all are constant" in case.refusal()
