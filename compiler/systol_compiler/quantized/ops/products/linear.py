"""Gemm, and MatMul by constants of any rank: fully connected layers and projections."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.building.dense import DenseProduct, multiply
from systol_compiler.nests.vector import Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.arithmetic import requantize
from systol_compiler.numbers.limits import Array, Int8Array
from systol_compiler.numbers.products import rows_product
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Order, Tensors
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, Rule
from systol_compiler.quantized.product import (
    CONSTANT_WEIGHTS,
    Product,
    build_weights,
    magnitude,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Product):
    """Rows of the input times a constant matrix [K, O], or times one for each batch index.

    Attributes
    ----------
    weights
        int8 [..., O, K]; axes before the last two are batch axes, as in numpy's matmul.
    contract
        Axes of the input that K runs over, in row-major order: the last ones. Those before are
        rows.
    rows
        Rows of one item.
    """

    kind: ClassVar[str] = "linear"

    contract: tuple[int, ...]
    rows: int
    _reordered: dict[tuple[int, ...], Int8Array] = field(init=False, default_factory=dict)
    """The first matrix by the memory order of what it meets."""

    @property
    def outputs_first(self) -> Int8Array:
        return self.weights.reshape(-1, self.weights.shape[-1])

    @property
    def _outputs(self) -> int:
        return int(self.weights.shape[-2])

    @property
    def _matrices(self) -> Int8Array:
        return self.weights.reshape(-1, *self.weights.shape[-2:])

    def verify(self, tensors: Tensors) -> None:
        source, target = tensors[self.inputs[0]].shape, tensors[self.outputs[0]].shape
        first, rank = self.contract[0], len(source)
        self.require(
            0 < first and self.contract == tuple(range(first, rank)),
            "it contracts all axes from one behind the first on", self.contract,
        )
        length = prod(source[first:])
        self.require(
            length == self.weights.shape[-1], f"weights {self.weights.shape} must fit", source
        )
        rows, batch = source[:first], self.weights.shape[:-2]
        wanted = (*np.broadcast_shapes(rows[:-1], batch), rows[-1], self._outputs)
        self.require(target == wanted, f"the output must be {wanted}", target)
        self.verify_numbers(tensors, prod(self.weights.shape[:-1]))

    def _places(self, rows: int) -> Iterator[tuple[int, tuple[int | None, ...]]]:
        """For each matrix of the weights: its number, and the index of every row axis of the
        result at which it serves; None for all."""
        batch = self.weights.shape[:-2]
        for number, index in enumerate(np.ndindex(*batch)):
            chosen = [None if size == 1 else i for i, size in zip(index, batch, strict=True)]
            yield number, (*(None for _ in range(rows - 1 - len(batch))), *chosen, None)

    def _numbers(self, source: QTensor) -> list[Array]:
        """Bias, multipliers and shifts of each matrix: [matrices, O]."""
        return [
            each.reshape(-1, self._outputs)
            for each in (self.folded_bias(source), self.multipliers, self.shifts)
        ]

    def evaluate(self, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        rows, length = target.shape[:-1], self.weights.shape[-1]
        given = values[0].reshape(*values[0].shape[: self.contract[0]], length)
        given = np.broadcast_to(given, (*rows, length))
        matrices, numbers = self._matrices, self._numbers(source)
        codes = np.empty(target.shape, target.dtype)
        for number, place in self._places(len(rows)):
            index = tuple(slice(None) if i is None else i for i in place)
            part = given[index]
            total = rows_product(part.reshape(-1, length), matrices[number].T, magnitude(source))
            bias, multipliers, shifts = (each[number] for each in numbers)
            codes[index] = requantize(
                total + bias, multipliers, shifts, target.zero_point, self.lo, self.hi,
                target.width,
            ).reshape(*part.shape[:-1], -1)
        return [codes]

    def lower(self, builder: NestBuilder) -> None:
        source, target = builder.tensor(self.inputs[0]), builder.tensor(self.outputs[0])
        given, place = builder.view(self.inputs[0]), builder.place(self.outputs[0])
        rows = target.shape[:-1]
        given = given.expand((*rows, *given.shape[self.contract[0] :]))
        out = place
        if self._outputs > 1 and place.strides[-1] != 1:
            out = builder.scratch(place.shape, range(len(place.shape)), target.width)
        matrices, numbers = self._matrices, self._numbers(source)
        for number, index in self._places(len(rows)):
            bias, multipliers, shifts = (each[number] for each in numbers)
            multiply(
                builder,
                DenseProduct(
                    source=taken(given, index), target=taken(out, index),
                    contracted=len(self.contract), weights=matrices[number],
                    reordered=self._reordered if len(matrices) == 1 else {}, bias=bias,
                    multipliers=multipliers, shifts=shifts, zp_in=source.zero_point,
                    zp_out=target.zero_point, lo=self.lo, hi=self.hi,
                ),
            )
        if out is not place:
            builder.elementwise(Copy(), place, out)

    def export(self, exporter: QdqExporter) -> None:
        value = exporter.real(self.inputs[0])
        if len(self.contract) > 1:
            # Row axes keep their sizes, the rest becomes one.
            value = _reshaped(exporter, value, [0] * self.contract[0] + [-1])
        (value,) = exporter.node("MatMul", [value, self._export_weights(exporter)])
        bias = self.export_bias(exporter)
        if self.weights.ndim > 2:
            bias = _reshaped(exporter, bias, [*self.weights.shape[:-2], 1, self._outputs])
        (value,) = exporter.node("Add", [value, bias])
        exporter.result(self.outputs[0], value, self.lo, self.hi)

    def _export_weights(self, exporter: QdqExporter) -> str:
        if self.weights.ndim == 2:
            codes = np.ascontiguousarray(self.weights.T)
            return exporter.weights(f"{self.name}.weight", codes, self.scales, 1)
        # DequantizeLinear has one scale for each index of one axis.
        scales = self.scales.reshape(*self.weights.shape[:-1], 1)
        real = (self.weights * scales).astype(np.float32)
        return exporter.constant(np.ascontiguousarray(real.swapaxes(-1, -2)))

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        rank = len(tensors[self.inputs[0]].shape)
        return [None if len(self.contract) > 1 else tuple(range(rank))]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        rank, hint = len(tensors[self.outputs[0]].shape), hints[0]
        return [hint if hint is not None and hint[-1] == rank - 1 else tuple(range(rank))]

    def batched(self, tensors: Tensors) -> bool:
        return self.weights.ndim == 2 and super().batched(tensors)

    @property
    def macs(self) -> int:
        return self.weights.size * self.rows


def taken(view: View, index: Sequence[int | None]) -> View:
    """The part of a view at `index` along its first axes; None keeps an axis."""
    for axis in reversed(range(len(index))):
        chosen = index[axis]
        if chosen is not None:
            view = view.slice(axis, chosen, 1)
            view = replace(
                view, shape=(*view.shape[:axis], *view.shape[axis + 1 :]),
                strides=(*view.strides[:axis], *view.strides[axis + 1 :]),
            )
    return view


def _reshaped(exporter: QdqExporter, value: str, shape: Sequence[int]) -> str:
    return exporter.node("Reshape", [value, exporter.constant(np.array(shape, np.int64))])[0]


def add_linear(builder: LayerBuilder, data: str, weights: Array, bias: Array | None) -> None:
    """Add the layer of the current node: the tensor `data` [..., K] with float `weights`
    [..., O, K] and `bias` [O]."""
    source, contract = _unflattened(builder, data)
    target = builder.output()
    lead = weights.shape[:-1]
    numbers = build_weights(
        builder, weights.reshape(-1, weights.shape[-1]),
        None if bias is None else np.broadcast_to(bias, lead).reshape(-1), source, target,
    )
    lo, hi = builder.clip(target)
    builder.add(
        Linear(
            name=builder.layer_name(), inputs=(source.name,), outputs=(target.name,),
            source_nodes=builder.current.sources,
            weights=numbers.codes.reshape(weights.shape), scales=numbers.scales,
            bias=numbers.bias, source_scale=source.scale, multipliers=numbers.multipliers,
            shifts=numbers.shifts, lo=lo, hi=hi, contract=contract,
            rows=max(1, prod(target.shape[1:]) // prod(lead)),
        )
    )


def _unflattened(builder: LayerBuilder, data: str) -> tuple[QTensor, tuple[int, ...]]:
    """What the last axis of `data` was before a reshape merged it from several: where images lie
    with their channels last, flattening would move every byte, but the weights can be permuted."""
    graph, tensor = builder.graph, builder.tensor(data)
    last: tuple[int, ...] = (len(tensor.shape) - 1,)
    node = graph.producers.get(data)
    if node is None or node.op not in ("Flatten", "Reshape"):
        return tensor, last
    name = node.inputs[0]
    shape, rows = graph.types[name].shape, tensor.shape[:-1]
    known = name in builder.tensors or name in graph.inputs
    if (
        not known
        or builder.numbers.get(name) != builder.numbers[data]
        or shape[: len(rows)] != rows
        or len(shape) < len(rows) + 2
    ):
        return tensor, last
    return builder.tensor(name), tuple(range(len(rows), len(shape)))


def _build_gemm(node: Node, builder: LayerBuilder) -> None:
    constants = builder.graph.constants
    weights = constants[node.inputs[1]]
    if not node.attributes.get("transB", 0):
        weights = weights.T
    bias = constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    add_linear(builder, node.inputs[0], weights, _bias(builder, bias, weights.shape[0]))


def _bias(builder: LayerBuilder, bias: Array | None, outputs: int) -> Array | None:
    """A node's own bias and the one fused into it: float64 [O]."""
    fused = builder.graph.constants[builder.current.bias] if builder.current.bias else None
    if bias is None and fused is None:
        return None
    total = np.zeros(outputs, np.float64)
    for value in (bias, fused):
        if value is not None:
            total = total + value.astype(np.float64).reshape(-1)
    return total


