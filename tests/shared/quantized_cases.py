"""Layers against the machine: what `Layer.evaluate` says is what their nests compute."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from systol_compiler.graph.float_graph import GraphOutput, TensorType
from systol_compiler.nests.interpret import interpret
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.layer import Layer
from systol_compiler.quantized.lowering import lower
from systol_hw.arch import PRESETS, Arch

ARCHS: tuple[Arch, ...] = tuple(PRESETS[name] for name in ("nano", "edge16", "edge32"))
"""Arrays of 8, 16 and 32 columns."""


def graph_of(
    layers: Sequence[Layer],
    tensors: Mapping[str, QTensor],
    constants: Mapping[str, Array] | None = None,
    outputs: Sequence[str] = (),
) -> QuantizedGraph:
    """A quantized graph of machine layers alone.

    What no layer writes is an input. `outputs` are results to show; by default those that no
    layer reads.
    """
    constants = dict(constants or {})
    written = [name for layer in layers for name in layer.outputs]
    read = list(dict.fromkeys(name for layer in layers for name in layer.inputs))
    inputs = [name for name in read if name not in written and name not in constants]
    shown = list(outputs) or [name for name in written if name not in read]
    named = {
        name: replace(tensor, source=f"{name}.real") if name in (*inputs, *shown) else tensor
        for name, tensor in tensors.items()
    }
    return QuantizedGraph(
        name="case",
        inputs=tuple(f"{name}.real" for name in inputs),
        outputs=tuple(GraphOutput(name=name, tensor=f"{name}.real") for name in shown),
        real={
            f"{name}.real": TensorType(dtype="float32", shape=tensors[name].shape)
            for name in (*inputs, *shown)
        },
        tensors=named,
        constants=constants,
        layers=tuple(layers),
    )


def random_codes(tensor: QTensor, seed: int = 0) -> Array:
    """Codes from the whole range of `tensor`, its ends included."""
    rng = np.random.default_rng([seed, *map(ord, tensor.name)])
    low, high = tensor.bounds
    codes = rng.integers(low, high, size=tensor.shape, endpoint=True)
    flat = codes.reshape(-1)
    flat[:: max(flat.size // 5, 3)] = low
    flat[1 :: max(flat.size // 5, 3)] = high
    return codes.astype(tensor.dtype)


def random_inputs(graph: QuantizedGraph, seed: int = 0) -> dict[str, Array]:
    """Random codes for every input of the machine parts of a graph without host layers."""
    return {
        name: random_codes(graph.tensors[name], seed)
        for part in graph.parts
        if isinstance(part, MachinePart)
        for name in part.inputs
    }


def evaluate(graph: QuantizedGraph, values: Mapping[str, Array]) -> dict[str, Array]:
    """Every quantized tensor by its layers' own definitions; `values` are codes of the inputs."""
    known: dict[str, Array] = {**graph.constants, **values}
    for layer in graph.machine_layers:
        results = layer.evaluate([known[name] for name in layer.inputs], graph.tensors)
        for name, result in zip(layer.outputs, results, strict=True):
            tensor = graph.tensors[name]
            assert result.shape == tensor.shape, (layer.name, name, result.shape, tensor.shape)
            assert result.dtype == tensor.dtype, (layer.name, name, result.dtype, tensor.dtype)
            known[name] = result
    return known


def lowered(graph: QuantizedGraph, arch: Arch) -> list[LoweredNetwork]:
    """The nests of every machine part."""
    return [lower(graph, part, arch) for part in graph.parts if isinstance(part, MachinePart)]


def check(
    graph: QuantizedGraph,
    values: Mapping[str, Array] | None = None,
    archs: Sequence[Arch] = ARCHS,
    *,
    seed: int = 0,
) -> dict[str, Array]:
    """Compare every output element of evaluation and of interpreted nests on every machine.

    `values` are codes of the inputs; by default random. Returns what `evaluate` does.
    """
    graph.verify()
    given = random_inputs(graph, seed) if values is None else dict(values)
    known = evaluate(graph, given)
    for arch in archs:
        for part in graph.parts:
            assert isinstance(part, MachinePart), part
            network = lower(graph, part, arch)
            results = interpret(
                network, graph.tensors, {name: known[name] for name in part.inputs}, arch,
                seed=seed,
            )
            assert set(results) == set(part.outputs), (arch.name, set(results))
            for name, got in results.items():
                expected = known[name]
                assert got.dtype == expected.dtype, (arch.name, name)
                wrong = np.argwhere(got != expected)
                assert not wrong.size, (
                    f"{arch.name}: {name!r} differs in {len(wrong)} of {got.size} elements, first "
                    f"at {tuple(wrong[0])}: machine {got[tuple(wrong[0])]}, defined "
                    f"{expected[tuple(wrong[0])]}\n{network}"
                )
    return known
