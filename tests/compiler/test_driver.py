"""Whole compilations: every program is valid, and computes what the quantized graph says."""

import dataclasses
from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from systol.bundled import calibration_images, model_path
from systol_compiler import quantized_reference
from systol_compiler.driver import (
    LEVELS,
    CompileOptions,
    compile_model,
    compile_quantized,
    emit_level,
)
from systol_compiler.frontend import quantize_model
from systol_compiler.model import CompiledModel
from systol_compiler.old_quantized import (
    DequantizeOutput,
    Layer,
    QConv2D,
    QLinear,
    QMaxPool,
    QTensor,
    QuantizedGraph,
    QuantizeInput,
    window_output_size,
)
from systol_compiler.search import Choice, build
from systol_hw.arch import PRESETS, Arch
from systol_hw.assembly import assemble_code
from systol_hw.errors import InputError, UnsupportedModelError
from systol_hw.faults import Unit
from systol_sim import reference, simulator
from systol_sim.checker import check
from systol_sim.instruction_table import build_table

FAST = CompileOptions(search=False)
NANO = PRESETS["nano"]
MACHINES = (
    NANO,
    dataclasses.replace(NANO, name="flat", rows=4, columns=8, vector_lanes=4, ub_bytes=4096),
    dataclasses.replace(NANO, name="tall", rows=8, columns=4, accumulator_rows=32, ub_bytes=2048),
    dataclasses.replace(
        NANO, name="tight", rows=4, columns=4, accumulator_rows=16, weight_fifo_tiles=1,
        queue_depth=1, token_limit=1, inflight_instructions=1, fetch_buffer_instructions=1,
        vector_lanes=1, ub_bytes=4096,
    ),
    PRESETS["edge16"],
)


class Builder:
    """Chains random layers into a quantized graph."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng = rng
        self.layers: list[Layer] = []
        self.tensors: dict[str, QTensor] = {}
        self.last = self._tensor("x", shape, int(rng.integers(-128, 128)))

    def _tensor(self, name: str, shape: tuple[int, ...], zero_point: int) -> QTensor:
        tensor = QTensor(name=name, shape=shape, scale=1.0, zero_point=zero_point, source=name)
        self.tensors[name] = tensor
        return tensor

    def _next(self, shape: tuple[int, ...], zero_point: int | None = None) -> QTensor:
        if zero_point is None:
            zero_point = int(self.rng.integers(-128, 128))
        return self._tensor(f"t{len(self.layers)}", shape, zero_point)

    def _numbers(
        self, outputs: int, products: int, source: QTensor, target: QTensor
    ) -> dict[str, Any]:
        low, high = sorted(int(v) for v in self.rng.integers(-128, 128, 2))
        shift = 17 + int(np.log2(products * 40 + 1)) + 1
        return {
            "weight_scales": np.ones(outputs, np.float32),
            "bias": self.rng.integers(-5000, 5000, outputs).astype(np.int32),
            "multipliers": self.rng.integers(1 << 16, 1 << 17, outputs).astype(np.int32),
            "shifts": self.rng.integers(shift - 1, shift + 2, outputs).astype(np.uint8),
            "zp_in": source.zero_point,
            "zp_out": target.zero_point,
            "lo": min(low, -20),
            "hi": max(high, 20),
            "source_nodes": (f"n{len(self.layers)}",),
        }

    def linear(self, outputs: int) -> None:
        source = self.last
        self.last = self._next((source.shape[0], outputs))
        weights = self.rng.integers(-127, 128, (outputs, source.features)).astype(np.int8)
        self.layers.append(
            QLinear(
                name=f"l{len(self.layers)}", input=source.name, output=self.last.name,
                weights=weights,
                **self._numbers(outputs, source.features, source, self.last),
            )
        )

    def _window(
        self, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int],
        dilations: tuple[int, int],
    ) -> tuple[int, int]:
        shape = self.last.shape
        rows, columns = (
            window_output_size(
                shape[1 + a], kernel[a], strides[a], pads[a], pads[a + 2], dilations[a]
            )
            for a in (0, 1)
        )
        return rows, columns

    def conv(
        self, outputs: int, kernel: tuple[int, int], strides: tuple[int, int],
        pads: tuple[int, int, int, int], dilations: tuple[int, int], groups: int = 1,
    ) -> None:
        size = self._window(kernel, strides, pads, dilations)
        if min(size) < 1:
            return
        source = self.last
        channels = source.shape[3] // groups
        self.last = self._next((source.shape[0], *size, outputs))
        weights = self.rng.integers(-127, 128, (outputs, *kernel, channels)).astype(np.int8)
        self.layers.append(
            QConv2D(
                name=f"l{len(self.layers)}", input=source.name, output=self.last.name,
                weights=weights, strides=strides, pads=pads, dilations=dilations, groups=groups,
                **self._numbers(outputs, prod(kernel) * channels, source, self.last),
            )
        )

    def pool(
        self, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int],
        dilations: tuple[int, int],
    ) -> None:
        pads = tuple(min(p, kernel[i % 2] - 1) for i, p in enumerate(pads))  # type: ignore[assignment]
        # A window must touch the image: with dilation, pads could hold all of its taps.
        if any(d > 1 for d in dilations):
            pads = (0, 0, 0, 0)
        size = self._window(kernel, strides, pads, dilations)
        if min(size) < 1:
            return
        source = self.last
        shape = (source.shape[0], *size, source.shape[3])
        self.last = self._next(shape, source.zero_point)
        self.layers.append(
            QMaxPool(
                name=f"l{len(self.layers)}", input=source.name, output=self.last.name,
                kernel=kernel, strides=strides, pads=pads, dilations=dilations,
                source_nodes=(f"n{len(self.layers)}",),
            )
        )

    def graph(self, shown: tuple[str, ...] = ()) -> QuantizedGraph:
        first = self.tensors["x"]
        names = dict.fromkeys((*shown, self.last.name))
        graph = QuantizedGraph(
            name="random",
            inputs=(
                QuantizeInput(
                    name="x", source_shape=first.shape, permutation=tuple(range(len(first.shape))),
                    tensor="x", scale=1.0, zero_point=first.zero_point,
                ),
            ),
            outputs=tuple(
                DequantizeOutput(
                    name=f"y_{name}", source_shape=self.tensors[name].shape,
                    permutation=tuple(range(len(self.tensors[name].shape))), tensor=name,
                    scale=1.0, zero_point=self.tensors[name].zero_point,
                )
                for name in names
            ),
            tensors=self.tensors,
            layers=tuple(self.layers),
        )
        graph.verify()
        return graph


def assert_exact(graph: QuantizedGraph, model: CompiledModel, rng: np.random.Generator) -> None:
    """The program is valid and gives the graph's tensors on random input."""
    (segment,) = model.machine_segments
    check(segment.program)
    inputs = {
        entry.tensor: rng.integers(-128, 128, graph.tensors[entry.tensor].shape).astype(np.int8)
        for entry in graph.inputs
    }
    expected, _ = quantized_reference.run_layers(graph, inputs)
    result = reference.run(segment.program, {b.window: inputs[b.tensor] for b in segment.inputs})
    assert result.fault is None
    numbers = {window.name: index for index, window in enumerate(segment.program.windows)}
    assert segment.outputs
    for binding in segment.outputs:
        found = result.windows[numbers[binding.window]].view(np.int8)
        np.testing.assert_array_equal(
            found.reshape(expected[binding.tensor].shape), expected[binding.tensor]
        )


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
pads = st.tuples(*[st.integers(0, 2)] * 4)


