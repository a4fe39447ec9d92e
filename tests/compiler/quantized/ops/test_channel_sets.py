"""Sums over sets of channels, exact, along any axis and in any memory order."""

from fractions import Fraction

import numpy as np
import pytest

from operator_cases import built, layer_builder, ordered, real_of
from quantized_cases import check
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.layer import Order
from systol_compiler.quantized.ops.channel_sets import ChannelSets, add_channel_sets
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, UnsupportedModelError


@pytest.mark.parametrize("widths", [(8, 8), (16, 16), (16, 8)])
@pytest.mark.parametrize("orders", [(None, None), ((0, 2, 1), (0, 1, 2)), ((2, 1, 0), (1, 0, 2))])
def test_sums(orders: tuple[Order | None, Order | None], widths: tuple[int, int]) -> None:
    builder = layer_builder()
    zero_point = 9 if widths[0] == 8 else 0
    source = QTensor(
        name="x", shape=(2, 12, 5), scale=0.5 ** (widths[0] - 4), zero_point=zero_point,
        width=widths[0],
    )
    builder.tensors["x"] = source
    out = builder.inner(source.shape, 8 * 0.5 ** (widths[1] - 4), 0, widths[1])
    members = np.random.default_rng(0).random((12, 12)) < 0.4
    add_channel_sets(
        builder, ordered(builder, source, orders[0]), out, members, axis=1,
        factor=Fraction(3, 4), offset=2.5,
    )
    shown = ordered(builder, out, orders[1])
    codes = check(built(builder, [shown.name]), archs=[PRESETS["nano"], PRESETS["edge16"]])
    wanted = np.einsum("oc,ncx->nox", members, real_of(source, codes["x"])) * 0.75 - 2.5
    low, high = (bound * out.scale for bound in out.bounds)
    error = np.abs(real_of(out, codes[out.name]) - np.clip(wanted, low, high)).max()
    assert error <= 0.501 * out.scale + source.scale + np.abs(wanted).max() * 2**-16


def test_refusals() -> None:
    x = QTensor(name="x", shape=(1, 3), scale=1.0, zero_point=0, width=16)

    def layer(members: int, bias: int) -> ChannelSets:
        return ChannelSets(
            name="c", inputs=("x",), outputs=("y",), source_nodes=(), axis=1,
            members=np.ones((members, members), np.int8), factor=1.0, offset=0.0,
            bias=np.full(members, bias), multiplier=1 << 16, shift=16,
        )

    with pytest.raises(UnsupportedModelError, match="over 3 channels"):
        layer(3, 2**31 - 1).verify({"x": x, "y": x})
    with pytest.raises(InputError, match="3 channels need 3 sets"):
        layer(4, 0).verify({"x": x, "y": x})
