"""Samples from files and images; an image goes in and a class comes out."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hand_made import compiled, copies, f32, quantized
from systol import cli
from systol.execution.session import Device
from systol.results.classes import best_classes, class_sections
from systol.samples import image_files, open_samples, read_inputs
from systol_compiler.binary.model import CompiledModel
from systol_compiler.calibrate.inputs.images import ImageFolder
from systol_hw.errors import InputError

Captured = pytest.CaptureFixture[str]


def classifier() -> CompiledModel:
    """Four grey pixels, each the vote for a class."""
    x = quantized("x", (1, 1, 2, 2), scale=1 / 256, zero_point=-128, source="x")
    y = quantized("y", (1, 1, 1, 4), scale=1 / 256, zero_point=-128, source="y")
    model = compiled(
        [copies("m", [(x, y)])], [x, y], {"x": f32(1, 1, 2, 2), "y": f32(1, 1, 1, 4)},
        ["x"], {"class": "y"},
    )  # fmt: skip
    return dataclasses.replace(
        model,
        inputs=(dataclasses.replace(model.inputs[0], preprocessing="crop=2,gray"),),
        outputs=(dataclasses.replace(model.outputs[0], labels=("cat", "dog", "bird", "fish")),),
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in (("a.png", [[0, 50], [250, 100]]), ("b.png", [[90, 80], [70, 60]])):
        Image.fromarray(np.array(pixels, np.uint8)).save(folder / name)
    return folder


def test_classes_by_name_and_descending(photos: Path) -> None:
    inputs = read_inputs(photos, ["x"], "crop=2,gray")
    result = Device("sim").run(classifier(), inputs)
    found = best_classes(result, 2)["class"]
    assert [[label for label, _ in item] for item in found] == [["bird", "fish"], ["cat", "dog"]]
    assert found[0][0][1] == pytest.approx(250 / 256, abs=1 / 256)
    ((headings, rows),) = class_sections(result)
    assert headings[0] == "item of class" and rows[1][:2] == ("1", "cat")


def test_run_takes_an_image_or_a_folder_of_them(
    photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    classifier().save(tmp_path / "m.elf")
    assert cli.main(["run", str(tmp_path / "m.elf"), "--input", str(photos / "a.png")]) == 0
    assert "bird" in capsys.readouterr().out
    assert cli.main(["run", str(tmp_path / "m.elf"), "--input", str(photos), "--json"]) == 0
    classes = json.loads(capsys.readouterr().out)["classes"]["class"]
    assert [item[0][0] for item in classes] == ["bird", "cat"]


def test_run_says_what_was_out_of_range_and_what_was_filled_up(
    tmp_path: Path, capsys: Captured
) -> None:
    model = classifier()
    dataclasses.replace(model, name="m").save(tmp_path / "m.elf")
    np.save(tmp_path / "x.npy", np.full((1, 1, 2, 2), 200.0))
    assert cli.main(["run", str(tmp_path / "m.elf"), "--input", str(tmp_path / "x.npy")]) == 0
    err = capsys.readouterr().err
    assert "warning: 'x': values from 200 to 200" in err and "Warning:" not in err
    x, y = quantized("x", (4, 2), source="x"), quantized("y", (4, 2), source="y")
    real = {"x": f32(4, 2), "y": f32(4, 2)}
    compiled([copies("m", [(x, y)])], [x, y], real, ["x"], {"y": "y"}).save(tmp_path / "b.elf")
    np.save(tmp_path / "x.npy", np.ones((5, 2)))
    assert cli.main(["run", str(tmp_path / "b.elf"), "--input", str(tmp_path / "x.npy")]) == 0
    out, err = capsys.readouterr()
    assert "filled up with 3 copies" in err and "5, and 3 copies" in out


def test_samples_of_every_kind(photos: Path, tmp_path: Path) -> None:
    assert open_samples("random") == "random"
    np.save(tmp_path / "one.npy", np.ones((3, 2)))
    assert isinstance(open_samples(tmp_path / "one.npy"), np.ndarray)
    np.savez(tmp_path / "named.npz", a=np.ones((3, 2)))
    named = open_samples(tmp_path / "named.npz")
    assert isinstance(named, dict) and set(named) == {"a"}
    images = open_samples(photos, "crop=2")
    assert isinstance(images, ImageFolder) and len(list(images)) == 2
    many = tmp_path / "many"
    many.mkdir()
    for n in range(3):
        np.save(many / f"{n}.npy", np.full((2, 4), n))
    joined = open_samples(many)
    assert isinstance(joined, np.ndarray) and joined[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_what_is_none_of_these_is_said(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say with --preprocess"):
        open_samples(photos)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no samples"):
        open_samples(tmp_path / "empty")
    with pytest.raises(InputError, match="images are for a model of one input, not of a, b"):
        read_inputs(photos, ["a", "b"], "crop=2")
    assert image_files(tmp_path / "x.npy", "crop=2") is None
    (photos / "c.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"c\.png"):
        image_files(photos, "crop=2")
