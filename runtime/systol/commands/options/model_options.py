"""Arguments that `compile`, `inspect`, `eval` and `bisect` share: a model and how to compile it."""

import argparse
import warnings
from typing import Any

from systol.api import CompileWarning, compile
from systol.commands.options.registration import positive, read_text
from systol.console.terminal import say
from systol_compiler.binary.model import CompiledModel
from systol_compiler.calibrate.inputs.preprocessing import SYNTAX
from systol_compiler.calibrate.ranges import METHODS
from systol_compiler.compile import EFFORTS, Observer
from systol_compiler.graph.reading.importer import ModelSource
from systol_hw.errors import InputError


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """`--shape` and `--batch`."""
    parser.add_argument(
        "--shape", action="append", default=[], metavar="N=V",
        help="value of a dynamic dimension, by its name; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=positive, metavar="N",
        help="items of one run, where the model leaves that open (default: 1)",
    )  # fmt: skip


def add_arch(parser: argparse.ArgumentParser, default: str | None = "edge16") -> None:
    """`--arch`."""
    which = f" (default: {default})" if default else ""
    parser.add_argument(
        "--arch", default=default, metavar="NAME|FILE.toml", help=f"the machine{which}"
    )


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that decides what is compiled."""
    add_arch(parser)
    parser.add_argument(
        "--calibration", metavar="FILE.npz|DIR|random",
        help="samples by input name, a folder of such files or of images, or random values, where "
        "only cycles matter",
    )  # fmt: skip
    parser.add_argument(
        "--preprocess", default="", metavar="TEXT",
        help=f"how images become the model's input: {SYNTAX}",
    )  # fmt: skip
    parser.add_argument(
        "--method", choices=METHODS, help="how ranges are chosen from the calibration data"
    )
    parser.add_argument(
        "--overrides", metavar="FILE.toml", help="bits, scale or range of single tensors"
    )
    parser.add_argument(
        "--strict", action="store_true", help="host segments are an error, not a report"
    )
    parser.add_argument(
        "--effort", choices=list(EFFORTS), help="how many schedules to try (default: normal)"
    )
    parser.add_argument(
        "--class-names", metavar="FILE", help="names of classes, one a line, for the outputs"
    )
    add_shape_arguments(parser)


def shapes_of(options: argparse.Namespace) -> dict[str, int]:
    """`--shape` by name; raises `InputError`."""
    shapes = {}
    for text in options.shape:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value.isdecimal() or not 1 <= int(value) < 1 << 31:
            raise InputError(f"--shape must be NAME=SIZE with a size from 1, not {text!r}")
        shapes[name] = int(value)
    return shapes


def compile_and_say(
    model: ModelSource, *, observer: Observer | None = None, **keywords: Any
) -> CompiledModel:
    """As `systol.compile`; what it warns of is said on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileWarning)
        compiled = compile(model, observer=observer, **keywords)
    for note in compiled.report["notes"]:
        say(f"warning: {note}")
    return compiled


def compile_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `systol.compile` but the model and the observer; raises `InputError`."""
    names = read_text(options.class_names).splitlines() if options.class_names else []
    return {
        "arch": options.arch,
        "calibration": options.calibration,
        "preprocess": options.preprocess,
        "method": options.method,
        "overrides": options.overrides,
        "strict": options.strict,
        "effort": options.effort,
        "shapes": shapes_of(options),
        "batch": options.batch or 1,
        "labels": [name.strip() for name in names if name.strip()],
    }
