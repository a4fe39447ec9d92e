"""Two operands and more: broadcasting, constants, widths, one rounding."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_cases import Case
from quantized_cases import check, graph_of
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.ops.pointwise.elementwise import Elementwise, multipliers_of
from systol_hw.errors import InputError


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...], scale: float, zero: int, width: int) -> QTensor:
    return QTensor(
        name=name, shape=shape, scale=float(np.float32(scale)), width=width,
        zero_point=zero if width == 8 else 0,
    )


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
@pytest.mark.parametrize("shapes", [
    ((2, 6, 5, 4), (2, 6, 5, 4)), ((2, 6, 5, 4), (6, 1, 1)), ((1, 6, 1, 1), (2, 6, 5, 4)),
    ((2, 6, 1, 4), (2, 1, 5, 1)), ((5, 1), (2, 6, 5, 4)), ((70,), (3, 70)), ((1,), (2, 40)),
    ((1, 1), (1, 1)), ((), (3,)),
])
def test_two_computed_operands(op: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    checked = Case(op=op, inputs=shapes).check()
    assert checked.kinds == ["elementwise"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
@pytest.mark.parametrize("widths", [
    16, {"x0": 16}, {"x1": 16}, {"y0": 16}, {"x0": 16, "x1": 16}, {"x0": 16, "y0": 16},
])
def test_widths(op: str, widths: int | dict[str, int]) -> None:
    # An operand of 8 bits is coarse: its multiplier leaves few bits to one of 16.
    steps = 14 if widths == {"x0": 16, "y0": 16} else 1.01
    Case(op=op, inputs=((3, 10, 4), (10, 1)), widths=widths).check(steps, export=steps)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
@pytest.mark.parametrize("shape", [
    (), (1,), (6, 1, 1), (4,), (6, 5, 4), (2, 6, 5, 4), (2, 1, 1, 1),
])
@pytest.mark.parametrize("first", [False, True])
def test_constants(op: str, shape: tuple[int, ...], first: bool) -> None:
    inputs: list[tuple[int, ...] | Array] = [(2, 6, 5, 4), values(*shape)]
    checked = Case(op=op, inputs=inputs[::-1] if first else inputs).check(0.54)
    assert len(checked.layers) == 1
    kind = checked.kinds[0]
    if np.prod(shape) == 1:
        assert kind == "table"
    elif op == "Mul" and len(shape) < 4:
        assert kind == ("channel_scale" if shape.count(1) >= len(shape) - 1 else "elementwise")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max"])
@pytest.mark.parametrize("shape", [(), (6, 1), (6, 4)])
def test_constants_with_16_bits(op: str, shape: tuple[int, ...]) -> None:
    Case(op=op, inputs=((2, 6, 4), values(*shape)), widths=16).check(1.0)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Min", "Max"])
@pytest.mark.parametrize("widths", [8, 16])
def test_several_operands(op: str, widths: int) -> None:
    inputs = ((2, 3, 4), (3, 1), (4,), values(3, 4))
    steps = 0.54 if widths == 8 else 2.1
    checked = Case(op=op, inputs=inputs, widths=widths).check(steps, export=max(steps, 1.01))
    assert checked.kinds == ["elementwise"] * 3


@pytest.mark.parametrize("op", ["Sum", "Mean", "Min", "Max"])
def test_one_operand(op: str) -> None:
    assert Case(op=op, inputs=((3, 5),)).check(0.0).kinds == ["rescale"]


@pytest.mark.parametrize("widths", [8, 16, {"y0": 16}, {"x0": 16}])
@pytest.mark.parametrize("op", ["Neg", "Abs"])
def test_signs(op: str, widths: int | dict[str, int]) -> None:
    Case(op=op, inputs=((3, 50),), widths=widths).check(0.6)


def test_a_tensor_with_itself() -> None:
    float_case = Case(op="Add", inputs=((3, 5), (3, 5)))
    assert float_case.check().kinds == ["elementwise"]


def test_a_clip_behind_it_is_fused() -> None:
    checked = Case(op="Add", inputs=((3, 50), (3, 50)), clip=(0.0, 2.0)).check()
    (layer,) = checked.layers
    assert isinstance(layer, Elementwise)
    tensor = checked.graph.tensors["y0"]
    assert layer.lo == tensor.zero_point == -128 and layer.hi == 127


def test_infinite_masks_saturate_and_cost_no_precision() -> None:
    mask = np.triu(np.full((8, 8), -np.inf, np.float32), 1)
    numbers = {"y0": Numbers(scale=5 / 255, zero_point=26)}
    checked = Case(op="Add", inputs=((2, 8, 8), mask), numbers=numbers).check(0.51, export=None)
    assert (checked.codes["y0"][:, mask < 0] == -128).all()


def test_constants_that_no_number_is_are_refused() -> None:
    bad = np.array([1.0, np.nan], np.float32)
    assert "NaN in 'x1'" in Case(op="Add", inputs=((3, 2), bad)).refusal()
    infinite = np.array([1.0, np.inf], np.float32)
    assert "an infinity in 'x1'" in Case(op="Mul", inputs=((3, 2), infinite)).refusal()


shapes = st.lists(st.integers(1, 9), max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(st.data(), shapes, st.sampled_from(["Add", "Mul", "Min", "Max"]), st.integers(0, 3))
def test_any_broadcast(
    data: st.DataObject, shape: tuple[int, ...], op: str, seed: int
) -> None:
    def part() -> tuple[int, ...]:
        dims = [1 if data.draw(st.booleans()) and data.draw(st.booleans()) else n for n in shape]
        return tuple(dims[data.draw(st.integers(0, len(dims))) :])

    operands = [part(), part()]
    widths = [data.draw(st.sampled_from([8, 16])) for _ in range(3)]
    tensors = {
        name: tensor(name, dims, scale, zero, width)
        for name, dims, scale, zero, width in zip(
            "aby", [*operands, np.broadcast_shapes(*operands)], (0.1, 0.03, 0.12), (3, -128, 50),
            widths, strict=True,
        )
    }
    factors = Fraction(1), Fraction(-1) if op == "Add" and seed % 2 else Fraction(1)
    multipliers, shift = multipliers_of(
        op, factors, tensors["a"], tensors["b"], tensors["y"]
    )
    layer = Elementwise(
        name="layer", inputs=("a", "b"), outputs=("y",), source_nodes=(), op=op, factors=factors,
        multipliers=multipliers, shift=shift, lo=-100, hi=120,
    )
    check(graph_of([layer], tensors), seed=seed)


def test_multipliers_are_the_nearest_that_fit() -> None:
    a = tensor("a", (1,), 0.1, 0, 8)
    b, y = tensor("b", (1,), 0.037, 0, 8), tensor("y", (1,), 0.05, 0, 8)
    one = Fraction(1)
    (first, second), shift = multipliers_of("Add", (one, -one), a, b, y)
    assert 2**16 <= first < 2**17 and second < 0
    assert first == round(Fraction(a.scale) / Fraction(y.scale) * 2**shift)
    assert second == -round(Fraction(b.scale) / Fraction(y.scale) * 2**shift)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Neg"])
def test_a_result_that_is_far_finer_than_its_operands_saturates(op: str) -> None:
    numbers = {"y0": Numbers(scale=2.0**-30, zero_point=0)}
    operands = ((3, 50), (3, 50))[: 1 if op == "Neg" else 2]
    checked = Case(op=op, inputs=operands, numbers=numbers).check(export=None)
    assert set(np.unique(checked.codes["y0"])) <= {-128, 0, 127}


def test_other_multipliers_than_those_of_the_scales_are_refused() -> None:
    tensors = {name: tensor(name, (3,), 0.1, 0, 8) for name in "aby"}
    layer = Elementwise(
        name="layer", inputs=("a", "b"), outputs=("y",), source_nodes=(), op="Add",
        factors=(Fraction(1), Fraction(1)), multipliers=(65536, 65535), shift=16, lo=-128, hi=127,
    )
    with pytest.raises(InputError, match="multipliers and shift must be"):
        layer.verify(tensors)
