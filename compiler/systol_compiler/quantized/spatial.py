"""Tensors [N, C, W] and [N, C, H, W] as images [N, H, W, C]: without a height, of one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.vector import Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.layer import Layer, Order, Tensors
from systol_compiler.quantized.operator import Rule

Pair: TypeAlias = tuple[int, int]
"""(vertical, horizontal)."""


def pair(values: Sequence[int], fill: int = 1) -> Pair:
    """Figures of one or two dimensions as those of two."""
    numbers = [int(value) for value in values]
    return (fill, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def channels_last(rank: int) -> Order:
    """The memory order of images, and of what is like them."""
    return (0, *range(2, rank), 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageLayer(Layer):
    """A layer that reads one image and writes another, both with channels last."""

    def input_orders(self, tensors: Tensors, results: Sequence[Order | None]) -> list[Order | None]:
        return [channels_last(len(tensors[self.inputs[0]].shape))]

    def output_orders(
        self, tensors: Tensors, given: Sequence[Order], hints: Sequence[Order | None]
    ) -> list[Order]:
        return [channels_last(len(tensors[self.outputs[0]].shape))]


def window_size(
    size: int, kernel: int, stride: int, dilation: int, before: int, behind: int
) -> int:
    """Windows that lie wholly within the padded input along one dimension."""
    return (size + before + behind - dilation * (kernel - 1) - 1) // stride + 1


def to_image(values: Array) -> Array:
    """[N, C, W] or [N, C, H, W] as [N, H, W, C]."""
    image = values if values.ndim == 4 else values[:, :, None, :]
    return image.transpose(0, 2, 3, 1)


def image_view(view: View) -> View:
    """As `to_image`."""
    if len(view.shape) == 3:
        shape, strides = view.shape, view.strides
        view = replace(
            view, shape=(*shape[:2], 1, shape[2]), strides=(*strides[:2], 0, strides[2])
        )
    return view.transpose((0, 2, 3, 1))


@contextmanager
def result_view(builder: NestBuilder, name: str) -> Iterator[View]:
    """A place [N, H, W, C] with contiguous channels to write the tensor `name` into.

    Where the tensor lies otherwise it is copied there at the end.
    """
    place = image_view(builder.place(name))
    if place.shape[3] == 1 or place.strides[3] == 1:
        yield place
        return
    inner = builder.scratch(place.shape, (0, 1, 2, 3), 8 * place.planes)
    yield inner
    builder.elementwise(Copy(), place, inner)


def window_ends(
    sizes: Sequence[int], node: Node, kernel: Sequence[int], dilations: Sequence[int],
    strides: Sequence[int],
) -> tuple[int, ...]:
    """Explicit pads of a node, before and behind: as stated, or of its `auto_pad`."""
    rank = len(sizes)
    auto = node.attributes.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("NOTSET", ""):
        return tuple(int(p) for p in node.attributes.get("pads", (0,) * (2 * rank)))
    if auto == "VALID":
        return (0,) * (2 * rank)
    totals = []
    for size, taps, dilation, stride in zip(sizes, kernel, dilations, strides, strict=True):
        reach = (-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1
        totals.append(max(reach - size, 0))
    less = [total // 2 for total in totals]
    more = [total - half for total, half in zip(totals, less, strict=True)]
    before, behind = (more, less) if auto == "SAME_LOWER" else (less, more)
    return (*before, *behind)


def attribute(node: Node, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    """A list attribute with one entry for each dimension."""
    values = node.attributes.get(name)
    return (default,) * rank if values is None else tuple(int(value) for value in values)


def one_or_two_dimensions(node: Node, graph: Graph) -> str | None:
    """the input must have one or two spatial dimensions behind batch and channels."""
    shape = graph.types[node.inputs[0]].shape
    return None if len(shape) in (3, 4) else f"shape {list(shape)}"


SPATIAL = Rule(
    check=one_or_two_dimensions,
    remedy="split operators over three dimensions, or leave them to the host",
)
