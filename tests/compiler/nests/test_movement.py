"""Copies by products: whichever unit moves them, the same bytes arrive."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.building import movement
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.interpret import interpret
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.vector import Binary, Copy, Fill, VectorNest
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PRESETS
from systol_hw.isa.choices import Function

Move = Callable[[View], View]


def moved(
    arch: str, shape: tuple[int, ...], move: Move, *, width: int = 8,
    order: tuple[int, ...] | None = None, into: Move = lambda view: view,
    clip: tuple[int, int] | None = None,
) -> tuple[Array, Array, NestBuilder]:
    """What arrives when `move` of an input is copied to `into` of a tensor of the same size; what
    should; and the builder."""
    whole = View(buffer="x", offset=0, shape=shape, strides=_strides(shape))
    target_shape = move(whole).shape
    order = order or tuple(range(len(target_shape)))
    numbers = {"scale": 1.0, "zero_point": 0, "width": width}
    tensors = {
        "x": QTensor(name="x", shape=shape, **numbers),  # type: ignore[arg-type]
        "y": QTensor(name="y", shape=target_shape, **numbers),  # type: ignore[arg-type]
    }
    orders = {"x": tuple(range(len(shape))), "y": order}
    builder = NestBuilder(PRESETS[arch], tensors, orders)
    builder.layer = "layer"
    builder.add_input("x")
    out = builder.place("y")
    lo, hi = clip or (None, None)
    builder.elementwise(Copy(), into(out), into(move(builder.view("x"))), lo=lo, hi=hi)
    builder.buffers[out.buffer] = replace(
        builder.buffers[out.buffer], home=Home.OUTPUT, tensor="y", order=order
    )
    network = LoweredNetwork(
        name="copy", images=1, buffers=builder.buffers, nests=tuple(builder.nests)
    )
    network.verify()
    limit = 127 if width == 8 else 32639
    codes = np.random.default_rng(1).integers(-limit, limit + 1, shape)
    codes = codes.astype(np.int8 if width == 8 else np.int16)
    source = move(whole)
    index = np.full(source.shape, source.offset)
    for axis, (size, stride) in enumerate(zip(source.shape, source.strides, strict=True)):
        steps = np.arange(size) * stride
        index = index + steps.reshape((-1,) + (1,) * (source.shape.__len__() - axis - 1))
    expected = codes.reshape(-1)[index]
    if clip:
        expected = np.clip(expected, *clip)
    return interpret(network, tensors, {"x": codes}, PRESETS[arch])["y"], expected, builder


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def weights_are_activations(builder: NestBuilder) -> list[bool]:
    """By nest: whether it is a transposition; all are products."""
    kinds = []
    for nest in builder.nests:
        assert isinstance(nest, MatrixNest), nest
        kinds.append(isinstance(nest.weights, ActivationWeights))
    return kinds


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("shape", [(49, 64), (100, 48), (70, 33)])
def test_a_large_transposition_is_a_product(shape: tuple[int, int], width: int) -> None:
    got, expected, builder = moved("edge32", shape, lambda v: v.transpose((1, 0)), width=width)
    assert (got == expected).all()
    assert all(weights_are_activations(builder))


def test_a_transposition_clips() -> None:
    got, expected, builder = moved(
        "edge32", (64, 64), lambda v: v.transpose((1, 0)), clip=(-5, 90)
    )
    assert weights_are_activations(builder)
    assert (got == expected).all() and got.min() == -5 and got.max() == 90


def test_a_small_transposition_stays_on_the_vector_unit() -> None:
    got, expected, builder = moved("edge32", (3, 5), lambda v: v.transpose((1, 0)))
    assert (got == expected).all()
    assert all(isinstance(nest, VectorNest) for nest in builder.nests)


@pytest.mark.parametrize("width", [8, 16])
def test_a_shuffle_of_channels_is_a_selection(width: int) -> None:
    def shuffle(view: View) -> View:
        split = view.reshape((14, 14, 2, 48))
        assert split is not None
        return split.transpose((0, 1, 3, 2))

    got, expected, builder = moved("edge32", (14, 14, 96), shuffle, width=width)
    assert (got == expected).all()
    assert weights_are_activations(builder) == [False]
    (nest,) = builder.nests
    assert isinstance(nest, MatrixNest)
    # Each of three tiles reads two runs of 16 bytes, 16 bytes further.
    assert (nest.outputs, nest.tile_bytes, nest.step_bytes, nest.taps) == (96, 16, 16, (1, 2))


@pytest.mark.parametrize(("channels", "groups"), [(240, 3), (24, 2), (60, 4), (96, 8), (72, 9)])
@pytest.mark.parametrize("arch", ["nano", "edge16", "edge32"])
def test_shuffles_of_any_groups(channels: int, groups: int, arch: str) -> None:
    def shuffle(view: View) -> View:
        split = view.reshape((8, 9, groups, channels // groups))
        assert split is not None
        return split.transpose((0, 1, 3, 2))

    got, expected, builder = moved(arch, (8, 9, channels), shuffle)
    assert (got == expected).all()
    assert len(weights_are_activations(builder)) <= 2
    if (channels, arch) == (240, "edge32"):
        # A tile reads a run of each group, and not all of the channels.
        assert {nest.taps for nest in builder.nests if isinstance(nest, MatrixNest)} == {(1, 3)}


@pytest.mark.parametrize("width", [8, 16])
def test_a_broadcast_over_channels_is_a_selection(width: int) -> None:
    got, expected, builder = moved(
        "edge32", (20, 20, 1), lambda v: v.expand((20, 20, 70)), width=width
    )
    assert (got == expected).all()
    assert not any(weights_are_activations(builder))


def test_reversed_channels_are_a_selection() -> None:
    got, expected, builder = moved("edge16", (30, 30, 40), lambda v: v.slice(2, 39, 40, -1))
    assert (got == expected).all()
    assert not any(weights_are_activations(builder))


def test_an_operand_that_lies_across_is_turned_first() -> None:
    builder = NestBuilder(PRESETS["edge32"], {}, {})
    builder.layer = "layer"
    out, a = (builder.scratch((1, 8, 10, 64), (0, 1, 2, 3)) for _ in range(2))
    b = builder.scratch((1, 8, 10, 64), (0, 3, 1, 2))
    add = Binary(function=Function.ADD, a_zero_point=0, b_zero_point=0, a_multiplier=1,
                 b_multiplier=1, shift=0)
    builder.elementwise(add, out, a, b)
    *turned, added = builder.nests
    assert turned and all(isinstance(nest, MatrixNest) for nest in turned)
    assert isinstance(added, VectorNest) and added.output.width == 64


def test_bytes_that_are_not_written_yet_are_not_read() -> None:
    builder = NestBuilder(PRESETS["edge32"], {}, {})
    builder.layer = "layer"
    whole = builder.scratch((20, 20, 128), (0, 1, 2))
    half = whole.slice(2, 0, 64)
    builder.elementwise(Fill(), half, None)
    assert not builder.complete(whole.buffer)
    before = len(builder.nests)
    out = builder.scratch((20, 20, 32), (0, 1, 2))
    builder.elementwise(Copy(), out, half.slice(2, 0, 32, 2))
    assert all(isinstance(nest, VectorNest) for nest in builder.nests[before:])
    builder.elementwise(Fill(), whole.slice(2, 64, 64), None)
    assert builder.complete(whole.buffer)
    builder.elementwise(Copy(), out, half.slice(2, 0, 32, 2))
    assert isinstance(builder.nests[-1], MatrixNest)


def test_a_part_of_a_larger_result() -> None:
    got, expected, _ = moved(
        "edge32", (60, 60, 40), lambda v: v.transpose((0, 2, 1)),
        into=lambda v: v.slice(0, 7, 50).slice(2, 3, 50),
    )
    inside = (slice(7, 57), slice(None), slice(3, 53))
    assert (got[inside] == expected[inside]).all()


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple),
    st.sampled_from(["nano", "edge16"]), st.sampled_from([8, 16]), st.data(),
)
def test_products_move_what_rows_move(
    shape: tuple[int, ...], arch: str, width: int, data: st.DataObject
) -> None:
    permutation = data.draw(st.permutations(range(len(shape))))
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    steps = [data.draw(st.sampled_from([1, 1, 1, 2, -1])) for _ in shape]

    def move(view: View) -> View:
        view = view.transpose(permutation)
        for axis, step in enumerate(steps):
            size = view.shape[axis]
            first = size - 1 if step < 0 else 0
            view = view.slice(axis, first, -(-size // abs(step)), step)
        return view

    with pytest.MonkeyPatch.context() as patch:
        # Products cost nothing: wherever one is possible it is taken.
        patch.setattr(movement, "_MATRIX_CYCLES", -(10**9))
        got, expected, _ = moved(arch, shape, move, width=width, order=order)
    assert (got == expected).all()
