"""Random float graphs of moves and elementwise operators, quantized by their own ranges."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from node_cases import OPSET, numbers_of, run_node
from quantized_cases import graph_of
from systol_compiler.graph.float_graph import Graph, GraphOutput, Node, TensorType
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder, MachineNode, Numbers
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.operator import registry

Shape = tuple[int, ...]

MOST_ELEMENTS = 6000


@dataclass
class RandomGraph:
    """A graph that grows node by node; values are those of ONNX Runtime on one random input."""

    seed: int
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        for place in range(int(self.rng.integers(1, 3))):
            rank = int(self.rng.integers(1, 5))
            shape = tuple(int(self.rng.choice([1, 2, 3, 4, 6, 8, 16, 24])) for _ in range(rank))
            name = f"x{place}"
            self.values[name] = self.rng.normal(size=shape).astype(np.float32)
            self.computed.append(name)
        self.inputs = list(self.computed)

    def constant(self, values: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = values
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> None:
        names = tuple(f"t{len(self.nodes)}.{i}" for i in range(outputs))
        node = Node(
            name=f"n{len(self.nodes)}", op=op, inputs=tuple(inputs), outputs=names,
            attributes=attributes, sources=(f"n{len(self.nodes)}",),
        )
        results = run_node(node, {**self.values, **self.constants})
        if any(result.size > MOST_ELEMENTS for result in results.values()):
            return
        self.nodes.append(node)
        self.values.update(results)
        self.computed += names

    def pick(self) -> str:
        """A computed tensor, a late one more often."""
        place = len(self.computed) - 1 - int(self.rng.exponential(2.0))
        return self.computed[max(place, 0)]

    def shape(self, name: str) -> Shape:
        return self.values[name].shape

    def grow(self, count: int, *, products: bool = False) -> None:
        """Add about `count` nodes; with `products` also convolutions, matrix products, pools,
        reductions and normalizations."""
        steps = STEPS + PRODUCTS if products else STEPS
        for _ in range(count):
            steps[int(self.rng.integers(len(steps)))](self)

    def quantized(
        self, widths: tuple[int, ...] = (8,), most_outputs: int = 100
    ) -> QuantizedGraph:
        """All of it on the machine; operands that must be alike get common numbers."""
        used = {name for node in self.nodes for name in node.inputs}
        ends = [name for name in self.computed if name not in used and name not in self.inputs]
        extra = [name for name in self.computed if name in used and name not in self.inputs]
        shown = [*ends, *(name for name in extra if self.rng.random() < 0.1)][-most_outputs:]
        graph = Graph(
            name="random", opset=OPSET, nodes=tuple(self.nodes), constants=self.constants,
            inputs=tuple(self.inputs),
            outputs=tuple(GraphOutput(name=name, tensor=name) for name in shown),
            types={
                name: TensorType(dtype=str(value.dtype), shape=value.shape)
                for name, value in {**self.values, **self.constants}.items()
            },
        )
        builder = LayerBuilder(graph, self._numbers(graph, widths))
        for node in self.nodes:
            operator = registry()[node.op]
            assert operator.broken(node, graph) is None, node
            builder.current = MachineNode(node=node, output=node.outputs[0], sources=node.sources)
            operator.build(node, builder)
        names = [name for name in shown if name in builder.tensors]
        return graph_of(builder.layers, builder.tensors, builder.constants, names)

    def _numbers(self, graph: Graph, widths: tuple[int, ...]) -> dict[str, Numbers]:
        leader = {name: name for name in self.computed}

        def find(name: str) -> str:
            while leader[name] != name:
                name = leader[name]
            return name

        wishes = [registry()[node.op].wish(node, graph) for node in self.nodes]
        for wish in wishes:
            for group in wish.same:
                # Now and then calibration does not do what an operator wishes.
                if self.rng.random() < 0.9 or len(wish.symmetric) + len(wish.wide):
                    for name in group[1:]:
                        leader[find(name)] = find(group[0])
        ranges: dict[str, list[Array]] = {}
        for name in self.computed:
            ranges.setdefault(find(name), []).append(self.values[name].reshape(-1))
        wide = {find(name) for wish in wishes for name in wish.wide}
        found = {
            name: numbers_of(
                np.concatenate(parts), 16 if name in wide else int(self.rng.choice(widths))
            )
            for name, parts in ranges.items()
        }
        for wish in wishes:
            for name in wish.symmetric:
                old = found[find(name)]
                if old.width == 8:
                    reach = max(128 + old.zero_point, 127 - old.zero_point) / 127
                    scale = float(np.float32(old.scale * reach))
                    found[find(name)] = Numbers(scale=scale, zero_point=0)
            for name, scale, zero_point in wish.fixed:
                width = found[find(name)].width
                found[find(name)] = Numbers(scale=scale, zero_point=zero_point, width=width)
        return {name: found[find(name)] for name in self.computed}


def _axis(graph: RandomGraph, name: str) -> int:
    return int(graph.rng.integers(0, len(graph.shape(name))))


def _transpose(graph: RandomGraph) -> None:
    name = graph.pick()
    perm = graph.rng.permutation(len(graph.shape(name))).tolist()
    graph.add("Transpose", [name], perm=perm)


def _reshape(graph: RandomGraph) -> None:
    name = graph.pick()
    size = int(np.prod(graph.shape(name)))
    shape: list[int] = []
    while size > 1 and len(shape) < 4:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        shape.append(int(graph.rng.choice(divisors)))
        size //= shape[-1]
    shape.append(size)
    graph.add("Reshape", [name, graph.integers(*shape)])


def _slice(graph: RandomGraph) -> None:
    name = graph.pick()
    axis = _axis(graph, name)
    size = graph.shape(name)[axis]
    step = int(graph.rng.choice([1, 1, 2, -1]))
    start = int(graph.rng.integers(0, (size + 1) // 2))
    ends = (start, size) if step > 0 else (size - 1 - start, -size - 1)
    parts = [graph.integers(value) for value in (*ends, axis, step)]
    graph.add("Slice", [name, *parts])


def _split(graph: RandomGraph) -> None:
    name = graph.pick()
    axis = _axis(graph, name)
    size = graph.shape(name)[axis]
    if size > 1:
        cut = int(graph.rng.integers(1, size))
        graph.add("Split", [name, graph.integers(cut, size - cut)], outputs=2, axis=axis)


def _concat(graph: RandomGraph) -> None:
    name = graph.pick()
    axis, shape = _axis(graph, name), graph.shape(name)
    fitting = [
        other for other in graph.computed
        if len(graph.shape(other)) == len(shape)
        and all(a == b for k, (a, b) in enumerate(zip(graph.shape(other), shape, strict=True))
                if k != axis)
    ]
    count = int(graph.rng.integers(1, 4))
    parts = [str(part) for part in graph.rng.choice(fitting, count)]
    graph.add("Concat", [name, *parts], axis=axis)


def _pad(graph: RandomGraph) -> None:
    name = graph.pick()
    rank = len(graph.shape(name))
    pads = graph.rng.integers(0, 3, 2 * rank) * (graph.rng.random(2 * rank) < 0.4)
    graph.add("Pad", [name, graph.integers(*map(int, pads))],
              mode=str(graph.rng.choice(["constant", "edge"])))


def _gather(graph: RandomGraph) -> None:
    name = graph.pick()
    axis = _axis(graph, name)
    shape = tuple(map(int, graph.rng.integers(1, 5, int(graph.rng.integers(0, 3)))))
    indices = graph.rng.integers(0, graph.shape(name)[axis], shape)
    if len(graph.shape(name)) + len(shape) - 1 in range(1, 6):
        graph.add("Gather", [name, graph.constant(np.asarray(indices, np.int64))], axis=axis)


def _expand(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = [n if n > 1 else int(graph.rng.integers(1, 5)) for n in graph.shape(name)]
    graph.add("Expand", [name, graph.integers(*shape)])


def _tile(graph: RandomGraph) -> None:
    name = graph.pick()
    repeats = graph.rng.integers(1, 3, len(graph.shape(name)))
    graph.add("Tile", [name, graph.integers(*map(int, repeats))])


def _depth(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    if len(shape) != 4:
        return
    if shape[1] % 4 == 0:
        mode = str(graph.rng.choice(["DCR", "CRD"]))
        graph.add("DepthToSpace", [name], blocksize=2, mode=mode)
    elif shape[2] % 2 == 0 and shape[3] % 2 == 0:
        graph.add("SpaceToDepth", [name], blocksize=2)


def _resize(graph: RandomGraph) -> None:
    name = graph.pick()
    rank = len(graph.shape(name))
    if rank in (3, 4):
        scales = np.ones(rank, np.float32)
        scales[2:] = graph.rng.choice([0.5, 1, 2, 1.5], rank - 2)
        if all(n * s >= 1 for n, s in zip(graph.shape(name), scales, strict=True)):
            mode = str(graph.rng.choice(["nearest", "linear"]))
            graph.add("Resize", [name, "", graph.constant(scales)], mode=mode)


def _two(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    fitting = []
    for other in graph.computed:
        try:
            np.broadcast_shapes(shape, graph.shape(other))
        except ValueError:
            continue
        fitting.append(other)
    other = str(graph.rng.choice(fitting))
    op = str(graph.rng.choice(["Add", "Sub", "Mul", "Min", "Max"]))
    graph.add(op, [name, other])


def _constant(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = [n if graph.rng.random() < 0.5 else 1 for n in graph.shape(name)]
    lead = int(graph.rng.integers(0, len(shape) + 1))
    values = graph.rng.normal(size=shape[lead:]).astype(np.float32)
    op = str(graph.rng.choice(["Add", "Sub", "Mul", "Max"]))
    graph.add(op, [name, graph.constant(values)])


def _function(graph: RandomGraph) -> None:
    op = str(graph.rng.choice(["Tanh", "Sigmoid", "LeakyRelu", "Abs", "Neg", "Softplus"]))
    graph.add(op, [graph.pick()])


STEPS: list[Callable[[RandomGraph], None]] = [
    _transpose, _transpose, _reshape, _reshape, _slice, _slice, _split, _concat, _concat, _concat,
    _pad, _gather, _expand, _tile, _depth, _resize, _two, _two, _two, _constant, _constant,
    _function, _function, _function,
]


def _weights(graph: RandomGraph, *shape: int) -> str:
    fan_in = max(int(np.prod(shape[1:])), 1)
    return graph.constant((graph.rng.normal(size=shape) / fan_in**0.5).astype(np.float32))


def _conv(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    if len(shape) != 4:
        return
    group = int(graph.rng.choice([1, 1, shape[1]]))
    outputs = group * int(graph.rng.integers(1, 9))
    kernel = [int(graph.rng.integers(1, min(4, n + 1))) for n in shape[2:]]
    pads = [int(graph.rng.integers(0, k)) for k in (*kernel, *kernel)]
    strides = [int(value) for value in graph.rng.integers(1, 3, 2)]
    graph.add(
        "Conv",
        [name, _weights(graph, outputs, shape[1] // group, *kernel), _weights(graph, outputs)],
        kernel_shape=kernel, pads=pads, strides=strides, dilations=[1, 1], group=group,
    )


def _pool(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    if len(shape) == 4 and min(shape[2:]) > 1:
        op = str(graph.rng.choice(["MaxPool", "AveragePool"]))
        strides = [int(value) for value in graph.rng.integers(1, 3, 2)]
        graph.add(op, [name], kernel_shape=[2, 2], strides=strides, pads=[0, 0, 1, 1])


def _gemm(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    if len(shape) == 2:
        outputs = int(graph.rng.integers(1, 40))
        weights = [_weights(graph, outputs, shape[1]), _weights(graph, outputs)]
        graph.add("Gemm", [name, *weights], transB=1)
    elif len(shape) > 2:
        outputs = int(graph.rng.integers(1, 20))
        graph.add("MatMul", [name, _weights(graph, shape[-1], outputs)])


def _matmul(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    if len(shape) >= 2:
        other = f"t{len(graph.nodes)}.0"
        before = len(graph.nodes)
        swapped = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        graph.add("Transpose", [name], perm=swapped)
        if len(graph.nodes) > before:
            graph.add("MatMul", [name, other])


def _reduce(graph: RandomGraph) -> None:
    name = graph.pick()
    if len(graph.shape(name)) > 1:
        axes = graph.integers(int(graph.rng.integers(1, len(graph.shape(name)))))
        op = str(graph.rng.choice(["ReduceMean", "ReduceMax", "ReduceSum"]))
        graph.add(op, [name, axes], keepdims=1)


def _normalize(graph: RandomGraph) -> None:
    name = graph.pick()
    shape = graph.shape(name)
    if len(shape) > 1 and shape[-1] > 1:
        if graph.rng.random() < 0.5:
            parts = [graph.constant(np.ones(shape[-1], np.float32)), _weights(graph, shape[-1])]
            graph.add("LayerNormalization", [name, *parts], axis=-1)
        else:
            graph.add("Softmax", [name], axis=-1)
            graph.add("Neg", [graph.computed[-1]])


PRODUCTS: list[Callable[[RandomGraph], None]] = [
    _conv, _conv, _conv, _conv, _pool, _pool, _gemm, _gemm, _matmul, _reduce, _normalize,
]
