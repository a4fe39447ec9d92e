"""Sums over sets of channels, exact, along any axis and in any memory order."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_cases import built, layer_builder, ordered, real_of
from quantized_cases import check, evaluate, random_inputs
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.program.backend import Choice, build
from systol_compiler.quantized.graph import MachinePart
from systol_compiler.quantized.layer import Order
from systol_compiler.quantized.lowering import lower
from systol_compiler.quantized.ops.reductions.channel_sets import (
    ChannelSets,
    add_channel_sets,
    band_of,
)
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError, UnsupportedModelError
from systol_sim import simulator


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


@st.composite
def neighbourhoods(draw: st.DrawFn) -> Array:
    """Bool [channels, channels]: each channel's set lies around it, and may be empty."""
    channels = draw(st.integers(1, 150))
    before, behind = draw(st.integers(-2, 9)), draw(st.integers(-2, 9))
    distance = np.arange(channels) - np.arange(channels)[:, None]
    return (distance >= -before) & (distance <= behind)


@given(neighbourhoods(), st.sampled_from([(8, 8), (16, 32), (32, 16)]))
def test_a_band_holds_every_member(members: Array, array: tuple[int, int]) -> None:
    rows, columns = array
    band = band_of(members.astype(np.int8), rows, columns)
    seen = np.zeros_like(members)
    for tile, low in enumerate(range(0, len(members), band.outputs)):
        start = tile * band.step
        assert start + band.reach <= len(members)
        seen[low : low + band.outputs, start : start + band.reach] = True
    assert band.outputs <= columns
    assert (seen | ~members).all()
    assert -(-len(members) // band.outputs) == -(-len(members) // columns)


def test_a_band_reads_little() -> None:
    distance = np.arange(192) - np.arange(192)[:, None]
    assert band_of(abs(distance) <= 2, 32, 32).reach == 42


@settings(max_examples=25)
@given(
    neighbourhoods(), st.sampled_from([(8, 8), (16, 8), (8, 16)]),
    st.sampled_from([(2, 3, 2), (1, 1, 4), (3, 2, 1)]), st.sampled_from(["nano", "edge16"]),
)
def test_neighbours(
    members: Array, widths: tuple[int, int], sizes: tuple[int, int, int], arch: str
) -> None:
    builder = layer_builder()
    images, lines, positions = sizes
    source = QTensor(
        name="x", shape=(images, len(members), lines, positions), scale=1.0,
        zero_point=-7 if widths[0] == 8 else 0, width=widths[0],
    )
    builder.tensors["x"] = source
    out = builder.inner(source.shape, 16.0, 0, widths[1])
    add_channel_sets(
        builder, ordered(builder, source, (0, 2, 3, 1)), out, members, axis=1
    )
    shown = ordered(builder, out, (0, 2, 3, 1))
    codes = check(built(builder, [shown.name]), archs=[PRESETS[arch]])
    sums = np.einsum("oc,nchw->nohw", members, real_of(source, codes["x"]))
    low, high = out.bounds
    np.testing.assert_array_equal(codes[out.name], np.clip(np.rint(sums / 16), low, high))


@pytest.mark.parametrize(("channels", "width"), [(192, 8), (75, 16)])
def test_bands_as_a_program(channels: int, width: int) -> None:
    builder = layer_builder()
    source = QTensor(
        name="x", shape=(1, channels, 6, 5), scale=1.0, zero_point=0, width=width
    )
    builder.tensors["x"] = source
    out = builder.inner(source.shape, 4.0, 0, width)
    distance = np.arange(channels) - np.arange(channels)[:, None]
    add_channel_sets(
        builder, ordered(builder, source, (0, 2, 3, 1)), out, abs(distance) <= 2, axis=1
    )
    quantized, arch = built(builder, [out.name]), PRESETS["edge32"]
    (part,) = quantized.parts
    assert isinstance(part, MachinePart)
    values = random_inputs(quantized, 0)
    lowered = replace(lower(quantized, part, arch), images=1)
    assert any(isinstance(nest, MatrixNest) and nest.tile_bytes for nest in lowered.nests)
    emitted = build(lambda images: lowered, 1, arch, Choice()).emitted
    (given_to,), (taken_from,) = emitted.inputs, emitted.outputs
    contents = {given_to.window: byte_planes(values["x"].transpose(given_to.order), width)}
    outcome = simulator.run(emitted.program, contents, values=True, checked=True)
    assert outcome.fault is None
    windows = dict(zip((w.name for w in emitted.program.windows), outcome.windows, strict=True))
    stored = tuple(out.shape[axis] for axis in taken_from.order)
    flat = from_byte_planes(windows[taken_from.window], out.size, width)
    np.testing.assert_array_equal(
        flat.reshape(stored).transpose(np.argsort(taken_from.order)),
        evaluate(quantized, values)[out.name],
    )


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
