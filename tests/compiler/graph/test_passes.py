"""Every pass keeps the meaning of a graph: ONNX Runtime before against ONNX Runtime after."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import CANONICAL_PIPELINE, run_pipeline
from systol_compiler.graph.reading.importer import import_onnx
from systol_hw.errors import InputError

Array = np.ndarray[Any, Any]


def model(text: str, **weights: Any) -> onnx.ModelProto:
    graph = parser.parse_graph(text)
    for name, value in weights.items():
        value = np.asarray(value)
        stored = value.astype(np.float32) if value.dtype == np.float64 else value
        graph.initializer.append(numpy_helper.from_array(stored, name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: onnx.ModelProto, x: Array) -> Array:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: Array = session.run(None, {"x": x})[0]
    return result


def canonical(proto: onnx.ModelProto, seed: int = 0) -> Graph:
    """The canonical graph, after a check that every pass kept the values."""
    graph = import_onnx(proto)
    x = np.random.default_rng(seed).normal(size=graph.types["x"].shape).astype(np.float32)
    wanted = run(proto, x)

    def observe(name: str, graph: Graph) -> None:
        graph.verify()
        np.testing.assert_allclose(
            run(graph.to_onnx(), x), wanted, rtol=2e-4, atol=2e-4, err_msg=f"after {name}"
        )

    return run_pipeline(graph, observer=observe)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def batch_norm(rng: np.random.Generator, channels: int, stem: str) -> dict[str, Array]:
    return {
        f"{stem}g": rng.normal(size=channels),
        f"{stem}b": rng.normal(size=channels),
        f"{stem}m": rng.normal(size=channels),
        f"{stem}v": rng.uniform(0.05, 3.0, size=channels),
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 5),
    filters=st.integers(1, 6),
    bias=st.booleans(),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    epsilon=st.sampled_from([1e-5, 1e-3, 0.1]),
)
def test_batch_normalization_folds_into_convolution(
    seed: int,
    channels: int,
    filters: int,
    bias: bool,
    stride: int,
    dilation: int,
    pads: tuple[int, ...],
    epsilon: float,
) -> None:
    rng = np.random.default_rng(seed)
    weights = {"w": rng.normal(size=(filters, channels, 3, 2)), **batch_norm(rng, filters, "n")}
    if bias:
        weights["b"] = rng.normal(size=filters)
    proto = model(
        f"""g (float[2,{channels},9,8] x) => (float[A,B,C,D] y) {{
            c = Conv<strides=[{stride},{stride}], dilations=[{dilation},1],
                     pads=[{",".join(map(str, pads))}]>(x, w{", b" if bias else ""})
            n = BatchNormalization<epsilon={epsilon}>(c, ng, nb, nm, nv)
            y = Relu(n)
        }}""",
        **weights,
    )
    graph = canonical(proto, seed)
    assert ops(graph) == ["Conv", "Clip"]
    assert graph.nodes[0].sources == ("Conv_0", "BatchNormalization_1")
    assert graph.nodes[0].outputs == ("n",)


def test_batch_normalization_folds_around_gemm() -> None:
    rng = np.random.default_rng(1)
    proto = model(
        """g (float[3,6] x) => (float[3,4] y) {
            a = BatchNormalization(x, pg, pb, pm, pv)
            h = Gemm<alpha=0.5, beta=2.0>(a, w, b)
            y = BatchNormalization(h, qg, qb, qm, qv)
        }""",
        w=rng.normal(size=(6, 4)),
        b=rng.normal(size=(1, 4)),
        **batch_norm(rng, 6, "p"),
        **batch_norm(rng, 4, "q"),
    )
    graph = canonical(proto)
    assert ops(graph) == ["Gemm"]
    assert graph.nodes[0].sources == ("BatchNormalization_0", "Gemm_1", "BatchNormalization_2")


@pytest.mark.parametrize(("pads", "folded"), [([0, 0, 0, 0], True), ([1, 1, 1, 1], False)])
def test_affine_before_convolution_folds_only_without_pads(pads: list[int], folded: bool) -> None:
    rng = np.random.default_rng(2)
    proto = model(
        f"""g (float[1,3,6,6] x) => (float[A,B,C,D] y) {{
            s = Sub(x, mean)
            d = Div(s, deviation)
            y = Conv<pads={pads}>(d, w)
        }}""",
        mean=rng.normal(size=(1, 3, 1, 1)),
        deviation=rng.uniform(0.5, 2, size=(3, 1, 1)),
        w=rng.normal(size=(4, 3, 3, 3)),
    )
    assert ops(canonical(proto)) == ["Conv"] * (1 if folded else 2)


@pytest.mark.parametrize(
    "chain",
    [
        "h = MatMul(x, w) y = Add(h, b)",
        "h = MatMul(x, w) y = Add(b, h)",
        "h = MatMul(x, w) y = Sub(b, h)",
        "h = MatMul(x, w) y = Sub(h, b)",
        "h = MatMul(x, w) i = Mul(h, b) y = Div(i, b)",
        "h = Gemm<transB=1>(x, v) y = Identity(h)",
        "d = Dropout(x) h = Gemm(d, w, b) y = Identity(h)",
    ],
)
def test_products_become_one_gemm(chain: str) -> None:
    rng = np.random.default_rng(3)
    proto = model(
        f"g (float[2,5] x) => (float[2,4] y) {{ {chain} }}",
        w=rng.normal(size=(5, 4)),
        v=rng.normal(size=(4, 5)),
        b=rng.uniform(0.5, 2, size=4),
    )
    graph = canonical(proto)
    assert ops(graph) == ["Gemm"]
    assert dict(graph.nodes[0].attributes) == {"transB": 1}
    assert graph.constants[graph.nodes[0].inputs[1]].shape == (4, 5)


def test_affine_of_a_shared_product_is_not_folded() -> None:
    rng = np.random.default_rng(4)
    proto = model(
        """g (float[2,5] x) => (float[2,4] y, float[2,4] h) {
            h = MatMul(x, w)
            y = Add(h, b)
        }""",
        w=rng.normal(size=(5, 4)),
        b=rng.normal(size=4),
    )
    assert ops(canonical(proto)) == ["Gemm", "Add"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.just("relu"),
            st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_chains_of_clips_become_one(chain: list[str | tuple[float, float]]) -> None:
    lines: list[str] = []
    constants: dict[str, Any] = {}
    last = "c"
    for index, step in enumerate(chain):
        name = "y" if index == len(chain) - 1 else f"t{index}"
        if isinstance(step, str):
            lines.append(f"{name} = Relu({last})")
        else:
            constants |= {f"lo{index}": np.float32(step[0]), f"hi{index}": np.float32(step[1])}
            lines.append(f"{name} = Clip({last}, lo{index}, hi{index})")
        last = name
    proto = model(
        "g (float[4,16] x) => (float[4,16] y) { c = MatMul(x, w) " + " ".join(lines) + " }",
        w=np.eye(16) * 2,
        **constants,
    )
    assert ops(canonical(proto)) == ["Gemm", "Clip"]


def test_clip_moves_above_pool_and_flatten() -> None:
    rng = np.random.default_rng(5)
    proto = model(
        """g (float[2,3,8,8] x) => (float[2,5] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c)
            f = Flatten(p)
            r = Relu(f)
            y = MatMul(r, v)
        }""",
        w=rng.normal(size=(4, 3, 3, 3)),
        v=rng.normal(size=(64, 5)),
    )
    assert ops(canonical(proto)) == ["Conv", "Clip", "MaxPool", "Flatten", "Gemm"]


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    operator=st.sampled_from(["Conv", "MaxPool"]),
)
def test_automatic_pads_become_explicit(
    mode: str,
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: int,
    operator: str,
) -> None:
    # ONNX Runtime refuses SAME pads of dilated windows; the next test covers those.
    dilation = dilation if mode == "VALID" else 1
    if operator == "MaxPool" and any(k < s for k, s in zip(kernel, strides, strict=True)):
        strides = kernel
    if any(n < (k - 1) * dilation + 1 for n, k in zip(size, kernel, strict=True)):
        dilation = 1
    operands = "x, w" if operator == "Conv" else "x"
    proto = model(
        f"""g (float[1,2,{size[0]},{size[1]}] x) => (float[A,B,C,D] y) {{
            y = {operator}<auto_pad="{mode}", kernel_shape=[{kernel[0]},{kernel[1]}],
                strides=[{strides[0]},{strides[1]}], dilations=[{dilation},{dilation}]>({operands})
        }}""",
        **(
            {"w": np.random.default_rng(6).normal(size=(3, 2, *kernel))}
            if operator == "Conv"
            else {}
        ),
    )
    (node,) = canonical(proto).nodes
    assert "auto_pad" not in node.attributes and len(node.attributes["pads"]) == 4


@settings(max_examples=40, deadline=None)
@given(
    upper=st.booleans(),
    size=st.integers(3, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(2, 3),
)
def test_automatic_pads_of_dilated_windows(
    upper: bool, size: int, kernel: int, stride: int, dilation: int
) -> None:
    proto = model(
        f"""g (float[1,1,{size},{size}] x) => (float[A,B,C,D] y) {{
            y = Conv<auto_pad="SAME_{"UPPER" if upper else "LOWER"}",
                strides=[{stride},{stride}], dilations=[{dilation},{dilation}]>(x, w)
        }}""",
        w=np.ones((1, 1, kernel, kernel)),
    )
    (node,) = run_pipeline(import_onnx(proto)).nodes
    top, left, bottom, right = node.attributes["pads"]
    assert (top, bottom) == (left, right)
    small, large = (top, bottom) if upper else (bottom, top)
    assert 0 <= large - small <= 1
    # ONNX Conv, version 11: SAME means ceil(size / stride) positions, with the least pads.
    positions = (size + top + bottom - dilation * (kernel - 1) - 1) // stride + 1
    assert positions == -(-size // stride) or top + bottom == 0
    if top + bottom:
        fewer = (size + top + bottom - 1 - dilation * (kernel - 1) - 1) // stride + 1
        assert fewer < positions


@pytest.mark.parametrize(
    "reshapes",
    [
        "y = Reshape(x, s)",
        "t = Reshape(x, r) y = Reshape(t, s)",
        "t = Flatten<axis=1>(x) y = Identity(t)",
        "t = Flatten<axis=2>(x) y = Reshape(t, s)",
    ],
)
def test_reshapes_become_one_flatten(reshapes: str) -> None:
    proto = model(
        f"g (float[2,3,4,5] x) => (float[2,60] y) {{ {reshapes} }}",
        s=np.array([2, -1]),
        r=np.array([6, 20]),
    )
    graph = canonical(proto)
    assert ops(graph) == ["Flatten"]
    assert graph.nodes[0].inputs == ("x",)


def test_squeeze_behind_a_pool_is_a_flatten() -> None:
    proto = model(
        """g (float[2,3,4,4] x) => (float[2,3] y) {
            p = MaxPool<kernel_shape=[4,4]>(x) y = Squeeze(p, axes)
        }""",
        axes=np.array([2, 3]),
    )
    assert ops(canonical(proto)) == ["MaxPool", "Flatten"]


def test_global_pool_is_a_pool() -> None:
    proto = model("g (float[2,3,4,5] x) => (float[A,B,C,D] y) { y = GlobalMaxPool(x) }")
    (node,) = canonical(proto).nodes
    assert node.op == "MaxPool" and node.attributes["kernel_shape"] == [4, 5]


def test_dead_nodes_are_removed() -> None:
    proto = model(
        "g (float[1,4] x) => (float[1,4] y) { dead = Sigmoid(x) worse = Exp(dead) y = Relu(x) }"
    )
    assert ops(canonical(proto)) == ["Clip"]


def test_pipeline_is_data_and_is_observed() -> None:
    graph = import_onnx(model("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"))
    seen: list[str] = []
    run_pipeline(graph, observer=lambda name, _: seen.append(name))
    assert seen == [step.name for step in CANONICAL_PIPELINE]


def test_graph_prints_its_nodes() -> None:
    text = str(canonical(model("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")))
    assert "input %x : float32[1x4]" in text
    assert "%y = Clip(%x, %Relu_0.least, %Relu_0.greatest) 'Relu_0'" in text
    assert "output 'y' = %y" in text


def test_verifier_names_what_is_broken() -> None:
    graph = import_onnx(model("g (float[1,4] x) => (float[1,4] y) { t = Relu(x) y = Relu(t) }"))

    def altered(**changes: Any) -> Graph:
        fields = {name: getattr(graph, name) for name in graph.__dataclass_fields__}
        return Graph(**(fields | changes))

    with pytest.raises(InputError, match=r"'Relu_1' \(Relu\): reads tensor 't'"):
        altered(nodes=graph.nodes[::-1]).verify()
    with pytest.raises(InputError, match=r"'Relu_0' \(Relu\): node names must be unique"):
        altered(nodes=(graph.nodes[0], graph.nodes[0])).verify()
    with pytest.raises(
        InputError, match=r"tensor 'x' is defined twice|tensor 't' is defined twice"
    ):
        altered(constants={"t": np.zeros(1)}).verify()
    with pytest.raises(InputError, match="output 'y': tensor 'y' is defined nowhere"):
        altered(nodes=graph.nodes[:1]).verify()
    with pytest.raises(InputError, match="tensor 't': every tensor needs a concrete"):
        altered(types={"x": graph.types["x"], "y": graph.types["y"]}).verify()
    with pytest.raises(InputError, match="'z' cannot be observed"):
        graph.to_onnx(["z"])


POOLED = """pooled (float[2, 4, {size}] x) => (float[2, {outputs}, {pooled}] y) {{
    a = Conv <kernel_shape = {ones}> (x, w, b)
    y = {pool} (a)
}}"""
WINDOW = "AveragePool <kernel_shape = [2, 2], strides = [2, 2]>"


@pytest.mark.parametrize(
    ("size", "pooled", "outputs", "pool", "first"),
    [
        ("6, 9", "3, 4", 3, WINDOW, "AveragePool"),
        ("5, 7", "2, 3", 1, "AveragePool <kernel_shape = [3, 2], strides = [2, 2]>", "AveragePool"),
        ("5, 7", "1, 1", 2, "GlobalAveragePool", "AveragePool"),
        ("9", "3", 5, "AveragePool <kernel_shape = [3], strides = [3]>", "AveragePool"),
        # Maxima do not commute, a cut window changes the bias, and one position less gains nothing.
        ("6, 8", "3, 4", 3, "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>", "Conv"),
        ("5, 7", "3, 4", 3, WINDOW[:-1] + ", pads = [0, 0, 1, 1], count_include_pad = 1>", "Conv"),
        ("5, 7", "4, 7", 3, "AveragePool <kernel_shape = [2, 1]>", "Conv"),
    ],
)
def test_averages_go_before_pointwise_convolutions(
    size: str, pooled: str, outputs: int, pool: str, first: str
) -> None:
    rank = size.count(",") + 1
    text = POOLED.format(size=size, pooled=pooled, outputs=outputs, pool=pool, ones=[1] * rank)
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(size=(outputs, 4) + (1,) * rank), "b": rng.normal(size=outputs)}
    nodes = canonical(model(text, **weights)).nodes
    assert len(nodes) == 2 and nodes[0].op == first
    assert nodes[-1].outputs == ("y",)


def test_averages_of_wider_inputs_stay_behind() -> None:
    text = "wide (float[1, 9, 4, 4] x) => (float[1, 2, 2, 2] y) { a = Conv (x, w, b)  y = " + (
        WINDOW + " (a) }"
    )
    rng = np.random.default_rng(3)
    graph = canonical(model(text, w=rng.normal(size=(2, 9, 1, 1)), b=rng.normal(size=2)))
    assert [node.op for node in graph.nodes] == ["Conv", "AveragePool"]
