"""`systol verilog`: a machine's RTL as Verilog."""

import argparse
import sys

from systol.commands.options.registration import Command, require_writable
from systol.console.stage_status import StageStatus
from systol.console.terminal import say
from systol_hw.arch import load_arch
from systol_hw.atomic_file import replacing
from systol_hw.errors import MissingToolError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "machine", metavar="NAME|FILE.toml", nargs="?", default="edge16", help="default: edge16"
    )
    parser.add_argument("-o", "--output", metavar="OUT.v", help="default: standard output")
    parser.add_argument(
        "--axi", action="store_true",
        help="with AXI4 to its memories and AXI4-Lite to its host (docs/address_map.md)",
    )  # fmt: skip
    parser.add_argument(
        "--unpacked", action="store_true",
        help="a multiplier for every product, instead of one for two (the results are the same)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    arch = load_arch(options.machine)
    require_writable(options.output)
    try:
        from systol_hw.rtl.bus.axi_machine import convert_axi_verilog
        from systol_hw.rtl.emit import convert_verilog
    except ImportError as error:
        raise MissingToolError(
            f"the RTL needs the Python package {error.name}, which is not installed: "
            "pip install 'systol[rtl]'"
        ) from error
    convert = convert_axi_verilog if options.axi else convert_verilog
    with StageStatus(f"converting {arch.name}"):
        text = convert(arch, not options.unpacked)
    if options.output is None:
        sys.stdout.write(text)
        return 0
    with replacing(options.output) as stream:
        stream.write(text.encode())
    say(f"Verilog: {options.output} ({text.count(chr(10)):,} lines)")
    return 0


COMMAND = Command(
    name="verilog",
    help="a machine's RTL as Verilog",
    description="Write the Verilog of a machine: one file, for synthesis or simulation.",
    examples="systol verilog edge16 -o edge16.v\n"
    "systol verilog mine.toml --axi -o mine.v",
    add_arguments=add_arguments,
    run=run,
)
