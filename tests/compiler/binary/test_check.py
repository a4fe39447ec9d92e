"""Networks whose parts do not fit each other are refused, each rule by name."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import helper

from hand_made import compiled, copies, copy_model, f32, on_host, quantized, sandwich_model
from systol_compiler.binary.model import (
    Binding,
    CompiledModel,
    LayerRange,
    ModelInput,
    ModelOutput,
)
from systol_compiler.graph.float_graph import TensorType
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError
from systol_hw.program import Window


def change_segment(model: CompiledModel, **changes: Any) -> CompiledModel:
    segment = dataclasses.replace(model.machine_segments[0], **changes)
    return dataclasses.replace(model, segments=(segment, *model.segments[1:]))


LAYER = LayerRange(layer="a", first=0, count=3, tag=0, source_nodes=())
IN, OUT = copy_model().machine_segments[0].inputs[0], copy_model().machine_segments[0].outputs[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (dataclasses.replace(IN, tensor="z"),)}, "no tensor is called 'z'"),
        ({"inputs": (dataclasses.replace(IN, window="z"),)}, "no window is called 'z'"),
        ({"inputs": (dataclasses.replace(IN, offset_bytes=1),)}, "ends at byte 25 of window 'x'"),
        ({"inputs": (dataclasses.replace(IN, order=(0, 1)),)}, "no order of the axes of 'x'"),
        ({"inputs": (dataclasses.replace(IN, tensor="y"),)}, "reads 'y', which nothing before it"),
        ({"inputs": (IN, IN)}, "two tensors share window 'x'"),
        ({"outputs": (OUT, dataclasses.replace(OUT, window="x"))}, "is bound twice"),
        ({"outputs": (dataclasses.replace(OUT, tensor="x"),)}, "which nothing before it gives"),
        ({"outputs": ()}, "output 'y' reads 'y', which nothing before it gives"),
        ({"layers": (dataclasses.replace(LAYER, count=99),)}, "a layer ends at instruction 99"),
        ({"layers": (LAYER, LAYER)}, "inside the one before"),
        ({"layers": (dataclasses.replace(LAYER, tag=16),)}, "tag 16 is not in 0..15"),
        ({"layers": (dataclasses.replace(LAYER, layer="a\x1b[31m"),)}, "must be printable"),
        ({"layers": (dataclasses.replace(LAYER, layer="a" * 1025),)}, "at most 1024 characters"),
        (
            {"layers": (
                dataclasses.replace(LAYER, count=1),
                dataclasses.replace(LAYER, first=1, source_nodes=("n",)),
            )},
            "layer 'a' comes from two sets of nodes",
        ),
    ],
)  # fmt: skip
def test_machine_segments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        change_segment(copy_model(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": PRESETS["edge16"]}, "another machine"),
        ({"inputs": ()}, "needs an input"),
        ({"outputs": ()}, "needs an input and an output"),
        ({"segments": ()}, "needs a segment"),
        ({"segments": copy_model().segments * 2}, "two segments are called 'machine'"),
        ({"inputs": (ModelInput(name="x"),) * 2}, "two inputs are called 'x'"),
        ({"outputs": (ModelOutput(name="y", tensor="y"),) * 2}, "two outputs are called 'y'"),
        ({"inputs": (ModelInput(name="z"),)}, "input 'z' has no type"),
        ({"outputs": (ModelOutput(name="y", tensor="z"),)}, "no tensor is called 'z'"),
        ({"real": {"x": f32(2, 3, 4), "y": f32(2, 12)}}, "holds it as float32"),
        ({"real": {"x": f32(2, 3, 4), "y": f32(2, 3, 0)}}, "all positive"),
        ({"real": {"x": f32(4, 3, 2), "y": f32(2, 3, 4)}}, "cannot hold 'x'"),
        ({"real": {"x": TensorType(dtype="str", shape=(2, 3, 4))}}, "called 'str'"),
        ({"report": {"x": float("nan")}}, "JSON values"),
        ({"report": {"x": {1: 2}}}, "JSON values"),
        ({"report": {"x": 1 << 63}}, "JSON values"),
        ({"name": "a\nb"}, "must be printable"),
        (
            {"outputs": (ModelOutput(name="y", tensor="y", labels=("one",)),)},
            r"output 'y' of shape \[2, 3, 4\] has 1 labels",
        ),
    ],
)
def test_networks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(copy_model(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 0.1}, "its scale 0.1 must be a positive float32"),
        ({"scale": 1e300}, "must be a positive float32"),
        ({"scale": 0.0}, "must be a positive float32"),
        ({"scale": float("nan")}, "must be a positive float32"),
        ({"zero_point": 128}, "has zero point 128"),
        ({"width": 16, "zero_point": 1}, "has zero point 1"),
        ({"width": 32}, "has a width of 32 bits"),
        ({"name": "other"}, "tensor 'other' is listed as 'x'"),
        ({"shape": (1,) * 9}, "at most 8 dimensions"),
        ({"source": "y"}, "reads 'x', which nothing before it gives"),
    ],
)
def test_quantized_tensors(changes: dict[str, Any], message: str) -> None:
    model = copy_model()
    tensor = dataclasses.replace(model.tensors["x"], **changes)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(model, tensors={**model.tensors, "x": tensor})


def test_windows_of_both_sets_and_no_more() -> None:
    model = copy_model()
    program = model.machine_segments[0].program
    extra = tuple(Window(name=f"w{n}", size_bytes=1) for n in range(14))
    change_segment(model, program=dataclasses.replace(program, windows=(*program.windows, *extra)))
    twice = (program.windows[0], *program.windows)
    with pytest.raises(InputError, match="two windows have one name"):
        change_segment(model, program=dataclasses.replace(program, windows=twice))


def test_tensors_may_share_a_window_but_no_byte() -> None:
    x, y = (quantized(n, (2, 3), source=n) for n in "xy")
    segment = copies("machine", [(x, y)])
    wide = dataclasses.replace(
        segment.program, windows=(Window(name="x", size_bytes=12), segment.program.windows[1])
    )
    both = (
        Binding(tensor="x", window="x", order=(0, 1)),
        Binding(tensor="x2", window="x", offset_bytes=6, order=(0, 1)),
    )
    x2 = quantized("x2", (2, 3), source="x")
    real = {"x": f32(2, 3), "y": f32(2, 3)}

    def model(offset: int) -> CompiledModel:
        bindings = (both[0], dataclasses.replace(both[1], offset_bytes=offset))
        one = dataclasses.replace(segment, program=wide, inputs=bindings)
        return compiled([one], [x, x2, y], real, ["x"], {"y": "y"})

    assert model(6).quantized == {"x", "x2"}
    with pytest.raises(InputError, match="two tensors share window 'x'"):
        model(5)


def test_segments_in_any_order_and_what_each_reads() -> None:
    model = sandwich_model()
    assert model.batch == 2
    assert model.quantized == {"scaled", "rows", "doubled"}
    assert set(model.by_source) == {"scaled_out", "rows_out", "wide_real", "rows_again"}
    before, first, middle, second, after = model.segments
    with pytest.raises(InputError, match="segment 'first' reads 'scaled', which nothing"):
        dataclasses.replace(model, segments=(first, before, middle, second, after))
    with pytest.raises(InputError, match="segment 'middle' reads 'scaled_out', which nothing"):
        dataclasses.replace(model, segments=(before, middle, first, second, after))
    with pytest.raises(InputError, match="segment 'second' reads 'doubled'"):
        dataclasses.replace(model, segments=(before, first, second, middle, after))


def test_a_real_tensor_comes_from_one_place() -> None:
    x, y = (quantized(n, (2, 3), source=n) for n in "xy")
    z = quantized("z", (2, 3), source="y")
    real = {"x": f32(2, 3), "y": f32(2, 3)}
    segment = copies("machine", [(x, y), (quantized("x2", (2, 3), source="x"), z)])
    x2 = quantized("x2", (2, 3), source="x")
    with pytest.raises(InputError, match="two tensors hold 'y'"):
        compiled([segment], [x, x2, y, z], real, ["x"], {"y": "y"})
    host = on_host("host", [helper.make_node("Relu", ["x"], ["y"])], {"x": real["x"]},
                   {"y": real["y"]})  # fmt: skip
    once = copies("machine", [(x, y)])
    # The machine's result is not asked for where the host gives the same name.
    assert compiled([once, host], [x, y], real, ["x"], {"y": "y"}).by_source == {}
    twice = dataclasses.replace(host, name="again")
    with pytest.raises(InputError, match="'y' is computed twice"):
        compiled([host, twice], [], real, ["x"], {"y": "y"})


def test_the_batch_is_what_all_inputs_and_outputs_begin_with() -> None:
    assert copy_model((5, 2)).batch == 5
    x = quantized("x", (), source="x")
    y = quantized("y", (), source="y")
    scalar = compiled([copies("m", [(x, y)])], [x, y], {"x": f32(), "y": f32()}, ["x"], {"y": "y"})
    assert scalar.batch is None
    host = on_host(
        "host", [helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1)],
        {"x": f32(4, 3)}, {"y": f32(1, 3)},
    )  # fmt: skip
    real = {"x": f32(4, 3), "y": f32(1, 3)}
    assert compiled([host], [], real, ["x"], {"y": "y"}).batch is None


def test_a_model_prints_in_one_line() -> None:
    text = repr(sandwich_model())
    assert "image: uint8[2x2x3]" in text and "2 machine and 3 host segments" in text
    assert np.all([len(text) < 300, "\n" not in text])
