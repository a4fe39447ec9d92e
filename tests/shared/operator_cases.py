"""Layers and whole operators by themselves: built, lowered, interpreted, and measured in dB."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from node_cases import Exporter
from quantized_cases import ARCHS, check, graph_of
from systol_compiler.graph.float_graph import (
    Graph,
    GraphOutput,
    Node,
    TensorType,
    onnx_node,
    wrap_nodes,
)
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.numbers.limits import INT16_LIMIT, Array, bounds
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, MachineNode, Numbers
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import registry
from systol_hw.arch import Arch
from systol_sim.onnx_runtime import onnxruntime

OPSET = 23


@dataclass(frozen=True, kw_only=True, eq=False)
class Ordered(Layer):
    """Nothing but a memory order: for tests of layers whose operands lie as others wrote them."""

    kind: ClassVar[str] = "ordered"

    order: Order

    def verify(self, tensors: Tensors) -> None:
        assert tensors[self.inputs[0]].shape == tensors[self.outputs[0]].shape

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [values[0]]

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        return [self.order]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [self.order]

    def lower(self, builder: NestBuilder) -> None:
        builder.alias(self.outputs[0], builder.packed(builder.view(self.inputs[0]), self.order))

    def export(self, exporter: QdqExporter) -> None:
        raise NotImplementedError


def layer_builder() -> LayerBuilder:
    """A builder without a float graph."""
    builder = LayerBuilder(
        Graph(name="case", opset=OPSET, inputs=(), outputs=(), nodes=(), constants={}, types={}),
        {},
    )
    node = Node(name="node", op="Test", inputs=(), outputs=("out",), sources=("node",))
    builder.current = MachineNode(node=node, output="out", sources=("node",))
    return builder


def ordered(builder: LayerBuilder, tensor: QTensor, order: Order | None) -> QTensor:
    """`tensor`, lying in memory in `order`."""
    if order is None:
        return tensor
    inner = builder.inner(tensor.shape, tensor.scale, tensor.zero_point, tensor.width)
    builder.add(
        Ordered(
            name=builder.layer_name("ordered"), inputs=(tensor.name,), outputs=(inner.name,),
            source_nodes=("node",), order=order,
        )
    )
    return inner


def built(builder: LayerBuilder, outputs: Sequence[str] = ()) -> QuantizedGraph:
    """The graph of what `builder` holds."""
    return graph_of(builder.layers, builder.tensors, builder.constants, outputs)


def codes_of(tensor: QTensor, real: Array) -> Array:
    """`real` quantized."""
    codes = np.rint(np.asarray(real, np.float64) / tensor.scale) + tensor.zero_point
    low, high = tensor.bounds
    result: Array = np.clip(codes, low, high).astype(tensor.dtype)
    return result


def real_of(tensor: QTensor, codes: Array) -> Array:
    """What codes stand for, in float64."""
    return (codes.astype(np.float64) - tensor.zero_point) * tensor.scale


def decibels(signal: Array, got: Array) -> float:
    """Signal to noise ratio of `got`."""
    noise = float(np.square(got - signal).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(max(float(np.square(signal).sum()), 1e-300) / noise))


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of an operator's layers: real values of the first output, by the float operator on the
    quantized inputs and by the layers; the graph; and all codes."""

    wanted: Array
    got: Array
    output: QTensor
    graph: QuantizedGraph
    codes: Mapping[str, Array]

    @property
    def decibels(self) -> float:
        return decibels(self.wanted, self.got)

    @property
    def steps(self) -> Array:
        """Differences in steps of the output, beyond its own saturation."""
        low, high = self.output.bounds
        wanted = np.clip(self.wanted / self.output.scale + self.output.zero_point, low, high)
        return np.abs(self.got / self.output.scale + self.output.zero_point - wanted)


