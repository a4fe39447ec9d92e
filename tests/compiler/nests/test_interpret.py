"""The interpreter of nests against cases worked out by hand and against plain loops."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.building.builder import NestBuilder, byte_planes, from_byte_planes
from systol_compiler.nests.interpret import interpret, reduced, wrap32
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest, StoredWeights
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.vector import (
    Binary,
    Copy,
    Fill,
    Operation,
    Requantize,
    Table,
    VectorNest,
)
from systol_compiler.nests.window import WHOLE, Window2D
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PRESETS
from systol_hw.isa.choices import Function, Reduce

ARCH = PRESETS["nano"]


def parameters(*sets: tuple[int, int, int]) -> Array:
    builder = NestBuilder(ARCH, {}, {})
    bias, multipliers, shifts = (np.array(column) for column in zip(*sets, strict=True))
    data = builder.buffers[builder.parameters(bias, multipliers, shifts)].data
    assert data is not None
    return data


def run(
    nest: Nest, inputs: dict[str, Array], shape: Sequence[int], *, width: int = 8,
    constants: dict[str, Array] | None = None,
) -> Array:
    """The output of one nest; inputs lie as their axes stand."""
    buffers, tensors = {}, {}
    for name, codes in {**inputs, "out": np.zeros(shape, f"i{width // 8}")}.items():
        planes = codes.dtype.itemsize
        home = Home.OUTPUT if name == "out" else Home.INPUT
        order = tuple(range(codes.ndim))
        buffers[name] = Buffer(
            name=name, plane_bytes=codes.size, planes=planes, home=home, tensor=name, order=order
        )
        tensors[name] = QTensor(
            name=name, shape=codes.shape, scale=1.0, zero_point=0, width=8 * planes
        )
    for name, data in (constants or {}).items():
        buffers[name] = Buffer(
            name=name, plane_bytes=data.size, home=Home.CONSTANT, data=data.view(np.uint8)
        )
    network = LoweredNetwork(name="one", images=1, buffers=buffers, nests=(nest,))
    return interpret(network, tensors, inputs, ARCH)["out"]


def packed(name: str, lines: int, positions: int, width: int, byte_planes: int = 1) -> Operand:
    return Operand(
        buffer=name, planes=(0,), lines=lines, positions=positions, width=width,
        line_pitch=positions * width, position_pitch=width, byte_planes=byte_planes,
    )


def vector(
    operation: Operation, out: Operand, a: Operand | None, b: Operand | None = None,
    window: Window2D = WHOLE, zero_point: int = 0, lo: int = -128, hi: int = 127,
) -> VectorNest:
    return VectorNest(
        name="n", layer="l", source_nodes=(), operation=operation, output=out, a=a, b=b,
        window=window, zero_point=zero_point, lo=lo, hi=hi,
    )


def matrix(
    source: Operand, out: Operand, weights: StoredWeights | ActivationWeights, *,
    size: tuple[int, int], step_bytes: int, taps: tuple[int, int] = (1, 1),
    steps: tuple[int, int] = (1, 1), tap_steps: tuple[int, int] = (1, 1),
    pads: tuple[int, int] = (0, 0), tile_outputs: int = 8, tile_bytes: int = 0, zp_in: int = 0,
    zp_out: int = 0, pool: Window2D = WHOLE, lo: int = -128, hi: int = 127,
) -> MatrixNest:
    return MatrixNest(
        name="m", layer="l", source_nodes=(), output=out, input=source, outputs=out.width,
        size=size, steps=steps, taps=taps, tap_steps=tap_steps, pads=pads, step_bytes=step_bytes,
        weights=weights, tile_outputs=tile_outputs, tile_bytes=tile_bytes, parameters="p",
        zp_in=zp_in, zp_out=zp_out, lo=lo, hi=hi, pool=pool,
    )


UNIT = (0, 1 << 16, 16)
"""Parameters that change nothing."""


def test_a_product_by_hand() -> None:
    x = np.array([[1, -2, 3], [4, 5, -6]], np.int8)
    w = np.array([[1, 10], [2, 20], [-3, 7]], np.int8)
    nest = matrix(
        packed("x", 2, 1, 3), packed("out", 2, 1, 2), StoredWeights(values=w),
        size=(2, 1), step_bytes=3, zp_out=5,
    )
    # -12 and -9; 32 and 98: then (v + bias) / 2, half to even, and 5.
    table = parameters((1, 1 << 16, 17), (0, 1 << 16, 17))
    got = run(nest, {"x": x}, (2, 2), constants={"p": table})
    assert got.tolist() == [[-6 + 5, -4 + 5], [16 + 5, 49 + 5]]


def test_padding_supplies_the_zero_point_and_rows_fold() -> None:
    # One image row of three positions of two channels, a kernel of three positions in one step.
    x = np.array([[1, 2], [3, 4], [5, 6]], np.int8)
    w = np.array([[1], [1], [1], [0], [1], [0]], np.int8)
    nest = matrix(
        packed("x", 1, 3, 2), packed("out", 1, 3, 1), StoredWeights(values=w),
        size=(1, 3), step_bytes=6, pads=(0, 1), zp_in=-7,
    )
    got = run(nest, {"x": x}, (3, 1), constants={"p": parameters(UNIT)})
    assert got[:, 0].tolist() == [-14 + 1 + 3, 1 + 2 + 3 + 5, 3 + 4 + 5 - 7]


def test_column_tiles_move_over_the_input() -> None:
    # Depthwise over four channels: tiles of two channels, each with a diagonal of weights.
    x = np.array([[1, 2, 3, 4]], np.int8)
    w = np.array([[10, 0, 30, 0], [0, 20, 0, 1]], np.int8)
    nest = matrix(
        packed("x", 1, 1, 4), packed("out", 1, 1, 4), StoredWeights(values=w),
        size=(1, 1), step_bytes=2, tile_outputs=2, tile_bytes=2,
    )
    got = run(nest, {"x": x}, (1, 4), constants={"p": parameters(*[UNIT] * 4)})
    assert got[0].tolist() == [10, 40, 90, 4]


def test_a_maximum_over_accumulators() -> None:
    x = np.array([[100], [3], [-100], [7]], np.int8)
    nest = matrix(
        packed("x", 1, 4, 1), packed("out", 1, 2, 1),
        StoredWeights(values=np.array([[2]], np.int8)), size=(1, 4), step_bytes=1,
        pool=Window2D(kernel=(1, 3), strides=(1, 2), pads=(0, 1)),
    )
    table = parameters((0, 1 << 16, 17))
    got = run(nest, {"x": x}, (2, 1), constants={"p": table})
    assert got[:, 0].tolist() == [100, 7]


@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_two_activations_multiply_in_byte_planes(
    seed: int, wide_x: bool, wide_w: bool, transpose: bool
) -> None:
    rng = np.random.default_rng(seed)
    reach = {False: 127, True: 3000}
    x = rng.integers(-reach[wide_x], reach[wide_x], (3, 5)).astype(np.int16 if wide_x else np.int8)
    w = rng.integers(-reach[wide_w], reach[wide_w], (5, 4)).astype(np.int16 if wide_w else np.int8)
    stored = np.ascontiguousarray(w.T) if transpose else w
    nest = matrix(
        packed("x", 3, 1, 5, 1 + wide_x), packed("out", 3, 1, 4, 2),
        ActivationWeights(
            operand=packed("w", len(stored), 1, stored.shape[1], 1 + wide_w), transpose=transpose
        ),
        size=(3, 1), step_bytes=5, lo=-32639, hi=32639,
    )
    shift = 16 + 11
    got = run(nest, {"x": x, "w": stored}, (3, 4), width=16,
              constants={"p": parameters(*[(0, 1 << 16, shift)] * 4)})
    exact = x.astype(np.int64) @ w.astype(np.int64)
    assert (got == np.clip(np.rint(exact / 2**11), -32639, 32639)).all()


def test_windows_by_hand() -> None:
    x = np.arange(1, 7, dtype=np.int8).reshape(1, 6, 1)
    window = Window2D(kernel=(1, 3), strides=(1, 2), pads=(0, 1))
    out, a = packed("out", 1, 3, 1), packed("x", 1, 6, 1)
    most = run(vector(Copy(), out, a, window=window), {"x": x}, (3, 1))
    total = run(vector(Copy(reduce=Reduce.SUM), out, a, window=window), {"x": x}, (3, 1))
    assert most[:, 0].tolist() == [2, 4, 6]
    assert total[:, 0].tolist() == [3, 9, 15]
    # By the number of taps inside: a half for two, a quarter for three.
    means = Requantize(parameters="p", reduce=Reduce.MEAN, count=3)
    table = parameters(UNIT, (0, 1 << 16, 17), (0, 1 << 16, 18))
    mean = run(vector(means, out, a, window=window), {"x": x}, (3, 1), constants={"p": table})
    assert mean[:, 0].tolist() == [2, 2, 4]


def test_a_window_without_taps() -> None:
    values = np.ones((1, 2, 1), np.int64)
    window = Window2D(kernel=(1, 1), strides=(1, 1), pads=(0, 3))
    most, count = reduced(values, window, (1, 2), Reduce.MAX)
    assert most.tolist() == [[[-(2**31)], [-(2**31)]]] and count.tolist() == [[0, 0]]
    assert reduced(values, window, (1, 2), Reduce.SUM)[0].tolist() == [[[0], [0]]]


def test_parameters_of_channels_and_of_everything() -> None:
    x = np.full((1, 1, 10), 8, np.int8)
    table = parameters(*[(column, 1 << 16, 16) for column in range(10)])
    for operation, wanted in (
        (Requantize(parameters="p"), list(range(9, 19))),
        (Requantize(parameters="p", reduce=Reduce.MEAN), [9] * 10),
    ):
        nest = vector(operation, packed("out", 1, 1, 10), packed("x", 1, 1, 10), zero_point=1)
        assert run(nest, {"x": x}, (10,), constants={"p": table}).tolist() == wanted


def test_copy_saturates_to_the_narrower_width() -> None:
    x = np.array([300, -300, 5], np.int16)
    nest = vector(Copy(), packed("out", 1, 1, 3), packed("x", 1, 1, 3, 2), hi=100)
    assert run(nest, {"x": x}, (3,)).tolist() == [100, -128, 5]


def test_fill_writes_both_planes() -> None:
    nest = vector(Fill(), packed("out", 1, 1, 3, 2), None, zero_point=-9)
    assert run(nest, {}, (3,), width=16).tolist() == [-9, -9, -9]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Function.ADD, [(9 * 3 - 2 * 5) / 4, (-5 * 3 + 8 * 5) / 4]),
        (Function.MUL, [9 * -2 * 3 / 4, -5 * 8 * 3 / 4]),
        (Function.MIN, [-10 / 4, -15 / 4]),
        (Function.MAX, [27 / 4, 40 / 4]),
    ],
)
def test_binary_by_hand(function: Function, expected: list[float]) -> None:
    operation = Binary(
        function=function, a_zero_point=1, b_zero_point=2, a_multiplier=3, b_multiplier=5, shift=2
    )
    nest = vector(
        operation, packed("out", 1, 1, 2), packed("a", 1, 1, 2), packed("b", 1, 1, 2), zero_point=7
    )
    got = run(nest, {"a": np.array([10, -4], np.int8), "b": np.array([0, 10], np.int8)}, (2,))
    assert got.tolist() == [round(value) + 7 for value in expected]


def test_tables_of_bytes_and_of_knots() -> None:
    x = np.array([-128, 0, 127], np.int8)
    entries = np.arange(-128, 128, dtype=np.int8)[::-1].copy()
    nest = vector(
        Table(table="t", wide=False, shift=8), packed("out", 1, 1, 3), packed("x", 1, 1, 3)
    )
    got = run(nest, {"x": x}, (3,), constants={"t": entries})
    assert got.tolist() == [127, -1, -128]
    knots = (np.arange(257) * 100 - 12800).astype("<i2")
    nest = vector(
        Table(table="t", wide=True, shift=8), packed("out", 1, 1, 3, 2), packed("x", 1, 1, 3, 2),
        lo=-32639, hi=32639,
    )
    wide = np.array([-32639, 128, 32639], np.int16)
    got = run(nest, {"x": wide}, (3,), width=16, constants={"t": knots.view(np.uint8)})
    assert got.tolist() == [round(v * 100 / 256) for v in (-32639, 128, 32639)]


@given(st.integers(-(2**40), 2**40))
def test_wrapping_is_congruence(value: int) -> None:
    (got,) = wrap32(np.array([value]))
    assert (got - value) % 2**32 == 0 and -(2**31) <= got < 2**31


@given(st.lists(st.integers(-32639, 32639), min_size=1, max_size=200))
def test_byte_planes_are_inverse(values: list[int]) -> None:
    codes = np.array(values, np.int16)
    data = byte_planes(codes, 16)
    assert (from_byte_planes(data, codes.size, 16) == codes).all()
    assert data.size == -(-codes.size // 64) * 64 + codes.size
