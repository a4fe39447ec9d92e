"""Quantization against the float model, and the errors that users can meet."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from systol_compiler.calibration import TensorStatistics
from systol_compiler.error_report import error_report, print_report
from systol_compiler.frontend import FrontendResult, quantize_model
from systol_compiler.old_quantized import (
    DequantizeOutput,
    HostOutput,
    QConv2D,
    QLinear,
    QMaxPool,
    QuantizedGraph,
)
from systol_compiler.quantized_reference import evaluate
from systol_compiler.quantizer import QuantizationOptions
from systol_compiler.ranges import METHODS, choose_range, scale_and_zero_point
from systol_hw.errors import InputError, UnsupportedModelError

Array = np.ndarray[Any, Any]


def model(text: str, **weights: Any) -> onnx.ModelProto:
    graph = parser.parse_graph(text)
    for name, value in weights.items():
        value = np.asarray(value)
        stored = value.astype(np.float32) if value.dtype == np.float64 else value
        graph.initializer.append(numpy_helper.from_array(stored, name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: onnx.ModelProto, x: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x}), strict=True))


def small_cnn(seed: int = 0, tail: str = "y = Identity(h)", outputs: str = "float[N,5] y") -> Any:
    rng = np.random.default_rng(seed)
    return model(
        f"""g (float[N,3,9,7] x) => ({outputs}) {{
            c = Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, w, b)
            n = BatchNormalization(c, ng, nb, nm, nv)
            r = Relu(n)
            p = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,1]>(r)
            f = Flatten(p)
            h = Gemm(f, v, k)
            {tail}
        }}""",
        w=rng.normal(size=(6, 3, 3, 2)),
        b=rng.normal(size=6),
        ng=rng.uniform(0.3, 2, size=6),
        nb=rng.normal(size=6),
        nm=rng.normal(size=6),
        nv=rng.uniform(0.1, 2, size=6),
        v=rng.normal(size=(54, 5)),
        k=rng.normal(size=5),
    )


def images(count: int, seed: int = 9) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3, 9, 7)).astype(np.float32)


def quantize_cnn(**options: Any) -> FrontendResult:
    return quantize_model(
        small_cnn(),
        shapes={"N": 4},
        calibration=images(40),
        options=QuantizationOptions(**options),
    )


def tensor_relative_error(graph: QuantizedGraph, proto: onnx.ModelProto, x: Array) -> float:
    (name,) = (result.name for result in graph.outputs)
    got, wanted = evaluate(graph, {"x": x})[name], run(proto, x)[name]
    return float(np.sqrt(((got - wanted) ** 2).sum() / (wanted**2).sum()))


def test_structure_of_a_small_network() -> None:
    graph = quantize_cnn().quantized
    conv, pool, linear = graph.machine_layers
    assert isinstance(conv, QConv2D) and isinstance(pool, QMaxPool) and isinstance(linear, QLinear)
    assert conv.source_nodes == ("Conv_0", "BatchNormalization_1", "Relu_2")
    assert conv.weights.shape == (6, 3, 2, 3)
    assert (conv.strides, conv.pads, conv.dilations) == ((2, 1), (1, 0, 2, 1), (1, 2))
    assert conv.lo == conv.zp_out == -128
    assert graph.tensors[conv.input].shape == (4, 9, 7, 3)
    assert graph.inputs[0].permutation == (0, 2, 3, 1)
    assert linear.weights.shape == (5, 54)
    assert linear.input == pool.output
    source, target = graph.tensors[pool.input], graph.tensors[pool.output]
    assert (source.scale, source.zero_point) == (target.scale, target.zero_point)
    (output,) = graph.outputs
    assert isinstance(output, DequantizeOutput) and output.source_shape == (4, 5)
    assert not conv.weights.flags.writeable


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from(METHODS), correct=st.booleans())
def test_quantized_network_follows_the_float_one(seed: int, method: Any, correct: bool) -> None:
    proto = small_cnn(seed)
    x = images(4, seed + 1)
    options = QuantizationOptions(method=method, bias_correction=correct)
    result = quantize_model(
        proto,
        shapes={"N": 4},
        calibration=np.concatenate([x, images(13, seed + 2)]),
        options=options,
    )
    assert tensor_relative_error(result.quantized, proto, x) < 0.06


def test_batch_of_the_calibration_model_does_not_matter() -> None:
    texts = set()
    for batch in (1, 3, 40, 64):
        graph = quantize_model(small_cnn(), shapes={"N": batch}, calibration=images(40)).quantized
        texts.add(tuple((t.name, round(t.scale, 6), t.zero_point) for t in graph.tensors.values()))
    assert len(texts) == 1


def test_bias_holds_the_zero_point_term() -> None:
    graph = quantize_cnn().quantized
    linear = graph.machine_layers[2]
    assert isinstance(linear, QLinear)
    source = graph.tensors[linear.input]
    sums = linear.weights.astype(np.int64).sum(axis=1)
    proto = small_cnn()
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    units = source.scale * linear.weight_scales.astype(np.float64)
    wanted = np.rint(stored["k"] / units).astype(np.int64) - source.zero_point * sums
    assert linear.bias.tolist() == wanted.tolist()


def test_multipliers_follow_from_the_scales() -> None:
    graph = quantize_cnn().quantized
    for layer in graph.machine_layers:
        if isinstance(layer, QMaxPool):
            continue
        source, target = graph.tensors[layer.input], graph.tensors[layer.output]
        wanted = source.scale * layer.weight_scales.astype(np.float64) / target.scale
        got = layer.multipliers * 2.0 ** -layer.shifts.astype(np.float64)
        np.testing.assert_allclose(got, wanted, rtol=2.0**-17)


def test_clip_becomes_the_limits_of_requantization() -> None:
    proto = model(
        "g (float[8,4] x) => (float[8,4] y) { h = MatMul(x, w) y = Clip(h, lo, hi) }",
        w=np.eye(4),
        lo=np.float32(-0.5),
        hi=np.float32(0.25),
    )
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(8, 4)
    options = QuantizationOptions(overrides={"y": (0.01, 5)})
    graph = quantize_model(proto, calibration=x, options=options).quantized
    (layer,) = graph.machine_layers
    assert isinstance(layer, QLinear) and (layer.lo, layer.hi) == (-45, 30)
    got = evaluate(graph, {"x": x})["y"]
    np.testing.assert_allclose(got, np.clip(x, -0.5, 0.25), atol=0.02)


def test_dead_channels_and_large_biases_are_exact_enough() -> None:
    weights = np.zeros((4, 3))
    weights[:, 1] = 1e-30
    weights[:, 2] = 0.5
    bias = np.array([3.0, -2.0, 1e6])
    proto = model("g (float[2,4] x) => (float[2,3] y) { y = Gemm(x, w, b) }", w=weights, b=bias)
    x = np.ones((2, 4), dtype=np.float32)
    graph = quantize_model(proto, calibration=x).quantized
    scale = graph.tensors["y"].scale
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], run(proto, x)["y"], atol=scale)


def test_constant_zero_network() -> None:
    proto = model("g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }", w=np.zeros((4, 3)))
    x = np.zeros((2, 4), dtype=np.float32)
    graph = quantize_model(proto, calibration=x).quantized
    assert not evaluate(graph, {"x": x})["y"].any()


def test_flattened_image_as_output() -> None:
    rng = np.random.default_rng(3)
    proto = model(
        """g (float[2,3,5,4] x) => (float[E,F] y, float[A,B,C,D] z) {
            c = Conv(x, w) y = Flatten(c) z = Conv<pads=[0,0,0,0]>(x, v)
        }""",
        w=rng.normal(size=(2, 3, 2, 2)),
        v=rng.normal(size=(4, 3, 1, 3)),
    )
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    got, wanted = evaluate(quantize_model(proto, calibration=x).quantized, {"x": x}), run(proto, x)
    assert list(got) == ["y", "z"]
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, atol=0.03 * float(np.abs(value).max()))


def test_flattened_input_of_any_rank() -> None:
    rng = np.random.default_rng(4)
    proto = model(
        "g (float[2,3,5] x) => (float[2,4] y) { f = Flatten(x) y = MatMul(f, w) }",
        w=rng.normal(size=(15, 4)),
    )
    x = rng.normal(size=(2, 3, 5)).astype(np.float32)
    graph = quantize_model(proto, calibration=x).quantized
    assert graph.tensors["x"].shape == (2, 15)
    assert tensor_relative_error(graph, proto, x) < 0.03


def test_host_tail_reads_images_in_source_layout() -> None:
    rng = np.random.default_rng(5)
    proto = model(
        """g (float[2,3,5,4] x) => (float[A,B,C,D] s, float[E,F] t, float[G,H,I,J] c) {
            c = Conv(x, w) s = Softmax<axis=1>(c) f = Flatten(c) t = Sigmoid(f)
        }""",
        w=rng.normal(size=(2, 3, 2, 2)),
    )
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    graph = quantize_model(proto, calibration=x).quantized
    (segment,) = graph.host_segments
    assert segment.operators == ("Softmax", "Sigmoid")
    assert "the machine has no Softmax" in segment.reason
    assert [type(result) for result in graph.outputs] == [HostOutput, HostOutput, DequantizeOutput]
    got, wanted = evaluate(graph, {"x": x}), run(proto, x)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, atol=0.06)


def test_class_index_comes_from_the_host() -> None:
    proto = small_cnn(tail="y = ArgMax<axis=1, keepdims=0>(h)", outputs="int64[N] y")
    x = images(4)
    graph = quantize_model(proto, shapes={"N": 4}, calibration=x).quantized
    assert evaluate(graph, {"x": x})["y"].tolist() == run(proto, x)["y"].tolist()


def test_bias_correction_lowers_the_mean_error() -> None:
    rng = np.random.default_rng(6)
    # A constant input makes every rounding error of a weight a mean error of the output.
    proto = model(
        "g (float[8,32] x) => (float[8,16] y) { y = MatMul(x, w) }",
        w=np.concatenate([rng.normal(size=(31, 16)), np.full((1, 16), 30.0)]),
    )
    x = (1 + 0.01 * rng.normal(size=(8, 32))).astype(np.float32)
    bias = []
    for correct in (False, True):
        options = QuantizationOptions(bias_correction=correct, overrides={"y": (0.25, -20)})
        graph = quantize_model(proto, calibration=x, options=options).quantized
        layer = graph.machine_layers[0]
        assert isinstance(layer, QLinear)
        total = layer.weights.astype(np.int64).sum(axis=1) * 0 + layer.bias
        quantized = np.clip(
            np.rint(x / np.float32(graph.tensors["x"].scale)) + graph.tensors["x"].zero_point,
            -128,
            127,
        ).astype(np.int64)
        sums = quantized @ layer.weights.astype(np.int64).T + total
        real = sums * (graph.tensors["x"].scale * layer.weight_scales)
        bias.append(float(np.abs((real - run(proto, x)["y"]).mean(axis=0)).mean()))
    assert bias[1] < 0.2 * bias[0]


def test_bias_correction_of_a_padded_convolution_sees_the_pads() -> None:
    from systol_compiler.fusion import fuse
    from systol_compiler.partition import partition
    from systol_compiler.quantized_layers import mean_error, quantize_weights

    result = quantize_cnn()
    fused = fuse(result.canonical, partition(result.canonical))
    layer, tensors = fused.layers[0], result.quantized.tensors
    mean = images(1)[0].astype(np.float64)
    weights = result.canonical.constants[layer.node.inputs[1]].astype(np.float64)
    bias = result.canonical.constants[layer.node.inputs[2]].astype(np.float64)
    rounded = quantize_weights(weights, bias, tensors["x"], tensors[layer.output])
    error = (rounded.real - weights).astype(np.float32)
    proto = model(
        "g (float[1,3,9,7] x) => (float[A,B,C,D] y) {"
        " y = Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, w) }",
        w=error,
    )
    wanted = run(proto, mean[None].astype(np.float32))["y"].mean(axis=(0, 2, 3))
    np.testing.assert_allclose(mean_error(layer, fused, tensors, mean), wanted, atol=1e-5)


def test_error_report_covers_every_tensor() -> None:
    result = quantize_cnn()
    errors = error_report(result.canonical, result.quantized, images(10))
    assert [e.tensor for e in errors] == list(result.quantized.tensors)
    assert errors[0].layer == "input" and errors[-1].layer == "Gemm_5"
    assert all(25 < e.sqnr_db < 60 for e in errors)
    coarse = quantize_cnn(overrides={"r": (0.5, -128)})
    worse = error_report(coarse.canonical, coarse.quantized, images(10))
    assert worse[1].sqnr_db < errors[1].sqnr_db - 6
    assert "SQNR dB" in print_report(errors) and errors[1].tensor in print_report(errors)


def test_override_reaches_through_the_pool() -> None:
    graph = quantize_cnn(overrides={"p": (0.125, -100)}).quantized
    assert {(graph.tensors[n].scale, graph.tensors[n].zero_point) for n in ("r", "p")} == {
        (0.125, -100)
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nowhere": (0.1, 0)}, r"override of 'nowhere': no int8 tensor has this name.*'r', 'p'"),
        ({"r": (0.1, 0), "p": (0.2, 0)}, r"override of 'p': it shares scale .* with 'r'"),
        ({"r": (0.0, 0)}, r"override of 'r': the scale must lie in 2\*\*-40\.\.2\*\*40"),
        ({"r": (float("nan"), 0)}, r"override of 'r': the scale must lie"),
        ({"r": (0.1, 128)}, r"override of 'r': the zero point must be an integer in -128"),
    ],
)
def test_bad_overrides(overrides: dict[str, tuple[float, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize_cnn(overrides=overrides)


def test_bad_options() -> None:
    with pytest.raises(InputError, match=r"must be one of minmax, percentile, mse, entropy, not"):
        QuantizationOptions(method="guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"percentile must lie in \(50, 100\], but is 20"):
        QuantizationOptions(percentile=20.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, r"calibration of a float model needs sample inputs, but none.*\['x'\]"),
        ({"z": images(2)}, r"samples are named \['z'\], but the model's inputs are \['x'\]"),
        (images(2).astype(np.uint8), r"input 'x': samples must be float32, but are uint8; pre"),
        (images(2)[:, :2], r"must be \[samples, 3, 9, 7\] .*but are \[2, 2, 9, 7\]; reshape"),
        (images(0), r"with at least one, but are \[0, 3, 9, 7\]"),
        (images(2) * np.float32(np.nan), r"input 'x': samples must be finite"),
    ],
)
def test_bad_calibration_data(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize_model(small_cnn(), shapes={"N": 2}, calibration=data)


def test_inputs_need_the_same_number_of_samples_and_batch() -> None:
    text = """g (float[2,4] x, float[{n},4] z) => (float[A,B] y, float[C,D] u) {{
        y = MatMul(x, w) u = MatMul(z, w)
    }}"""
    data = {"x": np.ones((3, 4), dtype=np.float32), "z": np.ones((2, 4), dtype=np.float32)}
    with pytest.raises(InputError, match=r"same number of samples, but there are {'x': 3, 'z': 2}"):
        quantize_model(model(text.format(n=2), w=np.ones((4, 3))), calibration=data)
    with pytest.raises(InputError, match="one array was given"):
        quantize_model(model(text.format(n=2), w=np.ones((4, 3))), calibration=data["x"])
    with pytest.raises(UnsupportedModelError, match=r"input 'z'.*float32\[3x4\].*batch is \[2\]"):
        quantize_model(model(text.format(n=3), w=np.ones((4, 3))), calibration=data)


def test_float_model_that_overflows() -> None:
    proto = model(
        "g (float[1,4] x) => (float[1,3] y) { h = MatMul(x, w) y = MatMul(h, v) }",
        w=np.full((4, 4), 1e30),
        v=np.full((4, 3), 1e30),
    )
    with pytest.raises(InputError, match="tensor 'y': the float model must stay finite"):
        quantize_model(proto, calibration=np.ones((1, 4), dtype=np.float32))


def test_scale_out_of_range() -> None:
    proto = model(
        "g (float[1,4] x) => (float[1,3] y) { y = MatMul(x, w) }", w=np.full((4, 3), 1e-30)
    )
    with pytest.raises(UnsupportedModelError, match=r"tensor 'y': the scale must lie in 2\*\*-40"):
        quantize_model(proto, calibration=np.ones((1, 4), dtype=np.float32))


def test_requantization_factor_out_of_range() -> None:
    proto = model("g (float[1,4] x) => (float[1,3] y) { y = MatMul(x, w) }", w=np.ones((4, 3)))
    with pytest.raises(
        UnsupportedModelError, match=r"node 'MatMul_0' \(MatMul\), output channel 0: the requant"
    ):
        quantize_model(
            proto,
            calibration=np.ones((1, 4), dtype=np.float32),
            options=QuantizationOptions(overrides={"y": (1e-11, 0)}),
        )


def test_accumulator_that_could_overflow() -> None:
    width = 2**31 // (127 * 128) + 1
    proto = model(
        f"g (float[1,{width}] x) => (float[1,1] y) {{ y = MatMul(x, w) }}",
        w=np.ones((width, 1)),
    )
    with pytest.raises(
        UnsupportedModelError, match=r"node 'MatMul_0' \(MatMul\): .*below 2\*\*31.*channel 0 can"
    ):
        quantize_model(proto, calibration=np.ones((1, width), dtype=np.float32))


def statistics(values: Array) -> TensorStatistics:
    least, greatest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    counts = np.histogram(values, bins=2048, range=(least, greatest))[0].astype(np.int64)
    return TensorStatistics(least=least, greatest=greatest, histogram=counts, mean=np.empty(0))


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_methods_drop_an_outlier(method: Any) -> None:
    rng = np.random.default_rng(7)
    values = np.concatenate([np.abs(rng.normal(size=200_000)), [20.0]])
    least, greatest = choose_range(statistics(values), method, 99.99)
    assert least == 0.0
    assert 2.0 < greatest < 12.0
    assert choose_range(statistics(values), "minmax", 99.99) == (0.0, 20.0)


def test_entropy_keeps_the_range_of_a_tensor_with_few_values() -> None:
    values = np.concatenate([np.abs(np.random.default_rng(7).normal(size=2_000)), [20.0]])
    assert choose_range(statistics(values), "entropy", 99.99) == (0.0, 20.0)


def test_mse_finds_the_range_of_least_error() -> None:
    values = np.random.default_rng(8).standard_t(df=3, size=100_000)

    def error(least: float, greatest: float) -> float:
        scale, zero_point = scale_and_zero_point(least, greatest, "here")
        stored = np.clip(np.rint(values / scale) + zero_point, -128, 127)
        return float((((stored - zero_point) * scale - values) ** 2).mean())

    full = choose_range(statistics(values), "minmax", 99.99)
    best = min(error(full[0] * f, full[1] * f) for f in np.linspace(0.3, 1.0, 71))
    found = error(*choose_range(statistics(values), "mse", 99.99))
    assert found <= 1.05 * best
    assert found < 0.9 * error(*full)


def test_percentile_is_one_of_both_sides() -> None:
    values = np.random.default_rng(10).uniform(-1, 3, size=400_000)
    least, greatest = choose_range(statistics(values), "percentile", 90.0)
    assert least == pytest.approx(-0.8, abs=0.01)
    assert greatest == pytest.approx(2.8, abs=0.01)


@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32))
@example(0.0, 1.2581516384280178e-10)  # too narrow for any scale
def test_zero_is_exact_and_the_range_is_covered(least: float, greatest: float) -> None:
    needed = np.float32((greatest - least) / 255)
    if greatest > least and not 2.0**-40 <= needed <= 2.0**40:
        with pytest.raises(UnsupportedModelError, match=r"here: the scale must lie in 2\*\*-40"):
            scale_and_zero_point(least, greatest, "here")
        return
    scale, zero_point = scale_and_zero_point(least, greatest, "here")
    assert -128 <= zero_point <= 127
    assert (-128 - zero_point - 1) * scale <= least and greatest <= (127 - zero_point + 1) * scale
