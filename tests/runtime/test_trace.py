"""Traces: the trace-event format, names from the debug map, and one trace whatever counted."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from systol.report import write_json
from systol.selftest import tiny_input, tiny_model
from systol.session import Device, ModelResult
from systol.trace import make_trace
from systol_compiler.model import CompiledModel, LayerRange
from systol_hw.faults import Unit
from systol_hw.isa import decode, instruction
from systol_hw.program import make_program


def model_with_interrupts() -> CompiledModel:
    """The tiny model with two layers, and an interrupt before its halt."""
    model = tiny_model()
    segment = model.machine_segments[0]
    old = segment.program
    code = [decode(row.tobytes()) for row in old.code]
    code.insert(len(code) - 1, instruction("interrupt", value=513))
    program = make_program(
        old.arch, code, weight_image=old.weight_image, windows=old.windows
    )
    layers = (
        LayerRange(layer="read x", first=0, count=2, tag=1, source_nodes=()),
        LayerRange(layer="linear", first=2, count=3, tag=2, source_nodes=("/fc/Gemm", "/Relu")),
    )
    changed = dataclasses.replace(segment, program=program, layers=layers)
    return dataclasses.replace(model, segments=(changed,))


@pytest.fixture(scope="module")
def result() -> ModelResult:
    return Device("sim").run(model_with_interrupts(), {"x": tiny_input()})


def events(result: ModelResult, phase: str) -> list[dict[str, Any]]:
    """The events of one phase."""
    return [event for event in make_trace(result)["traceEvents"] if event["ph"] == phase]


def test_the_format(result: ModelResult) -> None:
    """Ref: "Trace Event Format": what viewers need of each phase."""
    trace = make_trace(result)
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"]
        assert type(event["pid"]) is int and type(event["tid"]) is int
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert isinstance(event["ts"], float) and event["ts"] >= 0
        assert event["ph"] in ("X", "i")
        if event["ph"] == "X":
            assert event["dur"] > 0
        else:
            assert event["s"] in ("g", "p", "t")
    named = {(event["pid"], event["tid"]) for event in events(result, "M")}
    assert {(event["pid"], event["tid"]) for event in events(result, "X")} <= named


def test_there_is_a_track_for_every_unit(result: ModelResult) -> None:
    tracks = {
        event["tid"]: event["args"]["name"]
        for event in events(result, "M")
        if event["name"] == "thread_name"
    }
    assert tracks == {unit: unit.name.lower() for unit in Unit}


def test_slices_have_the_names_of_the_debug_map(result: ModelResult) -> None:
    slices = events(result, "X")
    assert [event["name"] for event in slices[:6]] == ["read x"] * 2 + ["linear"] * 3 + [
        slices[5]["cat"]
    ], "what belongs to no layer has its operation's name"
    assert slices[0]["args"]["source_nodes"] == []
    assert slices[2]["args"]["source_nodes"] == ["/fc/Gemm", "/Relu"]
    code = result.segments[0].segment.program.code
    assert [event["cat"] for event in slices] == [
        decode(row.tobytes()).operation.name for row in code
    ]


def test_an_interrupt_is_an_instant(result: ModelResult) -> None:
    (instant,) = events(result, "i")
    assert instant["name"] == "interrupt 513"
    assert instant["tid"] == Unit.CONTROL
    times = result.segments[0].first.times
    assert times is not None
    arch = result.model.arch
    assert instant["ts"] == pytest.approx(int(times[-2, 1]) * 1e6 / arch.clock_hz)


@pytest.mark.verilator
def test_simulator_and_rtl_write_the_same_bytes(tmp_path: Path, result: ModelResult) -> None:
    rtl = Device("rtl").run(model_with_interrupts(), {"x": tiny_input()})
    written = []
    for name, item in (("sim", result), ("rtl", rtl)):
        write_json(tmp_path / name, make_trace(item))
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert len(written[0]) > 1000
