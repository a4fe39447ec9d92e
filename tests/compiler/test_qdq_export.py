"""The exported QDQ model, run by ONNX Runtime, against the exact evaluator."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from systol_compiler.frontend import quantize_model
from systol_compiler.qdq_export import export_qdq
from systol_compiler.old_quantized import DequantizeOutput, QuantizedGraph
from systol_compiler.quantized_reference import evaluate

Array = np.ndarray[Any, Any]


def model(text: str, seed: int, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    graph = parser.parse_graph(text)
    graph.initializer.extend(
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: onnx.ModelProto, x: Array) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    # Unfused, so that the graph's own float formula is the witness, and no fused integer kernel,
    # some of which saturate their sums on some processors.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


def steps_apart(graph: QuantizedGraph, x: Array) -> Array:
    """Differences between exporter and evaluator over all int8 outputs, in int8 steps."""
    got, wanted = run(export_qdq(graph), x), evaluate(graph, {"x": x})
    assert list(got) == list(wanted)
    differences = []
    for result in graph.outputs:
        assert got[result.name].shape == wanted[result.name].shape
        if isinstance(result, DequantizeOutput):
            step = (got[result.name] - wanted[result.name]) / np.float32(result.scale)
            differences.append(np.abs(np.rint(step)).reshape(-1))
    return np.concatenate(differences)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    stride=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    activation=st.sampled_from(["Identity(c)", "Relu(c)", "Clip(c, lo, hi)"]),
)
def test_one_convolution_differs_by_one_step_at_most(
    seed: int, stride: int, pads: tuple[int, ...], activation: str
) -> None:
    proto = model(
        f"""g (float[4,3,9,9] x) => (float[A,B,C,D] y) {{
            lo = Constant<value_float=-1.5>() hi = Constant<value_float=2.5>()
            c = Conv<strides=[{stride},{stride}], pads=[{",".join(map(str, pads))}]>(x, w, b)
            y = {activation}
        }}""",
        seed,
        w=(8, 3, 3, 3),
        b=(8,),
    )
    x = np.random.default_rng(seed + 1).normal(size=(4, 3, 9, 9)).astype(np.float32)
    apart = steps_apart(quantize_model(proto, calibration=x).quantized, x)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.005


def test_network_of_every_layer_differs_rarely() -> None:
    proto = model(
        """g (float[64,3,12,12] x) => (float[64,10] y, float[64,10] s, float[A,B] f) {
            c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            d = Conv(p, v) e = Relu(d)
            q = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(e)
            f = Flatten(q) h = MatMul(f, z) y = Identity(h) s = Softmax(h)
        }""",
        0,
        w=(16, 3, 3, 3),
        b=(16,),
        v=(8, 16, 3, 3),
        z=(32, 10),
    )
    x = np.random.default_rng(1).normal(size=(64, 3, 12, 12)).astype(np.float32)
    graph = quantize_model(proto, calibration=x).quantized
    apart = steps_apart(graph, x)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01
    shares = run(export_qdq(graph), x)["s"]
    np.testing.assert_allclose(shares, evaluate(graph, {"x": x})["s"], atol=0.1)


def test_host_segment_over_an_image_is_inlined() -> None:
    proto = model(
        "g (float[2,3,6,6] x) => (float[A,B,C,D] y) { c = Conv(x, w) y = Softmax<axis=1>(c) }",
        3,
        w=(4, 3, 2, 3),
    )
    x = np.random.default_rng(2).normal(size=(2, 3, 6, 6)).astype(np.float32)
    graph = quantize_model(proto, calibration=x).quantized
    np.testing.assert_allclose(
        run(export_qdq(graph), x)["y"], evaluate(graph, {"x": x})["y"], atol=0.02
    )


def test_export_holds_int8_weights_and_int32_biases() -> None:
    proto = model("g (float[2,4] x) => (float[2,3] y) { y = Gemm(x, w, b) }", 4, w=(4, 3), b=(3,))
    x = np.random.default_rng(3).normal(size=(2, 4)).astype(np.float32)
    exported = export_qdq(quantize_model(proto, calibration=x).quantized)
    assert [value.name for value in exported.graph.input] == ["x"]
    kinds = {
        (helper.tensor_dtype_to_np_dtype(t.data_type).name, tuple(t.dims))
        for t in exported.graph.initializer
    }
    assert {("int8", (3, 4)), ("int32", (3,))} <= kinds
