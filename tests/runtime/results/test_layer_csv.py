"""Layers as comma-separated values hold the report's own numbers."""

import csv
from pathlib import Path

import pytest

import systol
from systol.array_files import write_arrays
from systol.cli import main
from systol.selftest import tiny_input, tiny_model
from systol_hw.errors import InputError


def test_layers_as_csv(tmp_path: Path) -> None:
    model = tiny_model()
    result = systol.Device("sim").load(model).time()
    path = tmp_path / "layers.csv"
    result.write_csv(path)
    rows = list(csv.DictReader(path.open()))
    layers = result.report["layers"]
    assert [row["layer"] for row in rows] == [layer["layer"] for layer in layers]
    assert sum(int(row["cycles"]) for row in rows) == result.cycles
    for row, layer in zip(rows, layers, strict=True):
        assert int(row["array.active"]) == layer["array"]["active"]
        assert int(row["bytes.weights"]) == layer["bytes"]["weights"]
        assert row["source_nodes"] == " ".join(layer["source_nodes"])
    again = tmp_path / "again.csv"
    model.save(tmp_path / "tiny.elf")
    write_arrays(tmp_path / "x.npz", {"x": tiny_input()})
    words = ["run", str(tmp_path / "tiny.elf"), "--csv", str(again)]
    assert main([*words, "--timing-only"]) == 0
    assert again.read_bytes() == path.read_bytes()
    assert main([*words, "--input", str(tmp_path / "x.npz"), "--backend", "reference"]) == 3


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=r"no\.csv"):
        systol.Device("sim").load(model).time().write_csv(tmp_path / "no" / "no.csv")
    path = tmp_path / "tiny.elf"
    model.save(path)
    before = path.read_bytes()
    assert main(["run", str(path), "--timing-only", "--csv", str(path)]) == 3
    assert "--csv would overwrite" in capsys.readouterr().err and path.read_bytes() == before
