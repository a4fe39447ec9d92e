"""From model file to binary: the whole corpus, every level, every kind of machine."""

import dataclasses
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import systol
from model_corpus import CORPUS, CorpusModel
from systol_compiler.binary.model import CompiledModel
from systol_compiler.calibrate.quantizer import Quantization, quantize
from systol_compiler.compile import (
    LEVELS,
    CompileOptions,
    compile_model,
    compile_quantized,
    emit_level,
    import_graph,
)
from systol_compiler.quantized.evaluate import evaluate
from systol_hw.arch import PRESETS, Arch
from systol_hw.errors import InputError

FAST = CompileOptions(effort="fast")
# A buffer in which hardly anything lies whole.
TINY = dataclasses.replace(PRESETS["nano"], name="tiny", ub_bytes=8192)
MACHINES = (PRESETS["edge16"], PRESETS["edge32"], PRESETS["nano"], TINY)

HOST_ALONE = {
    "argmax_dynamo", "argmax_opset7", "cumsum_host",
    "squeeze_unsqueeze_opset11", "topk_host", "where_computed_mask",
}
"""Models of which the machine can run nothing: the host runs them whole."""
COARSE = {
    "einsum_opset12": 15.0, "unary_functions": 2.0, "reduce_rare": 15.0,
    "transformer_vision_dynamo": 16.0, "transformer_vision_opset14_torchscript": 16.0,
}
"""Least signal to noise in dB of models whose values eight bits hold badly (a reciprocal behind an
exponential), or for which a few draws of noise are not much to calibrate with."""
LEAST_SNR = 19.0


def samples_of(model: CorpusModel) -> dict[str, np.ndarray]:
    """Four draws, one after another where the first axis counts samples, else one."""
    draws = [model.feeds(seed) for seed in range(4)]
    return {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}


def quantized(model: CorpusModel) -> Quantization:
    graph = import_graph(str(model.path), shapes=model.shapes)
    try:
        return quantize(graph, samples_of(model))
    except InputError:
        return quantize(graph, model.feeds())


def run(compiled: CompiledModel, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs: dict[str, np.ndarray] = systol.Device("sim").run(compiled, feeds).outputs
    return outputs


def signal_to_noise(real: np.ndarray, found: np.ndarray) -> float:
    error = real.astype(np.float64) - found
    power = np.square(real.astype(np.float64)).sum()
    return float(10 * np.log10((power + 1e-30) / (np.square(error).sum() + 1e-30)))


def in_batches(model: CorpusModel) -> bool:
    return model.name not in ("gemm_two_activations", "sub_mul_two_activations")


@pytest.mark.parametrize("model", CORPUS, ids=lambda model: model.name)
def test_corpus_runs_as_evaluated_and_near_the_float_model(model: CorpusModel) -> None:
    if not in_batches(model):
        pytest.skip("its inputs have different first dimensions: calibration takes samples alone")
    found = quantized(model)
    machine = MACHINES[sum(map(ord, model.name)) % len(MACHINES)]
    compiled = compile_quantized(found.quantized, arch=machine, options=FAST)
    assert bool(compiled.machine_segments) != (model.name in HOST_ALONE)
    feeds = model.feeds()
    outputs = run(compiled, feeds)
    for name, value in evaluate(found.quantized, feeds).items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(model.path), options, providers=["CPUExecutionProvider"]
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return  # ONNX Runtime has no kernels for this type; other models hold the values
    names = [output.name for output in session.get_outputs()]
    for name, real in zip(names, session.run(names, feeds), strict=True):
        least = COARSE.get(model.name, LEAST_SNR)
        assert signal_to_noise(real, outputs[name]) >= least, name


def small_model(images: int | str = 1) -> bytes:
    """Two convolutions with a residual sum, a pool and a product."""
    rng = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        return onnx.numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["b"], pads=[1, 1, 1, 1], name="second"),
        helper.make_node("Add", ["b", "r"], ["s"], name="sum"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], name="mean"),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1, name="last"),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [images, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [images, 5])],
        [weights("w1", 8, 3, 3, 3), weights("w2", 8, 8, 3, 3), weights("w3", 5, 8)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


def images(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {"x": rng.normal(size=(count, 3, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_machines_and_batches_run_as_evaluated(machine: Arch, batch: int) -> None:
    graph = import_graph(small_model("n"), batch=batch)
    found = quantize(graph, images(6)).quantized
    compiled = compile_quantized(found, arch=machine, options=FAST)
    assert compiled.batch == batch and not compiled.host_segments
    # The last batch is filled up: what is there does not depend on what is beside it.
    outputs = run(compiled, images(batch + 1))["y"]
    np.testing.assert_array_equal(outputs[:batch], evaluate(found, images(batch))["y"])


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_prints(level: str) -> None:
    text = emit_level(
        level, small_model(), arch=PRESETS["edge16"], calibration=images(4), options=FAST
    )
    assert "second" in text or level == "allocated"
    assert len(text.splitlines()) > 3


def test_the_same_model_gives_the_same_program() -> None:
    programs = [
        compile_model(small_model(), arch=PRESETS["edge16"], calibration=images(4))
        for _ in range(2)
    ]
    first, second = (model.machine_segments[0].program for model in programs)
    np.testing.assert_array_equal(first.code, second.code)
    np.testing.assert_array_equal(first.weight_image, second.weight_image)


def test_a_search_never_ends_slower() -> None:
    cycles = [
        compile_model(
            small_model(), arch=PRESETS["edge16"], calibration=images(4),
            options=CompileOptions(effort=effort),
        ).report["summary"]["cycles"]
        for effort in ("fast", "normal")
    ]
    assert cycles[1] <= cycles[0]


def test_debug_map_covers_every_instruction_but_the_end() -> None:
    compiled = compile_model(small_model(), arch=PRESETS["nano"], calibration=images(4))
    (segment,) = compiled.machine_segments
    assert {"first", "second", "sum", "mean", "last"} <= {
        name for item in segment.layers for name in item.source_nodes
    }
    covered = sum(item.count for item in segment.layers)
    assert covered >= len(segment.program.code) - 2


def test_unknown_level_effort_and_batch_are_refused() -> None:
    with pytest.raises(InputError, match="levels are graph"):
        emit_level("tiles", small_model(), arch=PRESETS["nano"], calibration=images(4))
    with pytest.raises(InputError, match="effort must be one of"):
        CompileOptions(effort="most")
    with pytest.raises(InputError, match="batch must be at least 1"):
        compile_model(small_model(), arch=PRESETS["nano"], calibration=images(4), batch=0)
