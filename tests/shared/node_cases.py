"""Single float nodes: quantized, built into layers, checked against nests and against ONNX Runtime.

What a case shows: the operator's rules hold, its layers verify, `evaluate` is what the nests
compute on several machines, the result is the float operator's to within a number of steps, and
so is the exported QDQ model's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import quantized_cases
from systol_compiler.graph.float_graph import Graph, GraphOutput, Node, TensorType
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, MachineNode, Numbers
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.layer import Layer
from systol_compiler.quantized.operator import Operator, registry
from systol_hw.arch import Arch
from systol_sim.onnx_runtime import onnxruntime as ort

OPSET = 22


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a case gave.

    Attributes
    ----------
    graph
        The quantized graph.
    codes
        Every quantized tensor's values.
    error
        Greatest difference to the float operator on the same (dequantized) inputs, in steps of the
        result.
    """

    graph: QuantizedGraph
    codes: Mapping[str, Array]
    error: float

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.graph.machine_layers

    @property
    def kinds(self) -> list[str]:
        return [layer.kind for layer in self.layers]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One node of `op`.

    Attributes
    ----------
    inputs
        Operands in order: a shape of a computed tensor, or an array that is constant, or None.
    attributes
        Of the node.
    outputs
        How many results it has.
    clip
        Of a Clip behind it.
    widths
        Bits of all computed tensors, or by name ("x0", "x1", ..., "y0", ...).
    low, high
        Range of the computed operands' values.
    numbers
        Scale, zero point and width by tensor, where others than those of the data are wanted.
    """

    op: str
    inputs: Sequence[tuple[int, ...] | Array | np.generic | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    clip: tuple[float, float] = (-inf, inf)
    widths: int | Mapping[str, int] = 8
    low: float = -3.0
    high: float = 2.0
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    seed: int = 0

    def real_inputs(self) -> dict[str, Array]:
        """Random operands with both ends of their range."""
        rng = np.random.default_rng(self.seed)
        values = {}
        for place, item in enumerate(self.inputs):
            if isinstance(item, tuple):
                data = rng.uniform(self.low, self.high, item).astype(np.float32)
                data.reshape(-1)[:1] = self.low
                data.reshape(-1)[1:2] = self.high
                values[f"x{place}"] = data
        return values

    def float_graph(self) -> Graph:
        """The node alone, with the types that ONNX Runtime finds."""
        constants = {
            f"x{place}": np.array(item) for place, item in enumerate(self.inputs)
            if isinstance(item, np.ndarray | np.generic)
        }
        names = tuple("" if item is None else f"x{i}" for i, item in enumerate(self.inputs))
        node = Node(
            name="node", op=self.op, inputs=names, sources=("node",),
            outputs=tuple(f"y{i}" for i in range(self.outputs)), attributes=self.attributes,
        )
        real = self.real_inputs()
        types = {name: _type(value) for name, value in {**real, **constants}.items()}
        results = run_node(node, {**real, **constants})
        types.update({name: _type(value) for name, value in results.items()})
        return Graph(
            name="case", opset=OPSET, inputs=tuple(real), nodes=(node,), constants=constants,
            types=types,
            outputs=tuple(GraphOutput(name=name, tensor=name) for name in node.outputs),
        )

    def width(self, name: str) -> int:
        return self.widths if isinstance(self.widths, int) else self.widths.get(name, 8)

    def build(self) -> tuple[Graph, QuantizedGraph]:
        """The float graph and the quantized one."""
        graph = self.float_graph()
        (node,) = graph.nodes
        operator = operator_of(node)
        broken = operator.broken(node, graph)
        assert broken is None, (broken[0].text, broken[1])
        real = self.real_inputs()
        constants = dict(graph.constants)
        values = {**real, **self.clipped(run_node(node, {**real, **constants}))}
        numbers = {name: numbers_of(value, self.width(name)) for name, value in values.items()}
        numbers.update(self.numbers)
        wish = operator.wish(node, graph)
        for group in wish.same:
            low = min(float(values[name].min()) for name in group)
            high = max(float(values[name].max()) for name in group)
            shared = numbers_of(np.array([low, high]), self.width(group[0]))
            numbers.update({name: shared for name in group if name not in self.numbers})
        for name in wish.symmetric:
            numbers[name] = Numbers(
                scale=float(np.float32(np.abs(values[name]).max() / 127)), zero_point=0
            )
        for name, scale, zero_point in wish.fixed:
            numbers[name] = Numbers(scale=scale, zero_point=zero_point, width=self.width(name))
        builder = LayerBuilder(graph, numbers)
        for name in (*real, *node.outputs):
            builder.tensor(name)
        builder.current = MachineNode(
            node=node, output=node.outputs[0], sources=node.sources, least=self.clip[0],
            greatest=self.clip[1],
        )
        operator.build(node, builder)
        # Results that nothing computes, and operands that nothing reads, are no part of it.
        written = {name for layer in builder.layers for name in layer.outputs}
        shown = [name for name in node.outputs if name in written]
        quantized = quantized_cases.graph_of(
            builder.layers, builder.tensors, builder.constants, shown
        )
        return graph, quantized

    def clipped(self, values: Mapping[str, Array]) -> dict[str, Array]:
        first = next(iter(values), "")
        return {
            name: np.clip(value, *self.clip) if name == first else value
            for name, value in values.items()
        }

    def check(
        self, steps: float = 0.51, archs: Sequence[Arch] = quantized_cases.ARCHS, *,
        export: float | None = 1.01,
    ) -> Checked:
        """Assert everything; results may differ from the float ones by `steps`, exported ones from
        the machine's by `export` steps (None: they are not compared)."""
        graph, quantized = self.build()
        (node,) = graph.nodes
        tensors = quantized.tensors
        codes = {
            name: code(value, tensors[name])
            for name, value in self.real_inputs().items() if name in tensors
        }
        known = quantized_cases.check(quantized, codes, archs, seed=self.seed)
        operands = {name: real(value, tensors[name]) for name, value in codes.items()}
        missing = {n: v for n, v in self.real_inputs().items() if n not in operands}
        expected = self.clipped(run_node(node, {**operands, **missing, **graph.constants}))
        worst = 0.0
        for name, value in expected.items():
            tensor = tensors[name]
            low, high = (real(np.array(bound), tensor) for bound in tensor.bounds)
            difference = real(known[name], tensor) - np.clip(value, low, high)
            worst = max(worst, float(np.abs(difference).max(initial=0.0)) / tensor.scale)
        assert worst <= steps, f"{self.op}: off by {worst:.3f} steps\n{quantized}"
        if export is not None:
            for name, value in Exporter(quantized).run(operands).items():
                difference = real(known[name], tensors[name]) - value
                off = float(np.abs(difference).max(initial=0.0)) / tensors[name].scale
                assert off <= export, f"{self.op}: exported {name} is off by {off:.3f} steps"
        return Checked(graph=quantized, codes=known, error=worst)

    def refusal(self) -> str:
        """The rule that the node breaks, with its value."""
        graph = self.float_graph()
        broken = operator_of(graph.nodes[0]).broken(graph.nodes[0], graph)
        assert broken is not None, "no rule is broken"
        return f"{broken[0].text}: {broken[1]}"


