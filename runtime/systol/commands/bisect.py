"""`systol bisect`: the first tensor that leaves the float model, or that an executor has wrong."""

import argparse
import json
from math import isfinite
from typing import Any

from systol.api import compile_options_of
from systol.bisection import first_machine_difference
from systol.commands.options.model_options import add_compile_arguments, compile_options
from systol.commands.options.registration import Array, Command, add_backend, is_binary
from systol.console.stage_status import StageStatus
from systol.console.terminal import print_table, say
from systol.execution.inputs import fill_up
from systol.execution.session import Device
from systol.results.agreement import first_tensor_difference
from systol.samples import open_samples, read_inputs
from systol_compiler.binary.reader import load
from systol_compiler.calibrate.errors.bisect import departures
from systol_compiler.calibrate.errors.error_report import TensorError, error_report
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.compile import import_graph
from systol_hw.arch import load_arch
from systol_hw.errors import DifferenceError, InputError
from systol_sim.jit.compiled import STEPPER, VALUES, compile_beside

_LISTED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|BINARY", help="an ONNX model, or a binary of one")
    parser.add_argument(
        "--input", required=True, metavar="X.npz|DIR",
        help="inputs by name (or X.npy for one input), or images",
    )  # fmt: skip
    add_backend(parser)
    add_compile_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(options: argparse.Namespace) -> int:
    compile_beside(STEPPER, VALUES)
    if is_binary(options.model):
        return _bisect_binary(options)
    keywords = compile_options(options)
    graph = import_graph(options.model, shapes=keywords["shapes"], batch=keywords["batch"])
    inputs = read_inputs(options.input, graph.inputs, options.preprocess)
    calibration: Any = inputs
    if keywords["calibration"]:
        calibration = open_samples(keywords["calibration"], options.preprocess)
    compiler = compile_options_of(
        method=keywords["method"], overrides=keywords["overrides"], strict=keywords["strict"],
        effort=keywords["effort"] or "fast",
    )
    with StageStatus("quantizing") as status:
        made = quantize(graph, calibration, compiler.quantization, strict=compiler.strict)
        status("quantized")
        errors = error_report(graph, made.quantized, inputs)
        left = departures(made.quantized, errors)
        status("compared with the float model")
        size = graph.types[graph.inputs[0]].shape[0]
        difference = first_machine_difference(
            made.quantized,
            {name: _one_run(value, size) for name, value in inputs.items()},
            arch=load_arch(keywords["arch"]),
            device=Device(options.backend),
            options=compiler,
        )
    if options.json:
        print(json.dumps({
            "departures": [str(item) for item in left],
            "difference": None if difference is None else str(difference),
            "tensors": [_error_json(error) for error in errors],
        }, indent=2))  # fmt: skip
    else:
        worst = sorted(errors, key=lambda error: error.sqnr_db)[:_LISTED]
        print_table(
            ("tensors farthest from float", "layer", "bits", "SQNR dB", "at limits"),
            [_error_row(error) for error in worst],
        )
        for item in left[:_LISTED]:
            print(f"leaves the float model: {item}")
        if not left:
            print("no tensor leaves the float model suddenly")
        if difference is None:
            print(f"{options.backend} computes every tensor as it is defined")
    if difference is not None:
        raise DifferenceError(f"{options.backend}: {difference}; please report it with the model")
    return 0


def _bisect_binary(options: argparse.Namespace) -> int:
    """Compare the executor with the reference, at every tensor that crosses."""
    model = load(options.model)
    names = [item.name for item in model.inputs]
    preprocessing = next((i.preprocessing for i in model.inputs if i.preprocessing), "")
    inputs = read_inputs(options.input, names, options.preprocess or preprocessing)
    if options.backend == "reference":
        raise InputError("the reference is what is compared with: take another --backend")
    results = [
        Device(backend).load(model).run(inputs, keep_tensors=True)
        for backend in ("reference", options.backend)
    ]
    found = first_tensor_difference(*results)
    if options.json:
        print(json.dumps({"difference": found or None}, indent=2))
    elif not found:
        count = len(results[0].tensors)
        print(f"reference and {options.backend} agree in all {count} tensors that cross")
        say("name the ONNX model instead of the binary to look at every tensor")
    if found:
        raise DifferenceError(f"reference and {options.backend} differ: {found}")
    return 0


def _one_run(value: Array, size: int) -> Array:
    return fill_up(value[:size], size)


def _error_json(error: TensorError) -> dict[str, Any]:
    db = error.sqnr_db if isfinite(error.sqnr_db) else None
    return {
        "tensor": error.tensor, "layer": error.layer, "nodes": list(error.nodes),
        "bits": error.width, "sqnr_db": db, "clipped": error.clipped,
    }  # fmt: skip


def _error_row(error: TensorError) -> tuple[str, ...]:
    return (
        error.tensor, error.layer or "host", str(error.width), f"{error.sqnr_db:.1f}",
        f"{100 * error.clipped:.2f} %",
    )  # fmt: skip


COMMAND = Command(
    name="bisect",
    help="the first tensor that leaves the float model, or that is computed wrongly",
    description="Quantize a model, name the tensors at which it leaves the float model, and "
    "compare an executor with the exact definition tensor by tensor. Of a binary, the tensors that "
    "cross between host and machine are compared with the reference. Exit status 10 if an executor "
    "is wrong.",
    examples="systol bisect model.onnx --input x.npz --calibration train.npz\n"
    "systol bisect model.elf --input x.npz --backend rtl",
    add_arguments=add_arguments,
    run=run,
)
