"""Factors and offsets by channel: in any memory order, and in one product where it turns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_cases import built, layer_builder, ordered, real_of
from quantized_cases import check, lowered
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.quantized.layer import Order
from systol_compiler.quantized.ops.pointwise.channel_affine import ChannelAffine, add_channel_affine
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError

NANO = [PRESETS["nano"]]


def affine(
    shape: tuple[int, ...], axis: int, *, widths: tuple[int, int] = (16, 8),
    orders: tuple[Order | None, Order | None] = (None, None), zero_point: int = 0,
) -> QuantizedGraph:
    builder, rng = layer_builder(), np.random.default_rng(axis)
    builder.tensors["x"] = QTensor(
        name="x", shape=shape, scale=0.5 ** (widths[0] - 4), zero_point=zero_point,
        width=widths[0],
    )
    lying = ordered(builder, builder.tensors["x"], orders[0])
    out = builder.inner(shape, 0.5 ** (widths[1] - 6), 0, widths[1])
    factors, offsets = rng.normal(size=shape[axis]), rng.normal(size=shape[axis]) * 3
    add_channel_affine(builder, lying, factors, offsets, axis, out)
    shown = ordered(builder, out, orders[1])
    graph = built(builder, [shown.name])
    codes = check(graph, archs=NANO)
    along = [-1 if k == axis else 1 for k in range(len(shape))]
    real = real_of(builder.tensors["x"], codes["x"])
    wanted = real * factors.reshape(along) + offsets.reshape(along)
    low, high = (bound * out.scale for bound in out.bounds)
    error = np.abs(real_of(out, codes[out.name]) - np.clip(wanted, low, high)).max()
    half_step = 0.5 * builder.tensors["x"].scale * np.abs(factors).max()
    assert error <= 0.501 * out.scale + half_step + np.abs(wanted).max() * 2**-16
    return graph


@given(data=st.data())
@settings(max_examples=30)
def test_in_every_memory_order(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=4)))
    orders = [data.draw(st.permutations(range(len(shape))).map(tuple)) for _ in range(2)]
    affine(
        shape, data.draw(st.integers(1, len(shape) - 1)),
        widths=data.draw(st.sampled_from([(8, 8), (16, 8), (16, 16), (8, 16)])),
        orders=(orders[0], orders[1]),
    )


def test_zero_points() -> None:
    affine((3, 5), 1, widths=(8, 8), zero_point=-77)


@pytest.mark.parametrize("arch", ["nano", "edge32"])
def test_rows_that_turn_are_requantized_by_the_product_that_turns_them(arch: str) -> None:
    graph = affine((1, 40, 70), 2, orders=((0, 2, 1), (0, 1, 2)))
    (network,) = lowered(graph, PRESETS[arch])
    own = [nest for nest in network.nests if nest.layer == "node.affine"]
    assert own and all(isinstance(nest, MatrixNest) for nest in own)


def test_offsets_beside_small_factors() -> None:
    builder = layer_builder()
    builder.tensors["x"] = QTensor(name="x", shape=(2, 4), scale=0.01, zero_point=0, width=16)
    out = builder.inner((2, 4), 0.5, 3)
    offsets = np.array([10.0, -7.0, 0.0, 60.0])
    factors = np.array([0, 1e-12, 0, -0.0])
    add_channel_affine(builder, builder.tensors["x"], factors, offsets, 1, out)
    codes = check(built(builder, [out.name]), archs=NANO)
    np.testing.assert_array_equal(real_of(out, codes[out.name]), np.tile(offsets, (2, 1)))


def test_refuses_offsets_that_could_overflow_and_wrong_sizes() -> None:
    x = QTensor(name="x", shape=(2, 4), scale=1.0, zero_point=0)
    ones = np.ones(4)

    def layer(bias: int, size: int = 4) -> ChannelAffine:
        return ChannelAffine(
            name="a", inputs=("x",), outputs=("y",), source_nodes=(), rank=2, axis=1,
            factors=ones, offsets=ones, multipliers=ones.astype(int), shifts=ones.astype(int),
            bias=np.full(size, bias), lo=-128, hi=127,
        )

    tensors = {"x": x, "y": x}
    layer(1).verify(tensors)
    with pytest.raises(InputError, match="at most 2\\*\\*29"):
        layer(1 << 30).verify(tensors)
    with pytest.raises(InputError, match="as many factors"):
        layer(1, 3).verify(tensors)
