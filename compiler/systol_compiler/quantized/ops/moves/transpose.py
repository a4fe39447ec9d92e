"""Transpose (ONNX Transpose): a view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from systol_compiler.graph.float_graph import Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Order, Tensors
from systol_compiler.quantized.operator import COMPUTED_DATA, FLOAT32, Operator, same_numbers
from systol_compiler.quantized.ops.moves.move import Move, move_names


@dataclass(frozen=True, kw_only=True, eq=False)
class Transpose(Move):
    """Axis k of the result is axis `permutation[k]` of the operand."""

    kind: ClassVar[str] = "transpose"

    permutation: tuple[int, ...]

    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        return [values.transpose(self.permutation)]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        return exporter.node("Transpose", [value], perm=list(self.permutation))

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        wish = results[0]
        return [None if wish is None else tuple(self.permutation[axis] for axis in wish)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [tuple(self.permutation.index(axis) for axis in given[0])]

    def lower(self, builder: NestBuilder) -> None:
        builder.alias(self.outputs[0], builder.view(self.inputs[0]).transpose(self.permutation))

    def origin(self, result: View, shape: tuple[int, ...]) -> View | None:
        axes = range(len(self.permutation))
        return result.transpose([self.permutation.index(axis) for axis in axes])

    def batched(self, tensors: Tensors) -> bool:
        return bool(self.permutation) and self.permutation[0] == 0


def _build(node: Node, builder: LayerBuilder) -> None:
    rank = len(builder.graph.types[node.inputs[0]].shape)
    permutation = node.attributes.get("perm", range(rank)[::-1])
    source, output = move_names(node, builder)
    builder.add(
        Transpose(
            name=builder.layer_name(), inputs=(source,), outputs=(output,),
            source_nodes=builder.current.sources, permutation=tuple(map(int, permutation)),
        )
    )


OPERATORS = (
    Operator(
        names=("Transpose",), build=_build, rules=(FLOAT32, COMPUTED_DATA), wish=same_numbers,
        moves=True,
    ),
)
