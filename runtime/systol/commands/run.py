"""`systol run`: a binary and inputs in, outputs and counters out."""

import argparse
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from systol.commands.options.registration import (
    Array,
    Command,
    UsageError,
    add_backend,
    is_program_text,
    keep_apart,
    make_folder,
    require_writable,
    write_arrays,
)
from systol.commands.run_text import run_text
from systol.console.terminal import LateProgress, print_table, say
from systol.execution.ranges import InputRangeWarning
from systol.execution.session import Device
from systol.results import tables
from systol.results.classes import best_classes, class_sections
from systol.results.report import make_report, write_json
from systol.results.result import ModelResult
from systol.results.trace import make_trace
from systol.samples import read_inputs
from systol_compiler.binary.model import CompiledModel
from systol_compiler.binary.reader import load
from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError
from systol_hw.shown import shown
from systol_sim.jit.compiled import STEPPER, VALUES, compile_beside


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "binary", metavar="BINARY|TEXT", help="what `systol compile` made, or a program text"
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--input", metavar="X.npz|IMAGE|DIR",
        help="inputs by name (or X.npy for one input); images, where the binary says how to read "
        "them; of a text, what its windows hold",
    )  # fmt: skip
    given.add_argument(
        "--timing-only", action="store_true",
        help="cycles and counters of one batch alone: no inputs, no values, no host segments",
    )
    parser.add_argument("--output", metavar="Y.npz", help="write the outputs, by name")
    add_backend(parser)
    parser.add_argument("--counters", metavar="C.json", help="write the performance report")
    parser.add_argument("--csv", metavar="L.csv", help="write each layer's figures as CSV")
    parser.add_argument("--trace", metavar="T.json", help="write a trace for Chrome or Perfetto")
    parser.add_argument(
        "--waves", type=Path, metavar="W.vcd|W.fst",
        help="draw the RTL's signals in the first run (with --backend rtl)",
    )  # fmt: skip
    parser.add_argument(
        "--dump-tensors", metavar="DIR", help="write the tensors between segments to DIR"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    text = is_program_text(options.binary)
    if options.timing_only:
        _refuse_values(options)
    elif options.input is None and not text:
        raise UsageError("a binary needs --input X.npz, or --timing-only for its cycles alone")
    keep_apart(
        {"BINARY": options.binary, "--input": options.input},
        {"--output": options.output, "--counters": options.counters, "--csv": options.csv,
         "--trace": options.trace, "--waves": options.waves},
    )  # fmt: skip
    require_writable(
        options.output, options.counters, options.csv, options.trace, options.waves
    )
    if options.dump_tensors:
        _prepare_dump(Path(options.dump_tensors), options)
    if text:
        return run_text(options)
    if options.backend == "sim":
        compile_beside(STEPPER, *([] if options.timing_only else [VALUES]))
    model = load(options.binary)
    device = Device(options.backend)
    if options.counters or options.csv or options.trace:
        device.backend.require_cycles()
    if options.timing_only:
        result = device.load(model).time()
    else:
        result = _run_inputs(device, model, options)
    if options.output:
        renamed = write_arrays(options.output, result.outputs)
        say(f"outputs: {options.output}")
        for name, member in renamed.items():
            say(f"in it, output {shown(name)} is called {shown(member)}")
    if options.dump_tensors:
        _dump(Path(options.dump_tensors), result.tensors)
    counted = device.backend.counts_cycles and bool(model.machine_segments)
    report = make_report(result) if counted else None
    if options.counters:
        write_json(options.counters, make_report(result))
        say(f"counters: {options.counters}")
    if options.csv:
        result.write_csv(options.csv)
        say(f"layers: {options.csv}")
    if options.trace:
        write_json(options.trace, make_trace(result))
        say(f"trace: {options.trace}")
    if options.waves:
        say(f"waveforms: {options.waves}")
    outputs = [_summary(name, value) for name, value in result.outputs.items()]
    if options.json:
        values = {"outputs": outputs, "classes": best_classes(result), "report": report}
        print(json.dumps(values, indent=2))
        return 0
    if outputs:
        print_table(
            ("output", "type", "shape", "least", "greatest"),
            [tuple(_text(value) for value in item.values()) for item in outputs],
        )
    for headings, rows in class_sections(result):
        print()
        print_table(headings, rows)
    if report is not None:
        if outputs:
            print()
        print_report(report)
    return 0


def _refuse_values(options: argparse.Namespace) -> None:
    for name in ("output", "dump_tensors", "waves"):
        if getattr(options, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} needs values, and --timing-only computes none: give --input")


def _run_inputs(
    device: Device, model: CompiledModel, options: argparse.Namespace
) -> ModelResult:
    names = [item.name for item in model.inputs]
    preprocessing = next((i.preprocessing for i in model.inputs if i.preprocessing), "")
    inputs = read_inputs(options.input, names, preprocessing)
    with LateProgress("items") as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", InputRangeWarning)  # they are in the result
        result = device.load(model).run(
            inputs,
            keep_tensors=bool(options.dump_tensors),
            progress=progress,
            waves=options.waves,
        )
    for text in result.warnings:
        say(f"warning: {text}")
    if result.filled:
        say(
            f"the last run was filled up with {result.filled} copies of the last item; cycles and "
            "useful MACs count them"
        )
    return result


def print_report(report: dict[str, Any]) -> None:
    """Print a performance report as tables."""
    for number, (headings, rows) in enumerate(tables.sections(report)):
        if number:
            print()
        print_table(headings, rows)


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _summary(name: str, value: Array) -> dict[str, Any]:
    return {
        "name": name,
        "type": value.dtype.name,
        "shape": list(value.shape),
        "least": float(f"{float(value.min()):.6g}") if value.size else None,
        "greatest": float(f"{float(value.max()):.6g}") if value.size else None,
    }


_INDEX = "index.json"
_DUMPED = re.compile(r"tensor[0-9]+\.npy|index\.json")
"""What a dump writes into its folder."""


def _prepare_dump(directory: Path, options: argparse.Namespace) -> None:
    """Make the folder, and see that a dump overwrites nothing that this run reads or writes."""
    make_folder(directory)
    require_writable(directory / _INDEX)
    named = {
        "BINARY": options.binary, "--input": options.input, "--output": options.output,
        "--counters": options.counters, "--csv": options.csv, "--trace": options.trace,
        "--waves": options.waves,
    }  # fmt: skip
    for name, path in named.items():
        if path is None:
            continue
        for place in (Path(path).absolute(), Path(path).resolve()):
            if place.parent.resolve() == directory.resolve() and _DUMPED.fullmatch(place.name):
                raise InputError(
                    f"--dump-tensors would overwrite {path}, which is also {name}; give another "
                    "folder"
                )


def _dump(directory: Path, tensors: dict[str, Array]) -> None:
    """One .npy a tensor; the index says which file holds which, as names may be no file names."""
    index = {name: f"tensor{number}.npy" for number, name in enumerate(tensors)}
    # A link that lies there in the name of one of them is replaced, and not followed.
    for name, file in index.items():
        with replacing(directory / file, follow=False) as stream:
            np.lib.format.write_array(stream, tensors[name], allow_pickle=False)
    with replacing(directory / _INDEX, follow=False) as stream:
        stream.write((json.dumps(index, indent=2) + "\n").encode())
    say(f"tensors: {directory}")


COMMAND = Command(
    name="run",
    help="run a binary on inputs, or a program text",
    description="Run a binary on inputs and print its counters; or run a program text, such as "
    "`systol disasm` prints, on what its host windows hold.",
    examples="systol run model.elf --input x.npz --output y.npz --counters c.json\n"
    "systol run model.elf --timing-only\n"
    "systol run model.elf --input x.npz --backend rtl --waves run.vcd\n"
    "systol run program.txt --input windows.npz",
    add_arguments=add_arguments,
    run=run,
)
