"""Convolutions over three dimensions become convolutions over images, with the same results."""

from typing import Any

import numpy as np
import pytest

import systol
from onnx_run import run_model
from small_graphs import text_graph, text_model
from systol_compiler.compile import CompileOptions, compile_model
from systol_compiler.graph.float_graph import Graph
from systol_hw.arch import PRESETS

Array = np.ndarray[Any, Any]
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"kernel": (1, 3, 3)},
    {"kernel": (3, 1, 1), "pads": (1, 0, 0, 1, 0, 0)},
    {"kernel": (2, 3, 1), "strides": (2, 1, 2), "dilations": (2, 1, 1), "pads": (1, 0, 0, 0, 1, 0)},
    {"images": 1, "strides": (3, 2, 1), "pads": (0, 1, 1, 2, 1, 1)},
)


def volume(
    images: int = 2, kernel: tuple[int, ...] = (3, 3, 3), strides: tuple[int, ...] = (1, 1, 1),
    dilations: tuple[int, ...] = (1, 1, 1), pads: tuple[int, ...] = (1, 1, 1, 1, 1, 1),
    group: int = 1,
) -> tuple[str, dict[str, Array], Array]:
    """A graph of a convolution, a factor for each channel and a Relu; constants and an input."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(images, 4, 6, 7, 8)).astype(np.float32)
    weights = rng.normal(size=(6, 4 // group, *kernel)).astype(np.float32)
    constants: dict[str, Array] = {
        "w": weights / np.float32(np.sqrt(weights[0].size)),
        "b": rng.normal(size=6).astype(np.float32),
        "f": rng.uniform(0.5, 2, size=(1, 6, 1, 1, 1)).astype(np.float32),
    }
    size = [
        (n + pads[i] + pads[i + 3] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, n in enumerate(x.shape[2:])
    ]
    result = ", ".join(map(str, (images, 6, *size)))
    body = f"""v (float[{images}, 4, 6, 7, 8] x) => (float[{result}] y) {{
        c = Conv<strides = {list(strides)}, dilations = {list(dilations)}, pads = {list(pads)},
            group = {group}> (x, w, b)
        m = Mul(c, f)
        y = Relu(m)
    }}"""
    return body, constants, x


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_same(case: dict[str, Any]) -> None:
    body, constants, x = volume(**case)
    graph = text_graph(body, constants)
    (found,) = run_model(graph.to_onnx(), {"x": x})
    (wanted,) = run_model(text_model(body, constants), {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    # One convolution of images, with factor and clip directly behind.
    assert [op for op in ops(graph) if op in ("Conv", "Mul", "Clip")] == ["Conv", "Clip"]
    (conv,) = (node for node in graph.nodes if node.op == "Conv")
    assert len(graph.types[conv.inputs[0]].shape) == 4
    assert [reader.op for reader in graph.consumers[conv.outputs[0]]] == ["Clip"]


@pytest.mark.parametrize("case", CASES)
def test_the_machine_runs_them(case: dict[str, Any]) -> None:
    body, constants, x = volume(**case)
    compiled = compile_model(
        text_model(body, constants), arch=PRESETS["edge16"], calibration={"x": x},
        options=CompileOptions(strict=True, effort="fast"),
    )
    (wanted,) = run_model(text_model(body, constants), {"x": x})
    found = systol.Device("sim").run(compiled, {"x": x}).outputs["y"]
    error = np.square(found - wanted).sum() / np.square(wanted).sum()
    assert 10 * np.log10(error) < -33


def test_groups_stay_as_they_are() -> None:
    body, constants, _ = volume(group=2)
    graph = text_graph(body, constants)
    (conv,) = (node for node in graph.nodes if node.op == "Conv")
    assert len(graph.types[conv.inputs[0]].shape) == 5
