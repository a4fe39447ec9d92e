"""Canonical forms of random operators mean what the operators meant."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from canonical_forms import broken_forms
from onnx_run import Array, run_model
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx
from systol_hw.errors import SystolError, UnsupportedModelError

SEEDS = st.integers(0, 2**32 - 1)


def canonical(
    text: str,
    seed: int,
    *,
    opset: int = 19,
    inputs: str = "float[2,3,9,8] x",
    outputs: str = "y",
    **weights: Any,
) -> Graph:
    """The canonical graph, after a check that it means the same under ONNX Runtime."""
    declared = ", ".join(f"float[A] {name}" for name in outputs.split())
    graph = parser.parse_graph(f"g ({inputs}) => ({declared}) {{ {text} }}")
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10
    )
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {
        value.name: rng.normal(
            size=[dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for value in graph.input
    }
    try:
        wanted = run_model(proto, feeds)
    except Exception:  # what ONNX Runtime does not run has no meaning to compare with
        assume(False)
    result = run_pipeline(import_onnx(proto))
    result.verify()
    assert list(broken_forms(result)) == []
    for right, found in zip(wanted, run_model(result.to_onnx(), feeds), strict=True):
        assert found.shape == right.shape
        np.testing.assert_allclose(found, right, rtol=3e-4, atol=3e-4)
    return result


def weights(seed: int, *shape: int) -> Array:
    scale = max(int(np.prod(shape[1:])), 1) ** -0.5
    values = np.random.default_rng(seed + 1).normal(size=shape) * scale
    return np.asarray(values, dtype=np.float32)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=150, deadline=None)
@given(
    seed=SEEDS,
    op=st.sampled_from(["MaxPool", "AveragePool", "AveragePool<count>"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=pairs,
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    ceil=st.booleans(),
)
def test_pools(
    seed: int,
    op: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    ceil: bool,
) -> None:
    name, _, count = op.partition("<")
    if ceil and count:
        dilations = (1, 1)
    attributes = (
        f"kernel_shape={list(kernel)}, strides={list(strides)}, pads={list(pads)}, "
        f"dilations={list(dilations)}, ceil_mode={int(ceil)}"
    ) + (", count_include_pad=1" if count else "")
    try:
        canonical(f"y = {name}<{attributes}>(x)", seed)
    except UnsupportedModelError as error:
        assert dilations != (1, 1) and "rounding its size up" in str(error)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    group=st.sampled_from([1, 3]),
    kernel=pairs,
    strides=pairs,
    dilations=pairs,
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    mode=st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID", "shape"]),
    bias=st.booleans(),
    follower=st.sampled_from(["norm", "relu", "scale"]),
)
def test_transposed_convolutions(
    seed: int,
    group: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    extra: tuple[int, int],
    mode: str,
    bias: bool,
    follower: str,
) -> None:
    attributes = [f"strides={list(strides)}", f"dilations={list(dilations)}", f"group={group}"]
    if all(a < b for a, b in zip(extra, strides, strict=True)):
        attributes.append(f"output_padding={list(extra)}")
    if mode == "pads":
        attributes.append(f"pads={list(pads)}")
    elif mode == "shape":
        sizes = [s * n + (k - 1) * d for s, n, k, d in
                 zip(strides, (8, 7), kernel, dilations, strict=True)]  # fmt: skip
        attributes.append(f"output_shape={sizes}")
    else:
        attributes.append(f'auto_pad="{mode}"')
    channels = 2 * group
    steps = {
        "norm": "y = BatchNormalization(c, g, b, m, v)",
        "relu": "y = Relu(c)",
        "scale": "d = Mul(c, k) e = Neg(d) y = Sub(e, k)",
    }
    graph = canonical(
        f"c = ConvTranspose<{', '.join(attributes)}>(x, w{', b' if bias else ''}) "
        f"{steps[follower]}",
        seed, w=weights(seed, 3, 2, *kernel), b=weights(seed, channels),
        g=weights(seed + 2, channels), m=weights(seed + 3, channels),
        v=np.abs(weights(seed + 4, channels)) + 0.3, k=weights(seed + 5, channels, 1, 1),
    )  # fmt: skip
    ops = [node.op for node in graph.nodes]
    assert ops == ["ConvTranspose", *(["Clip"] if follower == "relu" else [])]


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    group=st.sampled_from([1, 3]),
    pads=st.sampled_from([[0, 0, 0, 0], [1, 0, 0, 1]]),
    before=st.sampled_from(["", "m", "a", "ma", "n"]),
    after=st.sampled_from(["", "n", "ma", "nn"]),
)
def test_affines_around_grouped_convolutions(
    seed: int, group: int, pads: list[int], before: str, after: str
) -> None:
    steps = {
        "m": "Mul({}, {}k)",
        "a": "Sub({}, {}k)",
        "n": "BatchNormalization({}, {}g, {}b, {}m, {}v)",
    }
    text, last = "", "x"
    values: dict[str, Any] = {}
    for side, kinds in (("p", before), ("q", after)):
        if side == "q":
            text += f" c = Conv<group={group}, pads={pads}>({last}, w)"
            last = "c"
        for index, kind in enumerate(kinds):
            stem = f"{side}{index}"
            text += f" {stem}t = {steps[kind].replace('{}', last, 1).replace('{}', stem)}"
            last = f"{stem}t"
            channels = 3 if side == "p" else 6
            for part in "gbmk":
                shape = (channels, 1, 1) if part == "k" else (channels,)
                values[stem + part] = weights(seed + index + ord(part), *shape)
            values[stem + "v"] = np.abs(weights(seed + index, channels)) + 0.3
    graph = canonical(f"{text} y = Relu({last})", seed, w=weights(seed, 6, 3 // group, 3, 2),
                      **values)  # fmt: skip
    exact = not any(pads) or before in ("", "m")
    counts = Counter(node.op for node in graph.nodes)
    if exact:
        assert counts == {"Conv": 1, "Clip": 1}
    else:
        assert counts["Conv"] + counts["Add"] == 2


@settings(max_examples=100, deadline=None)
@given(
    seed=SEEDS,
    starts=st.tuples(*[st.integers(-10, 9)] * 2),
    ends=st.tuples(*[st.integers(-12, 12)] * 2),
    steps=st.tuples(*[st.sampled_from([1, 2, 3, -1, -2])] * 2),
    again=st.booleans(),
)
def test_slices(
    seed: int,
    starts: tuple[int, int],
    ends: tuple[int, int],
    steps: tuple[int, int],
    again: bool,
) -> None:
    text = "a = Slice(x, s, e, ax, st) " + ("y = Slice(a, s, e, ax, st)" if again else "y = Neg(a)")
    try:
        graph = canonical(
            text, seed, s=np.array(starts), e=np.array(ends), ax=np.array([2, 3]),
            st=np.array(steps),
        )  # fmt: skip
    except SystolError as error:
        assert "an output must have elements" in str(error)  # an empty slice
        return
    assert Counter(node.op for node in graph.nodes)["Slice"] <= 1


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    left=st.sampled_from([(3, 4), (4,), (2, 3, 4), (2, 1, 3, 4)]),
    right=st.sampled_from([(4, 5), (4,), (2, 4, 5), (1, 4, 5), (3, 2, 4, 5)]),
    constant=st.sampled_from(["", "left", "right"]),
    bias=st.booleans(),
)
def test_matrix_products(
    seed: int, left: tuple[int, ...], right: tuple[int, ...], constant: str, bias: bool
) -> None:
    def typed(shape: tuple[int, ...], name: str) -> str:
        return f"float[{','.join(map(str, shape))}] {name}"

    values: dict[str, Any] = {"k": weights(seed + 7, 1)}
    inputs = []
    for name, shape in (("a", left), ("b", right)):
        if constant == {"a": "left", "b": "right"}[name]:
            values[name] = weights(seed, *shape)
        else:
            inputs.append(typed(shape, name))
    canonical(
        f"h = MatMul(a, b) {'y = Add(h, k)' if bias else 'y = Neg(h)'}", seed,
        inputs=", ".join(inputs), **values,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    trans=st.tuples(st.booleans(), st.booleans()),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.0, 3.0]),
    bias=st.sampled_from([None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)]),
    constants=st.sampled_from(["bc", "b", "c", ""]),
)
def test_general_products(
    seed: int,
    trans: tuple[bool, bool],
    alpha: float,
    beta: float,
    bias: tuple[int, ...] | None,
    constants: str,
) -> None:
    assume(bias != () or "c" in constants)  # the parser knows no shape without axes
    values: dict[str, Any] = {}
    inputs = [f"float[{'4,3' if trans[0] else '3,4'}] a"]
    for name, shape in (("b", (5, 4) if trans[1] else (4, 5)), ("c", bias)):
        if shape is None:
            continue
        if name in constants:
            values[name] = np.asarray(weights(seed, *shape))
        else:
            inputs.append(f"float[{','.join(map(str, shape))}] {name}")
    canonical(
        f"y = Gemm<transA={int(trans[0])}, transB={int(trans[1])}, alpha={alpha}, beta={beta}>"
        f"(a, b{', c' if bias is not None else ''})",
        seed, inputs=", ".join(inputs), **values,
    )  # fmt: skip


NHWC_STEPS = {
    "relu": "{o} = Relu({i})",
    "bias": "{o} = Add({i}, kc)",
    "scale": "{o} = Mul(kc, {i})",
    "plane": "{o} = Add({i}, kp)",
    "softmax": "{o} = Softmax<axis=3>({i})",
    "pad": "{o} = Pad({i}, n)",
    "skip": "{o} = Add({i}, {i})",
    "cat": "{o}a = Sigmoid({i}) {o}b = Concat<axis=-1>({o}a, {i}) {o} = Slice({o}b, z, c, l)",
    "pool": "{o}a = Transpose<perm=[0,3,1,2]>({i}) {o}b = MaxPool<kernel_shape=[2,2], "
    "pads=[0,0,1,1]>({o}a) {o} = Transpose<perm=[0,2,3,1]>({o}b)",
    "mean": "{o}a = ReduceMean<axes=[1,2]>({i}) {o} = Sub({i}, {o}a)",
    "prelu": "{o} = PRelu({i}, kc)",
    "split": "{o}a, {o}b = Split<axis=3>({i}, h) {o} = Concat<axis=3>({o}b, {o}a)",
}


@settings(max_examples=120, deadline=None)
@given(seed=SEEDS, steps=st.lists(st.sampled_from(sorted(NHWC_STEPS)), min_size=1, max_size=6))
def test_channels_last_exports_lose_their_transposes(seed: int, steps: list[str]) -> None:
    text = "t0 = Transpose<perm=[0,3,1,2]>(x) t1 = Conv(t0, w) s0 = Transpose<perm=[0,2,3,1]>(t1)"
    padded = 0
    for index, step in enumerate(steps):
        text += " " + NHWC_STEPS[step].replace("{i}", f"s{index}").replace("{o}", f"s{index + 1}")
        padded += step == "pad"
    text += f" u0 = Transpose<perm=[0,3,1,2]>(s{len(steps)}) u1 = Conv(u0, v)"
    text += " y = Transpose<perm=[0,2,3,1]>(u1)"
    assume(not (padded and "plane" in steps))
    graph = canonical(
        text, seed, opset=13, inputs="float[1,6,6,3] x", w=weights(seed, 4, 3, 3, 3),
        v=weights(seed + 1, 5, 4, 1, 1), kc=weights(seed + 2, 4), kp=weights(seed + 3, 4, 4, 1),
        n=np.array([0, 1, 0, 0, 0, 0, 2, 0]), z=np.array([2]), c=np.array([6]), l=np.array([3]),
        h=np.array([1, 3]),
    )  # fmt: skip
    transposes = [node for node in graph.nodes if node.op == "Transpose"]
    assert len(transposes) == 2, str(graph)


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [0, 1, 3, 2], [1, 0, 2, 3], [3, 2, 1, 0]])
def test_lone_transposes_stay(perm: list[int]) -> None:
    graph = canonical(f"a = Transpose<perm={perm}>(x) y = Tanh(a)", 1)
    assert Counter(node.op for node in graph.nodes) == {"Transpose": 1, "Tanh": 1}


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    equation=st.sampled_from(
        ["nchw,chk->nkw", "nchw,nchk->nwk", "nchw,kw->nkch", "nchw,nkhw->nck", "nchw,whc->n"]
    ),
)
def test_einsum(seed: int, equation: str) -> None:
    sizes = {"n": 2, "c": 3, "h": 4, "w": 5, "k": 6}
    second = ",".join(str(sizes[letter]) for letter in equation.split("->")[0].split(",")[1])
    graph = canonical(
        f'y = Einsum<equation="{equation}">(x, z)', seed,
        inputs=f"float[2,3,4,5] x, float[{second}] z",
    )  # fmt: skip
    assert "MatMul" in {node.op for node in graph.nodes}


def test_attention_factors_and_masks() -> None:
    mask = np.tril(np.ones((5, 5), dtype=bool))
    graph = canonical(
        """q = Mul(x, f) t = Transpose<perm=[0,1,3,2]>(z) k = Mul(t, f) s = MatMul(q, k)
           m = Where(mask, s, low) y = Softmax<axis=-1>(m)""",
        1, inputs="float[2,3,5,4] x, float[2,3,5,4] z", f=np.float32(0.7), mask=mask,
        low=np.float32(-np.inf),
    )  # fmt: skip
    ops = [node.op for node in graph.nodes]
    assert Counter(ops) == {"Transpose": 1, "MatMul": 1, "Mul": 1, "Add": 1, "Softmax": 1}
    (added,) = (node for node in graph.nodes if node.op == "Add")
    assert np.isfinite(graph.constants[added.inputs[1]]).all()


def test_masks_of_the_least_number_become_smaller() -> None:
    least = np.where(np.tril(np.ones((5, 5), dtype=bool)), 0, np.finfo(np.float32).min)
    graph = canonical("m = Add(x, mask) y = Softmax<axis=-1>(m)", 1, inputs="float[2,3,5,5] x",
                      mask=least.astype(np.float32))  # fmt: skip
    assert min(value.min() for value in graph.constants.values()) > -2e30


def test_a_factor_that_is_read_elsewhere_stays() -> None:
    graph = canonical(
        "q = Mul(x, f) t = Transpose<perm=[0,1,3,2]>(z) y = MatMul(q, t) r = Exp(q)",
        1, inputs="float[2,3,5,4] x, float[2,3,5,4] z", outputs="y r", f=np.float32(0.7),
    )  # fmt: skip
    assert Counter(node.op for node in graph.nodes)["Mul"] == 1
