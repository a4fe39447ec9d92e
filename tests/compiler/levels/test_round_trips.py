"""Every level's text gives an equal value again: over the corpus, and on networks at random."""

import dataclasses

import numpy as np
import pytest

from level_texts import (
    check_round_trip,
    difference,
    graph_text,
    machine_texts,
    quantized_text,
)
from model_corpus import CORPUS, CorpusModel
from random_models import random_model
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.compile import CompileOptions, compile_quantized, emit_level, import_graph
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx
from systol_compiler.levels.quantized import read_quantized
from systol_compiler.quantized.evaluate import evaluate
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.text.arrays import Arrays
from systol_hw.arch import PRESETS
from systol_hw.errors import UnsupportedModelError
from systol_hw.isa.assembly import assemble_code

PLAIN = QuantizationOptions(bias_correction=False)
SMALL = dataclasses.replace(PRESETS["nano"], name="small", ub_bytes=8192)
RANDOM_NETWORKS = 30


def quantized_of(graph: Graph) -> QuantizedGraph | None:
    try:
        return quantize(graph, "random", PLAIN).quantized
    except UnsupportedModelError:
        return None


@pytest.mark.parametrize("model", CORPUS, ids=lambda model: model.name)
def test_corpus(model: CorpusModel) -> None:
    imported = import_onnx(model.path, model.shapes)
    check_round_trip(graph_text(imported))
    graph = run_pipeline(imported)
    check_round_trip(graph_text(graph))
    quantized = quantized_of(graph)
    if quantized is None:
        return
    check_round_trip(quantized_text(quantized))
    for item in machine_texts(quantized, PRESETS["edge16"]):
        check_round_trip(item)


@pytest.mark.parametrize("seed", range(RANDOM_NETWORKS))
def test_random_networks(seed: int) -> None:
    graph = import_graph(random_model(seed))
    check_round_trip(graph_text(graph))
    quantized = quantized_of(graph)
    if quantized is None:
        return
    check_round_trip(quantized_text(quantized))
    # A small buffer, so that tensors stream: slots, bands and cuts are in the text as well.
    for item in machine_texts(quantized, SMALL):
        check_round_trip(item)


def test_every_pass_of_a_network_prints_what_is_read() -> None:
    model = next(item for item in CORPUS if item.name == "transformer_block_dynamo")
    graphs: list[Graph] = []
    run_pipeline(import_onnx(model.path, model.shapes), observer=lambda _, g: graphs.append(g))
    for graph in {id(graph): graph for graph in graphs}.values():
        check_round_trip(graph_text(graph))


def test_a_graph_of_text_compiles_to_the_same_program_and_computes_the_same() -> None:
    graph = import_graph(random_model(3))
    quantized = quantize(graph, "random", PLAIN).quantized
    arrays = Arrays()
    again = read_quantized(quantized.text(arrays), arrays)
    programs = [
        [
            segment.program for segment in compile_quantized(
                item, arch=PRESETS["edge16"], options=CompileOptions(effort="fast")
            ).machine_segments
        ]
        for item in (quantized, again)
    ]
    for left, right in zip(*programs, strict=True):
        np.testing.assert_array_equal(left.code, right.code)
        np.testing.assert_array_equal(left.weight_image, right.weight_image)
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.normal(size=quantized.real[name].shape).astype(np.float32)
        for name in quantized.inputs
    }
    left, right = evaluate(quantized, feeds), evaluate(again, feeds)
    assert difference(left, right) is None and left


def test_assembler_of_the_last_level_gives_its_code() -> None:
    model = next(item for item in CORPUS if item.name == "cnn_view_dynamo")
    compiled = compile_quantized(
        quantize(import_graph(model.path), "random", PLAIN).quantized, arch=PRESETS["nano"]
    )
    text = emit_level(
        "asm", model.path, arch=PRESETS["nano"], calibration="random",
        options=CompileOptions(quantization=PLAIN),
    )
    np.testing.assert_array_equal(
        assemble_code(text), compiled.machine_segments[0].program.code
    )
