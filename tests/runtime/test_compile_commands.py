"""`systol compile` and `systol demo`, from a model file to accuracy on real images."""

import doctest
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import systol
from systol import bundled, cli
from systol_compiler.levels.quantized import read_quantized
from systol_compiler.text.arrays import Arrays
from systol_hw.errors import InputError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.npz"
    np.savez(path, image=bundled.calibration_images()[:50])
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_model_compiles_runs_and_is_right(
    tmp_path: Path, calibration: Path, capsys: Captured
) -> None:
    images, labels = bundled.test_images()
    np.save(tmp_path / "images.npy", images[:40])
    binary, outputs = tmp_path / "m.elf", tmp_path / "y.npz"
    assert run(
        "compile", bundled.model_path("mnist_mlp"), "--calibration", calibration,
        "--batch", 20, "-o", binary,
    ) == 0  # fmt: skip
    assert "host segments" in capsys.readouterr().out
    assert run("check", binary) == 0
    assert run("run", binary, "--input", tmp_path / "images.npy", "--output", outputs) == 0
    with np.load(outputs) as arrays:
        assert (arrays["logits"].argmax(axis=1) == labels[:40]).mean() > 0.9
    model = systol.load(binary)
    assert model.batch == 20
    report = systol.make_report(systol.Device("sim").run(model, {"image": images[:40]}))
    macs = 784 * 256 + 256 * 128 + 128 * 10
    assert report["units"]["matrix"]["amounts"]["useful_macs"]["value"] == 40 * macs


def test_a_batch_that_the_model_fixes_is_not_ignored(
    tmp_path: Path, calibration: Path, capsys: Captured
) -> None:
    command = ("compile", bundled.model_path("mnist_mlp"), "--calibration", calibration,
               "-o", tmp_path / "m.elf", "--shape", "N=4")  # fmt: skip
    assert run(*command, "--batch", 2) == InputError.exit_status
    assert "--batch 2: the model's first dimension is fixed at 4" in capsys.readouterr().err
    assert not (tmp_path / "m.elf").exists()
    assert run(*command, "--batch", 4) == 0
    assert run(*command) == 0


def test_layers_are_counted_once_however_many_pieces_they_have(
    tmp_path: Path, calibration: Path, capsys: Captured
) -> None:
    layers = []
    for batch in (1, 100):
        assert run(
            "compile", bundled.model_path("mnist_cnn"), "--calibration", calibration,
            "--batch", batch, "-o", tmp_path / "m.elf", "--json",
        ) == 0  # fmt: skip
        layers.append(json.loads(capsys.readouterr().out)["layers"])
    assert layers[0] == layers[1] < 10
    ranges = systol.load(tmp_path / "m.elf").machine_segments[0].layers
    assert len(ranges) > layers[0]


def test_a_directory_of_files_calibrates_like_one_file(tmp_path: Path, capsys: Captured) -> None:
    images = bundled.calibration_images()[:40]
    directory = tmp_path / "samples"
    directory.mkdir()
    for number, part in enumerate(np.split(images, 4)):
        np.save(directory / f"{number}.npy", part)
    np.save(tmp_path / "all.npy", images)
    binaries = []
    for source in (directory, tmp_path / "all.npy"):
        binary = tmp_path / f"{source.stem}.elf"
        model = bundled.model_path("mnist_mlp")
        assert run("compile", model, "--calibration", source, "-o", binary, "--json") == 0
        assert json.loads(capsys.readouterr().out)["output"] == str(binary)
        binaries.append(binary.read_bytes())
    assert binaries[0] == binaries[1]


@pytest.mark.parametrize(
    ("level", "text"), [("graph", "Gemm"), ("quantized", "i8["), ("asm", "matmul")]
)
def test_levels_are_printed_and_no_binary_is_written(
    level: str, text: str, tmp_path: Path, calibration: Path, capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model = bundled.model_path("mnist_mlp")
    assert run("compile", model, "--calibration", calibration, "--emit", level) == 0
    assert text in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [calibration]


def test_a_level_and_its_arrays_can_be_read_again(
    tmp_path: Path, calibration: Path, capsys: Captured
) -> None:
    model, arrays = bundled.model_path("mnist_mlp"), tmp_path / "arrays.npz"
    command = ("compile", model, "--calibration", calibration, "--arrays", arrays)
    assert run(*command) == InputError.exit_status
    assert "give --emit LEVEL as well" in capsys.readouterr().err
    assert run(*command, "--emit", "quantized") == 0
    graph = read_quantized(capsys.readouterr().out, Arrays.load(arrays))
    assert [layer.kind for layer in graph.machine_layers] == ["linear"] * 3
    assert graph.machine_layers[0].macs == 784 * 256


def test_a_model_for_the_host_alone_compiles_and_says_so(
    tmp_path: Path, capsys: Captured
) -> None:
    value_info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ArgMax", ["x"], ["y"], name="best", axis=1, keepdims=0)], "g",
        [value_info("x", onnx.TensorProto.FLOAT, [2, 5])],
        [value_info("y", onnx.TensorProto.INT64, [2])],
    )
    path, binary = tmp_path / "m.onnx", tmp_path / "m.elf"
    onnx.save(onnx.helper.make_model(graph, ir_version=8), path)
    assert run("compile", path, "--strict", "-o", binary) == 4
    assert "'best' (ArgMax)" in capsys.readouterr().err and not binary.exists()
    # No calibration: there is nothing to quantize.
    assert run("compile", path, "-o", binary) == 0
    said = capsys.readouterr()
    assert "the machine has nothing to run: the host runs the whole model" in said.err
    assert re.search(r"host segments +1\n", said.out)
    assert run("check", binary) == 0
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    capsys.readouterr()
    assert run("run", binary, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npz") == 0
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], x.argmax(axis=1))
    assert run("inspect", path) == 0 and run("inspect", path, "--strict") == 4