@st.composite
def graphs(draw: st.DrawFn) -> QuantizedGraph:
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    batch = draw(st.integers(1, 5))
    if draw(st.booleans()):
        builder = Builder(rng, (batch, draw(st.integers(1, 60))))
    else:
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 11)))
        builder = Builder(rng, (batch, *size))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("linear", "conv", "conv", "pool")))
        if len(builder.last.shape) == 2 or kind == "linear":
            builder.linear(draw(st.integers(1, 21)))
        elif kind == "conv":
            builder.conv(
                draw(st.integers(1, 19)), draw(pairs), draw(pairs), draw(pads), draw(pairs)
            )
        else:
            builder.pool(draw(pairs), draw(pairs), draw(pads), draw(pairs))
    if not builder.layers:
        builder.linear(3)
    inner = [name for name in builder.tensors if name != "x"]
    shown = tuple(draw(st.lists(st.sampled_from(inner), max_size=2, unique=True)))
    return builder.graph(shown)


@settings(max_examples=80)
@given(graph=graphs(), machine=st.sampled_from(MACHINES), seed=st.integers(0, 1 << 16))
def test_random_networks_are_exact(graph: QuantizedGraph, machine: Arch, seed: int) -> None:
    try:
        model = compile_quantized(graph, arch=machine, options=FAST)
    except UnsupportedModelError as error:
        assert "unified buffer" in str(error) and machine.ub_bytes <= 4096
        return
    assert_exact(graph, model, np.random.default_rng(seed))


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_groups_of_any_size_are_exact(images: int) -> None:
    rng = np.random.default_rng(images)
    builder = Builder(rng, (5, 6, 6, 3))
    builder.conv(5, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    builder.pool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    builder.linear(7)
    graph = builder.graph()
    options = CompileOptions(most_images=images, search=False)
    model = compile_quantized(graph, arch=NANO, options=options)
    assert_exact(graph, model, rng)


def test_overlapping_pool_is_fused_and_exact() -> None:
    rng = np.random.default_rng(3)
    builder = Builder(rng, (2, 11, 13, 3))
    builder.conv(9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    builder.pool((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    graph = builder.graph()
    model = compile_quantized(graph, arch=NANO, options=FAST)
    assert "fused" in model.report["operators"][1]["why"]
    assert_exact(graph, model, rng)


def test_shown_convolution_keeps_its_pool_apart() -> None:
    rng = np.random.default_rng(4)
    builder = Builder(rng, (2, 8, 8, 3))
    builder.conv(9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    shown = builder.last.name
    builder.pool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    graph = builder.graph((shown,))
    model = compile_quantized(graph, arch=NANO, options=FAST)
    assert "fused" not in model.report["operators"][1]["why"]
    assert_exact(graph, model, rng)


def test_groups_and_depthwise_are_exact() -> None:
    rng = np.random.default_rng(5)
    builder = Builder(rng, (1, 6, 6, 6))
    builder.conv(12, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), groups=6)
    builder.conv(9, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), groups=3)
    graph = builder.graph()
    assert_exact(graph, compile_quantized(graph, arch=NANO, options=FAST), rng)


def test_input_that_two_layers_read() -> None:
    rng = np.random.default_rng(6)
    builder = Builder(rng, (2, 7, 5, 3))
    source = builder.last
    builder.conv(4, (2, 2), (3, 3), (0, 0, 0, 0), (1, 1))
    first = builder.last.name
    builder.last = source
    builder.conv(4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    graph = builder.graph((first,))
    assert_exact(graph, compile_quantized(graph, arch=NANO, options=FAST), rng)


def test_many_images_do_not_overflow_tokens_or_need_barriers() -> None:
    rng = np.random.default_rng(7)
    builder = Builder(rng, (40, 4, 4, 2))
    builder.conv(4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    graph = builder.graph()
    text: list[str] = []
    model = compile_quantized(
        graph, arch=PRESETS["edge16"], options=FAST,
        observer=lambda name, value: text.append(str(value)) if name == "asm" else None,
    )
    assert "barrier" not in text[0]
    assert_exact(graph, model, rng)


SMALL = dataclasses.replace(PRESETS["edge32"], name="small", ub_bytes=1 << 16)


@pytest.mark.parametrize(
    ("size", "arch", "most"), [(256, SMALL, 1.22), (1024, PRESETS["edge32"], 1.03)]
)
def test_stores_take_no_bank_from_the_matrix_unit(size: int, arch: Arch, most: float) -> None:
    rng = np.random.default_rng(8)
    builder = Builder(rng, (size, size))
    builder.linear(size)
    graph = builder.graph()
    result = build(graph, arch, Choice())
    # The batch is cut so that a group's results have a bank apart from the next one's activations.
    assert len(result.plan.groups) > 1
    assert result.plan.steady(arch)
    run = simulator.step(
        result.emitted.program, build_table(result.emitted.program), streams=True
    )
    assert run.counters is not None
    assert run.coverage["unified buffer: matrix loses to store"] < run.counters.cycles / 1000
    # Nor do results wait for stores: the whole takes little longer than its weight tiles.
    assert run.counters.cycles < most * result.plan.tile_cycles(arch)


def test_results_lie_where_no_input_arrives() -> None:
    builder = Builder(np.random.default_rng(11), (1, 56, 56, 64))
    builder.conv(64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    program = build(builder.graph(), PRESETS["edge32"], Choice()).emitted.program
    run = simulator.step(program, build_table(program), streams=True)
    # The image arrives in pieces while its first rows are computed already.
    assert run.coverage["unified buffer: vector write loses to load"] == 0


def test_groups_that_keep_apart_are_exact() -> None:
    rng = np.random.default_rng(9)
    builder = Builder(rng, (256, 256))
    builder.linear(250)
    graph = builder.graph()
    plan = build(graph, SMALL, Choice()).plan
    assert len(plan.groups) > 1 and plan.steady(SMALL)
    assert_exact(graph, compile_quantized(graph, arch=SMALL, options=FAST), rng)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000), size=st.tuples(st.integers(36, 44), st.integers(36, 44)),
    channels=st.integers(1, 4), kernel=pairs, strides=pairs, around=pads, dilations=pairs,
    batch=st.integers(1, 2), shown=st.booleans(),
)
def test_images_larger_than_the_buffer_stream_through_it(
    seed: int, size: tuple[int, int], channels: int, kernel: tuple[int, int],
    strides: tuple[int, int], around: tuple[int, int, int, int], dilations: tuple[int, int],
    batch: int, shown: bool,
) -> None:
    rng = np.random.default_rng(seed)
    builder = Builder(rng, (batch, *size, channels))
    builder.conv(9, kernel, (1, 1), around, dilations)
    middle = builder.last.name
    builder.conv(5, (3, 3), strides, (1, 1, 1, 1), (1, 1))
    builder.pool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    graph = builder.graph((middle,) if shown else ())
    machine = dataclasses.replace(NANO, name="small", ub_bytes=8192)
    model = compile_quantized(graph, arch=machine, options=FAST)
    assert any("streamed" in choice for choice in model.report["choices"])
    assert_exact(graph, model, rng)


def test_too_large_image_is_refused_with_its_sizes() -> None:
    builder = Builder(np.random.default_rng(8), (1, 64, 64, 8))
    builder.pool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    with pytest.raises(UnsupportedModelError, match=r"layer 'l0'.*32768 bytes.*16384"):
        compile_quantized(builder.graph(), arch=NANO, options=FAST)


@pytest.mark.parametrize("name", ["mnist_mlp", "mnist_cnn"])
@pytest.mark.parametrize("machine", ["nano", "edge16", "edge32"])
def test_bundled_models_are_exact(name: str, machine: str) -> None:
    graph = quantize_model(
        model_path(name), calibration=calibration_images()[:50], shapes={"N": 3}
    ).quantized
    model = compile_quantized(graph, arch=PRESETS[machine])
    assert_exact(graph, model, np.random.default_rng(9))
    result = simulator.run(model.machine_segments[0].program, values=False)
    assert result.counters is not None
    assert result.counters.cycles == model.report["predicted_cycles"]
    macs = sum(layer["macs"] for layer in model.report["layers"])
    assert result.counters.amount(Unit.MATRIX, "useful_macs") == macs


def test_mlp_keeps_the_array_of_edge32_busy() -> None:
    model = compile_model(
        model_path("mnist_mlp"), arch=PRESETS["edge32"], calibration=calibration_images()[:50],
        batch=64,
    )
    result = simulator.run(model.machine_segments[0].program, values=False)
    assert result.counters is not None
    useful = result.counters.amount(Unit.MATRIX, "useful_macs")
    assert useful == 64 * (784 * 256 + 256 * 128 + 128 * 10)
    assert useful / (result.counters.cycles * 1024) >= 0.75
    # Parameters and accumulators lie where the matrix unit does not keep the vector unit waiting.
    assert result.counters.state(Unit.VECTOR, "wait_bank") == 0


def _softmax_model() -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
            helper.make_node("Softmax", ["m"], ["y"], name="probabilities", axis=1),
        ],
        "soft",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def test_host_segment_follows_the_machine_and_strict_refuses_it() -> None:
    data = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    model = compile_model(_softmax_model(), arch=NANO, calibration=data, batch=2)
    assert [type(s).__name__ for s in model.segments] == ["MachineSegment", "HostSegment"]
    assert model.batch == 2 and model.report["crossings"] == 2
    places = [row["place"] for row in model.report["operators"]]
    assert places == ["machine", "host"]
    with pytest.raises(UnsupportedModelError, match="strict"):
        compile_model(
            _softmax_model(), arch=NANO, calibration=data, options=CompileOptions(strict=True)
        )


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_prints(level: str) -> None:
    data = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    text = emit_level(level, _softmax_model(), arch=NANO, calibration=data)
    expected = {
        "graph": "Gemm",
        "quantized": "linear 'product'",
        "tiled": "matmuls",
        "scheduled": "requantize",
        "asm": "halt",
    }
    assert expected[level] in text


def test_emitted_assembly_is_the_program() -> None:
    data = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    arguments = {"arch": NANO, "calibration": data}
    text = emit_level("asm", _softmax_model(), **arguments)
    model = compile_model(_softmax_model(), **arguments)  # type: ignore[arg-type]
    assert "; layer product" in text
    np.testing.assert_array_equal(assemble_code(text), model.machine_segments[0].program.code)


def test_unknown_level_and_bad_batch_are_refused() -> None:
    data = np.zeros((1, 6), np.float32)
    with pytest.raises(InputError, match="levels are graph"):
        emit_level("wrong", _softmax_model(), arch=NANO, calibration=data)
    with pytest.raises(InputError, match="batch must be at least 1"):
        compile_model(_softmax_model(), arch=NANO, calibration=data, batch=0)


def test_debug_map_covers_the_layers_under_their_tags() -> None:
    model = compile_model(
        model_path("mnist_cnn"), arch=NANO, calibration=calibration_images()[:20]
    )
    (segment,) = model.machine_segments
    names = [layer["layer"] for layer in model.report["layers"]]
    assert list(dict.fromkeys(item.layer for item in segment.layers)) == names
    result = simulator.run(segment.program, values=False)
    assert result.counters is not None
    for tag, layer in enumerate(model.report["layers"], 1):
        assert segment.layers_of_tag(tag) == (layer["layer"],)
        assert result.counters.amount(Unit.MATRIX, "useful_macs", tag) == layer["macs"]
