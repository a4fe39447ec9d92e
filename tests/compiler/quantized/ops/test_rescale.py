"""Clip and Relu alone, and other numbers for the same values."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import built, layer_builder
from quantized_cases import check, lowered
from systol_compiler.nests.vector import Copy, VectorNest
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.ops.rescale import Rescale, add_rescale, matched
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError


@pytest.mark.parametrize("source", [8, 16])
@pytest.mark.parametrize("output", [8, 16])
@pytest.mark.parametrize("factor", [1.0, -0.5, 0.0, 3.0])
def test_widths_and_factors(source: int, output: int, factor: float) -> None:
    builder = layer_builder()
    x = QTensor(
        name="x", shape=(3, 70), scale=0.5 if source == 8 else 0.002, width=source,
        zero_point=-9 if source == 8 else 0,
    )
    builder.tensors["x"] = x
    y = builder.inner(x.shape, 0.7 if output == 8 else 0.003, 11 if output == 8 else 0, output)
    add_rescale(builder, x, y, factor=factor)
    codes = check(built(builder))
    real = (codes["x"].astype(float) - x.zero_point) * x.scale * factor
    low, high = ((bound - y.zero_point) * y.scale for bound in y.bounds)
    steps = ((codes[y.name].astype(float) - y.zero_point) * y.scale - np.clip(real, low, high))
    assert np.abs(steps).max() <= 0.7 * y.scale


def test_the_same_numbers_cost_nothing() -> None:
    builder = layer_builder()
    x = QTensor(name="x", shape=(3, 70), scale=0.5, zero_point=3)
    builder.tensors["x"] = x
    assert matched(builder, x, x) is x
    y = builder.inner(x.shape, 0.5, 3)
    z = builder.inner(x.shape, 0.5, 3)
    add_rescale(builder, x, y)
    add_rescale(builder, y, z, factor=-1)
    graph = built(builder)
    check(graph)
    (network,) = lowered(graph, PRESETS["edge16"])
    assert len(network.nests) == 2  # A run of the array's width, and a rest.


@pytest.mark.parametrize("op", ["Clip", "Relu"])
@pytest.mark.parametrize("widths", [8, 16, {"y0": 16}])
def test_clips(op: str, widths: int | dict[str, int]) -> None:
    bounds = (np.float32(-1), np.float32(1.5)) if op == "Clip" else ()
    checked = Case(op=op, inputs=((3, 50), *bounds), widths=widths).check(0.6)
    assert checked.kinds == ["rescale"]


def test_a_clip_without_new_numbers_copies() -> None:
    numbers = Numbers(scale=0.02, zero_point=5)
    checked = Case(
        op="Clip", inputs=((3, 50), np.float32(-1), np.float32(1.5)),
        numbers={"x0": numbers, "y0": numbers},
    ).check()
    (network,) = lowered(checked.graph, PRESETS["edge16"])
    assert all(
        isinstance(nest, VectorNest) and nest.operation == Copy() for nest in network.nests
    )
    assert (checked.codes["y0"].min(), checked.codes["y0"].max()) == (5 - 50, 5 + 75)


def test_a_wrong_multiplier_is_refused() -> None:
    tensors = {n: QTensor(name=n, shape=(2,), scale=1.0, zero_point=0) for n in "xy"}
    layer = Rescale(
        name="layer", inputs=("x",), outputs=("y",), source_nodes=(), multiplier=65537, shift=16,
        lo=-128, hi=127,
    )
    with pytest.raises(InputError, match=r"is \(65536, 16\), not \(65537, 16\)"):
        layer.verify(tensors)
