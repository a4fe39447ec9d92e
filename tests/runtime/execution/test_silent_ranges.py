"""What makes a binary useless is said: calibration that shows nothing, inputs of another scale."""

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import systol
from systol.api import CompileWarning
from systol.execution.ranges import InputRangeWarning

SIZE = 6


def _product(bias: float = 0.0) -> bytes:
    """Two outputs of a product, behind a name that messages must give."""
    weights = np.random.default_rng(0).normal(size=(SIZE, 2)).astype(np.float32)
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["pixels", "w", "b"], ["scores"])], "product",
        [helper.make_tensor_value_info("pixels", floats, ["n", SIZE])],
        [helper.make_tensor_value_info("scores", floats, ["n", 2])],
        [numpy_helper.from_array(weights, "w"),
         numpy_helper.from_array(np.full(2, bias, np.float32), "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _pixels(items: int) -> np.ndarray:
    return np.random.default_rng(1).random((items, SIZE), np.float32)


def _said(values: np.ndarray, calibration: np.ndarray) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = systol.compile(_product(), calibration=calibration, arch="nano", effort="fast")
        assert not caught
        systol.Device("reference").run(model, values)
    assert all(item.category is InputRangeWarning for item in caught)
    return [str(item.message) for item in caught]


@pytest.mark.parametrize("value", [0.0, -2.5])
def test_calibration_that_shows_one_value_is_named_and_the_value_exact(value: float) -> None:
    samples = np.full((5, SIZE), value, np.float32)
    with pytest.warns(CompileWarning) as caught:
        model = systol.compile(_product(bias=1.0), calibration=samples, arch="nano", effort="fast")
    texts = [str(item.message) for item in caught]
    assert any(f"tensor 'pixels' is {value:g} in every element" in text for text in texts)
    assert all("use more samples, or override its range" in text for text in texts)
    assert model.report["notes"] == texts
    (tensor,) = (item for item in model.tensors.values() if item.source == "pixels")
    codes = np.round(value / tensor.scale) + tensor.zero_point
    assert (codes - tensor.zero_point) * tensor.scale == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("factor", "offset", "word"),
    [(255.0, 0.0, "saturate"), (1 / 255, 0.0, "rounded to 2 step"), (1.0, -40.0, "saturate"),
     (-3.0, 0.0, "saturate")],
)  # fmt: skip
def test_inputs_of_another_scale_are_named_with_both_ranges(
    factor: float, offset: float, word: str
) -> None:
    values = _pixels(40) * np.float32(factor) + np.float32(offset)
    (text,) = _said(values, _pixels(300))
    assert text.startswith("'pixels': values from ") and word in text
    assert f"{values.min():.4g} to {values.max():.4g}, where the calibrated range is" in text


def test_inputs_like_those_of_calibration_are_not_spoken_of() -> None:
    assert _said(_pixels(40) * np.float32(1.05), _pixels(300)) == []
    assert _said(np.zeros((3, SIZE), np.float32), _pixels(300)) == []
    few = _pixels(40)
    few[0, 0] = 1.4  # one value of 240, and not far
    assert _said(few, _pixels(300)) == []