def build_matmul(node: Node, builder: LayerBuilder) -> None:
    """MatMul of data with a constant second operand, by the rules of numpy's matmul."""
    weights = builder.graph.constants[node.inputs[1]].swapaxes(-1, -2)
    add_linear(builder, node.inputs[0], weights, _bias(builder, None, weights.shape[-2]))


def plain_gemm(node: Node, graph: Graph) -> str | None:
    """alpha and beta must be 1, and the data not transposed."""
    attributes = node.attributes
    factors = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0))
    if factors != (1.0, 1.0) or attributes.get("transA", 0):
        return f"alpha, beta {factors}, transA {attributes.get('transA', 0)}"
    return None


def bias_by_output(node: Node, graph: Graph) -> str | None:
    """the bias must have one value, or one for each output."""
    if len(node.inputs) < 3 or not node.inputs[2]:
        return None
    shape = graph.types[node.inputs[2]].shape
    outputs = graph.types[node.outputs[0]].shape[-1]
    fits = prod(shape) == 1 or (shape and shape[-1] == outputs == prod(shape))
    return None if fits else f"shape {list(shape)} for {outputs} outputs"


def short_rows(node: Node, graph: Graph) -> str | None:
    """fewer than 2**21 products may be summed."""
    length = graph.types[node.inputs[0]].shape[-1]
    return None if length < 1 << 21 else f"{length}"


SHORT_ROWS = Rule(check=short_rows, remedy="split the product")

OPERATORS = (
    Operator(
        names=("Gemm",),
        build=_build_gemm,
        rules=(
            FLOAT32,
            COMPUTED_DATA,
            CONSTANT_WEIGHTS,
            Rule(check=plain_gemm, remedy="fold the factors into the weights"),
            Rule(check=bias_by_output, remedy="add other biases by an Add"),
            SHORT_ROWS,
        ),
        clips=True,
        biases=True,
    ),
)