def test_strict_puts_a_last_softmax_on_the_machine(tmp_path: Path) -> None:
    """At the end of a model the host is preferred for it, which strict compilation does not ask."""
    model = onnx.load(bundled.model_path("mnist_mlp"))
    model.graph.node.append(
        onnx.helper.make_node("Softmax", ["logits"], ["p"], name="softmax", axis=1)
    )
    model.graph.output[0].name = "p"
    samples = {"image": bundled.calibration_images()[:50]}
    places = {}
    for strict in (False, True):
        compiled = systol.compile(
            model.SerializeToString(), arch="edge16", calibration=samples, strict=strict
        )
        places[strict] = [
            row["place"] for row in compiled.report["nodes"] if row["node"] == "softmax"
        ]
        images, labels = bundled.test_images()
        found = systol.Device("sim").run(compiled, {"image": images[:40]}).outputs["p"]
        assert (found.argmax(axis=1) == labels[:40]).mean() > 0.9
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.1)
    assert places == {False: ["host"], True: ["machine"]}


def test_a_model_without_calibration_is_refused(tmp_path: Path, capsys: Captured) -> None:
    assert run("compile", bundled.model_path("mnist_mlp"), "-o", tmp_path / "x.elf") == 3
    assert "sample inputs" in capsys.readouterr().err


def test_strict_refuses_what_must_run_on_the_host(
    tmp_path: Path, calibration: Path, capsys: Captured
) -> None:
    model = onnx.load(bundled.model_path("mnist_mlp"))
    # Sorting is for the host.
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10]), "ten"))
    model.graph.node.append(
        onnx.helper.make_node("TopK", ["logits", "ten"], ["p", "places"], name="sort", axis=1)
    )
    model.graph.output[0].name = "p"
    path, binary = tmp_path / "sorted.onnx", tmp_path / "m.elf"
    onnx.save(model, path)
    compile_ = ("compile", path, "--calibration", calibration, "-o", binary)
    assert run(*compile_, "--strict") == 4
    assert "'sort' (TopK)" in capsys.readouterr().err
    assert not binary.exists()
    assert run(*compile_) == 0
    out = capsys.readouterr().out
    assert re.search(r"on the host +why\nsort +the machine computes on float32 only", out)
    images = bundled.test_images()[0][:3]
    result = systol.Device("sim").run(systol.load(binary), {"image": images})
    assert (np.diff(result.outputs["p"], axis=1) <= 0).all()


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_demo_is_as_accurate_as_float_and_its_files_run_again(
    model: str, tmp_path: Path, capsys: Captured
) -> None:
    assert run("demo", "--model", model, "--images", 200, "--directory", tmp_path, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    accuracy = figures["accuracy"]
    assert accuracy["float"] > 0.97
    assert abs(accuracy["int8"] - accuracy["float"]) <= 0.01
    again = tmp_path / "again.json"
    binary, images = tmp_path / f"mnist_{model}.edge16.elf", tmp_path / "images.npz"
    assert run("run", binary, "--input", images, "--counters", again) == 0
    report = json.loads(again.read_text())
    for name in ("cycles", "units", "array", "scalars", "layers"):
        assert report[name] == figures["report"][name]


def test_the_demo_prints_what_a_newcomer_looks_for(tmp_path: Path, capsys: Captured) -> None:
    assert run("demo", "--images", 50, "--directory", tmp_path) == 0
    out, err = capsys.readouterr()
    assert f"systol check {tmp_path / 'mnist_mlp.edge16.elf'}" in err
    for text in ("float32, ONNX Runtime", "int8, Systol", "cycles per image", "at 50 MHz",
                 "useful MACs", "array active", "weight stall"):  # fmt: skip
        assert text in out


@pytest.mark.slow
@pytest.mark.verilator
def test_the_demo_holds_the_rtl_to_the_simulator(tmp_path: Path, capsys: Captured) -> None:
    arguments = ("demo", "--arch", "nano", "--batch", 1, "--images", 5, "--backend", "rtl")
    assert run(*arguments, "--directory", tmp_path, "--json") == 0
    agreement = json.loads(capsys.readouterr().out)["rtl"]
    assert agreement["images"] == 1
    assert agreement["counters, equal"] > 1000


def test_the_package_documentation_is_true() -> None:
    assert doctest.testmod(systol) == doctest.TestResults(failed=0, attempted=8)
