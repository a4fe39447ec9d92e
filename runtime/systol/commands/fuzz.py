"""`systol fuzz`: random programs on random machines, every executor compared."""

import argparse
import json
import os
import random
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from systol.commands.options.registration import Command, make_folder, positive, require_writable
from systol.console.terminal import LateProgress, say
from systol_hw.arch import Arch
from systol_hw.errors import DifferenceError, InputError, MissingToolError
from systol_sim.fuzz.campaign import DEFAULT_EXECUTORS, Executor, fuzz
from systol_sim.fuzz.covering import covering_machines
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.fuzz.report import Report, check_marks, write_markdown

_PACE_SECONDS = 30.0
_SOME = 6
"""Covering machines that `--machines some` adds to the dozen."""


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--programs", type=positive, default=100, metavar="N", help="default: 100"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="program n comes from S + n (default: 0)"
    )
    parser.add_argument(
        "--machines",
        default="quick",
        metavar="quick|some|all|NAME,...",
        help="quick: a dozen (default); all: those and more, that cover every pair of parameters; "
        "some: the dozen and six of the others, which the seed chooses",
    )
    parser.add_argument(
        "--backend",
        choices=("sim", "rtl"),
        default="sim",
        help="rtl: also on the RTL, built once for each machine",
    )
    parser.add_argument(
        "--faulting", type=_share, default=0.25, metavar="SHARE",
        help="share of programs that fault (default: 0.25)",
    )
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="side by side (default: 1)"
    )
    parser.add_argument("--directory", metavar="DIR", help="where reproducers are written")
    parser.add_argument(
        "--state", metavar="FILE", help="keep what is done in FILE, so that --resume can go on"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from --state, perhaps with more programs"
    )
    parser.add_argument(
        "--report", metavar="FILE.md",
        help="write figures and coverage as Markdown, between its fuzz:begin and fuzz:end marks",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(options: argparse.Namespace) -> int:
    machines = _machines(options.machines, options.seed)
    state = _state(options)
    require_writable(options.state, options.report)
    if options.directory:
        make_folder(options.directory)
    if options.report:
        check_marks(Path(options.report))
    say(f"seed {options.seed}: {options.programs} programs on {len(machines)} machines")
    executors = _executors(options.backend, machines, options.processes)
    with LateProgress("programs", bar_only=True) as bar:
        pace = _Pace(options.programs)

        def progress(done: int) -> None:
            bar(done, options.programs)
            pace(done)

        report = fuzz(
            options.programs,
            options.seed,
            machines,
            executors,
            faulting=options.faulting,
            processes=options.processes,
            directory=Path(options.directory) if options.directory else None,
            state=state,
            progress=progress,
        )
    if options.report:
        write_markdown(Path(options.report), report.markdown(_heading(options, len(machines))))
    print(json.dumps(_figures(report), indent=2) if options.json else report.format())
    if report.mismatches:
        raise DifferenceError(
            f"executors differ on {len(report.mismatches)} of {report.programs} programs; this is "
            "a bug in Systol: report it with the reproducer (--directory)"
        )
    return 0


class _Pace:
    """Lines on stderr with rate and estimate, where no progress bar shows them."""

    def __init__(self, programs: int) -> None:
        self.programs = programs
        self.first: int | None = None
        self.began = self.last = time.monotonic()
        self.silent = os.isatty(2)

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self.first is None:
            # Of a run that goes on, or of the first programs, which wait for builds.
            self.first, self.began = done, now
        if self.silent or now - self.last < _PACE_SECONDS:
            return
        self.last = now
        rate = (done - self.first) / max(now - self.began, 1e-9)
        left = f", {(self.programs - done) / rate / 60:.0f} minutes left" if rate else ""
        say(f"{done} of {self.programs} programs, {rate:.1f} a second{left}")


def _state(options: argparse.Namespace) -> Path | None:
    if options.state is None:
        if options.resume:
            raise InputError("--resume needs the --state FILE of the run that is to go on")
        return None
    path = Path(options.state)
    if path.exists() and not options.resume:
        raise InputError(f"{path} exists: give --resume to go on with its run, or another file")
    return path


def _heading(options: argparse.Namespace, machines: int) -> str:
    command = f"systol fuzz --programs {options.programs} --seed {options.seed} "
    command += f"--machines {options.machines} --backend {options.backend} "
    command += f"--faulting {options.faulting} --processes {options.processes}"
    return f"```\n{command}\n```\n\nOn {machines} machines:"


def _machines(text: str, seed: int) -> tuple[Arch, ...]:
    if text == "quick":
        return FUZZ_MACHINES
    if text == "some":
        others = covering_machines()[len(FUZZ_MACHINES) :]
        return (*FUZZ_MACHINES, *random.Random(seed).sample(others, _SOME))
    known = {arch.name: arch for arch in covering_machines()}
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise InputError(
                f"no fuzz machine is called {name!r}; there are quick, some, all, and "
                + ", ".join(known)
            )
    return tuple(known[name] for name in names)


def _executors(
    backend: str, machines: tuple[Arch, ...], processes: int
) -> Mapping[str, Executor]:
    if backend == "sim":
        return DEFAULT_EXECUTORS
    try:
        from systol_sim.fuzz.rtl import build_machines, run_on_built
    except ImportError as error:
        raise MissingToolError(
            f"the RTL needs the package {error.name}; pip install 'systol[rtl]'"
        ) from error
    with LateProgress("machines") as bar:
        build_machines(machines, processes, lambda done: bar(done, len(machines)))
    built = {arch.name: arch for arch in machines}
    return {**DEFAULT_EXECUTORS, "rtl": partial(run_on_built, built=built)}


def _figures(report: Report) -> dict[str, object]:
    return {
        **report.to_dict(),
        "mismatches": [str(mismatch) for mismatch in report.mismatches],
    }


COMMAND = Command(
    name="fuzz",
    help="random programs on random machines, every executor compared",
    description="Run random programs, valid and faulting, on random machines through the "
    "simulator (stepping and skipping), the reference and, if asked for, the RTL; compare all "
    "values, counters and times; print what was reached. With --state a run that was interrupted "
    "goes on with --resume. Exit status 10 if anything differs.",
    examples="systol fuzz --programs 50 --seed 7\n"
    "systol fuzz --programs 400 --backend rtl --processes 2 --directory reproducers",
    add_arguments=add_arguments,
    run=run,
)
