"""Traces: the trace-event format, names from the debug map, and one trace whatever counted."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

import systol
from systol import bundled
from systol.execution.session import Device
from systol.results.report import write_json
from systol.results.result import ModelResult
from systol.results.trace import make_trace
from systol.selftest import tiny_input, tiny_model
from systol_compiler.binary.model import CompiledModel, LayerRange
from systol_hw.arch import PRESETS
from systol_hw.isa import decode, instruction
from systol_hw.program import make_program
from systol_hw.tables.faults import Unit


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
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            (value,) = event["args"].values()
            assert type(value) is (int if event["name"] == "thread_sort_index" else str)
            continue
        assert isinstance(event["ts"], float) and event["ts"] >= 0
        assert event["ph"] in ("X", "i")
        if event["ph"] == "X":
            assert event["dur"] > 0
        else:
            assert event["s"] in ("g", "p", "t")
    named = {(event["pid"], event["tid"]) for event in events(result, "M")}
    assert {(event["pid"], event["tid"]) for event in events(result, "X")} <= named


def test_there_are_tracks_for_every_unit_in_order(result: ModelResult) -> None:
    tracks = {
        event["tid"]: event["args"]["name"]
        for event in events(result, "M")
        if event["name"] == "thread_name"
    }
    order = {
        event["tid"]: event["args"]["sort_index"]
        for event in events(result, "M")
        if event["name"] == "thread_sort_index"
    }
    assert order.keys() == tracks.keys()
    names = [tracks[tid] for tid in sorted(tracks, key=lambda tid: order[tid])]
    units = [unit.name.lower() for unit in Unit]
    assert [name for name in names if name in units] == units
    assert [name.split()[0] for name in names] == sorted(
        (name.split()[0] for name in names), key=units.index
    )
    for slice_ in events(result, "X"):
        unit = decode(
            result.segments[0].segment.program.code[slice_["args"]["pc"]].tobytes()
        ).unit
        assert tracks[slice_["tid"]].split()[0] == unit.name.lower()


@pytest.mark.parametrize("clock_hz", [50_000_000, 700_000_000])
def test_slices_of_one_track_never_overlap(clock_hz: int) -> None:
    """Perfetto drops a slice that begins within another of its track and ends after it."""
    arch = dataclasses.replace(PRESETS["nano"], clock_hz=clock_hz)
    model = systol.compile(
        bundled.model_path("mnist_cnn"), arch=arch, calibration=bundled.calibration_images()
    )
    slices = events(Device("sim").load(model).time(), "X")
    by_track: dict[int, list[tuple[int, int]]] = {}
    for item in slices:
        # A viewer counts nanoseconds.
        begin, length = round(item["ts"] * 1000), round(item["dur"] * 1000)
        by_track.setdefault(item["tid"], []).append((begin, begin + length))
    for spans in by_track.values():
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    # Several instructions of a unit are in flight: one track each would not do.
    assert any(tid >= len(Unit) for tid in by_track)


def test_slices_have_the_names_of_the_debug_map(result: ModelResult) -> None:
    slices = events(result, "X")
    layers = ["read x"] * 2 + ["linear"] * 3
    names = [f"{event['cat']} {layer}" for event, layer in zip(slices, layers, strict=False)]
    assert [event["name"] for event in slices[:6]] == [*names, slices[5]["cat"]], (
        "what belongs to no layer has its operation's name alone"
    )
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
