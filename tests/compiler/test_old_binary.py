"""Binaries: what is saved loads equal, standard tools read it, saving is atomic."""

import dataclasses
import os
import shutil
import stat
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection, SymbolTableSection

from systol.selftest import tiny_model
from systol_compiler.model import Binding, CompiledModel, LayerRange, MachineSegment
from systol_compiler.old_quantized import HostSegment
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError


@pytest.fixture(params=[False, True], ids=["machine", "machine-and-host"])
def model(request: pytest.FixtureRequest) -> CompiledModel:
    return tiny_model(host_segment=request.param)


def assert_equal(a: CompiledModel, b: CompiledModel) -> None:
    for field in ("name", "arch", "inputs", "outputs", "tensors", "report"):
        assert getattr(a, field) == getattr(b, field), field
    assert len(a.segments) == len(b.segments)
    for left, right in zip(a.segments, b.segments, strict=True):
        if isinstance(left, HostSegment):
            assert left == right
            continue
        assert isinstance(right, MachineSegment)
        for field in ("name", "inputs", "outputs", "layers"):
            assert getattr(left, field) == getattr(right, field), field
        for field in ("arch", "weight_memory_bytes", "code_address", "windows"):
            assert getattr(left.program, field) == getattr(right.program, field), field
        np.testing.assert_array_equal(left.program.code, right.program.code)
        np.testing.assert_array_equal(left.program.weight_image, right.program.weight_image)


def test_load_gives_back_what_was_saved(model: CompiledModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.elf")
    assert_equal(CompiledModel.load(tmp_path / "m.elf"), model)


def test_equal_models_have_equal_files_and_saving_what_was_loaded_changes_nothing(
    model: CompiledModel, tmp_path: Path
) -> None:
    path = tmp_path / "m.elf"
    model.save(path)
    before = path.read_bytes()
    CompiledModel.load(path).save(path)  # over the very file that is mapped
    assert path.read_bytes() == before


def test_code_and_weights_stay_in_the_file(tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "m.elf")
    program = CompiledModel.load(tmp_path / "m.elf").machine_segments[0].program
    for array in (program.code, program.weight_image):
        assert not array.flags.owndata and not array.flags.writeable


def test_a_failed_save_leaves_the_old_file_and_no_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.elf"
    tiny_model().save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        tiny_model(host_segment=True).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    tiny_model().save(tmp_path / "m.elf")
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", "m.elf")}
    assert len(modes) == 1


def test_saving_into_a_directory_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        tiny_model().save(tmp_path / "none" / "m.elf")


def test_pyelftools_reads_the_same_sections_and_symbols(tmp_path: Path) -> None:
    model = tiny_model(host_segment=True)
    model.save(tmp_path / "m.elf")
    with (tmp_path / "m.elf").open("rb") as stream:
        elf = ELFFile(stream)
        names = [section.name for section in elf.iter_sections()]
        assert names == [
            "", ".note.systol", ".systol.manifest", ".text.0", ".weights.0", ".onnx.1",
            ".symtab", ".strtab", ".shstrtab",
        ]  # fmt: skip
        data = {section.name: section.data() for section in elf.iter_sections()}
        (segment,) = model.machine_segments
        assert data[".text.0"] == segment.program.code.tobytes()
        weights = data[".weights.0"]
        assert weights == segment.program.weight_image.tobytes()
        assert data[".onnx.1"] == model.host_segments[0].model
        symtab = elf.get_section_by_name(".symtab")
        assert isinstance(symtab, SymbolTableSection)
        (symbol,) = list(symtab.iter_symbols())[1:]
        assert symbol.name == "linear"
        assert (symbol["st_value"], symbol["st_size"]) == (0, 64 * segment.layers[0].count)
        assert elf.get_section(symbol["st_shndx"]).name == ".text.0"
        notes = elf.get_section_by_name(".note.systol")
        assert isinstance(notes, NoteSection)
        (note,) = notes.iter_notes()
        assert note["n_name"] == "Systol"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf from binutils")
def test_readelf_lists_sections_and_layers_without_a_warning(tmp_path: Path) -> None:
    tiny_model(host_segment=True).save(tmp_path / "m.elf")
    for option, expected in (("-S", ".weights.0"), ("-s", "linear"), ("-h", "EXEC"), ("-n", "Sys")):
        result = subprocess.run(
            ["readelf", "-W", option, tmp_path / "m.elf"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert expected in result.stdout
        assert result.stderr == ""


def change_segment(model: CompiledModel, **changes: object) -> CompiledModel:
    segment = dataclasses.replace(model.machine_segments[0], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(model, segments=(segment, *model.segments[1:]))


LAYER = LayerRange(layer="a", first=0, count=3, tag=0, source_nodes=())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (Binding(tensor="z", window="input"),)}, "no tensor is called 'z'"),
        ({"inputs": (Binding(tensor="x_q", window="z"),)}, "no window is called 'z'"),
        ({"inputs": (Binding(tensor="x_q", window="input", offset_bytes=1),)}, "ends at byte 17"),
        ({"inputs": (Binding(tensor="y_q", window="input"),)}, "which nothing wrote"),
        ({"outputs": (Binding(tensor="x_q", window="output"),)}, "written twice"),
        ({"outputs": ()}, "nothing writes its tensor"),
        ({"layers": (dataclasses.replace(LAYER, count=99),)}, "a layer ends at instruction 99"),
        ({"layers": (LAYER, LAYER)}, "inside the one before"),
        ({"layers": (dataclasses.replace(LAYER, tag=16),)}, "tag 16"),
        ({"layers": (dataclasses.replace(LAYER, layer="a\x1b[31m"),)}, "must be printable"),
    ],
)
def test_a_model_whose_parts_do_not_fit_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        change_segment(tiny_model(), **changes)


def test_a_program_for_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match="another machine"):
        dataclasses.replace(tiny_model(), arch=PRESETS["edge16"])


@pytest.mark.parametrize("report", [{"x": float("nan")}, {"x": {1: 2}}, {"x": 1 << 63}])
def test_a_report_that_json_cannot_hold_is_refused(report: dict[str, object]) -> None:
    with pytest.raises(InputError, match="JSON values"):
        dataclasses.replace(tiny_model(), report=report)


def test_a_manifest_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    model = dataclasses.replace(tiny_model(), report={"text": "x" * (5 << 20)})
    with pytest.raises(InputError, match="manifest of 'selftest' would have"):
        model.save(tmp_path / "m.elf")
    assert list(tmp_path.iterdir()) == []


def test_loading_takes_no_memory_for_code_and_weights(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, 24 << 20, np.uint8)
    old = tiny_model().machine_segments[0].program
    program = dataclasses.replace(
        old,
        weight_image=image,
        code_address=image.size,
        weight_memory_bytes=image.size + old.code.size,
    )
    change_segment(tiny_model(), program=program).save(tmp_path / "m.elf")
    tracemalloc.start()
    try:
        CompiledModel.load(tmp_path / "m.elf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < image.size / 4