def operator_of(node: Node) -> Operator:
    """The operator that builds `node`."""
    return registry()[node.op]


def numbers_of(values: Array, width: int) -> Numbers:
    """Scale and zero point of the range of `values`, zero included."""
    finite = values[np.isfinite(values)]
    low, high = min(float(finite.min(initial=0.0)), 0.0), max(float(finite.max(initial=0.0)), 0.0)
    if width == 16:
        return Numbers(scale=_scale(max(-low, high) / 32639), zero_point=0, width=16)
    scale = _scale((high - low) / 255)
    return Numbers(scale=scale, zero_point=int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def _scale(value: float) -> float:
    return float(np.float32(value)) or 1.0


def code(values: Array, tensor: QTensor) -> Array:
    """Nearest codes."""
    codes = np.rint(values.astype(np.float64) / tensor.scale) + tensor.zero_point
    return np.asarray(np.clip(codes, *tensor.bounds), tensor.dtype)


def real(codes: Array, tensor: QTensor) -> Array:
    """What codes stand for: float32, as ONNX Runtime reads it."""
    values = (codes.astype(np.float64) - tensor.zero_point) * tensor.scale
    return np.asarray(values, np.float32)


def _type(value: Array) -> TensorType:
    return TensorType(dtype=str(value.dtype), shape=value.shape)


def run_node(node: Node, values: Mapping[str, Array]) -> dict[str, Array]:
    """The node's results by ONNX Runtime, or by ONNX's reference where that knows more."""
    proto = helper.make_node(node.op, node.inputs, node.outputs, **dict(node.attributes))
    used = {name: values[name] for name in node.inputs if name}
    graph = helper.make_graph(
        [proto], "node",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype),
                                       value.shape) for name, value in used.items()],
        [onnx.ValueInfoProto(name=name) for name in node.outputs],
    )
    opset = 24 if node.op == "Swish" else OPSET
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )
    if opset != OPSET:
        from onnx.reference import ReferenceEvaluator

        results = ReferenceEvaluator(model).run(None, used)
    else:
        results = _session(model).run(None, used)
    return dict(zip(node.outputs, map(np.asarray, results), strict=True))


