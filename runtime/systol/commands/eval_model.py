"""`systol eval`: accuracy of a quantized model, beside the float model's."""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from systol.api import load
from systol.commands.options.model_options import (
    add_compile_arguments,
    compile_and_say,
    compile_options,
    shapes_of,
)
from systol.commands.options.registration import (
    Array,
    Command,
    add_backend,
    is_binary,
    read_arrays,
    read_text,
)
from systol.console.stage_status import StageStatus
from systol.console.terminal import LateProgress, print_table, say
from systol.evaluation import (
    Score,
    against_labels,
    beside_float,
    float_outputs,
    saturated_share,
)
from systol.execution.ranges import InputRangeWarning
from systol.execution.session import Device
from systol.results.result import ModelResult
from systol.samples import read_inputs
from systol_compiler.binary.model import CompiledModel
from systol_compiler.compile import import_graph
from systol_compiler.graph.float_graph import Graph
from systol_hw.errors import InputError
from systol_sim.jit.compiled import STEPPER, VALUES, compile_beside

_BATCH = 32
"""Items of one run where neither the user nor the model says."""
_CALIBRATION_MOST = 256
"""Items of the input that calibrate where nothing else is given to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|BINARY", help="an ONNX model, or a binary of one")
    parser.add_argument(
        "--input", required=True, metavar="X.npz|DIR",
        help="inputs by name (or X.npy for one input), or images",
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="Y.npy|Y.npz|Y.txt",
        help="classes of the items, or right values by output; without them only the float model "
        "is compared with",
    )  # fmt: skip
    parser.add_argument(
        "--float", metavar="MODEL.onnx", dest="float_model",
        help="the model that a binary was made of, to compare with",
    )  # fmt: skip
    add_backend(parser)
    add_compile_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    compile_beside(STEPPER, VALUES)
    binary = is_binary(options.model)
    source = options.float_model if binary else options.model
    model = load(options.model) if binary else None
    keywords = compile_options(options)
    if options.batch is None:
        keywords["batch"] = _BATCH
    batch = keywords["batch"] if model is None else model.batch or 1
    graph = import_graph(source, shapes=shapes_of(options), batch=batch) if source else None
    names = [item.name for item in model.inputs] if model else list(graph.inputs if graph else ())
    inputs = _inputs(options, names, model)
    if model is None:
        if keywords["calibration"] is None:
            keywords["calibration"] = {n: v[:_CALIBRATION_MOST] for n, v in inputs.items()}
            say("calibrated on the items that are evaluated: give --calibration for a fair figure")
        with StageStatus("compiling") as status:
            model = compile_and_say(source, observer=status, **keywords)
    with LateProgress("items") as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", InputRangeWarning)  # they are in the result
        result = Device(options.backend).load(model).run(inputs, progress=progress)
    scores = _scores(options, result, graph, inputs)
    saturated = saturated_share(result.report) if result.cycles is not None else None
    if options.json:
        print(json.dumps(_json(result, scores, saturated), indent=2))
        return 0
    for index, (output, rows) in enumerate(scores.items()):
        if index:
            print()
        heads = ("float32", "int8") if graph is not None else ("int8",)
        print_table((output, *heads), [(name, *_cells(pair, heads)) for name, pair in rows.items()])
    print_table(("items", str(result.items)), _extra(saturated))
    for text in result.warnings:
        say(f"warning: {text}")
    return 0


Rows = dict[str, tuple[float | None, float | None]]
"""By figure: of the float model and of the quantized one."""


def _scores(
    options: argparse.Namespace, result: ModelResult, graph: Graph | None,
    inputs: dict[str, Array],
) -> dict[str, Rows]:
    labels = _labels(options.labels, list(result.outputs)) if options.labels else {}
    real = float_outputs(graph, inputs) if graph is not None else {}
    rows: dict[str, Rows] = {}
    for name, values in result.outputs.items():
        found: Rows = {}
        if name in labels:
            ours = against_labels(name, values, labels[name])
            theirs = against_labels(name, real[name], labels[name]) if real else None
            for key, value in ours.figures.items():
                found[key] = (theirs.figures[key] if theirs else None, value)
        if name in real:
            beside: Score = beside_float(name, values, real[name])
            found |= {key: (None, value) for key, value in beside.figures.items()}
        if found:
            rows[name] = found
    if not rows:
        raise InputError(
            "there is nothing to compare with: give --labels, or --float with the model that the "
            "binary was made of"
        )
    return rows


def _inputs(
    options: argparse.Namespace, names: list[str], model: CompiledModel | None
) -> dict[str, Array]:
    preprocessing = options.preprocess
    if not preprocessing and model is not None:
        preprocessing = next((i.preprocessing for i in model.inputs if i.preprocessing), "")
    return read_inputs(options.input, names, preprocessing)


def _labels(path: str, outputs: list[str]) -> dict[str, Array]:
    """By output; one array is for the first one."""
    if Path(path).suffix == ".txt":
        words = read_text(path).split()
        if not words or not all(w.isascii() and w.isdigit() and len(w) < 10 for w in words):
            raise InputError(f"{path} must hold one class number for each item")
        return {outputs[0]: np.array([int(word) for word in words])}
    arrays = read_arrays(path, outputs[0])
    if set(arrays) <= set(outputs):
        return arrays
    if len(arrays) == 1:
        return {outputs[0]: next(iter(arrays.values()))}
    raise InputError(
        f"{path} holds {', '.join(arrays)}, and the model's outputs are {', '.join(outputs)}"
    )


def _json(
    result: ModelResult, scores: dict[str, Rows], saturated: float | None
) -> dict[str, Any]:
    return {
        "model": result.model.name,
        "arch": result.model.arch.name,
        "backend": result.backend.name,
        "items": result.items,
        "outputs": {
            output: {
                name: {"float": theirs, "quantized": ours}
                for name, (theirs, ours) in rows.items()
            }
            for output, rows in scores.items()
        },
        "saturated_share": saturated,
        "warnings": list(result.warnings),
    }


def _cells(pair: tuple[float | None, float | None], heads: tuple[str, ...]) -> list[str]:
    return ["-" if value is None else f"{value:.4f}" for value in pair[2 - len(heads) :]]


def _extra(saturated: float | None) -> list[tuple[str, str]]:
    if saturated is None:
        return []
    return [("results at their limits, Relu included", f"{100 * saturated:.3g} %")]


COMMAND = Command(
    name="eval",
    help="accuracy on data, float beside int8",
    description="Run a model on labelled data and print its accuracy (top-1 and top-5, or the "
    "error where labels are values), beside that of the float model. A binary holds no float "
    "model: name it with --float.",
    examples="systol eval model.onnx --calibration train.npz --input x.npz --labels y.npy\n"
    "systol eval model.elf --float model.onnx --input photos/ --labels classes.txt",
    add_arguments=add_arguments,
    run=run,
)
