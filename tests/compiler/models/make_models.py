"""Makes the models of this folder that no exporter gives: `python make_models.py`.

Old operator sets, every option of an operator, other element types, functions, control flow, and
the patterns of exporters other than PyTorch's. Weights come from a seed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))
from corpus_files import save, update_index

Array = np.ndarray[Any, Any]
IMAGE = "float[2,4,8,8] x"
TOKENS = "float[2,6,16] x"

RNG = np.random.default_rng(11)
ROWS: list[dict[str, Any]] = []


def f(*shape: int) -> Array:
    """Weights of variance 1 / inputs, where the last axes are the inputs."""
    scale = max(int(np.prod(shape[1:])), 1) ** -0.5
    values: Array = np.asarray(RNG.normal(size=shape) * scale, dtype=np.float32)
    return values


def positive(*shape: int) -> Array:
    return RNG.uniform(0.5, 1.5, size=shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def norm(channels: int, stem: str = "n") -> dict[str, Any]:
    """Parameters of a batch normalization, named STEMg, b, m and v."""
    return {
        f"{stem}g": positive(channels),
        f"{stem}b": f(channels),
        f"{stem}m": f(channels),
        f"{stem}v": positive(channels),
    }


def build(
    body: str,
    weights: Mapping[str, Any],
    *,
    opset: int,
    inputs: str = IMAGE,
    outputs: str = "y",
    kind: str = "float",
) -> onnx.ModelProto:
    declared = ", ".join(f"{kind} {name}" for name in outputs.split())
    graph = parser.parse_graph(f"g ({inputs}) => ({declared}) {{ {body} }}")
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    ir_version = 3 if opset <= 8 else 8 if opset < 21 else 10
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def add(
    name: str,
    body: str,
    *,
    opset: int = 17,
    inputs: str = IMAGE,
    outputs: str = "y",
    kind: str = "float",
    covers: Sequence[str] = (),
    shapes: Mapping[str, int] | None = None,
    ranges: Mapping[str, Mapping[str, float]] | None = None,
    weights_are_inputs: bool = False,
    **weights: Any,
) -> None:
    """Write one model of the text `body` and its initializers."""
    model = build(body, weights, opset=opset, inputs=inputs, outputs=outputs, kind=kind)
    if weights_are_inputs or model.ir_version == 3:
        model.graph.input.extend(
            helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
            for item in model.graph.initializer
        )
    keep(model, name, covers=covers, shapes=shapes, ranges=ranges)


def keep(model: onnx.ModelProto, name: str, **rest: Any) -> None:
    ROWS.append(save(model, name, exporter="hand", **rest))


def windows() -> None:
    """Convolutions and pools."""
    add("conv_auto_pad_same_upper", 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
        w=f(5, 4, 3, 2), covers=["auto_pad"])
    add("conv_auto_pad_same_lower", 'y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w, b)',
        w=f(5, 4, 3, 2), b=f(5), covers=["auto_pad"])
    add("conv_auto_pad_valid", 'y = Conv<auto_pad="VALID">(x, w)', w=f(5, 4, 3, 3),
        covers=["auto_pad"])
    add("conv_pads_uneven", "y = Conv<pads=[0,1,2,0], strides=[2,1], dilations=[1,2]>(x, w, b)",
        w=f(5, 4, 3, 2), b=f(5), covers=["Conv pads", "Conv dilated"])
    add("conv_kernel_wider_than_input", "c = Conv<pads=[0,0,0,4]>(x, w) y = Relu(c)",
        w=f(3, 4, 1, 12), covers=["Conv pads"])
    add("conv_no_bias_opset7", "c = Conv(x, w) y = Relu(c)", opset=7, w=f(3, 4, 3, 3),
        covers=["Conv", "initializers as inputs"])
    add("conv_1x1_strided", "y = Conv<strides=[2,2]>(x, w, b)", w=f(6, 4, 1, 1), b=f(6),
        covers=["Conv 1x1"])
    add("conv_grouped_multiplier", "y = Conv<group=4, pads=[1,1,1,1]>(x, w, b)",
        w=f(12, 1, 3, 3), b=f(12), covers=["Conv depthwise"])
    add("conv_dynamic_batch_opset9", "c = Conv(x, w) n = BatchNormalization(c, ng, nb, nm, nv)"
        " y = Relu(n)", opset=9, inputs="float[N,4,8,8] x", w=f(3, 4, 3, 3), **norm(3),
        shapes={"N": 2}, covers=["BatchNormalization"])
    add("conv_transpose_output_shape",
        "y = ConvTranspose<strides=[2,2], output_shape=[17,16]>(x, w, b)", w=f(4, 3, 3, 3),
        b=f(3), covers=["ConvTranspose output_shape"])
    add("conv_transpose_auto_pad", 'y = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, w)',
        w=f(4, 3, 3, 3), covers=["ConvTranspose auto_pad"])
    add("conv_transpose_pads_uneven",
        "y = ConvTranspose<strides=[3,2], pads=[1,0,2,1], output_padding=[1,0]>(x, w)",
        w=f(4, 3, 4, 3), covers=["ConvTranspose pads"])
    add("maxpool_auto_pad", 'y = MaxPool<kernel_shape=[3,2], strides=[2,2], auto_pad="SAME_UPPER">'
        "(x)", opset=12, covers=["MaxPool auto_pad"])
    add("maxpool_opset7", "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", opset=7,
        covers=["MaxPool"])
    add("average_pool_auto_pad",
        'y = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_LOWER">(x)', opset=11,
        covers=["AveragePool auto_pad"])
    add("average_pool_opset7", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", opset=7,
        covers=["AveragePool"])
    add("average_pool_dilated",
        "y = AveragePool<kernel_shape=[2,3], dilations=[2,1], pads=[1,1,1,1]>(x)", opset=19,
        covers=["AveragePool dilated"])
    add("pools_1d", "a = MaxPool<kernel_shape=[3], pads=[1,1]>(x)"
        " b = AveragePool<kernel_shape=[3], pads=[1,1]>(a) y = Add(a, b)",
        inputs="float[2,3,12] x", covers=["MaxPool 1-D", "AveragePool 1-D"])
    add("global_pools", "a = GlobalAveragePool(x) m = GlobalMaxPool(x) s = Add(a, m)"
        " y = Flatten(s)", covers=["GlobalAveragePool", "GlobalMaxPool"])
    add("global_average_pool_1d", "y = GlobalAveragePool(x)", inputs="float[2,3,12] x",
        covers=["GlobalAveragePool"])


def products() -> None:
    """Gemm and MatMul in all their forms."""
    rows = "float[3,8] x"
    for name, shape in {"scalar": (), "one": (1,), "row": (1, 5), "columns": (5,),
                        "per_row": (3, 1), "full": (3, 5)}.items():
        add(f"gemm_bias_{name}", "y = Gemm<alpha=0.5, beta=-2.0>(x, w, b)", inputs=rows,
            w=f(8, 5), b=np.asarray(f(*shape)), covers=["Gemm bias"])
    add("gemm_no_bias_opset7", "y = Gemm<transB=1>(x, w, b)", opset=7, inputs=rows, w=f(5, 8),
        b=f(5), covers=["Gemm"])
    add("gemm_no_bias", "y = Gemm(x, w)", opset=13, inputs=rows, w=f(8, 5), covers=["Gemm"])
    add("gemm_trans_a", "y = Gemm<transA=1, transB=1>(x, w, b)", inputs="float[8,3] x", w=f(5, 8),
        b=f(5), covers=["Gemm transA"])
    add("gemm_two_activations", "y = Gemm<transB=1, alpha=0.25>(x, z)",
        inputs="float[3,8] x, float[5,8] z", covers=["Gemm two activations"])
    add("matmul_bias_before", "h = MatMul(x, w) y = Add(b, h)", inputs=rows, w=f(8, 5), b=f(5),
        covers=["MatMul"])
    add("matmul_vector", "y = MatMul(x, w)", inputs=rows, w=f(8), covers=["MatMul vector"])
    add("matmul_constant_left", "y = MatMul(w, x)", inputs="float[8,5] x", w=f(3, 8),
        covers=["MatMul constant left"])
    add("matmul_rank3", "h = MatMul(x, w) s = Add(h, b) y = Relu(s)", inputs=TOKENS, w=f(16, 5),
        b=f(5), covers=["MatMul rank 3"])
    add("matmul_batched_constant", "y = MatMul(x, w)", inputs=TOKENS, w=f(2, 16, 5),
        covers=["MatMul constant rank 3"])
    add("matmul_two_activations", "t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)",
        inputs=TOKENS, covers=["MatMul two activations"])
    add("einsum_opset12", 'y = Einsum<equation="bij,jk->bik">(x, w)', opset=12, inputs=TOKENS,
        w=f(16, 5), covers=["Einsum"])


def elementwise() -> None:
    """Arithmetic with broadcasting and constants."""
    add("add_broadcast", "p = GlobalAveragePool(x) y = Add(x, p)", covers=["Add broadcast"])
    add("arithmetic_constants",
        "a = Mul(x, k) b = Sub(c, a) d = Div(b, k) e = Add(d, s) y = Neg(e)",
        k=positive(4, 1, 1), c=f(1, 4, 1, 1), s=np.float32(0.5),
        covers=["Mul", "Sub", "Div", "Add", "Neg"])
    add("div_two_activations", "a = Abs(z) b = Add(a, one) y = Div(x, b)",
        inputs="float[2,4,8,8] x, float[2,4,8,8] z", one=np.float32(1), covers=["Div", "Abs"])
    add("sub_mul_two_activations", "d = Sub(x, z) y = Mul(d, z)",
        inputs="float[2,4,8,8] x, float[4,1,8] z", covers=["Sub", "Mul broadcast"])
    add("min_max_sum_mean", "a = Min(x, z, c) b = Max(x, z) s = Sum(a, b, x) y = Mean(s, x, z)",
        inputs="float[2,4,8,8] x, float[2,4,1,1] z", c=np.float32(0.4),
        covers=["Min", "Max", "Sum", "Mean"])
    add("pow_constants", "a = Abs(x) b = Pow(a, two) c = Pow(b, half) y = Add(b, c)",
        two=np.float32(2), half=np.float32(0.5), covers=["Pow"])
    add("pow_integer_exponent", "y = Pow(x, three)", three=ints(3)[0], covers=["Pow"])
    add("where_constant_mask", "y = Where(m, x, c)", m=np.tri(8, dtype=bool), c=np.float32(-2),
        covers=["Where constant"])
    add("where_computed_mask", "m = Greater(x, z) y = Where(m, x, z)",
        inputs="float[2,4,8,8] x, float[2,4,8,8] z", covers=["Where", "Greater"])
    add("unary_functions", "e = Exp(x) s = Sqrt(e) r = Reciprocal(s) l = Log(e) f = Erf(l)"
        " a = Add(r, f) y = Abs(a)", covers=["Exp", "Sqrt", "Reciprocal", "Log", "Erf"])
    add("mul_scalar_chain", "a = Mul(x, p) b = Mul(a, q) y = Add(b, p)", p=np.float32(0.5),
        q=np.array([3.0], np.float32), covers=["Mul"])


def activations() -> None:
    """Named activations with their options, and patterns that stand for one."""
    add("clip_opset7_relu6", "c = Conv(x, w) y = Clip<min=0.0, max=6.0>(c)", opset=7,
        w=f(3, 4, 3, 3) * 9, covers=["Clip"])
    add("clip_opset11_one_bound", "y = Clip(x, least)", opset=11, least=np.float32(-0.5),
        covers=["Clip"])
    add("relu6_as_min_max", "r = Relu(x) y = Min(r, six)", six=np.float32(1.5), covers=["Clip"])
    add("leaky_relu_elu_selu", "a = LeakyRelu<alpha=0.2>(x) b = Elu<alpha=0.7>(a) y = Selu(b)",
        covers=["LeakyRelu", "Elu", "Selu"])
    add("prelu_shared_opset9", "y = PRelu(x, s)", opset=9, s=positive(1, 1, 1), covers=["PRelu"])
    add("prelu_channels", "y = PRelu(x, s)", s=positive(4, 1, 1), covers=["PRelu"])
    add("hard_sigmoid_options", "h = HardSigmoid<alpha=0.1666667, beta=0.5>(x) y = Mul(x, h)",
        covers=["HardSigmoid", "HardSwish"])
    add("sigmoid_tanh_softplus", "s = Sigmoid(x) t = Tanh(x) p = Softplus(x) y = Sum(s, t, p)",
        covers=["Sigmoid", "Tanh", "Softplus"])
    add("thresholded_celu_shrink",
        "a = ThresholdedRelu<alpha=0.3>(x) b = Celu<alpha=0.8>(x) c = Shrink<lambd=0.4>(x)"
        " y = Sum(a, b, c)", covers=["ThresholdedRelu", "Celu", "Shrink"])
    add("gelu_pattern_erf_first",
        "d = Div(x, r) e = Erf(d) o = Add(e, one) m = Mul(x, o) y = Mul(m, half)",
        r=np.float32(2**0.5), one=np.float32(1), half=np.float32(0.5), covers=["Gelu"])
    add("gelu_pattern_half_first",
        "d = Mul(x, r) e = Erf(d) o = Add(one, e) h = Mul(half, x) y = Mul(o, h)",
        r=np.float32(2**-0.5), one=np.float32(1), half=np.float32(0.5), covers=["Gelu"])
    add("gelu_opset20_tanh", 'y = Gelu<approximate="tanh">(x)', opset=20, covers=["Gelu tanh"])
    add("mish_pattern", "p = Softplus(x) t = Tanh(p) y = Mul(x, t)", covers=["Mish"])
    add("mish_opset18", "y = Mish(x)", opset=18, covers=["Mish"])
    add("swish_opset24", "y = Swish<alpha=1.5>(x)", opset=24, covers=["Swish"])
    add("swish_pattern_scaled", "m = Mul(x, k) s = Sigmoid(m) y = Mul(s, x)",
        k=np.float32(1.702), covers=["Swish"])
    add("hard_swish_relu6_pattern",
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
        three=np.float32(3), zero=np.float32(0), six=np.float32(6), covers=["HardSwish"])


def normalizations() -> None:
    """Normalizations, softmax and reductions."""
    add("batch_norm_alone", "n = BatchNormalization(x, ng, nb, nm, nv) y = Relu(n)", **norm(4),
        covers=["BatchNormalization"])
    add("batch_norm_old_outputs_opset7",
        "c = Conv(x, w) y = BatchNormalization(c, ng, nb, nm, nv)", opset=7, w=f(3, 4, 3, 3),
        **norm(3), covers=["BatchNormalization"])
    add("batch_norm_before_padded_conv",
        "n = BatchNormalization(x, ng, nb, nm, nv) y = Conv<pads=[1,1,1,1]>(n, w)",
        w=f(3, 4, 3, 3), **norm(4), covers=["BatchNormalization first"])
    add("batch_norm_after_transposed_conv",
        "c = ConvTranspose<strides=[2,2]>(x, w) y = BatchNormalization(c, ng, nb, nm, nv)",
        w=f(4, 3, 2, 2), **norm(3), covers=["BatchNormalization", "ConvTranspose"])
    add("batch_norm_rank2_rank3",
        "n = BatchNormalization(x, ng, nb, nm, nv) p = GlobalMaxPool(n) q = Flatten(p)"
        " y = BatchNormalization(q, mg, mb, mm, mv)", inputs="float[2,4,9] x", **norm(4),
        **norm(4, "m"), covers=["BatchNormalization 1-D"])
    add("batch_norm_shared_conv",
        "c = Conv(x, w) n = BatchNormalization(c, ng, nb, nm, nv) y = Add(c, n)",
        w=f(3, 4, 3, 3), **norm(3), covers=["BatchNormalization"])
    add("instance_norm_opset7", "y = InstanceNormalization<epsilon=0.001>(x, s, b)", opset=7,
        s=positive(4), b=f(4), covers=["InstanceNormalization"])
    add("group_norm_opset18", "y = GroupNormalization<num_groups=2>(x, s, b)", opset=18,
        s=positive(2), b=f(2), covers=["GroupNormalization"])
    add("group_norm_opset21", "y = GroupNormalization<num_groups=2>(x, s, b)", opset=21,
        s=positive(4), b=f(4), covers=["GroupNormalization"])
    add("layer_norm_opset17", "y = LayerNormalization<axis=-1, epsilon=0.001>(x, s, b)",
        inputs=TOKENS, s=positive(16), b=f(16), covers=["LayerNormalization"])
    add("layer_norm_no_bias", "y = LayerNormalization(x, s)", inputs=TOKENS, s=positive(16),
        covers=["LayerNormalization"])
    add("layer_norm_pattern_opset9",
        "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)"
        " e = Add(v, eps) r = Sqrt(e) n = Div(d, r) k = Mul(n, s) y = Add(k, b)", opset=9,
        inputs=TOKENS, two=np.float32(2), eps=np.float32(1e-5), s=positive(16), b=f(16),
        covers=["LayerNormalization"])
    add("rms_norm_pattern", "q = Mul(x, x) m = ReduceMean<axes=[-1]>(q) e = Add(m, eps)"
        " r = Sqrt(e) i = Reciprocal(r) n = Mul(x, i) y = Mul(n, s)", inputs=TOKENS,
        eps=np.float32(1e-5), s=positive(16), covers=["RMSNormalization"])
    add("rms_norm_opset23", "y = RMSNormalization<axis=-1>(x, s)", opset=23, inputs=TOKENS,
        s=positive(16), covers=["RMSNormalization"])
    add("mean_variance_normalization", "y = MeanVarianceNormalization<axes=[0,2,3]>(x)", opset=13,
        covers=["MeanVarianceNormalization"])
    add("lrn_opset7", "y = LRN<size=3, alpha=0.2, beta=0.75, bias=1.5>(x)", opset=7,
        covers=["LRN"])
    add("lp_normalization", "y = LpNormalization<axis=1, p=2>(x)", opset=7,
        covers=["LpNormalization"])
    add("softmax_opset7_rank4", "y = Softmax<axis=1>(x)", opset=7, covers=["Softmax old"])
    add("softmax_opset11_last_axis", "y = Softmax<axis=2>(x)", opset=11, inputs=TOKENS,
        covers=["Softmax old"])
    add("softmax_opset13_axis", "y = Softmax<axis=1>(x)", opset=13, covers=["Softmax"])
    add("log_softmax_opset11", "y = LogSoftmax<axis=1>(x)", opset=11, inputs="float[3,8] x",
        covers=["LogSoftmax"])
    add("reduce_axes_attribute", "a = ReduceSum<axes=[1], keepdims=0>(x)"
        " b = ReduceMax<axes=[1], keepdims=0>(x) c = ReduceMin<axes=[-3], keepdims=0>(x)"
        " y = Sum(a, b, c)", opset=11, covers=["ReduceSum", "ReduceMax", "ReduceMin"])
    add("reduce_axes_input", "a = ReduceMean(x, axes) b = ReduceL2(x, axes) y = Add(a, b)",
        opset=18, axes=ints(2, 3), covers=["ReduceMean", "ReduceL2"])
    add("reduce_all", "y = ReduceMean<keepdims=0>(x)", covers=["ReduceMean"])
    add("reduce_rare", "a = ReduceL1<axes=[1]>(x) b = ReduceLogSumExp<axes=[1]>(x)"
        " c = ReduceSumSquare<axes=[1]>(x) y = Sum(a, b, c)", opset=13,
        covers=["ReduceL1", "ReduceLogSumExp", "ReduceSumSquare"])
    add("argmax_opset7", "y = ArgMax<axis=1, keepdims=0>(x)", opset=7, kind="int64",
        covers=["ArgMax"])
    add("topk_host", "v, i = TopK<axis=1>(x, k) y = Identity(v)", inputs="float[2,8] x",
        k=ints(3), covers=["TopK"])
    add("cumsum_host", "y = CumSum(x, axis)", inputs="float[2,8] x", axis=ints(1)[0],
        covers=["CumSum"])


def moves() -> None:
    """What only changes places."""
    add("concat_split_opset7", "a, b = Split<axis=1, split=[1,3]>(x) y = Concat<axis=1>(b, a, b)",
        opset=7, covers=["Split", "Concat"])
    add("split_equal_opset13", "a, b = Split<axis=3>(x) y = Add(a, b)", opset=13, covers=["Split"])
    add("split_num_outputs_opset18", "a, b, c = Split<axis=2, num_outputs=3>(x)"
        " y = Concat<axis=2>(c, b, a)", opset=18, covers=["Split uneven"])
    add("slice_opset9", "y = Slice<axes=[1,3], starts=[1,-6], ends=[3,100]>(x)", opset=9,
        covers=["Slice"])
    add("slice_steps", "y = Slice(x, b, e, a, s)", b=ints(3, -1), e=ints(-99, 0), a=ints(1, 3),
        s=ints(-1, -2), covers=["Slice negative steps"])
    add("pad_opset7", "p = Pad<pads=[0,0,1,2,0,0,0,1], value=0.5>(x) y = Conv(p, w)", opset=7,
        w=f(3, 4, 3, 3), covers=["Pad"])
    add("pad_zero_before_conv", "p = Pad(x, n) y = Conv<pads=[1,0,0,0]>(p, w)",
        n=ints(0, 0, 1, 1, 0, 0, 1, 1), w=f(3, 4, 3, 3), covers=["Pad"])
    add("pad_channels", "y = Pad(x, n)", n=ints(0, 1, 0, 0, 0, 2, 0, 0), covers=["Pad channels"])
    add("pad_axes_opset18", "y = Pad(x, n, , a)", opset=18, n=ints(1, 2, 0, 1), a=ints(2, -1),
        covers=["Pad axes"])
    add("pad_negative", "y = Pad(x, n)", n=ints(0, 0, -1, 1, 0, 0, -2, 0), covers=["Pad crop"])
    add("pad_reflect_edge", 'a = Pad<mode="reflect">(x, n) y = Pad<mode="edge">(a, n)',
        n=ints(0, 0, 1, 2, 0, 0, 0, 1), covers=["Pad reflect", "Pad edge"])
    add("pad_wrap_opset19", 'y = Pad<mode="wrap">(x, n)', opset=19,
        n=ints(0, 0, 1, 2, 0, 0, 0, 1), covers=["Pad wrap"])
    add("expand_tile", "e = Expand(x, s) y = Tile(e, r)", inputs="float[2,1,4,1] x",
        s=ints(3, 1, 5), r=ints(1, 2, 1, 1), covers=["Expand", "Tile"])
    add("gather_constant", "a = Gather<axis=1>(x, i) y = Gather<axis=3>(a, j)", i=ints(3, 0, 0),
        j=ints(-2)[0], covers=["Gather constant"])
    add("gather_rank2_indices", "y = Gather<axis=1>(x, i)", i=np.array([[0, 1], [3, 2]]),
        covers=["Gather constant"])
    add("embedding_opset11", "e = Gather(t, ids) h = MatMul(e, w) y = Softmax<axis=-1>(h)",
        opset=11, inputs="int64[2,6] ids", t=f(11, 8) * 3, w=f(8, 5),
        ranges={"ids": {"below": 11}}, covers=["Gather embedding"])
    add("transposes_cancel", "a = Transpose<perm=[0,2,3,1]>(x) r = Relu(a)"
        " b = Transpose<perm=[0,3,1,2]>(r) y = Conv(b, w)", w=f(3, 4, 3, 3), covers=["Transpose"])
    add("transpose_default_perm", "y = Transpose(x)", covers=["Transpose"])
    add("squeeze_unsqueeze_opset11", "a = Unsqueeze<axes=[0,3]>(x) b = Squeeze<axes=[0]>(a)"
        " y = Squeeze(b)", opset=11, covers=["Squeeze", "Unsqueeze"])
    add("reshape_zero_and_minus_one", "y = Reshape(x, s)", s=ints(0, 2, -1, 4),
        covers=["Reshape"])
    add("flatten_axes", "a = Flatten<axis=2>(x) y = Flatten<axis=0>(a)", covers=["Flatten"])
    add("channel_shuffle", "a = Reshape(x, s) b = Transpose<perm=[0,2,1,3,4]>(a)"
        " y = Reshape(b, r)", s=ints(2, 2, 2, 8, 8), r=ints(2, 4, 8, 8),
        covers=["channel shuffle"])
    add("depth_to_space_dcr", "y = DepthToSpace<blocksize=2>(x)", opset=9,
        covers=["DepthToSpace DCR"])
    add("depth_to_space_crd", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', opset=13,
        covers=["DepthToSpace CRD"])
    add("space_to_depth", "y = SpaceToDepth<blocksize=2>(x)", opset=7, covers=["SpaceToDepth"])
    add("upsample_opset7", 'y = Upsample<scales=[1.0,1.0,2.0,3.0], mode="nearest">(x)', opset=7,
        covers=["Upsample"])
    add("upsample_opset9_linear", 'y = Upsample<mode="linear">(x, s)', opset=9,
        s=np.array([1, 1, 2, 2], np.float32), covers=["Upsample linear"])
    add("resize_opset10", 'y = Resize<mode="nearest">(x, s)', opset=10,
        s=np.array([1, 1, 2, 1.5], np.float32), covers=["Resize opset 10"])
    add("resize_nearest_floor_asymmetric",
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric",'
        ' nearest_mode="floor">(x, , s)', opset=13, s=np.array([1, 1, 2, 2], np.float32),
        covers=["Resize nearest"])
    add("resize_linear_half_pixel", 'y = Resize<mode="linear">(x, , , n)', opset=13,
        n=ints(2, 4, 13, 6), covers=["Resize linear half_pixel"])
    add("resize_linear_align_corners",
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s)',
        opset=13, s=np.array([1, 1, 2, 2], np.float32), covers=["Resize linear align_corners"])
    add("resize_cubic", 'y = Resize<mode="cubic">(x, , s)', opset=13,
        s=np.array([1, 1, 2, 2], np.float32), covers=["Resize cubic"])
    add("grid_of_noops", 'i = Identity(x) d = Dropout(i) c = Cast<to=1>(d) k = Concat<axis=1>(c)'
        " s = Sum(k) p = Pad(s, z) t = Transpose<perm=[0,1,2,3]>(p) y = Conv(t, w)", opset=13,
        z=ints(0, 0, 0, 0, 0, 0, 0, 0), w=f(3, 4, 3, 3), covers=["Identity", "Dropout"])


def computed() -> None:
    """Shapes that the model computes, constants of every kind, control flow and functions."""
    chain = ("c = Conv(x, w) r = Relu(c) s = Shape(r) d = Gather<axis=0>(s, i) {} "
             "t = Concat<axis=0>(u, m) q = Reshape(r, t) y = MatMul(q, g)")
    parts: dict[str, Any] = {"w": f(4, 3, 3, 3), "i": ints(0)[0], "m": ints(-1), "g": f(64, 5)}
    for opset in (7, 9, 11, 13, 17):
        unsqueeze = "u = Unsqueeze(d, ax)" if opset >= 13 else "u = Unsqueeze<axes=[0]>(d)"
        add(f"reshape_computed_opset{opset}", chain.format(unsqueeze), opset=opset,
            inputs="float[N,3,6,6] x", shapes={"N": 2}, covers=["Reshape computed"],
            **(parts | ({"ax": ints(0)} if opset >= 13 else {})))
    add("resize_to_computed_size", "s = Shape(z) h = Slice(s, two, four) t = Shape(x)"
        " n = Slice(t, zero, two) k = Concat<axis=0>(n, h)"
        ' r = Resize<mode="nearest">(x, , , k) y = Concat<axis=1>(r, z)', opset=13,
        inputs="float[1,2,4,4] x, float[1,3,H,W] z", shapes={"H": 8, "W": 12}, zero=ints(0),
        two=ints(2), four=ints(4), covers=["Resize computed"])
    add("arithmetic_on_shapes_opset11", "s = Shape(x) i = Constant<value = int64 {2}>()"
        " h = Gather(s, i) two = Constant<value = int64 {2}>() q = Div(h, two) f = Cast<to=1>(q)"
        " g = Floor(f) k = Cast<to=7>(g) u = Unsqueeze<axes=[0]>(k)"
        " b = Constant<value = int64[1] {0}>() y = Slice(x, b, u, i1)", opset=11, i1=ints(2),
        covers=["computed shapes"])
    add("constant_kinds",
        "a = Constant<value_float=0.5>() b = Constant<value_floats=[1.0,2.0,3.0,4.0]>()"
        " c = Constant<value_ints=[4,1,1]>() d = Constant<value = float[1] {0.25}>()"
        " e = Reshape(b, c) p = Mul(x, a) q = Add(p, e) y = Sub(q, d)", covers=["Constant"])
    add("constant_of_shape", "s = Shape(x) o = ConstantOfShape<value = float[1] {1.5}>(s)"
        " y = Add(x, o)", covers=["ConstantOfShape"])
    add("range_positions", "s = Shape(x) n = Gather(s, one) r = Range(zero, n, step)"
        " e = Gather(t, r) y = Add(x, e)", opset=13, inputs="float[1,T,8] x", shapes={"T": 6},
        one=ints(1)[0], zero=ints(0)[0], step=ints(1)[0], t=f(10, 8), covers=["Range"])
    add("output_without_shape", "a = Relu(x) y = Conv(a, w)", w=f(3, 4, 3, 3),
        covers=["output without shape"])
    add("weights_as_inputs_opset8", "c = Conv(x, w, b) y = Relu(c)", opset=8, w=f(3, 4, 3, 3),
        b=f(3), covers=["initializers as inputs"])
    add("uint8_input", "f = Cast<to=1>(x) d = Div(f, k) c = Conv(d, w, b) y = Relu(c)",
        inputs="uint8[1,3,8,8] x", ranges={"x": {"below": 256}}, k=np.float32(255),
        w=f(4, 3, 3, 3), b=f(4), covers=["Cast uint8"])
    add("normalized_input", "s = Sub(x, m) d = Div(s, v) c = Conv(d, w, b) y = Relu(c)",
        inputs="float[1,3,8,8] x", m=f(1, 3, 1, 1), v=positive(1, 3, 1, 1), w=f(4, 3, 3, 3),
        b=f(4), covers=["input normalization"])
    add("float16_model", "c = Conv(x, w, b) r = Relu(c) y = GlobalAveragePool(r)",
        inputs="float16[1,3,8,8] x", kind="float16", w=f(4, 3, 3, 3).astype(np.float16),
        b=f(4).astype(np.float16), covers=["float16"])
    add("float64_model", "h = MatMul(x, w) a = Add(h, b) y = Relu(a)", inputs="double[3,8] x",
        kind="double", w=f(8, 5).astype(np.float64), b=f(5).astype(np.float64),
        covers=["float64"])
    add("float16_weights_cast", "k = Cast<to=1>(w) y = Conv(x, k)",
        w=f(3, 4, 3, 3).astype(np.float16), covers=["float16 weights"])
    add("several_outputs", "a = Conv(x, w) b = Relu(a) y = Conv(b, v) z = GlobalMaxPool(b)"
        " q = Identity(b)", outputs="y z q", w=f(4, 4, 3, 3), v=f(3, 4, 3, 3),
        covers=["several outputs"])
    add("same_node_names", "a = Relu(x) b = Conv(a, w) y = Relu(b)", w=f(3, 4, 3, 3),
        covers=["Relu"])
    bfloat = build("k = Cast<to=1>(w) y = Conv(x, k)", {}, opset=13)
    bfloat.graph.initializer.append(
        helper.make_tensor("w", TensorProto.BFLOAT16, [3, 4, 3, 3], f(3, 4, 3, 3).ravel())
    )
    keep(bfloat, "bfloat16_weights_cast", covers=["bfloat16"])
    keep(conditional(), "if_constant", covers=["If constant"])
    keep(loop(), "loop_constant", covers=["Loop constant"])
    keep(with_function(), "local_function", covers=["local function"])


def conditional() -> onnx.ModelProto:
    """An If whose condition follows from the (known) shape of its input."""
    model = build("s = Shape(x) n = Gather(s, one) c = Equal(n, four) y = Identity(x)",
                  {"one": ints(1)[0], "four": ints(4)[0], "w": f(4, 4, 1, 1)}, opset=17)

    def branch(name: str, op: str, reads: list[str]) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, reads, [f"{name}_y"])], name, [], [result])

    model.graph.node[-1].CopyFrom(
        helper.make_node("If", ["c"], ["y"], then_branch=branch("yes", "Conv", ["x", "w"]),
                         else_branch=branch("no", "Relu", ["x"]))
    )
    return model


def loop() -> onnx.ModelProto:
    """A Loop of three trips that carries one tensor and scans another."""
    model = build("y = Identity(x)", {"n": ints(3)[0], "t": np.array(True), "k": positive(1)},
                  opset=17, outputs="y z")
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["a", "k"], ["scaled"]),
            helper.make_node("Tanh", ["scaled"], ["b"]),
            helper.make_node("ReduceMean", ["b"], ["seen"], keepdims=0),
            helper.make_node("Identity", ["on"], ["still"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("on", TensorProto.BOOL, []),
         info("a", TensorProto.FLOAT, None)],
        [info("still", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, None),
         info("seen", TensorProto.FLOAT, None)],
    )
    model.graph.node[0].CopyFrom(helper.make_node("Loop", ["n", "t", "x"], ["y", "z"], body=body))
    return model


def with_function() -> onnx.ModelProto:
    """A function of the model's own, used twice, with an attribute."""
    model = build("a = Identity(x) c = Conv(a, w) y = Identity(c)", {"w": f(4, 4, 3, 3)}, opset=17)
    function = parser.parse_function(
        """<domain: "own", opset_import: ["" : 17]>
        Gate <alpha>(x) => (y) { s = Sigmoid(x) e = Elu<alpha: float = @alpha>(x) y = Mul(s, e) }"""
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    for index, alpha in ((0, 0.5), (2, 0.25)):
        node = model.graph.node[index]
        node.op_type, node.domain = "Gate", "own"
        node.attribute.append(helper.make_attribute("alpha", alpha))
    return model


def layouts() -> None:
    """What TensorFlow's exporter writes: NHWC outside, NCHW around each convolution."""
    add("nhwc_convs",
        "a = Transpose<perm=[0,3,1,2]>(x) c = Conv<pads=[1,1,1,1]>(a, w)"
        " d = Transpose<perm=[0,2,3,1]>(c) e = Add(d, b) r = Relu(e)"
        " g = Transpose<perm=[0,3,1,2]>(r) h = MaxPool<kernel_shape=[2,2], strides=[2,2]>(g)"
        " i = Transpose<perm=[0,2,3,1]>(h) j = Transpose<perm=[0,3,1,2]>(i) k = Conv(j, v)"
        " l = Transpose<perm=[0,2,3,1]>(k) y = ReduceMean<axes=[1,2], keepdims=0>(l)",
        inputs="float[1,8,8,3] x", w=f(4, 3, 3, 3), b=f(4), v=f(5, 4, 3, 3), opset=13,
        covers=["NHWC"])
    add("nhwc_residual",
        "a = Transpose<perm=[0,3,1,2]>(x) c = Conv<pads=[1,1,1,1]>(a, w)"
        " d = Transpose<perm=[0,2,3,1]>(c) s = Sigmoid(d) e = Add(s, x)"
        " g = Concat<axis=3>(e, x) t = Transpose<perm=[0,3,1,2]>(g) k = Conv(t, v)"
        " y = Transpose<perm=[0,2,3,1]>(k)",
        inputs="float[1,8,8,4] x", w=f(4, 4, 3, 3), v=f(5, 8, 1, 1), opset=13, covers=["NHWC"])
    add("nhwc_pad_batch_norm",
        "p = Pad(x, n) a = Transpose<perm=[0,3,1,2]>(p) c = Conv<strides=[2,2]>(a, w)"
        " d = Transpose<perm=[0,2,3,1]>(c) m = Mul(d, k) e = Add(m, b)"
        " r = Clip(e, zero, six) h = Reshape(r, s) y = MatMul(h, g)",
        inputs="float[1,8,8,3] x", n=ints(0, 0, 0, 0, 0, 1, 1, 0), w=f(4, 3, 3, 3), k=positive(4),
        b=f(4), zero=np.float32(0), six=np.float32(6), s=ints(-1, 64), g=f(64, 5), opset=13,
        covers=["NHWC"])


def volumes() -> None:
    """Convolutions over three dimensions, as video networks have them."""
    add("conv3d_bn_relu",
        "c = Conv<pads=[1,1,1,1,1,1]>(x, w, b) n = BatchNormalization(c, ng, nb, nm, nv)"
        " r = Relu(n) d = Conv<strides=[2,2,2], dilations=[1,1,1], pads=[1,0,0,0,1,0]>(r, v)"
        " y = Relu(d)",
        inputs="float[2,3,6,8,8] x", w=f(6, 3, 3, 3, 3), b=f(6), **norm(6),
        v=f(5, 6, 2, 3, 1), opset=15, covers=["Conv 3-D"])


def main() -> None:
    for part in (windows, products, elementwise, activations, normalizations, moves, computed,
                 layouts, volumes):
        part()
    update_index(ROWS, {"hand"})


if __name__ == "__main__":
    main()
