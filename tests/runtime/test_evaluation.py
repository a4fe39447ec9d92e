"""Accuracy against labels and beside float; tensors that leave the float model or are wrong."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from hand_made import copy_model, f32, onnx_model
from systol import cli
from systol.bisection import first_machine_difference
from systol.evaluation import against_labels, beside_float, float_outputs
from systol.execution.session import Device
from systol_compiler.calibrate.errors.bisect import Difference
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.compile import CompileOptions, import_graph
from systol_hw.arch import PRESETS
from systol_hw.errors import DifferenceError, InputError
from systol_hw.program import Program
from systol_sim.results import RunResult

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 12)).astype(np.float32)
Captured = pytest.CaptureFixture[str]


def test_top_1_and_top_5_by_counting() -> None:
    labels = RNG.integers(0, 12, 50)
    found = against_labels("y", LOGITS, labels).figures
    order = np.argsort(-LOGITS, axis=1)
    assert found["top-1"] == np.mean(order[:, 0] == labels)
    assert found["top-5"] == np.mean((order[:, :5] == labels[:, None]).any(axis=1))
    assert "top-5" not in against_labels("y", LOGITS[:, :5], labels % 5).figures


def test_classes_may_lie_behind_the_items_or_last_and_have_ones_behind_them() -> None:
    labels = RNG.integers(0, 4, (3, 5, 6))
    values = np.eye(4, dtype=np.float32)[labels]
    assert against_labels("y", values, labels).figures["top-1"] == 1
    assert against_labels("y", values.transpose(0, 3, 1, 2), labels).figures["top-1"] == 1
    flat = LOGITS[:, :, None, None]
    best = LOGITS.argmax(1)
    assert against_labels("y", flat, best).figures == {"top-1": 1, "top-5": 1}


def test_values_are_judged_by_their_error() -> None:
    found = against_labels("y", LOGITS, LOGITS + 0.5).figures
    assert found == pytest.approx({"root mean square error": 0.5, "greatest error": 0.5})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(49, int), r"output 'y' of shape \[50, 12\] cannot be judged by labels"),
        (np.full(50, 12), "must lie in 0..11.*found 12 to 12"),
        (np.full(50, -1), "must lie in 0..11"),
        (np.zeros((50, 3)), "cannot be judged"),
    ],
)
def test_labels_of_another_kind_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        against_labels("y", LOGITS, labels)


def test_signal_to_noise_and_agreement() -> None:
    noise = np.where(np.arange(50)[:, None] < 10, -LOGITS * 2, 0)
    found = beside_float("y", LOGITS + noise, LOGITS).figures
    assert found["top-1 agreement"] == 0.8
    expected = 10 * np.log10((LOGITS.astype(float) ** 2).sum() / (noise.astype(float) ** 2).sum())
    assert found["signal to noise, dB"] == pytest.approx(expected)
    assert beside_float("y", LOGITS, LOGITS).figures == {"top-1 agreement": 1}


def network() -> onnx.ModelProto:
    """Three products in a row, of any number of items."""
    rng = np.random.default_rng(1)
    weights = {f"w{n}": rng.normal(0, 0.3, (8, 8)).astype(np.float32) for n in range(3)}
    nodes = []
    for n in range(3):
        nodes.append(helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"m{n}"], name=f"product{n}"))
        nodes.append(helper.make_node("Tanh", [f"m{n}"], [f"x{n + 1}"], name=f"tanh{n}"))
    model = onnx_model(nodes, {"x0": f32(1, 8)}, {"x3": f32(1, 8)}, weights)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    return model


X = RNG.normal(size=(22, 8)).astype(np.float32)


def test_the_float_model_runs_on_any_number_of_items() -> None:
    graph = import_graph(network(), batch=5)
    whole = float_outputs(import_graph(network(), batch=22), {"x0": X})["x3"]
    np.testing.assert_allclose(float_outputs(graph, {"x0": X})["x3"], whole, atol=1e-6)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(network(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    real = float_outputs(import_graph(network(), batch=22), {"x0": X})["x3"]
    np.save(tmp_path / "y.npy", real.argmax(1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def test_eval_of_a_model_and_of_its_binary_say_the_same(files: Path, capsys: Captured) -> None:
    given = ("--input", "x.npy", "--labels", "y.npy", "--json")
    assert run("eval", "m.onnx", *given, "--batch", "11", "--arch", "nano") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "calibrated on the items that are evaluated" in err
    figures = found["outputs"]["x3"]
    assert figures["top-1"]["float"] == 1.0 and figures["top-1"]["quantized"] > 0.7
    assert figures["signal to noise, dB"]["quantized"] > 20
    assert found["items"] == 22 and 0 <= found["saturated_share"] <= 1
    assert run("compile", "m.onnx", "--calibration", "x.npy", "--batch", "11", "--arch", "nano",
               "-o", "m.elf") == 0  # fmt: skip
    capsys.readouterr()
    assert run("eval", "m.elf", "--float", "m.onnx", *given) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == found["outputs"]
    assert run("eval", "m.elf", *given) == 0
    assert json.loads(capsys.readouterr().out)["outputs"]["x3"]["top-1"]["float"] is None
    assert run("eval", "m.elf", "--input", "x.npy") == InputError.exit_status
    assert "give --labels, or --float" in capsys.readouterr().err


def test_eval_prints_tables_and_warnings(files: Path, capsys: Captured) -> None:
    np.save("big.npy", X * 100)
    (files / "classes.txt").write_text("1\n" * 22)
    assert run("eval", "m.onnx", "--input", "big.npy", "--calibration", "x.npy", "--labels",
               "classes.txt", "--arch", "nano") == 0  # fmt: skip
    out, err = capsys.readouterr()
    assert "float32" in out and "top-1 agreement" in out
    assert "warning: 'x0': values from" in err and "saturate" in err
    (files / "classes.txt").write_text("one two")
    assert run("eval", "m.onnx", "--input", "x.npy", "--labels", "classes.txt") == 3
    assert "one class number for each item" in capsys.readouterr().err


def wrong_in(layer_bytes: int) -> Device:
    """A simulator that flips a bit of every window of so many bytes that a program writes."""
    device = Device("sim")
    healthy = device.executor

    def broken(program: Program, contents: Mapping[str, Any], *, values: bool) -> RunResult:
        result = healthy(program, contents, values=values)
        inputs = set(contents)
        for window, data in zip(program.windows, result.windows, strict=True):
            if window.name not in inputs and data.size >= layer_bytes:
                data[3] ^= 1
        return result

    device.executor = broken
    return device


def test_a_wrong_executor_is_narrowed_down_to_the_first_tensor() -> None:
    graph = quantize_graph(import_graph(network(), batch=2), {"x0": X})

    def look(device: Device) -> Difference | None:
        return first_machine_difference(
            graph, {"x0": X[:2]}, arch=PRESETS["nano"], device=device,
            options=CompileOptions(effort="fast"),
        )

    assert look(Device("sim")) is None
    found = look(wrong_in(1))
    assert found is not None and found.nodes and found.count == 1
    first = next(
        name for layer in graph.machine_layers for name in layer.outputs
        if graph.tensors[name].source
    )  # fmt: skip
    assert found.tensor == graph.tensors[first].source


def test_bisect_of_a_model(files: Path, capsys: Captured) -> None:
    assert run("bisect", "m.onnx", "--input", "x.npy", "--arch", "nano", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["difference"] is None and len(found["tensors"]) >= 3
    assert run("bisect", "m.onnx", "--input", "x.npy", "--arch", "nano") == 0
    assert "sim computes every tensor as it is defined" in capsys.readouterr().out


def test_bisect_of_a_binary_compares_with_the_reference(
    files: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_model((2, 8)).save("m.elf")
    assert run("bisect", "m.elf", "--input", "x.npy") == 0
    assert "agree in all 2 tensors" in capsys.readouterr().out
    monkeypatch.setattr("systol.commands.bisect.Device", lambda name: (
        wrong_in(1) if name == "sim" else Device(name)
    ))
    assert run("bisect", "m.elf", "--input", "x.npy") == DifferenceError.exit_status
    err = capsys.readouterr().err
    assert "tensor 'y' of segment 'machine' in 11 of 176 elements, first at [1, 1]" in err
    assert run("bisect", "m.elf", "--input", "x.npy", "--backend", "reference") == 3


def test_models_keep_what_eval_needs_to_read_images(tmp_path: Path) -> None:
    model = copy_model((1, 2))
    kept = dataclasses.replace(model.inputs[0], preprocessing="crop=2,gray")
    dataclasses.replace(model, inputs=(kept,)).save(tmp_path / "m.elf")
