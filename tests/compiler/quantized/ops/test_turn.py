"""A memory order of its own: nothing but bytes that move, and none where they lie so already."""

import pytest

from operator_cases import built, layer_builder, ordered
from quantized_cases import check, lowered
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.moves.turn import Turn, turned
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError


@pytest.mark.parametrize("width", [8, 16])
def test_changes_no_value(width: int) -> None:
    builder = layer_builder()
    builder.tensors["x"] = QTensor(
        name="x", shape=(2, 30, 20), scale=1.0, zero_point=0, width=width
    )
    lying = ordered(builder, builder.tensors["x"], (0, 1, 2))
    result = turned(builder, lying, (0, 2, 1))
    codes = check(built(builder, [result.name]))
    assert (codes[result.name] == codes["x"]).all()


def test_is_a_view_of_what_lies_so_already() -> None:
    builder = layer_builder()
    builder.tensors["x"] = QTensor(name="x", shape=(2, 30), scale=1.0, zero_point=0)
    once = turned(builder, builder.tensors["x"], (1, 0))
    twice = turned(builder, once, (1, 0))
    # An input is copied once to be an output; turning it twice adds nothing.
    (one,) = lowered(built(builder, [once.name]), PRESETS["nano"])
    (two,) = lowered(built(builder, [twice.name]), PRESETS["nano"])
    assert len(one.nests) == len(two.nests)


def test_keeps_shape_and_numbers() -> None:
    x = QTensor(name="x", shape=(2, 3), scale=1.0, zero_point=0)
    y = QTensor(name="y", shape=(2, 3), scale=2.0, zero_point=0)
    layer = Turn(name="t", inputs=("x",), outputs=("y",), source_nodes=(), order=(1, 0))
    with pytest.raises(InputError, match="neither shape nor numbers"):
        layer.verify({"x": x, "y": y})
