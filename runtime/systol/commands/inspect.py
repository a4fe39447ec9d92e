"""`systol inspect`: every node of a model before compiling: machine, host or refused, and why."""

import argparse
import json

from systol.api import inspect
from systol.commands.options.model_options import add_arch, add_shape_arguments, shapes_of
from systol.commands.options.registration import Command
from systol.console.stage_status import StageStatus
from systol.console.terminal import print_table, say
from systol.results.compile_tables import inspection_sections
from systol_hw.arch import load_arch
from systol_hw.errors import UnsupportedModelError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX model")
    add_arch(parser, default=None)
    parser.add_argument(
        "--strict", action="store_true", help="put on the machine whatever can be there"
    )
    parser.add_argument(
        "--all", action="store_true", help="list nodes that run on the machine, too"
    )
    add_shape_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    arch = load_arch(options.arch) if options.arch else None
    with StageStatus("reading the model"):
        found = inspect(
            options.model,
            shapes=shapes_of(options),
            batch=options.batch or 1,
            strict=options.strict,
        )
    values = found.to_json(arch)
    if options.json:
        print(json.dumps(values, indent=2))
    else:
        for index, (headings, rows) in enumerate(
            inspection_sections(values, all_nodes=options.all)
        ):
            if index:
                print()
            print_table(headings, rows)
    for text in found.blockers:
        say(f"refused: {text}")
    return UnsupportedModelError.exit_status if found.blockers else 0


COMMAND = Command(
    name="inspect",
    help="where every node of a model would run, and why",
    description="Print for every node of a model whether it runs on the machine or on the host or "
    "is refused, why, and at what cost; nothing is compiled, and no data is needed. Exit status 4 "
    "if the model would be refused.",
    examples="systol inspect model.onnx\nsystol inspect model.onnx --all --arch edge32 --json",
    add_arguments=add_arguments,
    run=run,
)
