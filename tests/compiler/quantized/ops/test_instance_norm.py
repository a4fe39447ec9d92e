"""Instance and group normalization of images and sequences."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import run_operator
from systol_hw.arch import PRESETS

NANO = [PRESETS["nano"]]


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize(
    "case",
    [
        ((2, 12, 5, 7), 12), ((2, 12, 5, 7), 3), ((1, 12, 5, 7), 1), ((2, 6, 50), 6),
        ((2, 6, 50), 2), ((1, 4, 3, 3, 3), 2), ((1, 8, 1, 1), 2),
    ],
)
def test_above_35_decibels(case: tuple[tuple[int, ...], int], width: int) -> None:
    shape, groups = case
    rng, channels = np.random.default_rng(groups), shape[1]
    x = rng.normal(0.5, 2, shape).astype(np.float32)
    instance = groups == channels
    result = run_operator(
        "InstanceNormalization" if instance else "GroupNormalization", {"x": x},
        constants={
            "scale": rng.normal(1, 0.5, channels).astype(np.float32),
            "bias": rng.normal(0, 1, channels).astype(np.float32),
        },
        attributes={"epsilon": 1e-5} if instance else {"epsilon": 1e-5, "num_groups": groups},
        width=width, archs=NANO, export=1.01,
    )
    assert result.steps.max() < 1.5
    assert result.decibels > 35 or shape[2:] == (1, 1)


def test_of_equal_channels_in_a_group() -> None:
    """One group for each channel is InstanceNormalization, channel by channel."""
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    results = [
        run_operator(op, {"x": x}, constants={"s": ones, "b": zeros}, attributes=attributes,
                     archs=[]).got
        for op, attributes in (
            ("InstanceNormalization", {}), ("GroupNormalization", {"num_groups": 4})
        )
    ]
    np.testing.assert_array_equal(results[0], results[1])


def test_refusals() -> None:
    two = np.ones(2, np.float32)
    assert "not finite" in Case(
        op="InstanceNormalization", inputs=[(3, 2, 4), two, two * np.nan]
    ).refusal()
