"""Other axes for the same elements: views where there is one, copies where not."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Case
from operator_cases import built, layer_builder, ordered
from quantized_cases import check, lowered
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.ops.moves.reshape import (
    Reshape,
    common_shape,
    groups,
    regrouped_order,
)
from systol_compiler.quantized.ops.moves.transpose import Transpose
from systol_compiler.quantized.ops.rescale import add_rescale
from systol_hw.arch import PRESETS

Shape = tuple[int, ...]


def reshaped(before: Shape, after: Shape, order: Shape, width: int = 8) -> QuantizedGraph:
    """A reshape between a tensor that lies in `order` and a layer that rescales."""
    builder = layer_builder()
    scale = 0.5 if width == 8 else 0.002
    source = QTensor(name="x", shape=before, scale=scale, zero_point=0, width=width)
    builder.tensors["x"] = source
    lying = ordered(builder, source, order)
    moved = builder.inner(after, scale, 0, width)
    builder.add(
        Reshape(name="move", inputs=(lying.name,), outputs=(moved.name,), source_nodes=())
    )
    output = builder.inner(after, 2 * scale, 0, width)
    add_rescale(builder, moved, output, factor=-1)
    return built(builder)


def moves(graph: QuantizedGraph, arch: str = "edge32") -> list[type]:
    (network,) = lowered(graph, PRESETS[arch])
    return [type(nest) for nest in network.nests if nest.layer == "move"]


def factored(data: st.DataObject, factors: list[int]) -> Shape:
    """A shape of the product of `factors`: neighbours multiplied."""
    shape = [1]
    for factor in factors:
        if data.draw(st.booleans()):
            shape.append(factor)
        else:
            shape[-1] *= factor
    return tuple(shape[data.draw(st.integers(0, 1)) if shape[0] == 1 else 0 :]) or (1,)


@settings(deadline=None, max_examples=50)
@given(st.data(), st.lists(st.integers(1, 4), max_size=6), st.sampled_from([8, 16]))
def test_any_reshape_in_any_order(
    data: st.DataObject, factors: list[int], width: int
) -> None:
    before, after = factored(data, factors), factored(data, factors[::1])
    order = tuple(data.draw(st.permutations(range(len(before)))))
    assert prod(before) == prod(after)
    check(reshaped(before, after, order, width))


@pytest.mark.parametrize(("before", "after"), [
    ((4, 6), (3, 8)), ((2, 3, 5), (5, 6)), ((12,), (3, 4)), ((1, 1), ()), ((), (1,)),
    ((6, 35), (10, 21)),
])
def test_shapes_without_common_axes(before: Shape, after: Shape) -> None:
    check(reshaped(before, after, tuple(range(len(before)))[::-1]))


def test_row_by_row_it_is_a_view() -> None:
    assert moves(reshaped((2, 3, 4), (6, 4), (0, 1, 2))) == []
    assert moves(reshaped((1, 8, 5, 5), (1, 8, 25), (0, 2, 3, 1))) == []
    assert moves(reshaped((1, 8, 5, 5), (1, 2, 4, 5, 5), (0, 2, 3, 1))) == []
    assert moves(reshaped((1, 8, 1, 1), (1, 8), (0, 2, 3, 1))) == []


def test_flattened_images_are_transposed_by_the_matrix_unit() -> None:
    assert moves(reshaped((1, 64, 14, 14), (1, 64 * 14 * 14), (0, 2, 3, 1))) == [MatrixNest]


@pytest.mark.parametrize("arch", ["edge16", "edge32"])
def test_a_shuffle_of_channels_keeps_channels_innermost(arch: str) -> None:
    builder = layer_builder()
    source = QTensor(name="x", shape=(1, 96, 14, 14), scale=0.5, zero_point=3)
    builder.tensors["x"] = source
    lying = ordered(builder, source, (0, 2, 3, 1))
    names = [lying.name]
    for shape in ((1, 2, 48, 14, 14), (1, 48, 2, 14, 14), (1, 96, 14, 14)):
        names.append(builder.inner(shape, 0.5, 3).name)
        builder.tensors[names[-1]] = builder.tensors[names[-1]]
        if len(names) == 3:
            builder.add(
                Transpose(name="swap", inputs=(names[1],), outputs=(names[2],), source_nodes=(),
                          permutation=(0, 2, 1, 3, 4))
            )
        else:
            builder.add(
                Reshape(name=f"move.{len(names)}", inputs=(names[-2],), outputs=(names[-1],),
                        source_nodes=())
            )
    output = builder.inner((1, 96, 14, 14), 0.25, 0)
    add_rescale(builder, builder.tensors[names[-1]], output)
    graph = built(builder)
    check(graph)
    (network,) = lowered(graph, PRESETS[arch])
    kinds = {nest.layer: type(nest) for nest in network.nests}
    assert kinds["move.4"] is MatrixNest and "swap" not in kinds and "move.2" not in kinds


def test_groups_of_axes() -> None:
    assert groups((2, 3, 4), (6, 4)) == [([0, 1], [0]), ([2], [1])]
    assert groups((2, 1, 3), (2, 3)) == [([0, 1], [0]), ([2], [1])]
    assert groups((), (1, 1)) == [([], [0, 1])]
    assert groups((4, 6), (3, 8)) == [([0, 1], [0, 1])]


def test_orders_follow_the_groups() -> None:
    assert regrouped_order((1, 8, 5, 5), (1, 2, 4, 5, 5), (0, 2, 3, 1)) == (0, 3, 4, 1, 2)
    assert regrouped_order((1, 8, 5, 5), (1, 200), (0, 2, 3, 1)) is None
    assert regrouped_order((1, 8, 1, 1), (1, 8), (0, 2, 3, 1)) == (0, 1)


def wished(before: Shape, after: Shape, wish: Shape | None) -> Shape | None:
    tensors = {
        name: QTensor(name=name, shape=shape, scale=1.0, zero_point=0)
        for name, shape in (("x", before), ("y", after))
    }
    layer = Reshape(name="r", inputs=("x",), outputs=("y",), source_nodes=())
    return layer.input_orders(tensors, [wish])[0]


def test_what_is_wished_of_operands() -> None:
    # Heads join in a view if they are written behind one another.
    assert wished((2, 6, 2, 8), (2, 6, 16), None) == (0, 1, 2, 3)
    # Nobody says how images should lie: as those who make them write them.
    assert wished((1, 8, 5, 5), (1, 2, 4, 5, 5), None) is None
    assert wished((1, 2, 4, 5, 5), (1, 8, 5, 5), None) is None
    assert wished((1, 8, 5, 5), (1, 2, 4, 5, 5), (0, 3, 4, 1, 2)) == (0, 2, 3, 1)
    # Shuffled groups: channels stay innermost.
    assert wished((1, 8, 5, 5), (1, 2, 4, 5, 5), (0, 3, 4, 2, 1)) == (0, 2, 3, 1)


def test_common_shapes() -> None:
    assert common_shape((4, 6), (8, 3)) == (4, 2, 3)
    assert common_shape((4, 6), (3, 8)) is None
    assert common_shape((1,), ()) == (1,)


INT64 = np.int64


@pytest.mark.parametrize(("op", "inputs", "attributes"), [
    ("Reshape", ((2, 6, 5), np.array([0, -1], INT64)), {}),
    ("Flatten", ((2, 6, 5, 4),), {"axis": 2}),
    ("Flatten", ((2, 6),), {"axis": 0}),
    ("Squeeze", ((1, 3, 1, 4),), {}),
    ("Squeeze", ((1, 3, 1, 4), np.array([2], INT64)), {}),
    ("Unsqueeze", ((3, 4), np.array([0, 2], INT64)), {}),
    ("Identity", ((3, 4),), {}),
    ("Dropout", ((3, 4),), {}),
])
def test_operators(
    op: str, inputs: tuple[Shape | Array, ...], attributes: dict[str, int]
) -> None:
    assert Case(op=op, inputs=inputs, attributes=attributes).check(0.0).kinds == ["reshape"]


def test_a_mask_that_is_read_is_refused() -> None:
    assert "'y1' is read" in Case(op="Dropout", inputs=((3, 4),), outputs=2).refusal()


def test_other_numbers_are_rescaled() -> None:
    numbers = {"y0": Numbers(scale=0.0625, zero_point=3)}
    case = Case(op="Flatten", inputs=((2, 3, 4),), numbers=numbers)
    assert case.check().kinds == ["rescale", "reshape"]
