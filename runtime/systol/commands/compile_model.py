"""`systol compile`: a model in, a binary out."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from systol.api import compile
from systol.commands.registration import Array, Command, keep_apart, positive, read_arrays
from systol.terminal import LateStatus, print_table, say
from systol_compiler.driver import LEVELS, CompileOptions, emit_level
from systol_compiler.model import CompiledModel
from systol_hw.arch import load_arch
from systol_hw.errors import InputError
from systol_sim.compiled import STEPPER, compile_beside


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX model, float32")
    parser.add_argument(
        "--arch", default="edge16", metavar="NAME|FILE.toml", help="the machine (default: edge16)"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE.npz|DIR",
        help="sample inputs by input name, or a directory of such files",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="N=V",
        help="value of a dynamic dimension, by its name; may be repeated",
    )
    parser.add_argument(
        "--batch", type=positive, metavar="N",
        help="items of one run, where the model leaves that open (default: 1)",
    )
    parser.add_argument("-o", "--output", metavar="OUT.elf", help="default: the model's name")
    parser.add_argument(
        "--emit", choices=LEVELS, help="print this level on stdout instead of writing a binary"
    )
    parser.add_argument(
        "--strict", action="store_true", help="host segments are an error, not a report"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    output = options.output or f"{Path(options.model).stem}.elf"
    keep_apart(
        {"MODEL": options.model, "--calibration": options.calibration, "--arch": options.arch},
        {} if options.emit else {"--output": output},
    )
    compile_beside(STEPPER)
    calibration = read_calibration(options.calibration) if options.calibration else None
    shapes = _parse_shapes(options.shape)
    with LateStatus("compiling"):
        if options.emit:
            text = emit_level(
                options.emit,
                options.model,
                arch=load_arch(options.arch),
                calibration=calibration,
                shapes=shapes,
                batch=options.batch or 1,
                options=CompileOptions(strict=options.strict),
            )
            print(text)
            return 0
        model = compile(
            options.model,
            arch=options.arch,
            calibration=calibration,
            shapes=shapes,
            batch=options.batch or 1,
            strict=options.strict,
        )
    if options.batch is not None and model.batch != options.batch:
        raise InputError(
            f"--batch {options.batch}: the model's first dimension is fixed at {model.batch}; "
            "leave --batch out, or give the model a dynamic first dimension"
        )
    model.save(output)
    description = describe(model)
    if options.json:
        print(json.dumps({"output": output, **description}, indent=2))
    else:
        print_table(("compiled", output), [(k, str(v)) for k, v in description.items()])
        for host in model.host_segments:
            say(f"on the host: {', '.join(host.operators)}: {host.reason}")
    return 0


def describe(model: CompiledModel) -> dict[str, Any]:
    """A compiled model in a few figures."""
    programs = [segment.program for segment in model.machine_segments]
    return {
        "model": model.name,
        "machine": model.arch.name,
        "batch": model.batch,
        "segments": len(model.segments),
        "host segments": len(model.host_segments),
        "layers": sum(
            len({item.layer for item in segment.layers}) for segment in model.machine_segments
        ),
        "instructions": sum(len(program.code) for program in programs),
        "weight memory bytes": sum(program.weight_memory_bytes for program in programs),
    }


def read_calibration(path: str) -> dict[str, Array] | Array:
    """Samples by input name from a file, or from all .npz and .npy files of a directory.

    A .npy file holds the samples of a model with one input.
    """
    place = Path(path)
    if not place.is_dir():
        return _unnamed(read_arrays(place, ""))
    files = sorted(p for p in place.iterdir() if p.suffix in (".npz", ".npy"))
    if not files:
        raise InputError(f"{place} holds no .npz and no .npy file to calibrate with")
    parts: dict[str, list[Array]] = {}
    for file in files:
        for name, array in read_arrays(file, "").items():
            parts.setdefault(name, []).append(array)
    try:
        return _unnamed({name: np.concatenate(arrays) for name, arrays in parts.items()})
    except ValueError as error:
        raise InputError(f"the files of {place} do not fit each other: {error}") from error


def _unnamed(arrays: dict[str, Array]) -> dict[str, Array] | Array:
    """One array without a name, which the compiler takes for a model's only input, or `arrays`."""
    return arrays[""] if set(arrays) == {""} else arrays


def _parse_shapes(texts: list[str]) -> dict[str, int]:
    shapes = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value.isdecimal() or int(value) < 1:
            raise InputError(f"--shape must be NAME=SIZE with a size from 1, not {text!r}")
        shapes[name] = int(value)
    return shapes


COMMAND = Command(
    name="compile",
    help="compile a model to a binary",
    description="Quantize and compile an ONNX model to an accelerator binary.",
    add_arguments=add_arguments,
    run=run,
)
