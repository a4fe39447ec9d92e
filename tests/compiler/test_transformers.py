"""The two bundled transformers: whole on the machine between embedding and logits, and accurate."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from operator_cases import decibels
from systol import bundled
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.compile import import_graph
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.evaluate import Evaluator
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.lowering import lower
from systol_hw.arch import PRESETS
from systol_sim.onnx_runtime import onnxruntime

DATA = bundled.model_path("mnist_mlp").parent


def texts() -> tuple[Array, Array]:
    """Windows to calibrate with, and to test."""
    with np.load(DATA / "docs_text.npz", allow_pickle=False) as archive:
        return archive["calibration"], archive["test"]


def quantized(path: Path, calibration: Mapping[str, Array], batch: int) -> QuantizedGraph:
    return quantize_graph(import_graph(path, batch=batch), calibration)


def both(path: Path, graph: QuantizedGraph, feeds: Mapping[str, Array]) -> tuple[Array, Array]:
    """Logits of ONNX Runtime, and of the layers, batch by batch."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = feeds
    batch = graph.real[name].shape[0]
    runner, wanted, got = Evaluator(graph), [], []
    for low in range(0, len(feeds[name]), batch):
        part = {name: feeds[name][low : low + batch]}
        wanted.append(session.run(["logits"], part)[0])
        got.append(runner.run(part)["logits"])
    return np.concatenate(wanted), np.concatenate(got)


def test_the_image_transformer() -> None:
    path = DATA / "mnist_vit.onnx"
    graph = quantized(path, {"image": bundled.calibration_images()[::10]}, 20)
    assert [type(part) for part in graph.parts] == [MachinePart]
    assert all(layer.batched(graph.tensors) for layer in graph.machine_layers)
    images, labels = (part[:400] for part in bundled.test_images())
    wanted, got = both(path, graph, {"image": images})
    assert decibels(wanted, got) > 30
    assert (got.argmax(1) == wanted.argmax(1)).mean() > 0.99
    assert (got.argmax(1) == labels[: len(got)]).mean() > 0.97


def test_the_text_transformer() -> None:
    path = DATA / "docs_text.onnx"
    calibration, test = texts()
    tokens = calibration[:64, :-1].astype(np.int64)
    graph = quantized(path, {"tokens": tokens}, 16)
    host, machine = graph.parts
    assert isinstance(host, HostLayer) and host.operators == ("Gather",)
    assert isinstance(machine, MachinePart)
    wanted, got = both(path, graph, {"tokens": test[:64, :-1].astype(np.int64)})
    assert decibels(wanted, got) > 22
    assert (got.argmax(-1) == wanted.argmax(-1)).mean() > 0.9
    right = [float((logits.argmax(-1) == test[:64, 1:]).mean()) for logits in (wanted, got)]
    assert right[1] > right[0] - 0.02


def test_masked_scores_decide_no_range() -> None:
    calibration, _ = texts()
    graph = quantized(
        DATA / "docs_text.onnx", {"tokens": calibration[:8, :-1].astype(np.int64)}, 1
    )
    wide = [tensor for tensor in graph.tensors.values() if tensor.source and tensor.width == 16]
    assert len(wide) == 2 and all(tensor.scale == 1 / 256 for tensor in wide)


@pytest.mark.parametrize("name", ["mnist_vit", "docs_text"])
def test_attention_moves_few_bytes(name: str) -> None:
    """Of the vector unit's work on `edge32` at most a fifth is copies: scores are written as
    Softmax wants to read them."""
    calibration, _ = texts()
    feeds: dict[str, dict[str, Array]] = {
        "mnist_vit": {"image": bundled.calibration_images()[::50]},
        "docs_text": {"tokens": calibration[:8, :-1].astype(np.int64)},
    }
    graph = quantized(DATA / f"{name}.onnx", feeds[name], 1)
    part = next(part for part in graph.parts if isinstance(part, MachinePart))
    network = lower(graph, part, PRESETS["edge32"])
    kinds = {layer.name: layer.kind for layer in graph.machine_layers}
    sizes: dict[bool, int] = {True: 0, False: 0}
    for nest in network.nests:
        copies = kinds.get(nest.layer) in ("turn", "transpose", "reshape", None)
        sizes[copies] += nest.domain.size
    assert sizes[True] < 0.2 * sizes[False]
