"""The bundled networks: one binary, every executor, one answer, one cycle count."""

import dataclasses
from fractions import Fraction

import numpy as np
import onnxruntime
import pytest

import systol
from systol.bundled import calibration_images, model_path, test_images
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.compile import import_graph
from systol_compiler.quantized.evaluate import evaluate
from systol_hw.arch import PRESETS, Arch, MemoryPort
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Unit
from systol_sim import reference, simulator
from systol_sim.comparison import differences
from systol_sim.hardware import verilated

MODELS = ("mnist_mlp", "mnist_cnn")
NAME = "image"


def _port(width: int, rate: Fraction, latency: int) -> MemoryPort:
    return MemoryPort(width_bytes=width, bytes_per_cycle=rate, latency_cycles=latency)


SMALL = Arch(
    name="small4",
    rows=4,
    columns=4,
    ub_bytes=32 << 10,
    accumulator_rows=256,
    weight_port=_port(4, Fraction(4), 20),
    host_port=_port(4, Fraction(4), 20),
    vector_lanes=2,
)
MACHINES = {"4x4": SMALL, "16x16": PRESETS["edge16"]}
# Besides edge16, which is among them already; tpu-v1's are single layers, in test_large_machines.
OTHER_PRESETS = ("nano", "edge32")
OTHER_MEMORIES: dict[str, tuple[MemoryPort, MemoryPort] | None] = {
    "preset": None,
    "slower": (_port(4, Fraction(7, 3), 55), _port(4, Fraction(5, 4), 47)),
}


def _compiled(model: str, arch: Arch, batch: int) -> systol.CompiledModel:
    return systol.compile(
        model_path(model),
        arch=arch,
        calibration={NAME: calibration_images()},
        batch=batch,
        effort="fast",
    )


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("memories", OTHER_MEMORIES)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("model", MODELS)
def test_reference_sim_and_rtl_agree(model: str, machine: str, batch: int, memories: str) -> None:
    _assert_agreement(_compiled(model, MACHINES[machine], batch), batch, OTHER_MEMORIES[memories])


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("preset", OTHER_PRESETS)
@pytest.mark.parametrize("model", MODELS)
def test_presets_agree(model: str, preset: str) -> None:
    _assert_agreement(_compiled(model, PRESETS[preset], 2), 2, None)


def _assert_agreement(
    compiled: systol.CompiledModel, batch: int, ports: tuple[MemoryPort, MemoryPort] | None
) -> None:
    """Reference, simulator and RTL give equal values, counters and times of the first images."""
    assert any(t.zero_point != 0 for t in compiled.tensors.values())
    (segment,) = compiled.machine_segments
    program = segment.program
    image, _ = test_images()
    inputs = systol.Device("sim").load(compiled)
    result = inputs.run({NAME: image[:batch]}, keep_tensors=True)
    # The window's bytes, as the session fills them.
    (binding,) = segment.inputs
    window = result.tensors[binding.tensor]
    contents = {binding.window: window}
    timed = program
    if ports is not None:
        changed = dataclasses.replace(program.arch, weight_port=ports[0], host_port=ports[1])
        timed = dataclasses.replace(program, arch=changed)
    simulated = simulator.run(timed, contents)
    rtl = verilated.run(
        program,
        contents,
        weight_port=timed.arch.weight_port,
        host_port=timed.arch.host_port,
    )
    assert rtl.counters is not None and rtl.counters.scalars[1] == 0  # no late cycle
    assert differences(timed, simulated, rtl) == []
    assert differences(timed, simulated, reference.run(timed, contents)) == []


@pytest.mark.parametrize("model", MODELS)
def test_every_output_equals_the_quantized_reference(model: str) -> None:
    images, _ = test_images()
    images = images[:96]
    graph = quantize_graph(
        import_graph(model_path(model), batch=32), {NAME: calibration_images()}
    )
    run = systol.Device("sim").run(_compiled(model, PRESETS["edge16"], 32), {NAME: images})
    for first in range(0, 96, 32):
        expected = evaluate(graph, {NAME: images[first : first + 32]})
        np.testing.assert_array_equal(
            run.outputs["logits"][first : first + 32], expected["logits"]
        )


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("model", MODELS)
def test_int8_is_within_half_a_point_of_float(
    model: str, mnist_full: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = mnist_full
    session = onnxruntime.InferenceSession(
        str(model_path(model)), providers=["CPUExecutionProvider"]
    )
    exact = session.run(["logits"], {NAME: images})[0].argmax(axis=1)
    run = systol.Device("sim").run(_compiled(model, PRESETS["edge16"], 50), {NAME: images})
    int8 = run.outputs["logits"].argmax(axis=1)
    float_share, int8_share = float((exact == labels).mean()), float((int8 == labels).mean())
    print(f"{model}: float {float_share:.2%}, int8 {int8_share:.2%} of {len(labels)} images")
    assert float_share - int8_share <= 0.005
    if model == "mnist_cnn":
        assert float_share >= 0.988


def test_mlp_fills_the_edge32_array() -> None:
    """784-256-128-10 at batch 64: at least 75 % useful MACs, first loads included."""
    compiled = systol.compile(
        model_path("mnist_mlp"),
        arch="edge32",
        calibration={NAME: calibration_images()},
        batch=64,
    )
    (segment,) = compiled.machine_segments
    counters = simulator.run(segment.program, values=False).counters
    assert counters is not None
    useful = counters.amount(Unit.MATRIX, "useful_macs")
    # MACs equal the shapes' product: nothing is padded in a chain of products.
    assert useful == 64 * (784 * 256 + 256 * 128 + 128 * 10)
    assert useful / (counters.cycles * compiled.arch.macs_per_cycle) >= 0.75
    weights = counters.amount(Unit.WEIGHTS, "weight_bytes")
    assert weights == 784 * 256 + 256 * 128 + 128 * 10


def test_cnn_macs_equal_the_shape_product() -> None:
    compiled = _compiled("mnist_cnn", PRESETS["edge16"], 1)
    (segment,) = compiled.machine_segments
    counters = simulator.run(segment.program, values=False).counters
    assert counters is not None
    conv1, conv2, dense = 28 * 28 * 9 * 16, 14 * 14 * 9 * 16 * 16, 784 * 10
    assert counters.amount(Unit.MATRIX, "useful_macs") == conv1 + conv2 + dense
    # Of a 3x3 kernel on n x n positions, 3n - 2 of 3n taps in each direction are inside.
    inside = (28 * 3 - 2) ** 2 * 16 + (14 * 3 - 2) ** 2 * 16 * 16
    assert counters.amount(Unit.MATRIX, "padding_macs") == conv1 + conv2 - inside
    assert all(counters.amounts[i].sum() >= 0 for i, a in enumerate(AMOUNTS)
               if not a.depends_on_values)
