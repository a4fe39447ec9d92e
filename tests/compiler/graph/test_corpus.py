"""Every model of the corpus keeps its meaning through import and every pass, to canonical form."""

from collections import Counter

import numpy as np
import pytest

from canonical_forms import broken_forms
from model_corpus import CORPUS, CorpusModel
from onnx_run import Array, run_model
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx

HALF = {"float16_model", "half_precision_dynamo", "half_precision_opset13_torchscript"}


def compare(
    graph: Graph, feeds: dict[str, Array], wanted: list[Array], stage: str, eps: float
) -> None:
    graph.verify()
    results = run_model(graph.to_onnx(), feeds)
    for result, found, right in zip(graph.outputs, results, wanted, strict=True):
        assert found.shape == right.shape, f"{result.name} {stage}"
        np.testing.assert_allclose(
            found, right, rtol=eps, atol=eps, err_msg=f"{result.name} {stage}"
        )


@pytest.mark.parametrize("model", CORPUS, ids=lambda model: model.name)
def test_meaning_is_kept_and_forms_are_canonical(model: CorpusModel) -> None:
    feeds = model.feeds(seed=3)
    wanted = run_model(model.path, feeds)
    eps = 1e-2 if model.name in HALF else 2e-4
    graph = import_onnx(model.path, model.shapes)
    assert set(graph.inputs) == set(feeds)
    compare(graph, feeds, wanted, "after import", eps)
    last = graph

    def observe(name: str, changed: Graph) -> None:
        nonlocal last
        if changed is not last:
            compare(changed, feeds, wanted, f"after {name}", eps)
        last = changed

    graph = run_pipeline(graph, observer=observe)
    assert list(broken_forms(graph)) == []
    assert all(node.sources for node in graph.nodes)


@pytest.mark.parametrize("model", CORPUS, ids=lambda model: model.name)
def test_canonical_form_is_a_fixed_point(model: CorpusModel) -> None:
    graph = run_pipeline(import_onnx(model.path, model.shapes))
    again = run_pipeline(graph)
    assert Counter(node.op for node in again.nodes) == Counter(node.op for node in graph.nodes)


