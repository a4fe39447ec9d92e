"""Operands from views of any shape, within what an instruction can count and step."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.nests.building.rows import channel_pieces, pieces, row_axis, uniform
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.view import View, packed_strides
from systol_compiler.numbers.limits import Array


def packed(shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> View:
    order = order or tuple(range(len(shape)))
    return View(buffer="b", offset=0, shape=shape, strides=packed_strides(shape, order))


def offsets(view: View) -> Array:
    """The byte of every element."""
    result = np.full(view.shape, view.offset)
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        steps = np.arange(size) * stride
        result = result + steps.reshape((-1,) + (1,) * (len(view.shape) - axis - 1))
    return result.reshape(-1)


def bytes_of(operand: Operand) -> Array:
    """The bytes of an operand in the order in which a nest meets them."""
    index = (
        np.array(operand.planes)[:, None, None, None]
        + np.arange(operand.lines)[:, None, None] * operand.line_pitch
        + np.arange(operand.positions)[:, None] * operand.position_pitch
        + np.arange(operand.width)
    )
    return np.asarray(index.reshape(-1))


def assert_pairs(views: list[View], parts: list[list[Operand]]) -> None:
    """Every element of all views is met once, together."""
    met = [np.concatenate([bytes_of(part[k]) for part in parts]) for k in range(len(views))]
    expected = [offsets(view) for view in views]
    order, wanted = np.argsort(met[0], kind="stable"), np.argsort(expected[0], kind="stable")
    for own, right in zip(met, expected, strict=True):
        assert (own[order] == right[wanted]).all()


@given(
    st.lists(st.integers(1, 7), max_size=6).map(tuple), st.data(), st.sampled_from([4, 8, 32]),
    st.integers(1, 3),
)
def test_every_element_is_met_once(
    shape: tuple[int, ...], data: st.DataObject, columns: int, count: int
) -> None:
    views = []
    for place in range(count):
        order = tuple(data.draw(st.permutations(range(len(shape)))))
        view = packed(shape, order)
        if place and data.draw(st.booleans()):
            keep = [n if data.draw(st.booleans()) else 1 for n in shape]
            view = packed(tuple(keep), order).expand(shape)
        views.append(view)
    assert_pairs(views, pieces(views, columns))


@pytest.mark.parametrize("shape", [(70_000, 3), (3, 70_000), (200_000,), (2, 70_000, 2)])
def test_counts_fit_16_bits(shape: tuple[int, ...]) -> None:
    views = [packed(shape), packed(shape, tuple(range(len(shape)))[::-1])]
    parts = pieces(views, 8)
    assert_pairs(views, parts)
    for part in parts:
        for operand in part:
            assert operand.lines < 1 << 16 and operand.positions < 1 << 16


def test_groups_of_channels_fit_12_bits() -> None:
    long = View(buffer="b", offset=0, shape=(2, 40_000), strides=(50_000, 1))
    parts = pieces([packed((2, 40_000)), long], 8)
    assert_pairs([packed((2, 40_000)), long], parts)
    assert all(part[0].width <= 4095 * 8 for part in parts)


def test_steps_that_no_column_can_take_are_those_of_lines_or_planes() -> None:
    far = View(buffer="b", offset=0, shape=(3, 4, 5, 8), strides=(1 << 24, 1 << 20, 8, 1))
    near = packed((3, 4, 5, 8))
    for views in ([near, far], [far, near]):
        parts = pieces(views, 8)
        assert_pairs(views, parts)
        for part in parts:
            for operand in part:
                assert abs(operand.position_pitch) < 1 << 19 and abs(operand.line_pitch) < 1 << 23
    gaps = View(buffer="b", offset=0, shape=(5, 8), strides=(1 << 24, 1))
    (part,) = pieces([gaps], 8)
    assert len(part[0].planes) == 5


def test_the_longest_loops_are_not_planes() -> None:
    shape = (300, 2, 400, 3)
    views = [packed(shape), packed(shape, (3, 1, 0, 2))]
    parts = pieces(views, 8)
    assert max(len(part[0].planes) for part in parts) <= 6
    assert sum(prod(part[0].box.sizes) for part in parts) == prod(shape)


def test_rows_that_repeat_one_row() -> None:
    views = [packed((3, 50)), View(buffer="b", offset=0, shape=(3, 50), strides=(60, 1))]
    row = View(buffer="r", offset=7, shape=(8,), strides=(1,))
    parts = pieces(views, 8, repeated=row)
    assert_pairs(views, [part[:2] for part in parts])
    for _, _, operand in parts:
        assert operand.width <= 8 and operand.planes[0] == 7
        assert (operand.line_pitch, operand.position_pitch) == (0, 0)


def test_channels_stay_a_row_of_their_own() -> None:
    views = [packed((2, 3, 5)), packed((2, 3, 5))]
    (part,) = channel_pieces(views, 2, 8)
    assert part[0].width == 5 and part[0].positions * part[0].lines == 6


def test_rows_of_images_stay_rows_where_channels_fill_the_array() -> None:
    views = [packed((1, 3, 4, 9)), packed((1, 3, 4, 9))]
    ((wide, _),) = channel_pieces(views, 3, 8)
    ((few, _),) = channel_pieces(views, 3, 16)
    assert (wide.lines, wide.positions, wide.width) == (3, 4, 9)
    assert (few.lines, few.positions, few.width) == (12, 1, 9)


def test_what_a_view_is() -> None:
    assert row_axis(packed((3, 4))) == 1
    assert row_axis(View(buffer="b", offset=0, shape=(3, 1), strides=(2, 1))) is None
    assert uniform(packed((1, 1))) and uniform(packed((1,)).expand((5, 6)))
    assert not uniform(packed((2,)).expand((5, 2)))
