"""`systol fuzz`: random programs on random machines, every executor compared."""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from systol.commands.registration import Command, positive
from systol.terminal import LateProgress
from systol_hw.arch import Arch
from systol_hw.errors import DifferenceError, InputError, MissingToolError
from systol_sim.faulting import FAULT_WATCHDOG_CYCLES
from systol_sim.fuzz import DEFAULT_EXECUTORS, Executor, Report, fuzz
from systol_sim.machines import FUZZ_MACHINES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--programs", type=positive, default=100, metavar="N", help="default: 100"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="program n comes from S + n (default: 0)"
    )
    parser.add_argument(
        "--machine", action="append", metavar="NAME", help="only this machine; may be repeated"
    )
    parser.add_argument(
        "--backend",
        choices=("sim", "rtl"),
        default="sim",
        help="rtl: also on the RTL, built once for each machine",
    )
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="side by side (default: 1)"
    )
    parser.add_argument("--directory", metavar="DIR", help="where reproducers are written")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(options: argparse.Namespace) -> int:
    with LateProgress("programs") as progress:
        report = fuzz(
            options.programs,
            options.seed,
            _machines(options.machine),
            _executors(options.backend),
            processes=options.processes,
            directory=Path(options.directory) if options.directory else None,
            progress=lambda done: progress(done, options.programs),
        )
    print(json.dumps(_figures(report), indent=2) if options.json else report.format())
    if report.mismatches:
        raise DifferenceError(
            f"executors differ on {len(report.mismatches)} of {report.programs} programs; this is "
            "a bug in Systol: report it with the reproducer (--directory)"
        )
    return 0


def _machines(names: list[str] | None) -> tuple[Arch, ...]:
    known = {arch.name: arch for arch in FUZZ_MACHINES}
    for name in names or ():
        if name not in known:
            raise InputError(f"no fuzz machine is called {name!r}; there are {', '.join(known)}")
    return tuple(known[name] for name in names or known)


def _executors(backend: str) -> Mapping[str, Executor]:
    if backend == "sim":
        return DEFAULT_EXECUTORS
    try:
        from systol_sim import verilated
    except ImportError as error:
        raise MissingToolError(
            f"the RTL needs the package {error.name}; pip install 'systol[rtl]'"
        ) from error
    rtl = partial(verilated.run, checked=True, watchdog_cycles=FAULT_WATCHDOG_CYCLES)
    return {**DEFAULT_EXECUTORS, "rtl": rtl}


def _figures(report: Report) -> dict[str, object]:
    return {
        "programs": report.programs,
        "faulting": report.faulting,
        "cycles": report.cycles,
        "seconds": report.seconds,
        "mismatches": [str(mismatch) for mismatch in report.mismatches],
        "coverage": dict(report.coverage.counts),
    }


COMMAND = Command(
    name="fuzz",
    help="random programs on random machines, every executor compared",
    description="Run random programs, valid and faulting, on random machines through the "
    "simulator (stepping and skipping), the reference and, if asked for, the RTL; compare all "
    "values, counters and times; print what was reached. Exit status 10 if anything differs.",
    add_arguments=add_arguments,
    run=run,
)
