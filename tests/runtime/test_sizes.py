"""Large machines: their RTL, built from blocks that are compiled once, equals the simulator.

The 256x256 machine takes minutes to build and to run; its layers are made here, with weights that
no layer of a real network needs to have.
"""

from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from systol_compiler.binary.model import CompiledModel
from systol_compiler.compile import compile_model
from systol_hw.arch import PRESETS, Arch
from systol_sim import simulator
from systol_sim.hardware.verilated import run
from systol_sim.random_programs.generate import generate
from systol_sim.results import RunResult

pytestmark = [pytest.mark.slow, pytest.mark.verilator]


def assert_same(expected: RunResult, found: RunResult) -> None:
    """Values, every counter, and the time of every instruction."""
    assert expected.counters is not None and found.counters is not None
    assert expected.times is not None and found.times is not None
    assert (expected.fault, found.fault) == (None, None)
    assert found.counters.differences(expected.counters) == []
    np.testing.assert_array_equal(found.times, expected.times)
    for a, b in zip(expected.windows, found.windows, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, memory in found.memories.items():
        np.testing.assert_array_equal(expected.memories[name], memory, err_msg=name)


def layer(
    kind: str,
    arch: Arch,
    *,
    inputs: tuple[int, ...],
    weights: tuple[int, ...],
    outputs: tuple[int, ...],
    **attributes: Any,
) -> CompiledModel:
    """A model of one `kind` node, compiled for `arch`."""
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, weights).astype(np.float32)
    node = onnx.helper.make_node(kind, ["x", "w", "b"], ["y"], name="layer", **attributes)
    bias = rng.normal(0, 1, weights[0] if kind == "Conv" else weights[1]).astype(np.float32)
    graph = onnx.helper.make_graph(
        [node],
        kind,
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, inputs)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, outputs)],
        initializer=[
            onnx.numpy_helper.from_array(values, "w"),
            onnx.numpy_helper.from_array(bias, "b"),
        ],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    samples = rng.normal(0, 1, inputs).astype(np.float32)
    return compile_model(model, arch=arch, calibration={"x": samples})


def assert_layer_agrees(model: CompiledModel) -> RunResult:
    """Run the layer's program on random inputs, on both; the result on the RTL."""
    (segment,) = model.machine_segments
    program = segment.program
    rng = np.random.default_rng(7)
    contents = {
        binding.window: rng.integers(0, 256, window.size_bytes).astype(np.uint8)
        for binding in segment.inputs
        for window in program.windows
        if window.name == binding.window
    }
    assert contents
    found = run(program, contents, checked=True, memories=False)
    assert_same(simulator.run(program, contents), found)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_random_programs_on_edge32(seed: int) -> None:
    case = generate(PRESETS["edge32"], seed)
    assert_same(
        simulator.run(case.program, case.contents), run(case.program, case.contents, checked=True)
    )


def test_a_random_program_on_256x256() -> None:
    case = generate(PRESETS["tpu-v1"], 1, instructions=20)
    found = run(case.program, case.contents, checked=True, memories=False)
    assert_same(simulator.run(case.program, case.contents), found)


def test_a_product_on_256x256() -> None:
    """1,024 x 1,024 by 256 rows: sixteen tiles, each for 256 rows."""
    model = layer(
        "Gemm", PRESETS["tpu-v1"], inputs=(256, 1024), weights=(1024, 1024), outputs=(256, 1024)
    )
    found = assert_layer_agrees(model)
    assert found.counters is not None
    totals = found.counters.amounts.sum(axis=1)
    assert 256 * 1024 * 1024 in totals, "the useful multiplications of the product's shape"


def test_a_convolution_on_256x256() -> None:
    """3x3, 64 to 128 channels, with padding: kernel rows that hang over the edges."""
    model = layer(
        "Conv", PRESETS["tpu-v1"], inputs=(1, 64, 20, 20), weights=(128, 64, 3, 3),
        outputs=(1, 128, 20, 20), kernel_shape=[3, 3], pads=[1, 1, 1, 1],
    )  # fmt: skip
    found = assert_layer_agrees(model)
    assert found.counters is not None
    totals = found.counters.amounts.sum(axis=1)
    assert 20 * 20 * 9 * 64 * 128 in totals, "the multiplications of the convolution's shape"
