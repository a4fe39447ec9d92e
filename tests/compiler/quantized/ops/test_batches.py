"""Layers that say they are independent of the batch compute each item as alone."""

from dataclasses import replace

import numpy as np
import pytest

from node_cases import Case
from quantized_cases import check, evaluate, random_codes
from systol_compiler.numbers.limits import Array


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


INDEPENDENT = [
    Case(op="Add", inputs=((1, 6, 4), (1, 6, 1))),
    Case(op="Add", inputs=((1, 6, 4), floats(6, 1))),
    Case(op="Sub", inputs=(floats(1, 6, 4), (1, 6, 4))),
    Case(op="Mul", inputs=((1, 6, 4), floats(6, 1))),
    Case(op="Mul", inputs=((1, 6, 4), floats(6, 4))),
    Case(op="Mean", inputs=((1, 6), (1, 1), floats(6))),
    Case(op="Div", inputs=((1, 6, 4), (1, 6, 4)), low=0.5, high=3.0),
    Case(op="Tanh", inputs=((1, 6, 4),)),
    Case(op="PRelu", inputs=((1, 6, 4), floats(6, 1) / 4)),
    Case(op="Clip", inputs=((1, 6), np.float32(0), np.float32(1))),
    Case(op="Where", inputs=(floats(6, 4) > 0, (1, 6, 4), floats(4))),
    Case(op="Transpose", inputs=((1, 6, 4),), attributes={"perm": [0, 2, 1]}),
    Case(op="Reshape", inputs=((1, 6, 4), ints(1, 3, 8))),
    Case(op="Flatten", inputs=((1, 6, 4),)),
    Case(op="Slice", inputs=((1, 6), ints(1), ints(4), ints(1))),
    Case(op="Split", inputs=((1, 6), ints(2, 4)), attributes={"axis": 1}, outputs=2),
    Case(op="Concat", inputs=((1, 6), (1, 3)), attributes={"axis": 1}),
    Case(op="Pad", inputs=((1, 6), ints(0, 1, 0, 2))),
    Case(op="Gather", inputs=((1, 6), ints(1, 5, 3)), attributes={"axis": 1}),
    Case(op="Expand", inputs=((1, 6, 1), ints(1, 6, 4))),
    Case(op="Tile", inputs=((1, 6), ints(1, 2))),
    Case(op="DepthToSpace", inputs=((1, 8, 2, 3),), attributes={"blocksize": 2}),
    Case(op="Resize", inputs=((1, 2, 3, 4), None, np.array([1, 1, 2, 1.5], np.float32))),
    Case(op="Resize", inputs=((1, 2, 3, 4), None, np.array([1, 1, 2, 1.5], np.float32)),
         attributes={"mode": "linear"}),
]

DEPENDENT = [
    Case(op="Add", inputs=((1, 6, 4), (6, 1))),
    Case(op="Add", inputs=((2, 6), floats(2, 6))),
    Case(op="Transpose", inputs=((4, 4),)),
    Case(op="Reshape", inputs=((1, 6, 4), ints(6, 4))),
    Case(op="Slice", inputs=((6,), ints(-1), ints(-99), ints(0), ints(-1))),
    Case(op="Concat", inputs=((1, 6), (1, 6)), attributes={"axis": 0}),
    Case(op="Gather", inputs=((3, 6), ints(2, 1, 0)), attributes={"axis": 0}),
    Case(op="Pad", inputs=((1, 6), ints(1, 0, 0, 0))),
    Case(op="Expand", inputs=((6,), ints(1, 6))),
    Case(op="Squeeze", inputs=((1, 6), ints(0))),
]


@pytest.mark.parametrize("case", INDEPENDENT, ids=lambda case: case.op)
def test_items_are_independent(case: Case) -> None:
    _, graph = case.build()
    for layer in graph.machine_layers:
        assert layer.batched(graph.tensors), layer
    whole = graph.with_batch(3)
    inputs = [n for n in graph.tensors if n.startswith("x") and n not in graph.constants
              and any(n in layer.inputs for layer in graph.machine_layers)]
    codes = {name: random_codes(whole.tensors[name]) for name in inputs}
    together = check(whole, codes)
    for item in range(3):
        alone = evaluate(graph, {name: part[item : item + 1] for name, part in codes.items()})
        for layer in graph.machine_layers:
            for name in layer.outputs:
                assert (together[name][item] == alone[name][0]).all(), (name, item)


@pytest.mark.parametrize("case", DEPENDENT, ids=lambda case: case.op)
def test_items_that_are_not(case: Case) -> None:
    _, graph = replace(case).build()
    assert not all(layer.batched(graph.tensors) for layer in graph.machine_layers)
