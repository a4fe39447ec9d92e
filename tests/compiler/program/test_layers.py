"""Single layers as whole programs: the simulator gives what the layers are defined to give."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from quantized_cases import coded, evaluate, node_graph, quantized_node
from systol_compiler.compile import batch_of
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.numbers.limits import Array
from systol_compiler.program.backend import Choice, build
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.lowering import lower
from systol_compiler.quantized.operator import registry
from systol_hw.arch import PRESETS, Arch
from systol_sim import simulator
from systol_sim.validity.checker import check

SMALL = dataclasses.replace(PRESETS["nano"], name="small", ub_bytes=8192)
MACHINES = (SMALL, PRESETS["nano"], PRESETS["edge16"], PRESETS["edge32"])


def run(quantized: QuantizedGraph, inputs: dict[str, Array], arch: Arch) -> None:
    """Compile, check, simulate, and compare every output element."""
    values = evaluate(quantized, coded(quantized, inputs))
    (part,) = quantized.parts
    assert isinstance(part, MachinePart)
    images = batch_of(quantized, part)

    def lowered(count: int) -> LoweredNetwork:
        graph = quantized if count == images else quantized.with_batch(count)
        return lower(graph, part, arch, count)

    emitted = build(lowered, images, arch, Choice()).emitted
    check(emitted.program)
    contents = {
        binding.window: byte_planes(
            values[binding.tensor].transpose(binding.order),
            quantized.tensors[binding.tensor].width,
        )
        for binding in emitted.inputs
    }
    outcome = simulator.run(emitted.program, contents, values=True, checked=True)
    assert outcome.fault is None
    windows = dict(
        zip((window.name for window in emitted.program.windows), outcome.windows, strict=True)
    )
    for binding in emitted.outputs:
        tensor = quantized.tensors[binding.tensor]
        stored = tuple(tensor.shape[axis] for axis in binding.order)
        codes = from_byte_planes(windows[binding.window], tensor.size, tensor.width)
        got = codes.reshape(stored).transpose(np.argsort(binding.order))
        np.testing.assert_array_equal(got, values[binding.tensor])


def sample(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(0.3, 1, shape).astype(np.float32)


def random_node(
    rng: np.random.Generator, op: str
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Any]]:
    """Inputs, constants and attributes of a random node of `op`."""

    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    images = draw(1, 3)
    if op in ("Gemm", "MatMul"):
        rows = (images,) if op == "Gemm" else (images, draw(1, 20))
        inner, outer = draw(1, 90), draw(1, 90)
        shape = (outer, inner) if op == "Gemm" else (inner, outer)
        turned = {"transB": 1} if op == "Gemm" else {}
        return {"x": sample(rng, *rows, inner)}, {"w": sample(rng, *shape)}, turned
    kernel, strides = ([draw(1, 4) for _ in range(2)] for _ in range(2))
    dilations = [draw(1, 2) for _ in range(2)]
    pads = [draw(0, taps - 1) for taps in (*kernel, *kernel)]
    sizes = [d * (k - 1) + 1 + draw(0, 9) for k, d in zip(kernel, dilations, strict=True)]
    groups = int(rng.choice([1, 1, 2, 8, 20]))
    channels = groups * draw(1, 40 // groups)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads}
    inputs = {"x": sample(rng, images, channels, *sizes)}
    if "Pool" in op:
        return inputs, {}, {**attributes, "kernel_shape": kernel}
    outputs = draw(1, 40 // groups)
    lead = (groups * outputs, channels // groups) if op == "Conv" else (channels, outputs)
    return inputs, {"w": sample(rng, *lead, *kernel)}, {**attributes, "group": groups}


@pytest.mark.parametrize(
    "op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "Gemm", "MatMul"]
)
@pytest.mark.parametrize("seed", range(8))
def test_random_layers(op: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *map(ord, op)])
    inputs, constants, attributes = random_node(rng, op)
    graph = node_graph(op, inputs, constants, **attributes)
    width = 16 if seed % 4 == 3 else 8
    widths = {"x": width, "y": width if seed % 2 else 8}
    if op == "MaxPool":
        widths["y"] = width
    run(quantized_node(graph, registry()[op], inputs, widths=widths), inputs, MACHINES[seed % 4])


def test_sums_that_stream_are_read_when_they_are_stored() -> None:
    # Rows are summed into 16 bits, stored column by column, and read again by channels.
    inputs = {"x": sample(np.random.default_rng(0), 1, 256, 14, 14)}
    graph = node_graph("GlobalAveragePool", inputs)
    run(quantized_node(graph, registry()["GlobalAveragePool"], inputs), inputs, SMALL)
