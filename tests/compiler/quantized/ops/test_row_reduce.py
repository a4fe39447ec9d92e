"""Sums and extrema over any axes, in any memory order and of any length."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_cases import built, layer_builder, ordered, real_of
from quantized_cases import ARCHS, check, lowered
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.layer import Order
from systol_compiler.quantized.ops.reductions.row_reduce import (
    RowSum,
    add_extremum,
    add_sum,
    channels_inside,
    reduced_shape,
)
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, UnsupportedModelError

Shape = tuple[int, ...]


def reduction(
    kind: str, shape: Shape, axes: tuple[int, ...], *, widths: tuple[int, int] = (8, 8),
    keepdims: bool = True, orders: tuple[Order | None, Order | None] = (None, None),
    zero_point: int = 5, offset: float = 0.0, archs: tuple[str, ...] = (), seed: int = 0,
) -> None:
    builder = layer_builder()
    zero_point = 0 if widths[0] == 16 else zero_point
    source = QTensor(
        name="x", shape=shape, scale=0.5 ** (widths[0] - 6), zero_point=zero_point,
        width=widths[0],
    )
    builder.tensors["x"] = source
    lying = ordered(builder, source, orders[0])
    rows = int(np.prod([shape[axis] for axis in axes]))
    if kind == "sum":
        scale = 2.0 * rows * 0.5 ** (widths[1] - 6)
        zero = 0 if widths[1] == 16 else -7
        out = builder.inner(reduced_shape(shape, axes, keepdims), scale, zero, widths[1])
        add_sum(
            builder, lying, out, axes, keepdims=keepdims, factor=Fraction(3, 2), offset=offset
        )
    else:
        out = builder.inner(
            reduced_shape(shape, axes, keepdims), source.scale, source.zero_point, source.width
        )
        add_extremum(builder, lying, out, axes, maximum=kind == "max", keepdims=keepdims)
    shown = ordered(builder, out, orders[1])
    codes = check(
        built(builder, [shown.name]), archs=[PRESETS[name] for name in archs] or ARCHS, seed=seed
    )
    real = real_of(source, codes["x"])
    if kind == "sum":
        wanted = 1.5 * real.sum(axis=axes, keepdims=keepdims) - offset
        # A bias is exact to half a step of the sum, a multiplier to 2**-17.
        tolerance = 0.5001 * out.scale + source.scale + np.abs(wanted).max() * 2**-16
    else:
        wanted = (real.max if kind == "max" else real.min)(axis=axes, keepdims=keepdims)
        tolerance = 0.0
    low, high = ((bound - out.zero_point) * out.scale for bound in out.bounds)
    assert np.abs(real_of(out, codes[out.name]) - np.clip(wanted, low, high)).max() <= tolerance


@pytest.mark.parametrize("kind", ["sum", "max", "min"])
@pytest.mark.parametrize(
    "case",
    [
        ((2, 3, 4), (2,)), ((2, 3, 4), (1,)), ((2, 3, 4), (0,)), ((2, 3, 4), (0, 2)),
        ((2, 5, 6, 7), (2, 3)), ((2, 5, 6, 7), (1,)), ((2, 3, 40, 33), (3,)), ((7,), (0,)),
        ((1, 1000), (1,)), ((2, 3, 700), (2,)), ((2, 3, 4), (0, 1, 2)), ((3, 1, 4), (1,)),
        ((300, 3), (0,)), ((2, 5, 6, 7), (0, 2)), ((2, 2, 1), (1,)), ((3, 1, 300, 1), (2,)),
    ],
)
def test_over_axes(kind: str, case: tuple[Shape, tuple[int, ...]]) -> None:
    reduction(kind, *case)
    reduction(kind, *case, keepdims=False, archs=("nano",))


@pytest.mark.parametrize("widths", [(8, 16), (16, 8), (16, 16)])
def test_of_every_width(widths: tuple[int, int]) -> None:
    for kind in ("sum", "max", "min"):
        reduction(kind, (2, 3, 5, 6), (1, 3), widths=widths, offset=3.0)


@given(data=st.data())
@settings(max_examples=40)
def test_in_every_memory_order(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axes = data.draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    keepdims = data.draw(st.booleans())
    ranks = len(shape), len(reduced_shape(shape, tuple(axes), keepdims))
    orders = [data.draw(st.permutations(range(rank)).map(tuple)) for rank in ranks]
    reduction(
        data.draw(st.sampled_from(["sum", "max", "min"])), shape, tuple(sorted(axes)),
        widths=data.draw(st.sampled_from([(8, 8), (16, 16)])), keepdims=keepdims,
        orders=tuple(orders), archs=("nano",),  # type: ignore[arg-type]
    )


def test_sums_read_either_orientation_as_it_lies() -> None:
    for order in permutations(range(2)):
        builder = layer_builder()
        builder.tensors["x"] = QTensor(name="x", shape=(40, 70), scale=1.0, zero_point=0)
        lying = ordered(builder, builder.tensors["x"], tuple(order))
        out = builder.inner((40, 1), 1.0, 0)
        add_sum(builder, lying, out, (1,))
        (network,) = lowered(built(builder, [out.name]), PRESETS["edge16"])
        (nest,) = network.nests
        assert isinstance(nest, MatrixNest), order


def test_refuses_what_could_overflow_and_wrong_shapes() -> None:
    layer = RowSum(
        name="s", inputs=("x",), outputs=("y",), source_nodes=(), axes=(1,), keepdims=True,
        factor=1.0, offset=0.0, bias=0, multiplier=1 << 16, shift=16,
    )
    x = QTensor(name="x", shape=(1, 70_000), scale=1.0, zero_point=0, width=16)
    y = QTensor(name="y", shape=(1, 1), scale=1.0, zero_point=0, width=16)
    with pytest.raises(UnsupportedModelError, match="over 70000 elements"):
        layer.verify({"x": x, "y": y})
    with pytest.raises(InputError, match="result has shape"):
        layer.verify({"x": x, "y": QTensor(name="y", shape=(2,), scale=1.0, zero_point=0)})


def test_channels_inside() -> None:
    assert channels_inside((2, 3, 4, 5), (3,)) == (0, 3, 1, 2)
    assert channels_inside((2, 3), (1,)) == (1, 0)
    assert channels_inside((2, 3, 1), (1,)) == (1, 0, 2)
    assert channels_inside((2, 3, 4), (0,)) == (0, 1, 2)
