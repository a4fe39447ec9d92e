"""`systol demo`: the main job on a bundled model and real data."""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from systol import bundled
from systol.commands.compile_model import describe
from systol.commands.options.model_options import compile_and_say
from systol.commands.options.registration import Array, Command, make_folder, positive, write_arrays
from systol.commands.run import print_report
from systol.console.stage_status import StageStatus
from systol.console.terminal import LateProgress, print_table, say
from systol.execution.session import Device
from systol.results import tables
from systol.results.agreement import check_agreement
from systol.results.report import make_report, write_json
from systol.results.result import ModelResult
from systol_compiler.binary.model import CompiledModel
from systol_sim.jit.compiled import STEPPER, VALUES, compile_beside
from systol_sim.onnx_runtime import onnxruntime

_INPUT, _OUTPUT = "image", "logits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp", help="default: mlp")
    parser.add_argument(
        "--arch", default="edge16", metavar="NAME|FILE.toml", help="default: edge16"
    )
    parser.add_argument("--batch", type=positive, default=50, metavar="N", help="default: 50")
    parser.add_argument(
        "--images", type=positive, default=1000, metavar="N", help="test images (default: all)"
    )
    parser.add_argument(
        "--backend",
        choices=("sim", "rtl"),
        default="sim",
        help="rtl: after the simulator, run some images on the RTL too and compare everything",
    )
    parser.add_argument(
        "--rtl-images", type=positive, metavar="N", help="images for the RTL (default: one batch)"
    )
    parser.add_argument(
        "--directory",
        default="build/demo",
        metavar="DIR",
        help="where binary, images and counters are left (default: build/demo)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    directory = make_folder(options.directory)
    compile_beside(STEPPER, VALUES)
    name = f"mnist_{options.model}"
    images, labels = bundled.test_images()
    images, labels = images[: options.images], labels[: options.images]
    device = Device("sim")
    say(f"quantizing and compiling {name} for {options.arch} ...")
    with StageStatus("compiling") as status:
        model = compile_and_say(
            bundled.model_path(name),
            arch=options.arch,
            calibration={_INPUT: bundled.calibration_images()},
            batch=options.batch,
            observer=status,
        )
    say(f"running {len(images)} test images on the simulator ...")
    with LateProgress("images") as progress:
        result = device.load(model).run({_INPUT: images}, progress=progress)
    report = make_report(result)
    accuracy = {
        "images": len(images),
        "float": _accuracy(_float_logits(name, images), labels),
        "int8": _accuracy(result.outputs[_OUTPUT], labels),
    }
    files = _leave(directory, name, model, images, report)
    agreement = _run_rtl(options, model, images) if options.backend == "rtl" else None
    if options.json:
        figures: dict[str, Any] = {
            "compiled": describe(model),
            "accuracy": accuracy,
            "report": report,
            "rtl": agreement,
        }
        print(json.dumps(figures, indent=2))
        return 0
    print_table(("compiled", name), [(key, str(value)) for key, value in describe(model).items()])
    print()
    print_table(
        ("accuracy", f"{len(images)} images"),
        [
            ("float32, ONNX Runtime", tables.percent(accuracy["float"])),
            ("int8, Systol", tables.percent(accuracy["int8"])),
        ],
    )
    print()
    print_report(report)
    if agreement is not None:
        print()
        rows = [(key, tables.number(value)) for key, value in agreement.items()]
        print_table(("sim and RTL agree", ""), rows)
    _print_commands(name, options.batch, files)
    return 0


def _run_rtl(options: argparse.Namespace, model: CompiledModel, images: Array) -> dict[str, int]:
    """Run the first images on both executors; raises `DifferenceError` if anything differs."""
    count = min(options.rtl_images or options.batch, len(images))
    say(f"running {count} images on the RTL (the first time, Verilator builds it) ...")
    results: list[ModelResult] = []
    for backend in ("sim", "rtl"):
        with LateProgress(f"images on {backend}") as progress:
            results.append(
                Device(backend)
                .load(model)
                .run({_INPUT: images[:count]}, keep_tensors=True, progress=progress)
            )
    agreement = check_agreement(*results)
    return {
        "images": count,
        "output values, equal": agreement.output_values,
        "int8 values, equal": agreement.tensor_values,
        "counters, equal": agreement.counters,
        "start and end cycles, equal": agreement.instruction_times,
    }


def _float_logits(name: str, images: Array) -> Array:
    session = onnxruntime.InferenceSession(
        str(bundled.model_path(name)), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run([_OUTPUT], {_INPUT: images})[0])


def _accuracy(logits: Array, labels: Array) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def _leave(
    directory: Path, name: str, model: CompiledModel, images: Array, report: dict[str, Any]
) -> dict[str, Path]:
    """Write what the next commands start from; binary and counters named by the machine, too."""
    stem = f"{name}.{model.arch.name}"
    files = {
        "binary": directory / f"{stem}.elf",
        "images": directory / "images.npz",
        "calibration": directory / "calibration.npz",
        "counters": directory / f"{stem}.json",
    }
    model.save(files["binary"])
    write_arrays(files["images"], {_INPUT: images})
    write_arrays(files["calibration"], {_INPUT: bundled.calibration_images()})
    write_json(files["counters"], report)
    return files


def _print_commands(name: str, batch: int, files: dict[str, Path]) -> None:
    binary, counters = files["binary"], files["counters"]
    trace = binary.with_suffix(".trace.json")
    other = binary.with_suffix(".again.json")
    machine = "edge16" if binary.stem.endswith(".nano") else "nano"
    compiled = binary.with_name(f"{name}.{machine}.elf")
    systol = _program()
    say("\nGo on with:")
    for command in (
        [*systol, "run", binary, "--input", files["images"], "--trace", trace,
         "--counters", other],
        [*systol, "compare", counters, other],
        [*systol, "disasm", binary],
        [*systol, "check", binary],
        [*systol, "compile", bundled.model_path(name), "--arch", machine, "--batch", str(batch),
         "--calibration", files["calibration"], "-o", compiled],
        ["readelf", "-S", "-s", binary],
    ):  # fmt: skip
        say(f"  {shlex.join(str(word) for word in command)}")


def _program() -> list[str]:
    """How this command was called, so that what it suggests works in the same shell."""
    called = Path(sys.argv[0])
    if called.stem != "systol":
        return ["python", "-m", "systol"]
    return ["systol"] if shutil.which("systol") else [str(called)]


COMMAND = Command(
    name="demo",
    help="compile a bundled model, run it on real images, read its counters",
    description="Quantize a bundled MNIST model, compile it, run test images on the simulator, "
    "and print accuracy and counters.",
    examples="systol demo\n"
    "systol demo --model cnn --arch nano\n"
    "systol demo --backend rtl",
    add_arguments=add_arguments,
    run=run,
)
