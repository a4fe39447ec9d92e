"""Slices and pieces are views."""

import numpy as np
import pytest

from node_cases import Case
from quantized_cases import lowered
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.ops.moves.slice import Slice
from systol_hw.arch import PRESETS


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


@pytest.mark.parametrize("parts", [
    (ints(1), ints(5)),
    (ints(1, 2), ints(5, -1)),
    (ints(-1), ints(-(2**62)), ints(1), ints(-1)),
    (ints(-2), ints(-7), ints(-1), ints(-2)),
    (ints(0, 7), ints(2**40, 0), ints(0, 1), ints(3, -3)),
])
@pytest.mark.parametrize("widths", [8, 16])
def test_slices(parts: tuple[Array, ...], widths: int) -> None:
    checked = Case(op="Slice", inputs=((6, 9), *parts), widths=widths).check(0.0)
    assert checked.kinds == ["slice"]


@pytest.mark.parametrize(("sizes", "outputs", "attributes"), [
    ((ints(1, 2, 3),), 3, {}), ((ints(4, 5),), 2, {"axis": 1}), ((), 3, {"num_outputs": 3}),
    ((), 2, {"axis": -1, "num_outputs": 2}),
])
def test_pieces(
    sizes: tuple[Array, ...], outputs: int, attributes: dict[str, int]
) -> None:
    case = Case(op="Split", inputs=((6, 9), *sizes), outputs=outputs, attributes=attributes)
    checked = case.check(0.0)
    assert checked.kinds == ["slice"]
    assert len(checked.layers[0].outputs) == outputs


def test_pieces_with_numbers_of_their_own() -> None:
    numbers = {"y1": Numbers(scale=0.0625, zero_point=3)}
    case = Case(op="Split", inputs=((6, 9), ints(2, 4)), outputs=2, numbers=numbers)
    assert case.check().kinds == ["slice", "rescale", "slice"]


def test_only_an_output_is_copied() -> None:
    checked = Case(op="Slice", inputs=((6, 64), ints(1), ints(5))).check(0.0)
    (network,) = lowered(checked.graph, PRESETS["edge32"])
    assert [nest.layer for nest in network.nests] == ["y0.output"]


def test_the_batch() -> None:
    checked = Case(op="Slice", inputs=((6, 9), ints(1), ints(5), ints(1))).build()[1]
    (layer,) = checked.machine_layers
    assert isinstance(layer, Slice)
    assert layer.batched(checked.tensors)
    whole = Case(op="Slice", inputs=((6, 9), ints(-1), ints(-99), ints(0), ints(-1))).build()[1]
    assert not whole.machine_layers[0].batched(whole.tensors)
