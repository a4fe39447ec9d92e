"""A compiled model runs segment by segment: boundaries, batches, any types, host segments."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import helper

from hand_made import compiled, copies, copy_model, f32, on_host, quantized, sandwich_model
from systol.execution.session import Device, Session
from systol_compiler.binary.model import CompiledModel
from systol_compiler.graph.float_graph import TensorType
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_hw.errors import InputError, InvalidProgramError, MachineFaultError
from systol_hw.program import Program
from systol_hw.tables.faults import Fault, FaultCause, Unit
from systol_sim.results import RunResult

# Values here go to the ends of ranges and beyond.
pytestmark = pytest.mark.filterwarnings("ignore::systol.execution.ranges.InputRangeWarning")


def rounded(values: np.ndarray, scale: float, zero_point: int, width: int = 8) -> np.ndarray:
    return dequantize(quantize(values, scale, zero_point, width), scale, zero_point)


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("shape", [(2, 3, 4), (4,), (1, 5, 1, 2, 3)])
def test_a_copy_through_the_machine(shape: tuple[int, ...], width: int) -> None:
    x = np.random.default_rng(0).normal(0, 30, shape).astype(np.float32)
    result = Device("sim").run(copy_model(shape, width), x)
    np.testing.assert_array_equal(
        result.outputs["y"], rounded(x, 0.5, 3 if width == 8 else 0, width)
    )
    assert result.outputs["y"].dtype == np.float32
    assert (result.items, result.runs, result.filled) == (shape[0], 1, 0)


def sandwich_answer(image: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    table = np.linspace(-3, 3, 20, dtype=np.float32).reshape(10, 2)
    scaled = rounded(image.astype(np.float32) * np.float32(0.1), 0.125, -100)
    rows = rounded(table[ids], 0.0009765625, 0, 16)
    return {
        "total": scaled.sum(axis=(1, 2), dtype=np.float32)[:, None],
        "wide": rounded(rows * np.float32(2), 0.03125, 0),
        "rows": rows,
    }


@pytest.mark.parametrize("items", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    "backend", ["sim", "reference", pytest.param("rtl", marks=pytest.mark.verilator)]
)
def test_machine_and_host_in_any_order_with_bytes_and_token_ids(backend: str, items: int) -> None:
    rng = np.random.default_rng(items)
    image = rng.integers(0, 256, (items, 2, 3), np.uint8)
    ids = rng.integers(0, 10, (items, 4))
    result = Device(backend).run(sandwich_model(2), {"image": image, "ids": ids})
    expected = sandwich_answer(image, ids)
    assert set(result.outputs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(result.outputs[name], value, rtol=1e-6, atol=1e-6)
    assert (result.items, result.runs) == (items, -(-items // 2))
    assert result.filled == items % 2


def test_all_quantized_tensors_that_cross_are_kept_if_asked_for() -> None:
    image, ids = np.full((3, 2, 3), 128, np.uint8), np.arange(12).reshape(3, 4) % 10
    session = Device("sim").load(sandwich_model(2))
    result = session.run({"image": image, "ids": ids}, keep_tensors=True)
    assert set(result.tensors) == set(sandwich_model().tensors)
    assert all(len(codes) == 3 for codes in result.tensors.values())
    assert result.tensors["rows"].dtype == np.int16 and result.tensors["scaled"].dtype == np.int8
    np.testing.assert_array_equal(result.tensors["scaled"], result.tensors["scaled2"])
    assert session.run({"image": image, "ids": ids}).tensors == {}


def test_counters_of_several_segments_and_runs_add_up() -> None:
    image, ids = np.zeros((6, 2, 3), np.uint8), np.zeros((6, 4), np.int64)
    session = Device("sim").load(sandwich_model(2))
    result, once = session.run({"image": image, "ids": ids}), session.time()
    assert [run.segment.name for run in result.segments] == ["first", "second"]
    assert once.cycles and result.cycles == 3 * once.cycles
    report = result.report
    assert report["cycles"] == sum(item["cycles"] for item in report["segments"])
    assert report["cycles"] == 3 * sum(item["cycles"] for item in report["layers"])
    assert {item["layer"] for item in report["layers"]} >= {"first.copy0", "second.copy1"}
    assert result.host_seconds > 0 < result.machine_seconds
    assert once.outputs == {} and once.runs == 1


def test_a_run_is_filled_up_with_copies_of_the_last_item() -> None:
    """Zeros would be none that this model can compute with."""
    reciprocal = on_host(
        "before", [helper.make_node("Div", ["one", "x"], ["r"])],
        {"x": f32(4, 2)}, {"r": f32(4, 2)}, {"one": np.zeros(1, np.float32)},
    )  # fmt: skip
    q = quantized("q", (4, 2), source="r")
    p = quantized("p", (4, 2), source="p_real")
    real = {"x": f32(4, 2), "r": f32(4, 2), "p_real": f32(4, 2)}
    model = compiled([reciprocal, copies("m", [(q, p)])], [q, p], real, ["x"], {"y": "p_real"})
    with pytest.raises(InputError, match=r"'r': .*NaN"):
        Device("sim").run(model, np.zeros((4, 2)))
    result = Device("sim").run(model, np.ones((1, 2)))
    assert result.outputs["y"].tolist() == [[0.0, 0.0]] and result.filled == 3
    assert "3 copies" in str(result.tables())


def test_a_model_without_items_takes_exactly_its_shapes() -> None:
    reduce = on_host(
        "host", [helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1)],
        {"x": f32(4, 3)}, {"y": f32(1, 3)},
    )  # fmt: skip
    model = compiled([reduce], [], {"x": f32(4, 3), "y": f32(1, 3)}, ["x"], {"y": "y"})
    x = np.arange(12).reshape(4, 3)
    result = Device("sim").run(model, x)
    assert result.outputs["y"].tolist() == [[9, 10, 11]]
    assert result.items == 1 and result.cycles is None
    with pytest.raises(InputError, match=r"\[4, 3\], not \[8, 3\]; this model takes no other"):
        Device("sim").run(model, np.concatenate([x, x]))
    with pytest.raises(InputError, match="host alone"):
        _ = result.report
    assert "y: float32[1, 3]" in repr(result)


def test_an_input_may_be_an_output_and_be_read_on_both_sides() -> None:
    x, y = quantized("q", (2, 2), source="x"), quantized("y", (2, 2), source="y")
    relu = on_host("host", [helper.make_node("Relu", ["x"], ["r"])], {"x": f32(2, 2)},
                   {"r": f32(2, 2)})  # fmt: skip
    real = {"x": f32(2, 2), "y": f32(2, 2), "r": f32(2, 2)}
    model = compiled(
        [copies("m", [(x, y)]), relu], [x, y], real, ["x"], {"same": "x", "y": "y", "r": "r"}
    )
    given = np.array([[-1.2, 2.2], [3.3, -4.4]], np.float32)
    outputs = Device("sim").run(model, given).outputs
    np.testing.assert_array_equal(outputs["same"], given)
    np.testing.assert_array_equal(outputs["r"], np.maximum(given, 0))
    np.testing.assert_array_equal(outputs["y"], rounded(given, 0.5, 3))


def test_bytes_go_to_the_machine_directly() -> None:
    x, y = quantized("q", (2, 2), source="x"), quantized("y", (2, 2), source="y")
    real = {"x": TensorType(dtype="uint8", shape=(2, 2)), "y": f32(2, 2)}
    model = compiled([copies("m", [(x, y)])], [x, y], real, ["x"], {"y": "y"})
    outputs = Device("sim").run(model, np.array([[0, 1], [50, 62]])).outputs
    assert outputs["y"].tolist() == [[0, 1], [50, 62]]


IDS = {"ids": np.zeros((2, 4), np.int64)}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": np.zeros((2, 2, 3), np.uint8)}, r"'ids' is missing; give it as int64 \[n, 4\]"),
        ({**IDS, "x": np.zeros(1)}, "no input 'x'; its inputs are image, ids"),
        ({**IDS, "image": np.zeros((2, 2, 3))}, r"'image' must be uint8 \[n, 2, 3\], not of type"),
        ({**IDS, "image": np.full((2, 2, 3), 256)}, "in 0..255; found 256 to 256"),
        ({**IDS, "image": np.full((2, 2, 3), -1)}, "in 0..255; found -1 to -1"),
        ({**IDS, "image": np.zeros((2, 3, 2), np.uint8)}, r"not \[2, 3, 2\]"),
        ({**IDS, "image": np.zeros((0, 2, 3), np.uint8)}, r"not \[0, 2, 3\]"),
        ({**IDS, "image": np.zeros((3, 2, 3), np.uint8)}, r"equal first dimensions, not \[2, 3\]"),
        (np.zeros((2, 2, 3), np.uint8), r"has 2 inputs \(image, ids\); give their arrays by name"),
        ({**IDS, "image": np.full((2, 2, 3), "a")}, "not of type <U1"),
    ],
)
def test_wrong_inputs_are_named(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Device("sim").run(sandwich_model(), inputs)


def test_lists_and_other_numbers_are_taken() -> None:
    model = copy_model((2, 2))
    expected = [[1.0, 2.0], [0.0, 1.0]]
    for given in (expected, np.array(expected, np.float64), np.array(expected, np.int32)):
        assert Device("sim").run(model, given).outputs["y"].tolist() == expected
    assert Device("sim").run(model, {"x": expected}).outputs["y"].tolist() == expected


def test_nan_names_the_tensor() -> None:
    with pytest.raises(InputError, match=r"tensor 'x': .*must not contain NaN; found 1 of 4"):
        Device("sim").run(copy_model((2, 2)), np.array([[1, np.nan], [1, 1]]))


def test_an_invalid_program_does_not_load() -> None:
    model = copy_model()
    segment = model.machine_segments[0]
    code = segment.program.code[[0, 2, 1, 3]]  # it writes what it has not read
    broken = dataclasses.replace(segment, program=dataclasses.replace(segment.program, code=code))
    with pytest.raises(InvalidProgramError):
        Device("sim").load(dataclasses.replace(model, segments=(broken,)))


def test_a_fault_names_segment_instruction_and_layer() -> None:
    device = Device("sim")

    def faulty(program: Program, contents: Mapping[str, Any], *, values: bool) -> RunResult:
        fault = Fault(cause=FaultCause.WATCHDOG, unit=Unit.STORE, pc=2, cycle=9)
        return RunResult(
            arch=program.arch, fault=fault, windows=[], counters=None, times=None, interrupts=[]
        )

    device.executor = faulty
    with pytest.raises(MachineFaultError, match=r"segment 'machine' stopped: .*write_host.*copy0"):
        device.run(copy_model(), np.zeros((2, 3, 4)))


def test_progress_counts_items() -> None:
    seen: list[tuple[int, int]] = []
    Device("sim").load(copy_model()).run(
        np.zeros((5, 3, 4)), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_host_graph_of_another_type_than_stated_is_an_error() -> None:
    # ONNX Runtime takes the real shape where the graph states none that it can check.
    node = helper.make_node("NonZero", ["x"], ["y"])
    host = on_host(
        "host", [node], {"x": f32(2, 2)}, {"y": TensorType(dtype="int64", shape=(2, 4))}
    )
    real = {"x": f32(2, 2), "y": TensorType(dtype="int64", shape=(2, 4))}
    model = compiled([host], [], real, ["x"], {"y": "y"})
    assert Device("sim").run(model, np.ones((2, 2))).outputs["y"].shape == (2, 4)
    with pytest.raises(InputError, match=r"computed 'y' as int64\[2, 1\]|failed"):
        Device("sim").run(model, np.array([[0, 0], [1, 0]]))


def test_what_prints() -> None:
    device = Device("sim")
    session: Session = device.load(copy_model())
    model: CompiledModel = session.model
    assert repr(device) == "Device('sim')"
    assert repr(session) == "Session('by hand' on sim)"
    assert "x: float32[2x3x4]" in repr(model)
    result = session.run(np.zeros((2, 3, 4)))
    assert repr(result).startswith("ModelResult('by hand' on sim, items=2, y: float32[2, 3, 4]")
    assert "<table>" in result._repr_html_()
    assert len(result.trace()["traceEvents"]) > 4
