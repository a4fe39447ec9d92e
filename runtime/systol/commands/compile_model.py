"""`systol compile`: a model in, a binary out."""

import argparse
import json
from pathlib import Path
from typing import Any

from systol.commands.options.model_options import (
    add_compile_arguments,
    compile_and_say,
    compile_options,
)
from systol.commands.options.registration import Command, keep_apart, require_writable
from systol.console.stage_status import StageStatus
from systol.console.terminal import print_table
from systol.results.compile_tables import compile_sections
from systol_compiler.binary.model import CompiledModel
from systol_compiler.compile import LEVELS
from systol_compiler.graph.float_graph import Graph
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.quantized.graph import QuantizedGraph
from systol_compiler.text.arrays import Arrays
from systol_hw.errors import InputError
from systol_sim.jit.compiled import STEPPER, compile_beside


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX model of floats")
    add_compile_arguments(parser)
    parser.add_argument("-o", "--output", metavar="OUT.elf", help="default: the model's name")
    parser.add_argument(
        "--emit", choices=LEVELS, help="print this level on stdout instead of writing a binary"
    )
    parser.add_argument(
        "--arrays", metavar="FILE.npz",
        help="with --emit: where to keep the arrays that the text refers to by digest",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the whole compile report as JSON"
    )


def run(options: argparse.Namespace) -> int:
    output = options.output or f"{Path(options.model).stem}.elf"
    keep_apart(
        {"MODEL": options.model, "--calibration": options.calibration, "--arch": options.arch,
         "--overrides": options.overrides, "--class-names": options.class_names},
        {"--arrays": options.arrays} if options.emit else {"--output": output},
    )  # fmt: skip
    if options.arrays and not options.emit:
        raise InputError("--arrays keeps arrays of a level's text: give --emit LEVEL as well")
    if not options.emit:
        require_writable(output)
    elif options.arrays:
        require_writable(options.arrays)
    compile_beside(STEPPER)
    texts = _Level(options.emit)
    with StageStatus("compiling") as status:

        def observe(stage: str, value: object) -> None:
            texts(stage, value)
            status(stage)

        model = compile_and_say(options.model, observer=observe, **compile_options(options))
    if options.emit:
        arrays = Arrays()
        print(texts.text(arrays))
        if options.arrays:
            arrays.save(options.arrays)
        return 0
    if options.batch is not None and model.batch != options.batch:
        raise InputError(
            f"--batch {options.batch}: the model's first dimension is fixed at {model.batch}; "
            "leave --batch out, or give the model a dynamic first dimension"
        )
    model.save(output)
    if options.json:
        description = {"output": output, **describe(model), "report": dict(model.report)}
        print(json.dumps(description, indent=2))
        return 0
    print_table(("compiled", output), [(k, str(v)) for k, v in describe(model).items()])
    for headings, rows in compile_sections(model.report):
        print()
        print_table(headings, rows)
    return 0


class _Level:
    """Collects the values of one level."""

    def __init__(self, level: str | None) -> None:
        self._level = level
        self._values: list[object] = []

    def __call__(self, stage: str, value: object) -> None:
        if self._level == "graph" and isinstance(value, Graph):
            self._values = [value]  # the last pass's is the level
        elif self._level is not None and self._level == stage:
            self._values.append(value)

    def text(self, arrays: Arrays) -> str:
        """Their texts; `arrays` takes up what these refer to."""
        return "\n".join(
            value.text(arrays) if isinstance(value, Graph | QuantizedGraph | LoweredNetwork)
            else str(value)
            for value in self._values
        )


def describe(model: CompiledModel) -> dict[str, Any]:
    """A compiled model in a few figures."""
    programs = [segment.program for segment in model.machine_segments]
    summary = model.report.get("summary", {})
    predicted = {
        name: summary[key]
        for name, key in (("cycles of one run", "cycles"), ("crossings", "crossings"))
        if key in summary
    }
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
        **predicted,
    }


COMMAND = Command(
    name="compile",
    help="compile a model to a binary",
    description="Quantize and compile an ONNX model to an accelerator binary.",
    examples="systol compile model.onnx --calibration samples.npz --arch edge32\n"
    "systol compile resnet.onnx --calibration photos/ --preprocess imagenet\n"
    "systol compile model.onnx --calibration random --emit scheduled",
    add_arguments=add_arguments,
    run=run,
)
