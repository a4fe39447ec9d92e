"""The builder of nests: whatever views look like, its nests move and combine the right elements."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.building.builder import NestBuilder
from systol_compiler.nests.interpret import interpret
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.vector import Binary, Copy
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import PRESETS
from systol_hw.isa.choices import Function

ARCHS = tuple(PRESETS[name] for name in ("nano", "edge32"))

shapes = st.lists(st.integers(1, 6), min_size=0, max_size=5).map(tuple)


def codes(shape: tuple[int, ...], width: int, seed: int) -> Array:
    low, high = (-128, 127) if width == 8 else (-32639, 32639)
    kind = np.int8 if width == 8 else np.int16
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(kind)


class Bench:
    """A builder with inputs, and what they look like under the same moves in numpy."""

    def __init__(self, data: st.DataObject, arch_index: int) -> None:
        self.data, self.arch = data, ARCHS[arch_index]
        self.tensors: dict[str, QTensor] = {}
        self.orders: dict[str, tuple[int, ...]] = {}
        self.values: dict[str, Array] = {}
        self.builder = NestBuilder(self.arch, self.tensors, self.orders)
        self.builder.layer = "layer"

    def describe(self, name: str, shape: tuple[int, ...], width: int) -> None:
        self.tensors[name] = QTensor(name=name, shape=shape, scale=1.0, zero_point=0, width=width)
        self.orders[name] = tuple(self.data.draw(st.permutations(range(len(shape)))))

    def input(self, name: str, shape: tuple[int, ...], width: int) -> tuple[View, Array]:
        """A transposed, cut, stepped, reversed part of a larger tensor, of shape `shape`."""
        draw = self.data.draw
        steps = [draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in shape]
        starts = [draw(st.integers(0, 2)) for _ in shape]
        broad = [draw(st.booleans()) if draw(st.booleans()) else False for _ in shape]
        sizes = [1 if b else n for n, b in zip(shape, broad, strict=True)]
        whole = tuple(
            start + (n - 1) * abs(step) + 1 + draw(st.integers(0, 1))
            for n, step, start in zip(sizes, steps, starts, strict=True)
        )
        self.describe(name, whole, width)
        values = self.values[name] = codes(whole, width, len(self.values))
        constant = draw(st.booleans())
        if constant:
            self.builder.add_constant(name, values)
        else:
            self.builder.add_input(name)
        view, part = self.builder.view(name), values
        for axis, (n, step, start) in enumerate(zip(sizes, steps, starts, strict=True)):
            first = start if step > 0 else start + (n - 1) * -step
            view = view.slice(axis, first, n, step)
            index = first + np.arange(n) * step
            part = part.take(index, axis)
        return view.expand(shape), np.broadcast_to(part, shape)

    def run(self, out: str) -> Array:
        builder = self.builder
        view = builder.view(out)
        builder.buffers[view.buffer] = replace(
            builder.buffers[view.buffer], home=Home.OUTPUT, tensor=out, order=self.orders[out]
        )
        network = LoweredNetwork(
            name="bench", images=1, buffers=builder.buffers, nests=tuple(builder.nests)
        )
        network.verify()
        result = interpret(network, self.tensors, self.values, self.arch)
        return result[out]


@given(st.data(), shapes, st.integers(0, 1), st.sampled_from([8, 16]))
def test_copies(data: st.DataObject, shape: tuple[int, ...], arch: int, width: int) -> None:
    bench = Bench(data, arch)
    view, expected = bench.input("x", shape, width)
    bench.describe("out", shape, width)
    bench.builder.elementwise(Copy(), bench.builder.place("out"), view)
    assert (bench.run("out") == expected).all()


@given(st.data(), shapes, st.integers(0, 1), st.sampled_from([8, 16]))
def test_packing(data: st.DataObject, shape: tuple[int, ...], arch: int, width: int) -> None:
    bench = Bench(data, arch)
    view, expected = bench.input("x", shape, width)
    bench.describe("out", shape, width)
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    packed = bench.builder.packed(view, order)
    assert packed.is_packed(order)
    bench.builder.elementwise(Copy(), bench.builder.place("out"), packed)
    assert (bench.run("out") == expected).all()


@given(st.data(), shapes, st.integers(0, 1), st.sampled_from([8, 16]), st.sampled_from([8, 16]))
def test_two_operands(
    data: st.DataObject, shape: tuple[int, ...], arch: int, width_a: int, width_b: int
) -> None:
    bench = Bench(data, arch)
    a, values_a = bench.input("a", shape, width_a)
    b, values_b = bench.input("b", shape, width_b)
    bench.describe("out", shape, 16)
    operation = Binary(
        function=Function.ADD, a_zero_point=0, b_zero_point=0, a_multiplier=3, b_multiplier=5,
        shift=2,
    )
    bench.builder.elementwise(operation, bench.builder.place("out"), a, b)
    exact = values_a.astype(np.int64) * 3 + values_b.astype(np.int64) * 5
    expected = np.clip(np.rint(exact / 4), -32639, 32639)
    assert (bench.run("out") == expected).all()


def test_long_runs_become_rows_of_the_arrays_width() -> None:
    builder = NestBuilder(ARCHS[1], {}, {})
    builder.layer = "layer"
    a, out = builder.scratch((1000,), (0,)), builder.scratch((1000,), (0,))
    builder.elementwise(Copy(), out, a)
    first, rest = builder.nests
    assert (first.output.lines, first.output.positions, first.output.width) == (31, 1, 32)
    assert (rest.output.planes, rest.output.width) == ((992,), 8)