def test_the_corpus_is_large_enough() -> None:
    exporters = Counter(model.exporter for model in CORPUS)
    assert len(CORPUS) >= 80 and exporters["dynamo"] >= 20 and exporters["torchscript"] >= 10
    assert {model.opset for model in CORPUS} >= {7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 20, 21, 23}
    assert all(model.path.stat().st_size < 70_000 for model in CORPUS)


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("act_gelu_dynamo", ["Conv", "Gelu"]),
        ("act_gelu_tanh_dynamo", ["Conv", "Gelu"]),
        ("gelu_layer_norm_opset12_torchscript", ["MatMul", "Add", "Gelu", "LayerNormalization"]),
        ("gelu_tanh_opset14_torchscript", ["MatMul", "Add", "Gelu"]),
        ("gelu_pattern_erf_first", ["Gelu"]),
        ("gelu_pattern_half_first", ["Gelu"]),
        ("act_silu_dynamo", ["Conv", "Swish"]),
        ("swish_pattern_scaled", ["Swish"]),
        ("silu_mish_opset13_torchscript", ["Conv", "Swish", "Conv", "Mish"]),
        ("mish_pattern", ["Mish"]),
        ("act_hardswish_dynamo", ["Conv", "HardSwish"]),
        ("hardswish_opset11_torchscript", ["Conv", "HardSwish"]),
        ("hard_swish_relu6_pattern", ["HardSwish"]),
        ("hard_sigmoid_options", ["HardSwish"]),
        ("act_hardsigmoid_dynamo", ["Conv", "HardSigmoid"]),
        ("act_softplus_dynamo", ["Conv", "Softplus"]),
        ("act_softsign_dynamo", ["Conv", "Softsign"]),
        ("act_relu6_dynamo", ["Conv", "Clip"]),
        ("relu6_as_min_max", ["Clip"]),
        ("prelu_shared_opset9", ["LeakyRelu"]),
        ("layer_norm_pattern_opset9", ["LayerNormalization"]),
        ("layer_norm_no_bias", ["LayerNormalization"]),
        ("rms_norm_pattern", ["RMSNormalization"]),
        ("rms_norm_dynamo", ["MatMul", "Add", "RMSNormalization"]),
        ("group_norm_dynamo", ["Conv", "GroupNormalization", "Swish"]),
        ("group_norm_opset11_torchscript", ["Conv", "GroupNormalization"]),
        ("group_norm_opset18", ["GroupNormalization"]),
        ("instance_norm_dynamo", ["Conv", "InstanceNormalization"]),
        ("local_response_norm_dynamo", ["LRN"]),
        ("batch_norm_alone", ["Conv", "Clip"]),
        ("batch_norm_before_padded_conv", ["Conv", "Conv"]),
        ("batch_norm_after_transposed_conv", ["ConvTranspose"]),
        ("batch_norm_shared_conv", ["Conv", "Conv", "Add"]),
        ("batch_norm1d_dynamo", ["Gemm", "Clip", "Gemm"]),
        ("dense_block_dynamo", ["Conv", "Clip", "Conv", "Concat"] * 2),
        ("conv_dynamic_batch_opset9", ["Conv", "Clip"]),
        ("arithmetic_constants", ["Conv"]),
        ("mul_scalar_chain", ["Mul", "Add"]),
        ("normalized_input", ["Conv", "Clip"]),
        ("uint8_input", ["Cast", "Conv", "Clip"]),
        ("image_uint8_dynamo", ["Cast", "Conv"]),
        ("image_uint8_nhwc_dynamo", ["Transpose", "Cast", "Conv"]),
        ("float16_model", ["Cast", "Conv", "Clip", "AveragePool"]),
        ("grid_of_noops", ["Conv"]),
        ("transposes_cancel", ["Clip", "Conv"]),
        ("nhwc_convs", ["Transpose", "Conv", "Clip", "MaxPool", "Conv", "AveragePool", "Flatten"]),
        ("nhwc_pad_batch_norm", ["Transpose", "Conv", "Clip", "Flatten", "Gemm"]),
        ("pad_zero_before_conv", ["Conv"]),
        ("pad_negative", ["Slice", "Pad"]),
        ("reshape_computed_opset7", ["Conv", "Clip", "Flatten", "Gemm"]),
        ("reshape_computed_opset13", ["Conv", "Clip", "Flatten", "Gemm"]),
        ("cnn_view_opset9_torchscript",
         ["Conv", "Clip", "MaxPool", "Conv", "Clip", "MaxPool", "Flatten", "Gemm", "Clip", "Gemm"]),
        ("softmax_opset7_rank4", ["Flatten", "Softmax", "Reshape"]),
        ("softmax_opset11_last_axis", ["Softmax"]),
        ("matmul_vector", ["Gemm", "Reshape"]),
        ("matmul_constant_left", ["Transpose", "Gemm", "Transpose"]),
        ("gemm_bias_per_row", ["Gemm", "Add"]),
        ("gemm_bias_row", ["Gemm"]),
        ("gemm_trans_a", ["Transpose", "Gemm"]),
        ("gemm_two_activations", ["Transpose", "MatMul", "Mul"]),
        ("einsum_dynamo", ["Transpose", "MatMul"]),
        ("index_select_dynamo", ["Gather"]),
        ("if_constant", ["Conv"]),
        ("average_pool_auto_pad", ["AveragePool"]),
        ("maxpool_ceil_dynamo", ["MaxPool"]),
        ("l2_normalize_dynamo", ["ReduceL2", "Clip", "Div"]),
        ("attention_dynamo",
         ["MatMul", "Add", "Split", "Reshape", "Reshape", "Reshape", "Transpose", "Transpose",
          "Transpose", "MatMul", "Mul", "Softmax", "MatMul", "Transpose", "Reshape", "MatMul",
          "Add"]),
    ],
)  # fmt: skip
def test_what_becomes_of_it(name: str, ops: list[str]) -> None:
    (model,) = (item for item in CORPUS if item.name == name)
    graph = run_pipeline(import_onnx(model.path, model.shapes))
    assert Counter(node.op for node in graph.nodes) == Counter(ops), str(graph)
