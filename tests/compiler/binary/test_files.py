"""Binaries: what is saved loads equal, standard tools read it, saving is atomic."""

import dataclasses
import os
import shutil
import stat
import subprocess
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection, SymbolTableSection

from hand_made import copy_model, sandwich_model
from systol_compiler.binary.model import (
    CompiledModel,
    HostSegment,
    LayerRange,
    MachineSegment,
    ModelInput,
    ModelOutput,
)
from systol_compiler.binary.reader import load
from systol_compiler.binary.writer import save
from systol_hw.errors import InputError


def labelled() -> CompiledModel:
    model = copy_model((1, 2))
    return dataclasses.replace(
        model,
        inputs=(ModelInput(name="x", preprocessing="resize=256"),),
        outputs=(ModelOutput(name="y", tensor="y", labels=("cat", "naïve cat")),),
    )


@pytest.fixture(params=["copy", "wide", "sandwich", "labelled"])
def model(request: pytest.FixtureRequest) -> CompiledModel:
    makers = {"copy": copy_model, "wide": lambda: copy_model(width=16), "labelled": labelled}
    return makers.get(request.param, sandwich_model)()


def assert_equal(a: CompiledModel, b: CompiledModel) -> None:
    for field in ("name", "arch", "inputs", "outputs", "tensors", "real", "report"):
        assert getattr(a, field) == getattr(b, field), field
    assert len(a.segments) == len(b.segments)
    for left, right in zip(a.segments, b.segments, strict=True):
        if isinstance(left, HostSegment):
            assert isinstance(right, HostSegment) and vars(left) == vars(right)
            continue
        assert isinstance(right, MachineSegment)
        for field in ("name", "inputs", "outputs", "layers"):
            assert getattr(left, field) == getattr(right, field), field
        for field in ("arch", "weight_memory_bytes", "code_address", "windows"):
            assert getattr(left.program, field) == getattr(right.program, field), field
        np.testing.assert_array_equal(left.program.code, right.program.code)
        np.testing.assert_array_equal(left.program.weight_image, right.program.weight_image)


def test_load_gives_back_what_was_saved(model: CompiledModel, tmp_path: Path) -> None:
    save(model, tmp_path / "m.elf")
    assert_equal(load(tmp_path / "m.elf"), model)


def test_equal_models_have_equal_files_and_saving_what_was_loaded_changes_nothing(
    model: CompiledModel, tmp_path: Path
) -> None:
    path = tmp_path / "m.elf"
    save(model, path)
    before = path.read_bytes()
    save(load(path), path)  # over the very file that is mapped
    assert path.read_bytes() == before


def test_code_and_weights_stay_in_the_file(tmp_path: Path) -> None:
    save(copy_model(), tmp_path / "m.elf")
    program = load(tmp_path / "m.elf").machine_segments[0].program
    for array in (program.code, program.weight_image):
        assert not array.flags.owndata and not array.flags.writeable


def test_a_failed_save_leaves_the_old_file_and_no_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.elf"
    save(copy_model(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save(sandwich_model(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save(copy_model(), tmp_path / "m.elf")
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", "m.elf")}
    assert len(modes) == 1


def test_saving_into_a_directory_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save(copy_model(), tmp_path / "none" / "m.elf")


def test_pyelftools_reads_the_same_sections_and_symbols(tmp_path: Path) -> None:
    model = sandwich_model()
    save(model, tmp_path / "m.elf")
    with (tmp_path / "m.elf").open("rb") as stream:
        elf = ELFFile(stream)
        names = [section.name for section in elf.iter_sections()]
        assert names == [
            "", ".note.systol", ".systol.manifest", ".onnx.0", ".text.1", ".weights.1",
            ".onnx.2", ".text.3", ".weights.3", ".onnx.4", ".symtab", ".strtab", ".shstrtab",
        ]  # fmt: skip
        data = {section.name: section.data() for section in elf.iter_sections()}
        segment = model.machine_segments[1]
        assert data[".text.3"] == segment.program.code.tobytes()
        assert data[".weights.3"] == segment.program.weight_image.tobytes()
        assert data[".onnx.2"] == model.host_segments[1].model
        symtab = elf.get_section_by_name(".symtab")
        assert isinstance(symtab, SymbolTableSection)
        names = [symbol.name for symbol in symtab.iter_symbols()][1:]
        assert names == ["first.copy0", "first.copy1", "second.copy0", "second.copy1"]
        symbol = symtab.get_symbol(3)
        assert (symbol["st_value"], symbol["st_size"]) == (0, 64 * segment.layers[0].count)
        assert elf.get_section(symbol["st_shndx"]).name == ".text.3"
        notes = elf.get_section_by_name(".note.systol")
        assert isinstance(notes, NoteSection)
        (note,) = notes.iter_notes()
        assert note["n_name"] == "Systol"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf from binutils")
def test_readelf_lists_sections_and_layers_without_a_warning(tmp_path: Path) -> None:
    save(sandwich_model(), tmp_path / "m.elf")
    for option, expected in (
        ("-S", ".weights.1"), ("-s", "first.copy0"), ("-h", "EXEC"), ("-n", "Sys"),
    ):  # fmt: skip
        result = subprocess.run(
            ["readelf", "-W", option, tmp_path / "m.elf"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert expected in result.stdout
        assert result.stderr == ""


def change_segment(model: CompiledModel, **changes: Any) -> CompiledModel:
    segment = dataclasses.replace(model.machine_segments[0], **changes)
    return dataclasses.replace(model, segments=(segment, *model.segments[1:]))


def test_a_manifest_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    model = dataclasses.replace(copy_model(), report={"text": "x" * (17 << 20)})
    with pytest.raises(InputError, match="manifest of 'by hand' would have"):
        save(model, tmp_path / "m.elf")
    assert list(tmp_path.iterdir()) == []


def test_loading_takes_no_memory_for_code_and_weights(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, 24 << 20, np.uint8)
    old = copy_model().machine_segments[0].program
    program = dataclasses.replace(
        old,
        weight_image=image,
        code_address=image.size,
        weight_memory_bytes=image.size + old.code.size,
    )
    save(change_segment(copy_model(), program=program), tmp_path / "m.elf")
    tracemalloc.start()
    try:
        load(tmp_path / "m.elf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < image.size / 4


def test_a_thousand_layers_in_many_ranges_are_read_in_proportion(tmp_path: Path) -> None:
    model = copy_model()
    program = model.machine_segments[0].program
    code = np.repeat(program.code, [1, 20_000, 1, 1], axis=0)
    long = dataclasses.replace(program, code=code, weight_memory_bytes=1 << 21)
    ranges = tuple(
        LayerRange(
            layer=f"/features/{n % 1000}/conv", first=4 * n, count=4, tag=n % 16,
            source_nodes=(f"/features/{n % 1000}/Conv", f"/features/{n % 1000}/Relu"),
        )
        for n in range(5000)
    )
    many = change_segment(model, program=long, layers=ranges)
    began = time.process_time()
    save(many, tmp_path / "m.elf")
    assert_equal(load(tmp_path / "m.elf"), many)
    assert time.process_time() - began < 3
    # Names stand in the file three times: in the debug map, in the string table, in nodes.
    size = (tmp_path / "m.elf").stat().st_size - code.size
    assert size < 500_000
