"""`systol machines`: the presets, a machine in full, and files for machines of one's own."""

import argparse
import json
from pathlib import Path
from typing import Any

from systol.commands.options.registration import Command, require_writable
from systol.console.arguments import Parser
from systol.console.terminal import print_table, say
from systol.results import tables
from systol_hw.arch import PRESETS, Arch, dump_arch, load_arch
from systol_hw.atomic_file import replacing
from systol_hw.errors import ConfigurationError, InputError
from systol_hw.nearest import did_you_mean
from systol_hw.shown import shown

_PORTS = ("weight_port", "host_port")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    assert isinstance(parser, Parser)
    actions = parser.add_subparsers(dest="action", metavar="list|show|new")
    listing = actions.add_parser("list", help="the presets (what `systol machines` alone prints)")
    listing.add_argument("--json", action="store_true", help="print the machines as JSON")
    show = actions.add_parser("show", help="a machine as the TOML text that a file of it holds")
    show.add_argument("machine", metavar="NAME|FILE.toml")
    show.add_argument("--json", action="store_true", help="print the machine as JSON")
    new = actions.add_parser("new", help="a file for a machine of one's own")
    new.add_argument("file", metavar="FILE.toml", help="its stem becomes the machine's name")
    new.add_argument(
        "--from", dest="base", default="edge16", metavar="NAME|FILE.toml",
        help="the machine that it begins as (default: edge16)",
    )  # fmt: skip
    new.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE",
        help="such as rows=32 or weight_port.bytes_per_cycle=7/2; may be repeated",
    )  # fmt: skip
    new.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(json=False)


def run(options: argparse.Namespace) -> int:
    if options.action == "show":
        arch = load_arch(options.machine)
        text = json.dumps(_described(arch), indent=2) + "\n" if options.json else dump_arch(arch)
        print(text, end="")
    elif options.action == "new":
        _write(options)
    elif options.json:
        print(json.dumps({name: _described(arch) for name, arch in PRESETS.items()}, indent=2))
    else:
        _print_list()
    return 0


def _described(arch: Arch) -> dict[str, Any]:
    return {**arch.to_dict(), "fingerprint": arch.fingerprint()}


def _print_list() -> None:
    rows = [
        (
            arch.name,
            f"{arch.rows}x{arch.columns}",
            _kibibytes(arch.ub_bytes),
            tables.number(arch.accumulator_rows),
            f"{arch.weight_port.bytes_per_cycle} B/cycle",
            f"{arch.host_port.bytes_per_cycle} B/cycle",
            f"{arch.clock_hz / 1e6:g} MHz",
            tables.number(arch.macs_per_cycle * arch.clock_hz * 2 / 1e9),
        )
        for arch in PRESETS.values()
    ]
    print_table(
        ("machine", "array", "unified buffer", "accumulator rows", "weight port", "host port",
         "clock", "peak GOPS"),
        rows,
    )  # fmt: skip


def _kibibytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _write(options: argparse.Namespace) -> None:
    path = Path(options.file)
    if path.suffix != ".toml":
        raise InputError(f"{path}: a machine's file must end in .toml")
    if path.exists() and not options.force:
        raise InputError(f"{path} is there already; give another name, or --force")
    require_writable(path)
    values = load_arch(options.base).to_dict()
    values["name"] = path.stem
    for change in options.changes:
        _apply(values, change)
    arch = Arch.from_dict(values)
    with replacing(path) as stream:
        stream.write(dump_arch(arch).encode())
    say(f"machine: {path}")


def _apply(values: dict[str, Any], change: str) -> None:
    """Put `KEY=VALUE` into `values`; keys of ports stand behind the port's name and a dot."""
    key, equals, text = change.partition("=")
    if not equals:
        raise InputError(f"--set must be KEY=VALUE, not {shown(change)}")
    place, _, inner = key.rpartition(".")
    table = values if not place else values[place] if place in _PORTS else {}
    if inner not in table or inner in _PORTS:
        known = [k for k in values if k not in _PORTS]
        known += [f"{port}.{k}" for port in _PORTS for k in values[port]]
        raise ConfigurationError(
            f"--set: unknown key {shown(key)}{did_you_mean(key, known)}; known keys are "
            f"{', '.join(known)}"
        )
    number = text.replace("_", "")
    table[inner] = int(number) if number.isdecimal() and len(number) < 100 else text


COMMAND = Command(
    name="machines",
    help="list, show and make machines",
    description="List the preset machines, show one in full, or write the file of a machine of "
    "your own. Wherever a command takes a machine, it takes a preset's name or such a file.",
    examples="systol machines\n"
    "systol machines show edge16\n"
    "systol machines new mine.toml --from edge16 --set rows=32 --set columns=32\n"
    "systol compile model.onnx --arch mine.toml --calibration samples.npz",
    add_arguments=add_arguments,
    run=run,
)
