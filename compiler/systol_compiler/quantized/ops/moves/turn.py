"""A memory order of its own for a tensor: some layers work on all channels of a row at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.ops.rescale import numbers
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn(Layer):
    """The operand itself, lying in `order`: a view of it where it does already."""

    kind: ClassVar[str] = "turn"

    order: Order

    def verify(self, tensors: Tensors) -> None:
        source, output = tensors[self.inputs[0]], tensors[self.outputs[0]]
        if source.shape != output.shape or numbers(source) != numbers(output):
            raise InputError(
                f"layer {self.name!r}: a memory order changes neither shape nor numbers, but "
                f"{source} becomes {output}"
            )

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
        exporter.result(self.outputs[0], exporter.real(self.inputs[0]))


def turned(builder: LayerBuilder, source: QTensor, order: Order) -> QTensor:
    """Add the layer; its result."""
    result = builder.inner(source.shape, source.scale, source.zero_point, source.width)
    builder.add(
        Turn(
            name=builder.layer_name("turn"), inputs=(source.name,), outputs=(result.name,),
            source_nodes=builder.current.sources, order=order,
        )
    )
    return result
