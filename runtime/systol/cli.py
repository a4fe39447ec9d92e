"""The `systol` command: parses arguments, runs one command, turns errors into exit statuses."""

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from systol.commands import (
    asm,
    bisect,
    check,
    compare,
    compile_model,
    demo,
    disasm,
    doctor,
    eval_model,
    fuzz,
    inspect,
    machines,
    run,
    verilog,
)
from systol.commands.options.registration import Command
from systol.console.arguments import Parser
from systol.console.terminal import BuildStatus, plain_streams, say
from systol.version import version
from systol_hw.errors import InputError, SystolError
from systol_sim.building import observed

INTERRUPTED = 130
"""128 plus the number of SIGINT, as shells have it."""
BUG = 70
"""EX_SOFTWARE of sysexits.h."""

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    compile_model.COMMAND,
    run.COMMAND,
    inspect.COMMAND,
    eval_model.COMMAND,
    compare.COMMAND,
    bisect.COMMAND,
    check.COMMAND,
    disasm.COMMAND,
    asm.COMMAND,
    machines.COMMAND,
    verilog.COMMAND,
    fuzz.COMMAND,
    doctor.COMMAND,
)


_EXAMPLES = """\
examples:
  systol demo                                            the main job, on a bundled model
  systol compile model.onnx --calibration samples.npz    a binary from a model
  systol run model.elf --input x.npz --output y.npz      outputs and counters
  systol compare a.json b.json                           counters side by side
  systol disasm model.elf --code                         what the machine executes

`systol COMMAND --help` says everything about a command; the pages are {docs}.

exit status: 0 success, 2 usage, 3 input, 4 unsupported model, 5 machine configuration, 6 invalid
program, 7 damaged binary, 8 missing tool, 9 machine fault, 10 executors differ, 70 a bug in Systol,
130 interrupted
"""


def _docs() -> str:
    """Where the pages are."""
    folder = Path(__file__).parents[2] / "docs"
    return f"in {folder}" if folder.is_dir() else "README.md and docs/ of the source"


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="systol",
        description="Compile a neural network for an open 8-bit TPU, run it, read its counters.",
        epilog=_EXAMPLES.format(docs=_docs()),
    )
    parser.add_argument("--version", action="version", version=f"systol {version()}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an unexpected error"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description="\n".join(textwrap.wrap(command.description, 90)),
            epilog=f"examples:\n{textwrap.indent(command.examples, '  ')}\n\n"
            f"The pages are {_docs()}.",
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    with plain_streams(), observed(BuildStatus):
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        if sys.stdout is not None:  # it was closed before the start
            sys.stdout.flush()  # so that a closed pipe and a full disk are met here
        return status
    except SystolError as error:
        say(f"systol: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("systol: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough.
        _drop_stdout()
        return 0
    except OSError as error:
        # Files of the user's have errors of their own: this is stdout, or a folder of the system's.
        if options.debug:
            raise
        _drop_stdout()
        place = "standard output" if error.filename is None else error.filename
        say(f"systol: {place}: {error.strerror or error}")
        return InputError.exit_status
    except MemoryError:
        if options.debug:
            raise
        say("systol: there is not memory enough for this input on this computer")
        return InputError.exit_status
    except Exception as error:
        if options.debug:
            raise
        say(
            f"systol: this is a bug in Systol: {type(error).__name__}: {error}\n"
            f"Run `systol --debug {options.command} ...` for the traceback, and report it."
        )
        return BUG


def _drop_stdout() -> None:
    """What is left to print goes nowhere: Python would complain again when it closes stdout."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
