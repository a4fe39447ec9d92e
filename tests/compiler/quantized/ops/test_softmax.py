"""Softmax in integers: exact against its nests, and near the real function for any input."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_cases import run_operator
from systol_compiler.graph.float_graph import Graph, GraphOutput, Node, TensorType
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.build import Numbers
from systol_compiler.quantized.operator import registry
from systol_compiler.quantized.ops.reductions.ranged_sum import ranges
from systol_hw.arch import PRESETS

NANO = [PRESETS["nano"]]
QUARTERS = Numbers(scale=1 / 256, zero_point=-128)


def rows(kind: str, length: int, spread: float, seed: int) -> Array:
    """Rows that are random, nearly equal, of one large element, descending, or of two values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, length)) * spread
    if kind == "peak":
        x[:, 0] = 20 * spread
    elif kind == "stairs":
        x = np.linspace(0, -spread, length) + 0 * x
    elif kind == "two":
        x = np.where(rng.random(x.shape) < 0.5, -spread, spread)
    elif kind == "low":
        x -= 5 * spread
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "peak", "stairs", "two", "low"])
@pytest.mark.parametrize("length", [1, 2, 7, 12, 13, 64, 145, 300, 1024])
def test_within_a_step_of_the_exact_function(kind: str, length: int) -> None:
    for spread in (0.02, 1.0, 6.0, 40.0):
        for width in (8, 16):
            x = rows(kind, length, spread, length)
            archs = NANO if length < 20 and width == 8 else []
            result = run_operator("Softmax", {"x": x}, output=QUARTERS, width=width, archs=archs)
            assert result.steps.max() < 1.0, (spread, width)
            assert (result.steps > 0.6).mean() < 0.01, (spread, width)


@pytest.mark.parametrize("width", [8, 16])
def test_of_results_with_finer_steps(width: int) -> None:
    """Long rows of nearly equal elements have small results: fine steps, and no row far off."""
    x = rows("random", 1024, 0.5, 1)
    greatest = float((np.exp(x) / np.exp(x).sum(1, keepdims=True)).max())
    output = Numbers(scale=greatest / 127, zero_point=0)
    result = run_operator("Softmax", {"x": x}, output=output, width=width, archs=[])
    assert result.steps.max() < 1.2
    # A row that calibration never saw.
    x[0] = -3.0
    x[0, 5], x[0, 6], x[0, 7] = 3.0, 2.0, -1.5
    result = run_operator("Softmax", {"x": x}, output=output, width=width, archs=[])
    assert result.steps.max() < 2.0


@given(data=st.data())
@settings(max_examples=25)
def test_along_any_axis(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    op = data.draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    x = np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32) * 3
    result = run_operator(
        op, {"x": x}, attributes={"axis": axis}, archs=NANO,
        width=data.draw(st.sampled_from([8, 16])), output=QUARTERS if op == "Softmax" else None,
    )
    assert result.steps.max() < 1.0


def test_log_softmax() -> None:
    for spread in (0.1, 3.0, 50.0):
        x = rows("random", 100, spread, 3)
        assert run_operator("LogSoftmax", {"x": x}).steps.max() < 0.7


def test_of_attention_on_every_machine() -> None:
    x = np.random.default_rng(2).normal(size=(1, 2, 40, 40)).astype(np.float32) * 2
    result = run_operator("Softmax", {"x": x}, output=Numbers(scale=1 / 127, zero_point=0))
    assert result.steps.max() < 0.7


def test_of_masked_scores() -> None:
    """Forbidden elements are far below all others and get nothing."""
    x = np.random.default_rng(2).normal(size=(4, 9)).astype(np.float32) * 4
    masked = x + np.triu(np.full((4, 9), -1e4, np.float32), 1)
    result = run_operator(
        "Softmax", {"x": np.maximum(masked, -127.5)}, width=16, output=QUARTERS, archs=NANO
    )
    assert result.steps.max() < 1.0
    assert (result.got[masked < -1e3] == 0).all()


def graph(producer: Node | None, readers: list[Node], constants: dict[str, Array]) -> Graph:
    softmax = Node(name="s", op="Softmax", inputs=("x",), outputs=("y",), sources=("s",))
    names = {"a", "x", "y", *(out for node in readers for out in node.outputs)}
    types = {name: TensorType(dtype="float32", shape=(2, 3, 3)) for name in (*names, *constants)}
    nodes = (*([producer] if producer else []), softmax, *readers)
    shown = readers[-1].outputs[0] if readers else "y"
    return Graph(
        name="g", opset=18, inputs=("a",) if producer else ("x",), nodes=nodes, types=types,
        outputs=(GraphOutput(name="o", tensor=shown),), constants=constants,
    )


def reader(op: str, source: str, out: str) -> Node:
    return Node(name=out, op=op, inputs=(source,), outputs=(out,), sources=(out,))


def test_at_the_end_of_a_model_it_stays_on_the_host() -> None:
    softmax = registry()["Softmax"]
    scores = Node(name="a", op="Relu", inputs=("a",), outputs=("x",), sources=("a",))
    for readers in ([], [reader("Reshape", "y", "z")]):
        last = graph(scores, readers, {})
        broken = softmax.broken(last.nodes[1], last)
        assert broken is not None and "at the end of a model" in broken[0].text
    behind = [reader("Transpose", "y", "t"), reader("MatMul", "t", "z")]
    for readers in ([reader("Relu", "y", "z")], behind):
        within = graph(scores, readers, {})
        assert softmax.broken(within.nodes[1], within) is None
    alone = graph(None, [], {})
    assert softmax.broken(alone.nodes[0], alone) is None


def test_masked_scores_have_16_bits() -> None:
    softmax = registry()["Softmax"]
    add = Node(name="a", op="Add", inputs=("a", "m"), outputs=("x",), sources=("a",))
    for value, wide in ((-1e9, True), (-np.inf, True), (-2.0, False)):
        mask = {"m": np.array([0, value], np.float32)}
        masked = graph(add, [reader("MatMul", "y", "z")], mask)
        wish = softmax.wish(masked.nodes[1], masked)
        assert (wish.wide == ("x",)) is wide and bool(wish.fixed) is wide


def test_ranges_meet_and_cover() -> None:
    for length in (1.0, 2.0, 12.0, 13.0, 1000.0, 65_000.0):
        spans = ranges(1.0, length)
        assert spans[0][0] == 1.0 and spans[-1][1] >= length
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        assert all(high / low < 12.0001 for low, high in spans)


def test_exports() -> None:
    x = np.random.default_rng(5).normal(size=(3, 20, 5)).astype(np.float32) * 3
    for op in ("Softmax", "LogSoftmax"):
        for width in (8, 16):
            run_operator(op, {"x": x}, attributes={"axis": 1}, width=width, archs=[], export=1.01)
