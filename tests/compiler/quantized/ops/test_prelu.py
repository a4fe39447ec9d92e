"""PRelu: one slope by table, slopes by channel by scaling and a maximum."""

import numpy as np
import pytest

from node_cases import Case
from systol_compiler.numbers.limits import Array


def slopes(low: float, high: float) -> Array:
    return np.linspace(low, high, 6, dtype=np.float32).reshape(6, 1, 1)


def test_one_slope() -> None:
    one = np.array([0.2], np.float32)
    assert Case(op="PRelu", inputs=((2, 6, 5, 4), one)).check(0.5001).kinds == ["table"]


@pytest.mark.parametrize("widths", [8, 16])
@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (1.0, 2.0)])
def test_slopes_on_one_side_of_1(low: float, high: float, widths: int) -> None:
    case = Case(op="PRelu", inputs=((2, 6, 5, 4), slopes(low, high)), widths=widths)
    assert case.check(0.8).kinds == ["channel_scale", "elementwise"]


@pytest.mark.parametrize("widths", [8, 16])
def test_slopes_on_both_sides_of_1(widths: int) -> None:
    case = Case(op="PRelu", inputs=((2, 6, 5, 4), slopes(-0.5, 2.0)), widths=widths)
    assert case.check(1.0).kinds == ["rescale", "channel_scale", "elementwise"]


def test_slopes_of_every_element() -> None:
    full = np.random.default_rng(0).uniform(-1, 1, (6, 5, 4)).astype(np.float32)
    case = Case(op="PRelu", inputs=((2, 6, 5, 4), full))
    assert case.check(0.52).kinds == ["elementwise", "elementwise"]


def test_a_clip_behind_it() -> None:
    Case(op="PRelu", inputs=((2, 6, 5, 4), slopes(0, 0.5)), clip=(-0.5, 1.0)).check()
