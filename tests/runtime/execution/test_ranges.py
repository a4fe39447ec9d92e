"""Inputs that are not what the model was calibrated for are noticed."""

import warnings

import numpy as np
import pytest

from hand_made import copy_model, quantized, sandwich_model
from systol.execution.ranges import InputRangeWarning, RangeWatch, representable
from systol.execution.session import Device

IMAGE = quantized("x", (4, 8), scale=1 / 256, zero_point=-128, source="image")
"""Pixels from 0 to about 1."""
PIXELS = np.random.default_rng(0).random((4, 8)).astype(np.float32)


def judge(*values: np.ndarray) -> tuple[str, ...]:
    watch = RangeWatch({"x": IMAGE})
    for value in values:
        watch.see("x", value)
    return watch.warnings()


def test_the_representable_range() -> None:
    assert representable(IMAGE) == (0, 255 / 256)
    assert representable(quantized("x", (1,), scale=0.5, width=16)) == (-16319.5, 16319.5)


@pytest.mark.parametrize(
    "values",
    [PIXELS, PIXELS * 0.1, PIXELS * 1.02, PIXELS - 0.02, np.zeros((4, 8)), np.ones((1, 1))],
    ids=["usual", "dark", "little more", "little less", "black", "white"],
)
def test_what_lies_about_where_it_should_gives_no_warning(values: np.ndarray) -> None:
    assert judge(values) == ()


def test_images_times_255_saturate() -> None:
    (text,) = judge(PIXELS * 255)
    assert "'image': values from 0.6983 to 254.3, where the calibrated range is 0 to 0.9961" in text
    assert "96.9 % saturate" in text


def test_images_divided_by_255_use_a_few_steps() -> None:
    (text,) = judge(PIXELS / 255)
    assert "rounded to 2 step(s)" in text


def test_a_single_value_far_outside_is_enough_and_many_a_little_outside() -> None:
    outlier = PIXELS.copy()
    outlier[1, 2] = -9
    assert "values from -9" in judge(outlier)[0]
    assert judge(PIXELS * 1.02, outlier * 0.1, *[PIXELS] * 40) == ()
    assert "saturate" in judge(PIXELS + 0.3)[0]


def test_runs_are_judged_together() -> None:
    assert judge(PIXELS * 0.01, PIXELS) == ()
    assert len(judge(PIXELS, PIXELS * 255)) == 1


def test_a_run_warns_and_keeps_the_warning() -> None:
    model = copy_model((2, 2))  # -65.5 to 62
    with pytest.warns(InputRangeWarning, match="'x': values from 0 to 1000.*25.0 % saturate"):
        result = Device("sim").run(model, [[0, 1], [2, 1000]])
    assert len(result.warnings) == 1
    assert result.report["warnings"] == list(result.warnings)
    assert "1 warning(s)" in repr(result) and "saturate" in result._repr_html_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Device("sim").run(model, [[0, 1], [2, 60]]).warnings == ()


def test_what_a_host_segment_gives_is_watched_and_what_fills_a_run_up_is_not() -> None:
    image, ids = np.full((1, 2, 3), 200, np.uint8), np.array([[3, 4, 5, 6]])
    result = Device("sim").run(sandwich_model(2), {"image": image, "ids": ids})
    assert result.warnings == ()
    with pytest.warns(InputRangeWarning, match="'doubled': values from -6 to -5"):
        Device("sim").run(sandwich_model(2), {"image": image, "ids": ids * 0})
