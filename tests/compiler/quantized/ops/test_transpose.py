"""Transpose is a view, and hands memory orders through."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Case
from operator_cases import built, layer_builder, ordered
from quantized_cases import check, lowered
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.moves.transpose import Transpose
from systol_compiler.quantized.ops.rescale import add_rescale
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError


def transposed(
    shape: tuple[int, ...], permutation: tuple[int, ...], order: tuple[int, ...], width: int
) -> int:
    """Nests of a transposition between two layers that rescale, the first in `order`."""
    builder = layer_builder()
    scale = 0.5 if width == 8 else 0.002
    source = QTensor(name="x", shape=shape, scale=scale, zero_point=0, width=width)
    builder.tensors["x"] = source
    lying = ordered(builder, source, order)
    result = tuple(shape[axis] for axis in permutation)
    moved = builder.inner(result, scale, 0, width)
    builder.add(
        Transpose(name="move", inputs=(lying.name,), outputs=(moved.name,), source_nodes=(),
                  permutation=permutation)
    )
    output = builder.inner(result, 2 * scale, 0, width)
    add_rescale(builder, moved, output, factor=-1)
    graph = built(builder)
    check(graph)
    (network,) = lowered(graph, PRESETS["edge32"])
    return sum(nest.layer == "move" for nest in network.nests)


@settings(deadline=None, max_examples=25)
@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
       st.sampled_from([8, 16]))
def test_a_view_in_any_order(data: st.DataObject, shape: tuple[int, ...], width: int) -> None:
    axes = range(len(shape))
    permutation, order = (tuple(data.draw(st.permutations(axes))) for _ in range(2))
    assert transposed(shape, permutation, order, width) == 0


@pytest.mark.parametrize("perm", [None, [2, 0, 1]])
def test_one_node(perm: list[int] | None) -> None:
    attributes = {} if perm is None else {"perm": perm}
    checked = Case(op="Transpose", inputs=((3, 40, 5),), attributes=attributes).check(0.0)
    assert checked.kinds == ["transpose"]


def test_orders_say_how_the_view_lies() -> None:
    layer = Transpose(
        name="t", inputs=("x",), outputs=("y",), source_nodes=(), permutation=(0, 3, 1, 2)
    )
    # Images that the host gives with channels last are images for convolutions.
    assert layer.output_orders({}, [(0, 1, 2, 3)], [None]) == [(0, 2, 3, 1)]
    assert layer.input_orders({}, [(0, 2, 3, 1)]) == [(0, 1, 2, 3)]
    assert layer.input_orders({}, [None]) == [None]


def test_the_batch_stays_first_or_not() -> None:
    layer = Transpose(name="t", inputs=("x",), outputs=("y",), source_nodes=(), permutation=(1, 0))
    assert not layer.batched({})


def test_a_wrong_shape_is_refused() -> None:
    tensors = {name: QTensor(name=name, shape=(2, 3), scale=1.0, zero_point=0) for name in "xy"}
    layer = Transpose(name="t", inputs=("x",), outputs=("y",), source_nodes=(), permutation=(1, 0))
    with pytest.raises(InputError, match=r"results have shapes \[\(3, 2\)\], not \[\(2, 3\)\]"):
        layer.verify(tensors)


def test_a_large_transposition_of_an_output_is_moved_by_the_matrix_unit() -> None:
    checked = Case(op="Transpose", inputs=((64, 100),)).check(0.0)
    (network,) = lowered(checked.graph, PRESETS["edge32"])
    # As an output it is shown in the order that it has: the host takes it as it lies.
    assert len(network.nests) <= 2
    assert np.prod(checked.codes["y0"].shape) == 6400
