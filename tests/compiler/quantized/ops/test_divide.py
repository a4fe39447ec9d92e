"""Div and Pow."""

import numpy as np
import pytest

from node_cases import Case


def test_by_a_number() -> None:
    assert Case(op="Div", inputs=((3, 40), np.float32(3))).check(0.5001).kinds == ["table"]
    wide = Case(op="Div", inputs=((3, 40), np.float32(-3)), widths=16).check(0.51)
    assert wide.kinds == ["rescale"]


def test_by_channels() -> None:
    divisors = np.array([0.5, -2, 3, 7], np.float32).reshape(4, 1)
    assert Case(op="Div", inputs=((2, 4, 9), divisors)).check().kinds == ["channel_scale"]


def test_a_number_by_a_tensor() -> None:
    case = Case(op="Div", inputs=(np.float32(2), (3, 40)), low=0.5, high=4.0)
    assert case.check(0.5001).kinds == ["table"]


@pytest.mark.parametrize("shapes", [((3, 40), (3, 40)), ((3, 40), (3, 1)), ((1,), (3, 40))])
def test_two_tensors(shapes: tuple[tuple[int, ...], ...]) -> None:
    checked = Case(op="Div", inputs=shapes, low=0.5, high=4.0).check(1.2)
    assert checked.kinds == ["table", "elementwise"]
    assert checked.graph.tensors[checked.layers[0].outputs[0]].width == 16


def test_divisors_of_one_step() -> None:
    case = Case(op="Div", inputs=((3, 40), (3, 40)), low=4 / 255, high=4.0, widths={"x0": 16})
    case.check(1.2)


def test_constants_by_a_tensor() -> None:
    above = np.linspace(-2, 2, 40, dtype=np.float32)
    checked = Case(op="Div", inputs=(above, (3, 40)), low=0.5, high=4.0).check(1.2)
    assert checked.kinds == ["table", "channel_scale"]


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0])
def test_powers(exponent: float) -> None:
    case = Case(op="Pow", inputs=((3, 40), np.float32(exponent)), low=0.3, high=3.0)
    assert case.check(0.5001).kinds == ["table"]


def test_a_power_of_a_number() -> None:
    assert Case(op="Pow", inputs=(np.float32(2), (3, 40))).check(0.5001).kinds == ["table"]


def test_a_square_of_16_bits_is_a_product() -> None:
    case = Case(op="Pow", inputs=((3, 40), np.float32(2)), widths=16)
    assert case.check(0.52).kinds == ["elementwise"]


def test_refusals() -> None:
    assert "a zero in 'x1'" in Case(op="Div", inputs=((3,), np.zeros(3, np.float32))).refusal()
    many = np.array([1, 2, 3], np.float32)
    assert "single value" in Case(op="Pow", inputs=((3,), many), low=0.5).refusal()
