"""Expand and Tile: repeated elements (ONNX Expand, Tile).

What repeats along axes of size 1 is a view with steps of 0; other repetitions are copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from systol_compiler.graph.float_graph import Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Copy
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Order, Tensors
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    Operator,
    Rule,
    same_numbers,
)
from systol_compiler.quantized.ops.moves.move import Move, constant_operands, move_names


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile(Move):
    """The operand, with leading axes of size 1 up to the result's rank, repeated to its shape."""

    kind: ClassVar[str] = "tile"

    def moved(self, values: Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[Array]:
        (shape,) = shapes
        wide = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
        if any(size % own for size, own in zip(shape, wide.shape, strict=True)):
            raise ValueError(f"{values.shape} does not tile {shape}")
        return [np.tile(wide, [n // own for n, own in zip(shape, wide.shape, strict=True)])]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        source, output = (exporter.tensor(n).shape for n in (*self.inputs, *self.outputs))
        lead = (1,) * (len(output) - len(source))
        if lead:
            wide = exporter.constant(np.array(lead + source, np.int64))
            value = exporter.node("Reshape", [value, wide])[0]
        repeats = [n // own for n, own in zip(output, lead + source, strict=True)]
        return exporter.node("Tile", [value, exporter.constant(np.array(repeats, np.int64))])

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        lead = self._lead(tensors)
        wish = results[0]
        return [None if wish is None else tuple(axis - lead for axis in wish if axis >= lead)]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        lead = self._lead(tensors)
        return [(*range(lead), *(axis + lead for axis in given[0]))]

    def _lead(self, tensors: Tensors) -> int:
        return len(tensors[self.outputs[0]].shape) - len(tensors[self.inputs[0]].shape)

    def lower(self, builder: NestBuilder) -> None:
        view, shape = builder.view(self.inputs[0]), builder.tensor(self.outputs[0]).shape
        wide = view.expand((1,) * (len(shape) - len(view.shape)) + view.shape)
        if all(own in (1, size) for own, size in zip(wide.shape, shape, strict=True)):
            builder.alias(self.outputs[0], wide.expand(shape))
            return
        # Each axis as (repetitions, extent).
        pairs = [(n // own, own) for n, own in zip(shape, wide.shape, strict=True)]
        split = tuple(size for pair in pairs for size in pair)
        once = wide.reshape(tuple(size for _, own in pairs for size in (1, own)))
        out = builder.place(self.outputs[0]).reshape(split)
        assert once is not None and out is not None, self
        builder.elementwise(Copy(), out, once.expand(split))

    def batched(self, tensors: Tensors) -> bool:
        return self._lead(tensors) == 0 and super().batched(tensors)


def _build(node: Node, builder: LayerBuilder) -> None:
    source, output = move_names(node, builder)
    builder.add(
        Tile(
            name=builder.layer_name(), inputs=(source,), outputs=(output,),
            source_nodes=builder.current.sources,
        )
    )


OPERATORS = (
    Operator(
        names=("Expand", "Tile"), build=_build,
        rules=(
            FLOAT32, COMPUTED_DATA,
            Rule(check=constant_operands, remedy="repeat a constant number of times"),
        ),
        wish=same_numbers, moves=True,
    ),
)
