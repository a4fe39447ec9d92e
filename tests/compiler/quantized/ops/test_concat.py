"""Concatenations: operands are written in place where they can be."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import built, layer_builder, ordered
from quantized_cases import check, lowered
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder, Numbers
from systol_compiler.quantized.ops.moves.concat import Concat
from systol_compiler.quantized.ops.moves.reshape import Reshape
from systol_compiler.quantized.ops.moves.slice import Range, add_slices
from systol_compiler.quantized.ops.moves.transpose import Transpose
from systol_compiler.quantized.ops.rescale import add_rescale
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError

NHWC = (0, 2, 3, 1)


class Network:
    """Layers that negate and layers that concatenate, over images."""

    def __init__(self, order: tuple[int, ...] = NHWC, width: int = 8) -> None:
        self.builder: LayerBuilder = layer_builder()
        self.width = width
        self.scale = 0.5 if width == 8 else 0.002
        source = QTensor(name="x", shape=(2, 8, 3, 5), scale=self.scale, zero_point=0, width=width)
        self.builder.tensors["x"] = source
        self.source = ordered(self.builder, source, order)

    def made(self, source: QTensor | None = None) -> QTensor:
        source = source or self.source
        result = self.builder.inner(source.shape, self.scale, 0, self.width)
        add_rescale(self.builder, source, result, factor=-1, suffix="made")
        return result

    def joined(self, *parts: QTensor, axis: int = 1) -> QTensor:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        result = self.builder.inner(tuple(shape), self.scale, 0, self.width)
        self.builder.add(
            Concat(
                name=self.builder.layer_name("join"), inputs=tuple(part.name for part in parts),
                outputs=(result.name,), source_nodes=(), axis=axis,
            )
        )
        return result

    def check(self) -> tuple[LoweredNetwork, int]:
        """What it becomes, and the number of copies for concatenations."""
        graph = built(self.builder)
        check(graph)
        (network,) = lowered(graph, PRESETS["edge32"])
        return network, sum("join" in nest.layer for nest in network.nests)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("width", [8, 16])
def test_producers_write_their_part(axis: int, width: int) -> None:
    case = Network(width=width)
    case.made(case.joined(case.made(), case.made(), axis=axis))
    assert case.check()[1] == 0


def test_nested_ones_end_in_one_buffer() -> None:
    case = Network()
    first = case.joined(case.made(), case.made())
    second = case.joined(first, case.made())
    case.made(case.joined(case.made(), second))
    case.made(first)
    network, copies = case.check()
    assert copies == 0
    joined = {nest.output.buffer for nest in network.nests if "made" in nest.layer}
    # The large one, and two results (one of the whole, one of a part).
    assert len(joined) == 3


def test_growing_ones_share_the_largest() -> None:
    case = Network()
    parts = [case.made(), case.made()]
    for _ in range(3):
        whole = case.joined(*parts)
        narrow = case.builder.inner(parts[0].shape, case.scale, 0)
        sliced(case.builder, whole, narrow)
        parts.append(case.made(narrow))
    case.made(case.joined(*parts))
    assert case.check()[1] == 0


def sliced(builder: LayerBuilder, source: QTensor, output: QTensor) -> None:
    span = Range(start=source.shape[1] - 8, count=8)
    add_slices(builder, source.name, [output.name], [[(1, span)]])


def test_operands_in_another_order_are_copied() -> None:
    case = Network()
    x = case.builder.tensors["x"]
    across = case.made(ordered(case.builder, x, (0, 1, 2, 3)))
    case.made(case.joined(case.made(), case.made(), across))
    network, copies = case.check()
    assert copies >= 1
    written = [nest for nest in network.nests if "join" in nest.layer]
    assert sum(nest.output.box.size for nest in written) == across.size


def test_parts_of_one_buffer_in_another_order_are_copied() -> None:
    case = Network()
    whole = case.joined(case.made(), case.made())
    halves = []
    for start in (8, 0):
        halves.append(case.builder.inner((2, 8, 3, 5), case.scale, 0))
        span = Range(start=start, count=8)
        add_slices(case.builder, whole.name, [halves[-1].name], [[(1, span)]])
    case.made(case.joined(*halves))
    assert case.check()[1] >= 2


def test_what_cannot_be_placed_is_copied() -> None:
    case = Network()
    part = case.made()
    case.made(case.joined(case.source, part, part))
    assert case.check()[1] >= 2


def test_an_operand_that_is_an_output_too() -> None:
    case = Network()
    part = case.made()
    whole = case.joined(part, case.made())
    graph = built(case.builder, [part.name, whole.name])
    check(graph)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("widths", [8, 16])
def test_nodes(axis: int, widths: int) -> None:
    shapes = ((2, 3), (2, 5)) if axis else ((2, 3), (4, 3))
    case = Case(op="Concat", inputs=shapes, attributes={"axis": axis}, widths=widths)
    assert case.check(0.0).kinds == ["concat"]


def test_constants_and_other_numbers() -> None:
    constant = np.linspace(-2, 1, 6, dtype=np.float32).reshape(2, 3)
    case = Case(op="Concat", inputs=((2, 3), constant, (2, 1)), attributes={"axis": 1})
    assert case.check().kinds == ["concat"]
    other = Case(
        op="Concat", inputs=((2, 3), (2, 1)), attributes={"axis": 1},
        numbers={"x0": Numbers(scale=0.1, zero_point=3)},
    )
    assert other.check().kinds == ["rescale", "concat"]


def test_one_operand() -> None:
    assert Case(op="Concat", inputs=((2, 3),), attributes={"axis": 1}).check(0.0)


def test_operands_that_do_not_fit_are_refused() -> None:
    tensors = {
        name: QTensor(name=name, shape=shape, scale=1.0, zero_point=0)
        for name, shape in (("a", (2, 3)), ("b", (3, 3)), ("y", (2, 6)))
    }
    layer = Concat(name="c", inputs=("a", "b"), outputs=("y",), source_nodes=(), axis=1)
    with pytest.raises(InputError, match=r"'b' of shape \(3, 3\) does not fit into \(2, 6\)"):
        layer.verify(tensors)
    tensors["b"] = QTensor(name="b", shape=(2, 3), scale=2.0, zero_point=0)
    with pytest.raises(InputError, match="have its numbers"):
        layer.verify(tensors)


def test_producers_write_their_part_through_views() -> None:
    case = Network(order=(0, 1, 2, 3))
    first, second = case.made(), case.made()
    flat = case.builder.inner((2, 8, 15), case.scale, 0)
    case.builder.add(
        Reshape(name="flat", inputs=(first.name,), outputs=(flat.name,), source_nodes=())
    )
    turned = case.builder.inner((2, 15, 8), case.scale, 0)
    case.builder.add(
        Transpose(name="turn", inputs=(flat.name,), outputs=(turned.name,), source_nodes=(),
                  permutation=(0, 2, 1))
    )
    other = case.builder.inner((2, 8, 15), case.scale, 0)
    case.builder.add(
        Reshape(name="other", inputs=(second.name,), outputs=(other.name,), source_nodes=())
    )
    wide = case.builder.inner((2, 15, 8), case.scale, 0)
    case.builder.add(
        Transpose(name="wide", inputs=(other.name,), outputs=(wide.name,), source_nodes=(),
                  permutation=(0, 2, 1))
    )
    case.made(case.joined(turned, wide, axis=1))
    assert case.check()[1] == 0


def test_a_part_with_axes_of_one_element_is_not_copied_onto_itself() -> None:
    builder = layer_builder()
    x = QTensor(name="x", shape=(1, 64), scale=0.5, zero_point=0)
    builder.tensors["x"] = x
    parts = []
    for name in "ab":
        made = builder.inner((1, 64), 0.5, 0)
        add_rescale(builder, x, made, factor=-1)
        image = builder.inner((1, 1, 64), 0.5, 0)
        builder.add(
            Reshape(name=name, inputs=(made.name,), outputs=(image.name,), source_nodes=())
        )
        parts.append(image.name)
    whole = builder.inner((1, 2, 64), 0.5, 0)
    builder.add(
        Concat(name="join", inputs=tuple(parts), outputs=(whole.name,), source_nodes=(), axis=1)
    )
    graph = built(builder)
    check(graph)
    (network,) = lowered(graph, PRESETS["edge32"])
    assert [nest.layer for nest in network.nests] == ["node", "node.2"]
