"""The self-test's model on every device: answers, times, reports, traces, agreement."""

import dataclasses
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import systol
from systol.device import BACKENDS
from systol.execution.session import Device
from systol.results.agreement import check_agreement
from systol.results.record import add_counters
from systol.results.report import make_report
from systol.results.result import ModelResult
from systol.results.trace import make_trace
from systol.selftest import BATCH, FEATURES, tiny_answer, tiny_input, tiny_model
from systol_compiler.binary.model import CompiledModel
from systol_hw.arch import PRESETS
from systol_hw.errors import (
    DifferenceError,
    InputError,
    InvalidProgramError,
    MachineFaultError,
)
from systol_hw.isa.assembly import assemble
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.counter_categories import CATEGORIES
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Fault, FaultCause, Unit
from systol_sim.results import RunResult

_NEEDS = {"rtl": [pytest.mark.verilator], "amaranth": [pytest.mark.slow]}
BACKEND_PARAMETERS = [
    pytest.param(name, marks=_NEEDS.get(name, [])) for name in BACKENDS
]


@pytest.fixture(scope="module")
def result() -> ModelResult:
    return Device("sim").load(tiny_model()).run({"x": tiny_input()}, keep_tensors=True)


@pytest.mark.parametrize("backend", BACKEND_PARAMETERS)
def test_every_backend_gives_the_known_answer(backend: str) -> None:
    x = tiny_input()
    given = Device(backend).run(tiny_model(), {"x": x}).outputs["y"]
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, tiny_answer(x))


def test_the_known_answer_saturates_at_both_ends_and_has_values_between() -> None:
    answer = tiny_answer(tiny_input())
    assert len(np.unique(answer)) > FEATURES / 2


@pytest.mark.parametrize(
    "backend", [pytest.param("sim"), pytest.param("rtl", marks=pytest.mark.verilator)]
)
def test_time_alone_is_the_time_of_any_run(backend: str, result: ModelResult) -> None:
    timed = Device(backend).load(tiny_model()).time()
    assert (timed.items, timed.runs, timed.outputs) == (BATCH, 1, {})
    (run,), (whole,) = timed.segments, result.segments
    assert run.counters is not None and whole.first.counters is not None
    assert run.counters.differences(whole.first.counters, values=False) == []
    assert run.first.times is not None and whole.first.times is not None
    np.testing.assert_array_equal(run.first.times, whole.first.times)
    assert make_trace(timed) == make_trace(result)
    # What depends on values is unknown, not zero.
    units = make_report(timed)["units"]
    assert "useful_macs" in units["matrix"]["amounts"]
    dependent = [amount for amount in AMOUNTS if amount.depends_on_values]
    assert dependent
    assert all(a.name not in units[a.unit.name.lower()]["amounts"] for a in dependent)


def test_a_notebook_shows_outputs_and_tables_and_repr_is_short(result: ModelResult) -> None:
    page = ElementTree.fromstring(f"<div>{result._repr_html_()}</div>")
    headings = [table.findtext(".//th") for table in page.findall("table")]
    assert headings[:2] == ["output", "run"] and len(headings) == 6
    cells = [cell.text for cell in page.iter("td")]
    assert f"{make_report(result)['cycles']:,}" in cells
    assert [cells[0], cells[1], cells[2]] == ["y", "float32", f"{BATCH} x {FEATURES}"]
    untimed = Device("reference").run(tiny_model(), {"x": tiny_input()})
    assert untimed._repr_html_().count("<table>") == 1
    assert "sim" in repr(result) and f"y: float32[{BATCH}, {FEATURES}]" in repr(result)
    assert len(repr(result)) < 200


def test_time_needs_a_device_that_counts() -> None:
    with pytest.raises(InputError, match="reference backend counts no cycles"):
        Device("reference").load(tiny_model()).time()


