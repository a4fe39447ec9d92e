"""What a first hour at Python's prompt meets: short texts, nearest names, warnings where they come
from, and folders that cannot be written found before the work."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import systol
from systol.cli import main
from systol.execution.ranges import InputRangeWarning
from systol.selftest import tiny_input, tiny_model
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, SystolError

Captured = pytest.CaptureFixture[str]


def test_texts_of_objects_are_short() -> None:
    model = tiny_model()
    result = systol.Device("sim").run(model, tiny_input())
    (segment,) = model.machine_segments
    run = result.segments[0].first
    texts = {
        "Arch(": PRESETS["tpu-v1"],
        "CompiledModel(": model,
        "Counters(": result.counters,
        "Device(": systol.Device("sim"),
        "MachineSegment(": segment,
        "ModelResult(": result,
        "Program(": segment.program,
        "RunResult(": run,
        "Session(": systol.Device("sim").load(model),
    }
    for begin, value in texts.items():
        assert repr(value).startswith(begin) and len(repr(value)) < 160, repr(value)
    assert repr(PRESETS["nano"]) == (
        "Arch('nano', 8x8, 16384 bytes of unified buffer, 25 MHz)"
    )
    assert f"{len(segment.program.code)} instructions" in repr(segment)
    assert repr(run) == f"RunResult({model.arch.name}, halted, {result.cycles:,} cycles)"
    assert "'input' of 16 bytes" in repr(segment.program)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: systol.Device("simm"), "sim"),
        (lambda: systol.load_arch("edge61"), "edge16"),
        (lambda: systol.Device("sim").run(tiny_model(), {"xx": tiny_input()}), "x"),
        (lambda: systol.compiel, "compile"),
    ],
)
def test_nearest_names_are_told(call: object, meant: str) -> None:
    assert callable(call)
    with pytest.raises((SystolError, AttributeError), match=rf"\(did you mean {meant}"):
        call()


def test_what_is_public_is_listed_with_the_version() -> None:
    assert {"__version__", "Program", "place_tokens", "compile"} <= set(dir(systol))
    for name in dir(systol):
        assert getattr(systol, name) is not None


@pytest.mark.parametrize("session", [False, True])
def test_a_warning_names_the_users_line(session: bool) -> None:
    model, device = tiny_model(), systol.Device("sim")
    far = np.full_like(tiny_input(), 1e6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if session:
            device.load(model).run(far)
        else:
            device.run(model, far)
    (found,) = [item for item in caught if item.category is InputRangeWarning]
    assert found.filename == __file__
    assert "'x': values from 1e+06 to 1e+06, where the calibrated range is" in str(found.message)


@pytest.mark.parametrize(
    "words", [["demo", "--directory"], ["fuzz", "--programs", "1", "--directory"],
              ["fuzz", "--programs", "1", "--report"], ["fuzz", "--programs", "1", "--state"]]
)  # fmt: skip
def test_places_that_cannot_be_written_are_found_before_the_work(
    words: list[str], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work was begun")

    for name in ("systol.commands.demo.compile_and_say", "systol.commands.fuzz.fuzz"):
        monkeypatch.setattr(name, never)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([*words, str(blocked / "within")]) == InputError.exit_status
    assert "within" in capsys.readouterr().err and blocked.read_text() == ""
