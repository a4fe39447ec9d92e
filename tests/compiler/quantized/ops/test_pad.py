"""Paddings of every mode, on every side."""

import numpy as np
import pytest

from node_cases import Case
from operator_cases import built, layer_builder, ordered
from quantized_cases import check, lowered
from systol_compiler.graph.float_graph import Graph, Node, TensorType
from systol_compiler.nests.vector import Fill, VectorNest
from systol_compiler.numbers.limits import Array
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.moves.pad import Pad, short_pads
from systol_compiler.quantized.ops.rescale import add_rescale
from systol_hw.arch import PRESETS


def pads(*values: int) -> Array:
    return np.array(values, np.int64)


@pytest.mark.parametrize("widths", [8, 16])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("given", [
    (0, 0, 1, 2, 0, 0, 2, 1), (1, 0, 0, 0, 0, 2, 0, 0), (0, 0, 3, 4, 0, 0, 3, 4),
    (0, -1, 2, 0, 0, 0, 0, -2),
])
def test_modes(mode: str, given: tuple[int, ...], widths: int) -> None:
    case = Case(
        op="Pad", inputs=((2, 3, 5, 6), pads(*given)), attributes={"mode": mode}, widths=widths
    )
    assert case.check(0.0).kinds == (["slice", "pad"] if min(given) < 0 else ["pad"])


@pytest.mark.parametrize("value", [1.5, -2.0, -np.inf])
def test_values(value: float) -> None:
    case = Case(op="Pad", inputs=((3, 40), pads(1, 2, 3, 4), np.float32(value)))
    checked = case.check(export=None)
    (layer,) = checked.layers
    assert isinstance(layer, Pad) and (layer.value == -128) == (value == -np.inf)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_every_byte_is_written_once(mode: str) -> None:
    case = Case(
        op="Pad", inputs=((2, 3, 5, 6), pads(1, 0, 2, 1, 0, 1, 2, 1)), attributes={"mode": mode}
    )
    (network,) = lowered(case.check(0.0).graph, PRESETS["edge16"])
    assert sum(nest.output.box.size for nest in network.nests) == 3 * 4 * 9 * 8


def test_some_axes() -> None:
    case = Case(op="Pad", inputs=((3, 4, 5), pads(1, 2), np.float32(0), pads(-2)))
    assert case.check(0.0).codes["y0"].shape == (3, 7, 5)


def test_taking_away_is_a_slice() -> None:
    assert Case(op="Pad", inputs=((4, 5), pads(-1, 0, -1, -1))).check(0.0).kinds == ["slice"]


def test_nothing() -> None:
    assert Case(op="Pad", inputs=((4, 5), pads(0, 0, 0, 0))).check(0.0).kinds == ["rescale"]


def test_the_producer_writes_the_inside() -> None:
    builder = layer_builder()
    x = QTensor(name="x", shape=(1, 32, 4, 5), scale=0.5, zero_point=3)
    builder.tensors["x"] = x
    lying = ordered(builder, x, (0, 2, 3, 1))
    inner = builder.inner(x.shape, 0.5, 3)
    add_rescale(builder, lying, inner, factor=-1, suffix="made")
    output = builder.inner((1, 32, 6, 7), 0.5, 3)
    builder.add(
        Pad(name="pad", inputs=(inner.name,), outputs=(output.name,), source_nodes=(),
            before=(0, 0, 1, 1), after=(0, 0, 1, 1), mode="constant", value=3)
    )
    graph = built(builder)
    check(graph)
    (network,) = lowered(graph, PRESETS["edge32"])
    border = [nest for nest in network.nests if nest.layer == "pad"]
    assert len(border) == 4
    for nest in border:
        assert isinstance(nest, VectorNest) and isinstance(nest.operation, Fill)


def test_long_reflections_are_refused() -> None:
    node = Node(name="p", op="Pad", inputs=("x", "n"), outputs=("y",), sources=(),
                attributes={"mode": "reflect"})
    graph = Graph(
        name="g", opset=22, inputs=("x",), outputs=(), nodes=(node,), constants={"n": pads(3, 0)},
        types={"x": TensorType(dtype="float32", shape=(3,))},
    )
    assert short_pads(node, graph) == "pads 3 and 0 of axis 0 of size 3"
