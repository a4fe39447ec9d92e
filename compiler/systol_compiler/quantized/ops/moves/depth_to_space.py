"""DepthToSpace and SpaceToDepth: channels to pixels and back (ONNX, both modes).

Both are a transposition of six axes; with channels innermost in memory, rows of the channels of
one pixel stay rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from systol_compiler.graph.float_graph import Node
from systol_compiler.nests.building.builder import CHANNELS_LAST, NestBuilder
from systol_compiler.nests.vector import Copy
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Order, Tensors
from systol_compiler.quantized.operator import (
    COMPUTED_DATA,
    FLOAT32,
    Operator,
    same_numbers,
)
from systol_compiler.quantized.ops.moves.move import Move, move_names

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelShuffle(Move):
    """Blocks of `block` x `block` pixels from channels (or, `reverse`, to channels).

    Attributes
    ----------
    mode
        DCR: channels are (block row, block column, channel). CRD: (channel, row, column).
    """

    kind: ClassVar[str] = "pixel_shuffle"

    block: int
    mode: str
    reverse: bool

    def _steps(self, shape: Shape) -> tuple[Shape, Shape, Shape]:
        """The six axes of an operand of `shape`, their permutation, and the result's shape."""
        images, channels, height, width = shape
        b = self.block
        if self.reverse:
            if height % b or width % b:
                raise ValueError(f"blocks of {b} do not divide {height}x{width}")
            split = (images, channels, height // b, b, width // b, b)
            result = (images, channels * b * b, height // b, width // b)
            return split, (0, 3, 5, 1, 2, 4), result
        if channels % (b * b):
            raise ValueError(f"{channels} channels are not blocks of {b}x{b}")
        inner = channels // (b * b)
        result = (images, inner, height * b, width * b)
        if self.mode == "DCR":
            return (images, b, b, inner, height, width), (0, 3, 4, 1, 5, 2), result
        return (images, inner, b, b, height, width), (0, 1, 4, 2, 5, 3), result

    def moved(self, values: Array, shapes: Sequence[Shape]) -> Sequence[Array]:
        split, permutation, result = self._steps(values.shape)
        return [values.reshape(split).transpose(permutation).reshape(result)]

    def export_move(self, exporter: QdqExporter, value: str) -> Sequence[str]:
        if self.reverse:
            return exporter.node("SpaceToDepth", [value], blocksize=self.block)
        return exporter.node("DepthToSpace", [value], blocksize=self.block, mode=self.mode)

    def input_orders(
        self, tensors: Tensors, results: Sequence[Order | None]
    ) -> list[Order | None]:
        return [CHANNELS_LAST]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [CHANNELS_LAST]

    def lower(self, builder: NestBuilder) -> None:
        source = builder.view(self.inputs[0])
        split, permutation, _ = self._steps(source.shape)
        view = source.reshape(split)
        assert view is not None, self
        view = view.transpose(permutation)
        out = builder.place(self.outputs[0]).reshape(view.shape)
        assert out is not None, self
        builder.elementwise(Copy(), out, view)


def _build(node: Node, builder: LayerBuilder) -> None:
    mode = node.attributes.get("mode", "DCR")
    source, output = move_names(node, builder)
    builder.add(
        PixelShuffle(
            name=builder.layer_name(), inputs=(source,), outputs=(output,),
            source_nodes=builder.current.sources, block=int(node.attributes["blocksize"]),
            mode=mode.decode() if isinstance(mode, bytes) else str(mode),
            reverse=node.op == "SpaceToDepth",
        )
    )


OPERATORS = (
    Operator(
        names=("DepthToSpace", "SpaceToDepth"), build=_build, rules=(FLOAT32, COMPUTED_DATA),
        wish=same_numbers, moves=True,
    ),
)
