"""Products of two activations on the simulator, in pieces where they do not fit."""

import numpy as np
import pytest

from operator_cases import codes_of, run_operator
from quantized_cases import evaluate
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.numbers.limits import Array
from systol_compiler.program.backend import Choice, build
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.lowering import lower
from systol_hw.arch import PRESETS, Arch
from systol_sim import simulator
from systol_sim.validity.checker import check


def simulated(graph: QuantizedGraph, given: dict[str, Array], arch: Arch) -> None:
    """Compile a graph of one machine part, simulate it, compare every output."""
    (part,) = graph.parts
    assert isinstance(part, MachinePart)
    emitted = build(lambda images: lower(graph, part, arch), 1, arch, Choice()).emitted
    check(emitted.program)
    known = evaluate(graph, given)
    contents = {
        item.window: byte_planes(
            known[item.tensor].transpose(item.order), graph.tensors[item.tensor].width
        )
        for item in emitted.inputs
    }
    outcome = simulator.run(emitted.program, contents, checked=True)
    assert outcome.fault is None
    windows = dict(
        zip((window.name for window in emitted.program.windows), outcome.windows, strict=True)
    )
    for item in emitted.outputs:
        tensor = graph.tensors[item.tensor]
        stored = tuple(tensor.shape[axis] for axis in item.order)
        codes = from_byte_planes(windows[item.window], tensor.size, tensor.width)
        got = codes.reshape(stored).transpose(np.argsort(item.order))
        np.testing.assert_array_equal(got, known[item.tensor], err_msg=item.tensor)


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize(
    "case",
    [
        ("MatMul", ((1, 20, 300), (1, 300, 20))),
        ("MatMul", ((1, 9, 2000), (1, 2000, 11))),
        ("MatMul", ((2, 3, 30, 40), (2, 3, 40, 50))),
        ("ReduceMean", ((1, 3000, 20),)),
        ("ReduceMean", ((1, 30, 900),)),
        ("Softmax", ((1, 2, 700),)),
        ("RMSNormalization", ((1, 9, 600),)),
    ],
)
def test_pieces_of_what_does_not_fit(
    case: tuple[str, tuple[tuple[int, ...], ...]], width: int
) -> None:
    """The smallest machine has 16 KiB: reductions of thousands run part by part."""
    op, shapes = case
    rng = np.random.default_rng(7)
    inputs = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in zip("xz", shapes, strict=False)
    }
    constants = {
        "ReduceMean": {"axes": np.array([1])},
        "RMSNormalization": {"scale": np.ones(shapes[0][-1], np.float32)},
    }
    result = run_operator(
        op, inputs, constants=constants.get(op), width=width, archs=[],
        attributes={"axis": -1} if op in ("Softmax", "RMSNormalization") else {},
    )
    given = {name: codes_of(result.graph.tensors[name], inputs[name]) for name in inputs}
    simulated(result.graph, given, PRESETS["nano"])
