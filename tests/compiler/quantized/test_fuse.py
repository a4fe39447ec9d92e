"""What joins an operator: a bias, a factor and a clip, in this order, where nobody else looks."""

from math import inf

import numpy as np
import pytest

from systol_compiler.graph.float_graph import Array, Graph, GraphOutput, Node, TensorType
from systol_compiler.quantized.build import MachineNode
from systol_compiler.quantized.fuse import fuse
from systol_compiler.quantized.operator import registry

SHAPE = (2, 3, 3)


def units(*steps: tuple[str, Array], shown: str = "") -> list[MachineNode]:
    """MatMul of a and b, and `steps` with a constant each behind it."""
    nodes = [Node(name="t0", op="MatMul", inputs=("a", "b"), outputs=("t0",), sources=("t0",))]
    constants = {}
    for place, (op, value) in enumerate(steps, 1):
        constants[f"c{place}"] = value
        nodes.append(
            Node(name=f"t{place}", op=op, inputs=(f"t{place - 1}", f"c{place}"),
                 outputs=(f"t{place}",), sources=(f"t{place}",))
        )
    types = {name: TensorType(dtype="float32", shape=SHAPE)
             for name in ("a", "b", *(node.name for node in nodes))}
    types |= {name: TensorType(dtype="float32", shape=value.shape)
              for name, value in constants.items()}
    outputs = [nodes[-1].name, *([shown] if shown else [])]
    graph = Graph(
        name="g", opset=18, inputs=("a", "b"), nodes=tuple(nodes), constants=constants,
        types=types, outputs=tuple(GraphOutput(name=name, tensor=name) for name in outputs),
    )
    found = fuse(graph, lambda node: registry().get(node.op))
    return [unit for unit in found if isinstance(unit, MachineNode)]


def number(value: float) -> Array:
    return np.array(value, np.float32)


BIAS = np.arange(3, dtype=np.float32)


def test_a_factor_behind_a_bias() -> None:
    (unit,) = units(("Add", BIAS), ("Mul", number(0.5)))
    assert (unit.bias, unit.factor, unit.output) == ("c1", 0.5, "t2")
    assert unit.sources == ("t0", "t1", "t2") and unit.greatest == inf


@pytest.mark.parametrize("factor", [number(-0.5), number(0), number(inf), BIAS + 1])
def test_only_one_positive_number(factor: Array) -> None:
    unit, other = units(("Mul", factor))
    assert unit.factor == 1 and unit.output == "t0" and other.node.op == "Mul"


def test_not_what_somebody_sees() -> None:
    unit, _ = units(("Mul", number(0.5)), shown="t0")
    assert unit.factor == 1


def test_a_bias_behind_a_factor_stays_outside() -> None:
    unit, other = units(("Mul", number(0.5)), ("Add", BIAS))
    assert unit.factor == 0.5 and unit.bias == "" and other.node.op == "Add"
