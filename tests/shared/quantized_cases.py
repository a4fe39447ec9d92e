"""Layers against the machine: what `Layer.evaluate` says is what their nests compute."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime

from systol_compiler.graph.float_graph import Graph, GraphOutput, Node, TensorType
from systol_compiler.nests.interpret import interpret
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.numbers.arithmetic import dequantize, quantize
from systol_compiler.numbers.limits import Array, bounds
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, MachineNode, Numbers
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.layer import Layer
from systol_compiler.quantized.lowering import lower
from systol_compiler.quantized.operator import Operator
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


def node_graph(
    op: str,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    order: Sequence[str] = (),
    **attributes: Any,
) -> Graph:
    """A float graph of one node with the output "y".

    `inputs` give types and shapes; `order` names the node's inputs, by default inputs, then
    constants.
    """
    constants = dict(constants or {})
    node = Node(
        name=op.lower(), op=op, inputs=tuple(order) or (*inputs, *constants), outputs=("y",),
        attributes=attributes, sources=(op.lower(),),
    )
    values = {**inputs, **constants}
    types = {
        name: TensorType(dtype=str(value.dtype), shape=value.shape)
        for name, value in values.items()
    }
    graph = Graph(
        name="one", opset=19, inputs=tuple(inputs), outputs=(GraphOutput(name="y", tensor="y"),),
        nodes=(node,), constants=constants,
        types={**types, "y": TensorType(dtype="float32", shape=())},
    )
    shape = run_float(graph, inputs)["y"].shape
    return replace(graph, types={**types, "y": TensorType(dtype="float32", shape=shape)})


def run_float(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of ONNX Runtime."""
    model = graph.to_onnx()
    if () in (graph.types[output.tensor].shape for output in graph.outputs):
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def numbers_of(values: Array, width: int = 8) -> Numbers:
    """The range of `values`, with zero."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    least, greatest = bounds(width)
    if width == 16:
        scale = max(high, -low, 1e-6) / greatest
        return Numbers(scale=float(np.float32(scale)), zero_point=0, width=16)
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    return Numbers(scale=scale, zero_point=int(np.clip(np.rint(least - low / scale), -128, 127)))


def quantized_node(
    graph: Graph,
    operator: Operator,
    inputs: Mapping[str, Array],
    *,
    widths: Mapping[str, int] | None = None,
    least: float = -np.inf,
    greatest: float = np.inf,
    bias: str = "",
) -> QuantizedGraph:
    """The layers that `operator` makes of a graph of one node, with ranges from `inputs`."""
    node, widths = graph.nodes[0], widths or {}
    assert operator.broken(node, graph) is None, operator.broken(node, graph)
    seen = {**inputs, **run_float(graph, inputs)}
    if bias:
        seen["y"] = seen["y"] + graph.constants[bias]
    seen["y"] = np.clip(seen["y"], least, greatest)
    for group in operator.wish(node, graph).same:
        merged = np.concatenate([seen[name].reshape(-1) for name in group])
        seen |= {name: merged for name in group}
    numbers = {
        name: numbers_of(value, widths.get(name, 8))
        for name, value in seen.items() if graph.types[name].dtype == "float32"
    }
    builder = LayerBuilder(graph, numbers)
    builder.current = MachineNode(
        node=node, output="y", sources=node.sources, bias=bias, least=least, greatest=greatest
    )
    operator.build(node, builder)
    return QuantizedGraph(
        name="case", inputs=graph.inputs, outputs=graph.outputs,
        real={name: graph.types[name] for name in (*graph.inputs, "y")},
        tensors=builder.tensors, constants=builder.constants, layers=tuple(builder.layers),
    )


def coded(graph: QuantizedGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Float inputs of the model as codes, by quantized tensor."""
    result = {}
    for name, value in inputs.items():
        tensor = graph.by_source[name]
        result[tensor.name] = quantize(value, tensor.scale, tensor.zero_point, tensor.width)
    return result


def real(graph: QuantizedGraph, values: Mapping[str, Array], name: str) -> Array:
    """What the codes of the tensor that holds `name` stand for: float32."""
    tensor = graph.by_source[name]
    return dequantize(values[tensor.name], tensor.scale, tensor.zero_point)
