"""MatMul of computed tensors: every orientation, width and batch, against numpy."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Case, Exporter
from operator_cases import (
    Swapped,
    built,
    flipped,
    layer_builder,
    ordered,
    real_of,
    run_operator,
)
from quantized_cases import ARCHS, check, lowered
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.layer import Order
from systol_compiler.quantized.ops.products.matmul import MatMulLayer, add_matmul, product_shape
from systol_hw.arch import PRESETS
from systol_hw.errors import UnsupportedModelError

Shape = tuple[int, ...]


def product(
    a: Shape, b: Shape, *, widths: tuple[int, int, int] = (8, 8, 8),
    orders: tuple[Order | None, Order | None, Order | None] = (None, None, None),
    bias: Array | None = None, zero_points: tuple[int, int] = (0, 0), archs: tuple[str, ...] = (),
) -> None:
    """Check one product, exactly against its nests and roughly against real numbers."""
    builder = layer_builder()
    operands = []
    for name, shape, width, zero_point in zip("ab", (a, b), widths, zero_points, strict=False):
        tensor = QTensor(
            name=name, shape=shape, scale=0.5 ** (width - 4), zero_point=zero_point, width=width
        )
        builder.tensors[name] = tensor
        operands.append(ordered(builder, tensor, orders[0 if name == "a" else 1]))
    scale = 16 * np.sqrt(a[-1]) * 0.5 ** (widths[2] - 4)
    out = builder.inner(product_shape(a, b), float(scale), 0, widths[2])
    add_matmul(builder, operands[0], operands[1], out, bias=bias)
    shown = ordered(builder, out, orders[2])
    graph = built(builder, [shown.name])
    codes = check(graph, archs=[PRESETS[name] for name in archs] or ARCHS)
    left, right = (real_of(builder.tensors[name], codes[name]) for name in "ab")
    wanted = np.matmul(left, right) + (0 if bias is None else bias)
    low, high = out.bounds
    got = real_of(out, codes[out.name])
    inside = np.abs(wanted) < high * out.scale
    relative = 0.02 if any(zero_points) or a[-1] > 500 else 2**-16
    assert np.abs(got - wanted)[inside].max(initial=0) <= (
        out.scale * 0.51 + relative * np.abs(wanted).max()
    )
    assert low <= codes[out.name].min()


@pytest.mark.parametrize("widths", [(8, 8, 8), (16, 8, 8), (8, 16, 16), (8, 8, 16)])
@pytest.mark.parametrize(
    "shapes", [((5, 3), (3, 4)), ((2, 3, 9, 40), (2, 3, 40, 35)), ((2, 7, 5), (1, 5, 6))]
)
def test_of_every_width(shapes: tuple[Shape, Shape], widths: tuple[int, int, int]) -> None:
    product(*shapes, widths=widths)


@pytest.mark.parametrize(
    "shapes",
    [
        ((6,), (6,)), ((6,), (6, 4)), ((5, 6), (6,)), ((3, 1, 5, 6), (6,)), ((6,), (2, 6, 3)),
        ((1, 1), (1, 1)), ((4, 1, 5, 6), (2, 6, 1)), ((4, 5, 6), (6, 7)), ((5, 6), (4, 6, 7)),
        ((2, 1, 3, 4, 5), (6, 1, 5, 2)), ((3, 1, 1), (3, 1, 8)), ((2, 1, 40), (2, 40, 1)),
    ],
)
def test_of_every_rank_and_broadcast(shapes: tuple[Shape, Shape]) -> None:
    product(*shapes)


@given(data=st.data())
@settings(max_examples=25)
def test_in_every_memory_order(data: st.DataObject) -> None:
    batch = data.draw(st.lists(st.integers(1, 3), max_size=2))
    m, k, n = (data.draw(st.integers(1, 20)) for _ in range(3))
    shapes = (*batch, m, k), (*batch, k, n), (*batch, m, n)
    drawn = [
        data.draw(st.sampled_from(list(permutations(range(len(shape)))))) for shape in shapes
    ]
    widths = [data.draw(st.sampled_from([8, 16])) for _ in range(3)]
    if widths[:2] == [16, 16] and k > 2:
        widths[0] = 8
    product(*shapes[:2], orders=tuple(drawn), widths=tuple(widths), archs=("nano",))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_one_matrix_for_a_whole_batch(order: Order) -> None:
    product((3, 4, 5), (5, 6), orders=(None, None, order), archs=("nano",))
    product((3, 4, 5), (5, 6), orders=(order, None, None), archs=("nano",))
    product((4, 5), (3, 5, 6), orders=(None, order, order), archs=("nano",))


def test_narrows_what_could_overflow_and_recentres_what_is_not_symmetric() -> None:
    product((3, 600), (600, 4), widths=(16, 8, 8))
    product((3, 40), (40, 4), widths=(16, 16, 8))
    product((3, 40), (40, 4), zero_points=(-128, 17))


def test_of_a_bias_belongs_to_the_last_axis() -> None:
    for widths in ((8, 8, 8), (8, 8, 16)):
        product(
            (2, 9, 5), (2, 5, 7), bias=np.linspace(-9, 9, 7), orders=(None, None, (0, 2, 1)),
            widths=widths,
        )
    product((9, 5), (5,), bias=np.linspace(-9, 9, 9))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("operand", [0, 1])
def test_of_operands_that_lie_backwards(operand: int, axis: int) -> None:
    """Lines of weights are read forwards alone, activations either way."""
    builder = layer_builder()
    shapes = ((2, 6, 5), (2, 5, 9))
    operands = []
    for place, shape in enumerate(shapes):
        name = "ab"[place]
        builder.tensors[name] = QTensor(name=name, shape=shape, scale=1.0, zero_point=0)
        tensor = builder.tensors[name]
        operands.append(flipped(builder, tensor, axis) if place == operand else tensor)
    out = builder.inner((2, 6, 9), 300.0, 0)
    add_matmul(builder, operands[0], operands[1], out)
    graph = built(builder, [out.name])
    check(graph)
    for nest in lowered(graph, PRESETS["nano"])[0].nests:
        if isinstance(nest, MatrixNest) and isinstance(nest.weights, ActivationWeights):
            assert nest.weights.operand.line_pitch >= 0


def test_a_factor_multiplies_product_and_bias() -> None:
    builder = layer_builder()
    for name, shape in (("a", (2, 6, 5)), ("b", (2, 5, 9))):
        builder.tensors[name] = QTensor(name=name, shape=shape, scale=0.1, zero_point=0)
    out = builder.inner((2, 6, 9), 1.5, 0)
    bias = np.linspace(-40, 40, 9)
    add_matmul(builder, builder.tensors["a"], builder.tensors["b"], out, bias=bias, factor=0.3)
    graph = built(builder, [out.name])
    codes = check(graph)
    left, right = (real_of(builder.tensors[name], codes[name]) for name in "ab")
    operands = {"a": left.astype(np.float32), "b": right.astype(np.float32)}
    exported = Exporter(graph).run(operands)[out.name]
    assert np.abs(real_of(out, codes[out.name]) - exported).max() <= 1.01 * 1.5
    wanted = np.clip(0.3 * (left @ right + bias), -128 * 1.5, 127 * 1.5)
    assert np.abs(real_of(out, codes[out.name]) - wanted).max() <= 0.51 * 1.5


def test_attention_needs_no_copies() -> None:
    """Scores transposed, as Softmax wants them, out of queries and keys as they lie."""
    builder = layer_builder()
    for name in "qk":
        builder.tensors[name] = QTensor(name=name, shape=(1, 3, 40, 16), scale=1.0, zero_point=0)
    heads = (0, 2, 1, 3)
    query = ordered(builder, builder.tensors["q"], heads)
    key = ordered(builder, builder.tensors["k"], heads)
    out = builder.inner((1, 3, 40, 40), 64.0, 0)
    transposed = builder.inner((1, 3, 16, 40), 1.0, 0)
    builder.add(
        Swapped(
            name="swap", inputs=(key.name,), outputs=(transposed.name,), source_nodes=("node",)
        )
    )
    add_matmul(builder, query, transposed, out)
    shown = ordered(builder, out, (0, 3, 1, 2))
    graph = built(builder, [shown.name])
    check(graph)
    for network in lowered(graph, PRESETS["edge32"]):
        (nest,) = network.nests
        assert isinstance(nest, MatrixNest) and isinstance(nest.weights, ActivationWeights)
        assert nest.output.line_pitch == 3 * 40 and nest.weights.transpose


def test_refuses_what_could_overflow() -> None:
    layer = MatMulLayer(
        name="m", inputs=("a", "b"), outputs=("c",), source_nodes=(), multiplier=1 << 16, shift=16,
        lo=-128, hi=127,
    )
    shapes = {"a": (2, 3), "b": (3, 2), "c": (2, 2)}
    tensors = {
        name: QTensor(name=name, shape=shape, scale=1.0, zero_point=0, width=16)
        for name, shape in shapes.items()
    }
    with pytest.raises(UnsupportedModelError, match="3 products of 16 by 16 bits"):
        layer.verify(tensors)


def test_operator() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 7, 20), (2, 3, 20, 9)))
    assert run_operator("MatMul", {"a": a, "b": b}).steps.max() <= 0.51


def test_exports() -> None:
    Case(op="MatMul", inputs=[(2, 3, 4), (2, 4, 5)]).check(0.6, ARCHS[:1])


def test_with_a_constant_operand_on_either_side() -> None:
    weights = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    behind = Case(op="MatMul", inputs=[(2, 3, 6), weights]).check(20, ARCHS[:1])
    assert behind.kinds == ["linear"]
    before = Case(op="MatMul", inputs=[weights, (2, 4, 3)]).check(20, ARCHS[:1])
    assert before.kinds == ["matmul"] and before.layers[0].batched(before.graph.tensors)
    wider = np.stack([weights, weights])
    alike = Case(op="MatMul", inputs=[wider, (2, 4, 3)]).check(20, ARCHS[:1])
    assert not alike.layers[0].batched(alike.graph.tensors)


def test_refuses_constants_that_no_product_can_have() -> None:
    assert "2 dimensions" in Case(op="MatMul", inputs=[(3,), np.ones((3, 2), np.float32)]).refusal(
    ).replace("two or more", "2")
    infinite = np.full((3, 2), np.inf, np.float32)
    assert "not finite" in Case(op="MatMul", inputs=[(2, 3), infinite]).refusal()
