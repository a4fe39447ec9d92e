"""The nine networks of the onnx package: imported in no time, and nothing left unfolded."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from canonical_forms import broken_forms
from light_models import LIGHT_MODELS, light_input, seeded_light_model
from onnx_run import run_model
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx

LARGE = {"vgg19", "bvlc_alexnet", "zfnet512"}
"""More than 200 MB of weights each."""

OPERATORS = {
    "bvlc_alexnet": {"Conv": 5, "Clip": 7, "LRN": 2, "MaxPool": 3, "Flatten": 1, "Gemm": 3,
                     "Softmax": 1},
    # Half of its normalizations stand before their Relu, behind no convolution of their own.
    "densenet121": {"Conv": 121 + 62, "Clip": 121, "MaxPool": 1, "Concat": 58, "AveragePool": 4},
    "inception_v1": {"Conv": 57, "Clip": 57, "MaxPool": 13, "LRN": 2, "Concat": 9,
                     "AveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
    "inception_v2": {"Conv": 69, "Clip": 69, "MaxPool": 5, "AveragePool": 8, "Concat": 10,
                     "Flatten": 1, "Gemm": 1, "Softmax": 1},
    "resnet50": {"Conv": 53, "Clip": 49, "MaxPool": 1, "Add": 16, "AveragePool": 1, "Flatten": 1,
                 "Gemm": 1, "Softmax": 1},
    "shufflenet": {"Conv": 49, "Clip": 33, "MaxPool": 1, "Reshape": 32, "Transpose": 16,
                   "AveragePool": 4, "Concat": 3, "Add": 13, "Flatten": 1, "Gemm": 1,
                   "Softmax": 1},
    "squeezenet": {"Conv": 26, "Clip": 26, "MaxPool": 3, "Concat": 8, "AveragePool": 1,
                   "Softmax": 1},
    "vgg19": {"Conv": 16, "Clip": 18, "MaxPool": 5, "Flatten": 1, "Gemm": 3, "Softmax": 1},
    "zfnet512": {"Conv": 5, "Clip": 7, "LRN": 2, "MaxPool": 3, "Flatten": 1, "Gemm": 3,
                 "Softmax": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in LIGHT_MODELS
    ],
)
def test_light_network(name: str, tmp_path: Path) -> None:
    proto = seeded_light_model(name)
    image = np.random.default_rng(3).standard_normal((1, 3, 224, 224), dtype=np.float32)
    feeds = {light_input(proto): image}
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    del proto
    begin = time.process_time()
    graph = run_pipeline(import_onnx(path))
    # Half a second for a thousand nodes; the rest is for a machine that is slow or busy.
    assert time.process_time() - begin < 10
    assert dict(Counter(node.op for node in graph.nodes)) == OPERATORS[name]
    assert list(broken_forms(graph)) == []
    (wanted,) = run_model(path, feeds)
    (found,) = run_model(graph.to_onnx(), feeds)
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_light_network_as_it_is_packed(name: str) -> None:
    """With the constant-filled weights that the package has: they take no memory here."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    graph = import_onnx(folder / f"light_{name}.onnx")
    owned = sum(value.nbytes for value in graph.constants.values() if value.flags.owndata)
    assert owned < 1 << 20
    assert not any(node.op == "ConstantOfShape" for node in graph.nodes)
