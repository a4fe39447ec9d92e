"""`systol inspect`, and every option of `systol compile`."""

import json
import re
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import systol
from hand_made import f32, onnx_model
from systol import cli
from systol.api import CompileWarning
from systol.console.stage_status import StageStatus
from systol_compiler.compile import LEVELS
from systol_hw.errors import InputError, UnsupportedModelError

Captured = pytest.CaptureFixture[str]
RNG = np.random.default_rng(3)


def network() -> onnx.ModelProto:
    """Grey images of eight pixels a side: a convolution, its four sums sorted."""
    weights = RNG.normal(0, 0.3, (4, 1, 3, 3)).astype(np.float32)
    model = onnx_model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c"], ["g"], name="pool"),
            helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
            helper.make_node("TopK", ["f", "four"], ["y", "i"], name="sort", axis=1),
        ],
        {"x": f32(1, 1, 8, 8)}, {"y": f32(1, 4)}, {"w": weights, "four": np.array([4])},
    )  # fmt: skip
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    return model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(network(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", RNG.normal(size=(6, 1, 8, 8)).astype(np.float32))
    (tmp_path / "photos").mkdir()
    for n in range(3):
        pixels = RNG.integers(0, 256, (10, 12), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def test_inspect_lists_what_is_not_on_the_machine_and_why(folder: Path, capsys: Captured) -> None:
    assert run("inspect", "m.onnx", "--arch", "nano", "--batch", "2") == 0
    out = capsys.readouterr().out
    assert re.search(r"nodes on the host +1\n", out) and "least cycles" in out
    assert re.search(r"sort +TopK +host .*; |sort +TopK +host", out)
    assert "conv " not in out
    assert re.search(r"f +host +8\n", out)
    assert run("inspect", "m.onnx", "--all") == 0
    assert re.search(r"conv +Conv +machine +2,304", capsys.readouterr().out)


def test_inspect_gives_json_with_every_node(folder: Path, capsys: Captured) -> None:
    assert run("inspect", "m.onnx", "--json", "--shape", "n=3") == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["node"] for row in values["nodes"]] == ["conv", "pool", "flatten", "sort"]
    assert values["inputs"] == {"x": "float32[3x1x8x8]"}
    assert values["summary"]["host"] == 1


def test_inspect_of_a_model_that_is_refused_names_everything_in_the_way(
    folder: Path, capsys: Captured
) -> None:
    model = network()
    model.graph.node[1].op_type = "RandomNormalLike"
    model.graph.node.insert(1, helper.make_node("Bernoulli", ["c"], ["unused"], name="coin"))
    onnx.save(model, "m.onnx")
    assert run("inspect", "m.onnx") == UnsupportedModelError.exit_status
    out, err = capsys.readouterr()
    assert re.search(r"coin +Bernoulli +refused", out) and re.search(r"pool +\w+ +refused", out)
    assert err.count("refused: node") == 2
    assert run("inspect", "none.onnx") == InputError.exit_status


def test_the_compile_report_names_crossings_and_layers_and_all_nodes(
    folder: Path, capsys: Captured
) -> None:
    assert run("compile", "m.onnx", "--calibration", "x.npy", "--json", "--arch", "nano") == 0
    values = json.loads(capsys.readouterr().out)
    report = values["report"]
    assert {row["node"] for row in report["nodes"]} == {"conv", "pool", "flatten", "sort"}
    assert report["summary"]["crossings"] == 2 and report["summary"]["host_segments"] == 1
    assert sum(row["cycles"] for row in report["layers"]) == report["summary"]["cycles"]
    assert values["cycles of one run"] == report["summary"]["cycles"]
    assert report == dict(systol.load("m.elf").report)
    assert run("compile", "m.onnx", "--calibration", "x.npy", "--arch", "nano") == 0
    out = capsys.readouterr().out
    for text in ("layer, one run", "bound by", "array active", "host port bytes", "on the host"):
        assert text in out


def test_random_calibration_says_so(folder: Path, capsys: Captured) -> None:
    assert run("compile", "m.onnx", "--calibration", "random", "--effort", "fast") == 0
    assert "warning: calibrated on random values" in capsys.readouterr().err
    assert "random values" in " ".join(systol.load("m.elf").report["notes"])


def test_images_calibrate_and_the_binary_reads_images_after_that(
    folder: Path, capsys: Captured
) -> None:
    (folder / "names.txt").write_text("one\ntwo\nthree\nfour\n")
    command = ("compile", "m.onnx", "--calibration", "photos", "--arch", "nano")
    assert run(*command) == InputError.exit_status
    assert "say with --preprocess" in capsys.readouterr().err
    assert run(*command, "--preprocess", "crop=9,gray") == InputError.exit_status
    text = "resize=8,stretch,crop=8,gray"
    assert run(*command, "--preprocess", text, "--class-names", "names.txt") == 0
    model = systol.load("m.elf")
    assert model.inputs[0].preprocessing == text
    assert model.outputs[0].labels == ("one", "two", "three", "four")
    capsys.readouterr()
    assert run("run", "m.elf", "--input", "photos/1.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"]["y"][0][0][0] == "one"
    (folder / "names.txt").write_text("one\ntwo\n")
    assert run(*command, "--preprocess", text, "--class-names", "names.txt") == 3
    assert "2 labels were given, but no output" in capsys.readouterr().err


def test_methods_and_overrides_reach_the_quantizer(folder: Path) -> None:
    scales = []
    (folder / "over.toml").write_text("[x]\nscale = 0.5\nzero_point = 7\n")
    for extra in ((), ("--method", "minmax"), ("--overrides", "over.toml")):
        assert run("compile", "m.onnx", "--calibration", "x.npy", "--arch", "nano", *extra) == 0
        scales.append((systol.load("m.elf").tensors["x"].scale, extra))
    assert scales[2][0] == 0.5 and scales[1][0] != 0.5
    assert systol.load("m.elf").tensors["x"].zero_point == 7


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_printed(level: str, folder: Path, capsys: Captured) -> None:
    assert run("compile", "m.onnx", "--calibration", "x.npy", "--emit", level) == 0
    assert len(capsys.readouterr().out) > 50
    assert not (folder / "m.elf").exists()


def test_python_warns_of_what_the_quantizer_says(folder: Path) -> None:
    with pytest.warns(CompileWarning, match="calibrated on random values"):
        systol.compile("m.onnx", arch="nano", calibration="random", effort="fast")


def test_python_takes_what_the_command_line_takes(folder: Path) -> None:
    model = systol.compile(
        "m.onnx", arch="nano", calibration="photos", preprocess="resize=8,stretch,crop=8,gray",
        effort="fast", labels=["a", "b", "c", "d"], batch=2,
    )  # fmt: skip
    assert model.batch == 2 and model.outputs[0].labels == ("a", "b", "c", "d")
    with pytest.raises(InputError, match="effort must be one of"):
        systol.compile("m.onnx", calibration="x.npy", effort="much")
    with pytest.raises(InputError, match="means nothing"):
        systol.compile("m.onnx", calibration="x.npy", preprocess="blur")
    assert systol.inspect("m.onnx").to_json()["summary"]["host"] == 1


def test_long_work_says_what_it_is_at(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("systol.console.stage_status.PROGRESS_AFTER_SECONDS", 0.05)
    monkeypatch.setattr("systol.console.stage_status.PACE_SECONDS", 0.05)
    with StageStatus("compiling") as status:
        status("first\x1b stage", object())
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("compiling (first\\x1b stage done, 0 s)") for line in lines)
    with StageStatus("compiling"):
        pass
    assert capsys.readouterr().err == ""