def run_operator(
    op: str,
    inputs: Mapping[str, Array],
    *,
    constants: Mapping[str, Array] | None = None,
    attributes: Mapping[str, Any] | None = None,
    operands: Sequence[str] | None = None,
    width: int = 8,
    output: Numbers | None = None,
    archs: Sequence[Arch] = ARCHS,
    export: float | None = None,
) -> Result:
    """Build one node's layers with ranges of `inputs` (and of the float result), check them against
    their nests on `archs`, and compare them with ONNX Runtime on the quantized inputs.

    `width` is that of the inputs; `output` overrides the result's numbers. The exported model may
    differ by `export` steps of the result.
    """
    constants = dict(constants or {})
    operands = list(operands or [*inputs, *constants])
    node = Node(
        name="node", op=op, inputs=tuple(operands), outputs=("y",), attributes=attributes or {},
        sources=("node",),
    )
    types = {name: TensorType(dtype=str(value.dtype), shape=value.shape)
             for name, value in (*inputs.items(), *constants.items())}
    expected = run_float(node, types, constants, inputs)
    types["y"] = TensorType(dtype="float32", shape=expected.shape)
    graph = Graph(
        name="case", opset=OPSET, inputs=tuple(inputs), nodes=(node,), constants=constants,
        outputs=(GraphOutput(name="y", tensor="y"),), types=types,
    )
    operator = registry()[op]
    wish = operator.wish(node, graph)
    numbers: dict[str, Numbers] = {}
    for name, value in (*inputs.items(), ("y", expected)):
        wide = name in wish.wide or (name in inputs and width == 16)
        numbers[name] = numbers_of(value, 16 if wide else 8, name in wish.symmetric)
    for name, scale, zero_point in wish.fixed:
        numbers[name] = replace(numbers[name], scale=scale, zero_point=zero_point)
    for group in wish.same:
        widest = max(group, key=lambda name: numbers[name].scale)
        numbers.update({name: numbers[widest] for name in group})
    if output is not None:
        numbers["y"] = output
    builder = LayerBuilder(graph, numbers)
    builder.current = MachineNode(node=node, output="y", sources=("node",))
    operator.build(node, builder)
    quantized = built(builder, ["y"])
    given = {name: codes_of(builder.tensors[name], value) for name, value in inputs.items()}
    rounded = {
        name: real_of(builder.tensors[name], codes).astype(np.float32)
        for name, codes in given.items()
    }
    codes = check(quantized, given, archs)
    tensor = builder.tensors["y"]
    if export is not None:
        given = {builder.tensors[name].name: value for name, value in rounded.items()}
        exported = Exporter(quantized).run(given)["y"]
        off = np.abs(exported - real_of(tensor, codes["y"])).max() / tensor.scale
        assert off <= export, f"the exported {op} is off by {off:.3f} steps"
    return Result(
        wanted=run_float(node, types, constants, rounded), got=real_of(tensor, codes["y"]),
        output=tensor, graph=quantized, codes=codes,
    )


def numbers_of(values: Array, width: int = 8, symmetric: bool = False) -> Numbers:
    """Numbers whose range holds all of `values`, and 0."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if symmetric or width == 16:
        limit = 127 if width == 8 else INT16_LIMIT
        return Numbers(
            scale=float(np.float32((max(high, -low) or 1.0) / limit)), zero_point=0, width=width
        )
    scale = float(np.float32((high - low or 1.0) / 255))
    return Numbers(scale=scale, zero_point=int(np.clip(round(-128 - low / scale), *bounds(8))))


def run_float(
    node: Node, types: Mapping[str, TensorType], constants: Mapping[str, Array],
    feeds: Mapping[str, Array],
) -> Array:
    """The node's first result by ONNX Runtime."""
    model = wrap_nodes(
        name="case", opset=OPSET, nodes=[onnx_node(node)],
        inputs={name: types[name] for name in feeds}, outputs={}, constants=constants,
    )
    model.graph.output.add().name = node.outputs[0]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(list(node.outputs), dict(feeds))
    return np.asarray(result)


@dataclass(frozen=True, kw_only=True, eq=False)
class Swapped(Layer):
    """The last two axes exchanged, as a view."""

    kind: ClassVar[str] = "swapped"

    def verify(self, tensors: Tensors) -> None:
        return None

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [values[0].swapaxes(-1, -2)]

    def _swap(self, order: Order) -> Order:
        last = len(order) - 1
        exchanged = {last: last - 1, last - 1: last}
        return tuple(exchanged.get(axis, axis) for axis in order)

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        return [None if results[0] is None else self._swap(results[0])]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [self._swap(given[0])]

    def lower(self, builder: NestBuilder) -> None:
        view = builder.view(self.inputs[0])
        rank = len(view.shape)
        builder.alias(self.outputs[0], view.transpose((*range(rank - 2), rank - 1, rank - 2)))

    def export(self, exporter: QdqExporter) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Flipped(Layer):
    """An axis backwards, as a view."""

    kind: ClassVar[str] = "flipped"

    axis: int

    def verify(self, tensors: Tensors) -> None:
        return None

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [np.flip(values[0], self.axis)]

    def lower(self, builder: NestBuilder) -> None:
        view = builder.view(self.inputs[0])
        last = view.shape[self.axis] - 1
        builder.alias(self.outputs[0], view.slice(self.axis, last, last + 1, -1))

    def export(self, exporter: QdqExporter) -> None:
        raise NotImplementedError


def flipped(builder: LayerBuilder, tensor: QTensor, axis: int) -> QTensor:
    """`tensor` with `axis` backwards."""
    inner = builder.inner(tensor.shape, tensor.scale, tensor.zero_point, tensor.width)
    builder.add(
        Flipped(
            name=builder.layer_name("flipped"), inputs=(tensor.name,), outputs=(inner.name,),
            source_nodes=("node",), axis=axis,
        )
    )
    return inner
