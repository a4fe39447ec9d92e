"""Factors along one axis, wherever that axis lies in memory."""

import numpy as np
import pytest

from operator_cases import built, layer_builder, ordered
from quantized_cases import check, lowered
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.pointwise.channel_scale import ChannelScale, add_channel_scale
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)])
@pytest.mark.parametrize("widths", [(8, 8), (16, 16), (8, 16)])
def test_any_axis_in_any_order(
    axis: int, order: tuple[int, ...], widths: tuple[int, int]
) -> None:
    shape = (2, 40, 3, 5)
    builder = layer_builder()
    source = QTensor(
        name="x", shape=shape, scale=0.5, zero_point=7 if widths[0] == 8 else 0, width=widths[0]
    )
    builder.tensors["x"] = source
    lying = ordered(builder, source, order)
    output = builder.inner(shape, 0.75 if widths[1] >= widths[0] else 100, 0, widths[1])
    factors = np.linspace(-2, 2, shape[axis])
    factors[0] = 0
    add_channel_scale(builder, lying, factors, axis, output, (-90, 100))
    check(built(builder))


@pytest.mark.parametrize("channels", [1, 3, 8, 20])
@pytest.mark.parametrize("width", [7, 12])
def test_few_channels_share_rows(channels: int, width: int) -> None:
    builder = layer_builder()
    source = QTensor(name="x", shape=(1, channels, 5, width), scale=0.5, zero_point=7)
    builder.tensors["x"] = source
    lying = ordered(builder, source, (0, 2, 3, 1))
    output = builder.inner(source.shape, 0.75, 0)
    add_channel_scale(builder, lying, np.linspace(1, 2, channels), 1, output)
    graph = built(builder)
    check(graph)
    (network,) = lowered(graph, PRESETS["edge32"])
    (nest,) = (nest for nest in network.nests if nest.layer == "node")
    if channels * width <= 32:
        assert nest.output.width == channels * width
    assert nest.output.lines * nest.output.positions * nest.output.width == source.size


def test_factors_of_another_axis_are_refused() -> None:
    builder = layer_builder()
    x = QTensor(name="x", shape=(2, 3), scale=1.0, zero_point=0)
    y = builder.inner((2, 3), 1.0, 0)
    add_channel_scale(builder, x, np.ones(3), 1, y)
    (layer,) = builder.layers
    assert isinstance(layer, ChannelScale)
    wrong = {"x": x, y.name: QTensor(name=y.name, shape=(3, 2), scale=1.0, zero_point=0)}
    with pytest.raises(InputError, match="factors of shape"):
        layer.verify(wrong)