def _session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Exporter:
    """A QDQ model of a quantized graph of machine layers, from and to real tensors."""

    def __init__(self, graph: QuantizedGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: dict[str, str] = {}
        written = {name for layer in graph.machine_layers for name in layer.outputs}
        self.inputs = [
            name for name in dict.fromkeys(n for la in graph.machine_layers for n in la.inputs)
            if name not in written and name not in graph.constants
        ]
        self.values.update({name: name for name in self.inputs})
        for layer in graph.machine_layers:
            layer.export(self)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs, by quantized tensor."""
        outputs = [
            tensor.name for item in self.graph.outputs
            for tensor in [self.graph.by_source[item.tensor]]
        ]
        shapes = self.graph.tensors
        model = helper.make_model(
            helper.make_graph(
                self.nodes, "qdq",
                [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shapes[n].shape)
                 for n in self.inputs],
                [helper.make_tensor_value_info(self.values[n], onnx.TensorProto.FLOAT,
                                               shapes[n].shape) for n in outputs],
                self.initializers,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10,
        )
        onnx.checker.check_model(model, full_check=True)
        given = {name: values[name] for name in self.inputs}
        results = _session(model).run([self.values[n] for n in outputs], given)
        return dict(zip(outputs, results, strict=True))

    def tensor(self, name: str) -> QTensor:
        return self.graph.tensors[name]

    def real(self, tensor: str) -> str:
        if tensor not in self.values:
            numbers = self.graph.tensors[tensor]
            codes = self.graph.constants[tensor]
            self.values[tensor] = self.constant(real(codes, numbers))
        return self.values[tensor]

    def weights(self, name: str, codes: Array, scales: Array, axis: int) -> str:
        shape = [-1 if k == axis else 1 for k in range(codes.ndim)]
        return self.constant((codes * scales.reshape(shape)).astype(np.float32))

    def constant(self, values: Array) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def node(
        self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any
    ) -> list[str]:
        names = [f"v{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def result(
        self, tensor: str, value: str, lo: int | None = None, hi: int | None = None
    ) -> None:
        numbers = self.graph.tensors[tensor]
        least, greatest = numbers.bounds
        limits = (least if lo is None else lo, greatest if hi is None else hi)
        if limits != numbers.bounds or numbers.width == 16:
            bounds = [self.constant(real(np.array(bound), numbers)) for bound in limits]
            value = self.node("Clip", [value, *bounds])[0]
        kind = np.int8 if numbers.width == 8 else np.int16
        scale = self.constant(np.array(numbers.scale, np.float32))
        zero = self.constant(np.array(numbers.zero_point, kind))
        codes = self.node("QuantizeLinear", [value, scale, zero])[0]
        self.values[tensor] = self.node("DequantizeLinear", [codes, scale, zero])[0]
