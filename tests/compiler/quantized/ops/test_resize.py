"""Resize against ONNX Runtime: every coordinate mode, every rounding, up and down."""

from typing import Any

import numpy as np
import pytest

from node_cases import Case
from quantized_cases import lowered
from systol_compiler.quantized.ops.products.resize import COORDINATES
from systol_hw.arch import PRESETS

FACTORS = ((2, 2), (3, 1), (1.5, 2.6), (0.5, 0.7), (4, 0.25))
CUBIC: tuple[dict[str, Any], ...] = (
    {}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}, {"cubic_coeff_a": 0.0}, {},
)  # fmt: skip
"""Further attributes for each of `FACTORS`."""
WHOLE = ((2, 2), (1.5, 1), (0.5, 3))


def case(
    factors: tuple[float, float], widths: int = 8, shape: tuple[int, ...] = (2, 3, 6, 7),
    **attributes: Any,
) -> Case:
    scales = np.array([1, 1, *factors], np.float32)
    return Case(op="Resize", inputs=(shape, None, scales), attributes=attributes, widths=widths)


@pytest.mark.parametrize("transform", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(transform: str, rounding: str) -> None:
    for factors in WHOLE if transform == "half_pixel_symmetric" else FACTORS:
        checked = case(
            factors, mode="nearest", coordinate_transformation_mode=transform,
            nearest_mode=rounding,
        ).check(0.0, archs=(PRESETS["edge16"],))
        assert checked.kinds == ["nearest"]


@pytest.mark.parametrize("transform", COORDINATES)
@pytest.mark.parametrize("widths", [8, 16])
def test_linear(transform: str, widths: int) -> None:
    for factors in FACTORS:
        checked = case(
            factors, widths, mode="linear", coordinate_transformation_mode=transform
        ).check(0.51 if widths == 8 else 1.3, archs=(PRESETS["edge16"],), export=2.1)
        assert set(checked.kinds) == {"interpolate"}


@pytest.mark.parametrize("transform", COORDINATES)
@pytest.mark.parametrize("widths", [8, 16])
def test_cubic(transform: str, widths: int) -> None:
    for factors, more in zip(FACTORS, CUBIC, strict=True):
        checked = case(
            factors, widths, mode="cubic", coordinate_transformation_mode=transform, **more
        ).check(0.6 if widths == 8 else 3.1, archs=(PRESETS["edge16"],), export=3.1)
        assert set(checked.kinds) == {"interpolate", "elementwise"}


def test_doubling_is_rounded_once() -> None:
    assert case((2, 2), mode="linear").check(0.5001).kinds == ["interpolate"] * 2


def test_sizes_instead_of_factors() -> None:
    sizes = np.array([2, 3, 9, 5], np.int64)
    for mode in ("nearest", "linear"):
        inputs = ((2, 3, 6, 7), None, None, sizes)
        Case(op="Resize", inputs=inputs, attributes={"mode": mode}).check()


def test_one_axis_and_named_axes() -> None:
    attributes = {"mode": "linear", "axes": [2]}
    Case(
        op="Resize", inputs=((2, 3, 6), None, np.array([1.5], np.float32)), attributes=attributes
    ).check()


def test_nothing_to_do() -> None:
    for mode in ("nearest", "linear"):
        assert case((1, 1), mode=mode).check(0.0).kinds == ["rescale"]


@pytest.mark.parametrize("factors", [(2, 2), (3, 4)])
def test_whole_factors_of_nearest_are_one_copy(factors: tuple[int, int]) -> None:
    checked = case(
        factors, shape=(1, 64, 6, 7), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ).check(0.0)
    (network,) = lowered(checked.graph, PRESETS["edge32"])
    assert len(network.nests) == 1


@pytest.mark.parametrize(("attributes", "value"), [
    ({"mode": "cubic", "cubic_coeff_a": -9.0}, "5 along axis 2"),
    ({"mode": "linear", "antialias": 1}, "antialias from"),
    ({"coordinate_transformation_mode": "half_pixel_symmetric"}, "do not give"),
])
def test_refusals(attributes: dict[str, Any], value: str) -> None:
    assert value in case((0.5, 0.5), **attributes).refusal()