@pytest.mark.parametrize("items", [1, 2, 3, 7])
def test_any_number_of_items_runs_in_batches(items: int) -> None:
    x = np.random.default_rng(items).normal(0, 2, (items, FEATURES)).astype(np.float32)
    seen: list[tuple[int, int]] = []
    session = Device("reference").load(tiny_model())
    result = session.run({"x": x}, keep_tensors=True, progress=lambda *at: seen.append(at))
    np.testing.assert_array_equal(result.outputs["y"], tiny_answer(x))
    assert result.runs == -(-items // BATCH) == len(seen)
    assert seen[-1] == (items, items)
    assert result.tensors["x_q"].shape == (items, FEATURES)


def test_only_bytes_of_inputs_are_filled_in_windows_that_are_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large windows that the program does not use are zero and take no memory."""
    model = tiny_model()
    (segment,) = model.machine_segments
    program = segment.program
    windows = (
        Window(name="input", size_bytes=64 << 20),
        Window(name="output", size_bytes=64 << 20),
        Window(name="scratch", size_bytes=64 << 20),
    )
    large = dataclasses.replace(segment, program=dataclasses.replace(program, windows=windows))
    device = Device("sim")
    executor, given = device.executor, []

    def noting(
        program: Program, contents: Mapping[str, np.ndarray], *, values: bool
    ) -> RunResult:
        given.append({name: array.size for name, array in contents.items()})
        return executor(program, contents, values=values)

    monkeypatch.setattr(device, "executor", noting)
    result = device.run(dataclasses.replace(model, segments=(large,)), {"x": tiny_input()})
    np.testing.assert_array_equal(result.outputs["y"], tiny_answer(tiny_input()))
    assert given == [{"input": BATCH * FEATURES}]
    # Only what other runs are compared by is kept, not each segment's memories.
    assert (result.segments[0].first.windows, result.segments[0].first.memories) == ([], {})


def test_a_host_segment_runs_behind_the_machine() -> None:
    x = tiny_input()
    model = tiny_model(host_segment=True)
    given = Device("reference").run(model, {"x": x}).outputs["p"]
    y = tiny_answer(x)
    expected = np.exp(y - y.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'x' is missing; give it as float32 \[n, 8\]"),
        ({"z": np.zeros((2, 8))}, "no input 'z'; its inputs are x"),
        ({"x": np.zeros((2, 7))}, r"must be float32 \[n, 8\], not \[2, 7\]"),
        ({"x": np.zeros(8)}, r"must be float32 \[n, 8\], not \[8\]"),
        ({"x": np.zeros((0, 8))}, r"not \[0, 8\]"),
        ({"x": np.zeros((2, 8), np.complex64)}, "not of type complex64"),
        ({"x": np.array([["a"] * 8])}, "not of type <U1"),
        ({"x": np.full((2, 8), np.nan)}, "tensor 'x'.*must not contain NaN"),
    ],
)
def test_wrong_inputs_are_named(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Device("reference").run(tiny_model(), inputs)


def test_other_number_types_are_taken_as_float32() -> None:
    x = np.arange(16).reshape(2, 8) - 8
    expected = tiny_answer(x.astype(np.float32))
    for dtype in (np.float64, np.int8, np.int64):
        given = Device("reference").run(tiny_model(), {"x": x.astype(dtype)}).outputs["y"]
        np.testing.assert_array_equal(given, expected)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(InputError, match="no backend is called 'gpu'; there are reference, sim"):
        Device("gpu")


def with_program(program: Program) -> CompiledModel:
    model = tiny_model()
    segment = dataclasses.replace(model.machine_segments[0], program=program, layers=())
    return dataclasses.replace(model, segments=(segment,))


def test_a_session_refuses_an_invalid_program() -> None:
    windows = tiny_model().machine_segments[0].program.windows
    program = make_program(PRESETS["nano"], assemble("write_host window=1\nhalt"), windows=windows)
    with pytest.raises(InvalidProgramError):
        Device("reference").load(with_program(program))


def test_a_fault_names_cause_instruction_and_layer() -> None:
    device = Device("sim")
    healthy = device.executor

    def faulting(*arguments: Any, **options: Any) -> Any:
        fault = Fault(cause=FaultCause.ADDRESS, unit=Unit.LOAD, pc=1, cycle=30)
        return dataclasses.replace(healthy(*arguments, **options), fault=fault)

    device.executor = faulting
    expected = r"address in load at pc 1, cycle 30 \(read_host .*; layer 'linear'\)"
    with pytest.raises(MachineFaultError, match=expected):
        device.run(tiny_model(), {"x": tiny_input()})


def test_report_figures_follow_from_the_layer(result: ModelResult) -> None:
    report = make_report(result)
    macs = BATCH * FEATURES * FEATURES
    matrix = report["units"]["matrix"]
    assert matrix["amounts"]["useful_macs"] == {"value": macs, "measure": "MACs"}
    assert report["units"]["load"]["amounts"]["host_bytes"]["value"] == BATCH * FEATURES
    assert report["useful_mac_share"] == macs / (report["cycles"] * 64)
    assert report["seconds"] == report["cycles"] / PRESETS["nano"].clock_hz
    assert report["images_per_second"] == pytest.approx(BATCH / report["seconds"])
    assert sum(report["array"]["categories"].values()) == report["cycles"]
    for unit in report["units"].values():
        assert sum(unit["states"].values()) == report["cycles"]


def test_layers_are_charged_to_their_names(result: ModelResult) -> None:
    report = make_report(result)
    linear, rest = report["layers"]
    assert (linear["layer"], linear["source_nodes"], rest["layer"]) == ("linear", ["linear"], "")
    assert linear["busy"]["matrix"] == BATCH
    busy = report["units"]["control"]["states"]["busy"]
    assert linear["busy"]["control"] + rest["busy"]["control"] == busy
    tags = {tuple(entry["layers"]): entry for entry in report["tags"]}
    assert tags[("linear",)]["units"]["matrix"]["states"]["busy"] == BATCH


def test_several_runs_add_up() -> None:
    x = np.concatenate([tiny_input()] * 3)
    once = make_report(Device("sim").run(tiny_model(), {"x": tiny_input()}))
    thrice = make_report(Device("sim").run(tiny_model(), {"x": x}))
    assert thrice["cycles"] == 3 * once["cycles"]
    assert thrice["cycles_per_image"] == once["cycles_per_image"]
    for name, unit in once["units"].items():
        for state, cycles in unit["states"].items():
            assert thrice["units"][name]["states"][state] == 3 * cycles
    peak = "peak_queue_load"
    assert thrice["scalars"][peak] == once["scalars"][peak] != {"value": 0}


def test_unknown_amounts_stay_unknown_when_added(result: ModelResult) -> None:
    counters = result.segments[0].counters
    assert counters is not None
    unknown = dataclasses.replace(counters, amounts=np.full_like(counters.amounts, -1))
    total = add_counters(counters, unknown)
    assert total is not None
    assert (total.amounts == -1).all()


def test_categories_hold_every_state_once() -> None:
    from systol_hw.tables.counters import UNIT_STATES

    states = [state for category in CATEGORIES for state in category.states]
    assert sorted(states) == sorted(state.name for state in UNIT_STATES[Unit.MATRIX])


def test_the_reference_has_no_report() -> None:
    result = Device("reference").run(tiny_model(), {"x": tiny_input()})
    with pytest.raises(InputError, match="reference backend counts no cycles"):
        make_report(result)
    with pytest.raises(InputError, match="counts no cycles"):
        make_trace(result)


def test_the_trace_has_a_slice_for_every_instruction(result: ModelResult) -> None:
    events = make_trace(result)["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    program = result.segments[0].segment.program
    assert [event["args"]["pc"] for event in slices] == list(range(len(program.code)))
    clock = PRESETS["nano"].clock_hz
    for event in slices:
        begin, end = event["args"]["start_cycle"], event["args"]["end_cycle"]
        assert event["ts"] == pytest.approx(begin * 1e6 / clock)
        assert event["dur"] == pytest.approx((end - begin + 1) * 1e6 / clock)
    tracks = [event for event in events if event["name"] == "thread_name"]
    assert {event["args"]["name"] for event in tracks} == {unit.name.lower() for unit in Unit}


def test_agreement_counts_what_it_compared(result: ModelResult) -> None:
    again = Device("sim").load(tiny_model()).run({"x": tiny_input()}, keep_tensors=True)
    agreement = check_agreement(result, again)
    assert agreement.output_values == BATCH * FEATURES
    assert agreement.tensor_values == 2 * BATCH * FEATURES
    assert agreement.counters > 1000
    assert agreement.instruction_times == 2 * len(result.segments[0].segment.program.code)


@pytest.mark.parametrize("what", ["output", "tensor", "counter", "time"])
def test_any_difference_is_found(result: ModelResult, what: str) -> None:
    again = Device("sim").load(tiny_model()).run({"x": tiny_input()}, keep_tensors=True)
    counters, times = again.segments[0].counters, again.segments[0].first.times
    assert counters is not None and times is not None
    if what == "output":
        again.outputs["y"][0, 0] += 1
    elif what == "tensor":
        again.tensors["y_q"][1, 1] ^= 1
    elif what == "counter":
        counters.states[Unit.LOAD, 1, 1] += 1
    else:
        times[3, 1] += 1
    with pytest.raises(DifferenceError, match="bug in Systol"):
        check_agreement(result, again)


@pytest.mark.verilator
def test_sim_and_rtl_agree_in_everything(result: ModelResult) -> None:
    rtl = Device("rtl").load(tiny_model()).run({"x": tiny_input()}, keep_tensors=True)
    assert check_agreement(result, rtl).counters > 1000


def test_everything_public_is_there() -> None:
    for name in systol.__all__:
        assert hasattr(systol, name)
