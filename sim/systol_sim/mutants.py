"""Plants mistakes in the hardware and the simulator, one at a time, and counts those found.

`python -m systol_sim.mutants --mutants 30 --seed 1` makes mutants (`systol_sim.mutation`) of a copy
of the sources and lets each be tried (`systol_sim.mutant_trial`) in a process of its own.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from systol_hw.errors import DifferenceError, InputError, SystolError
from systol_sim.mutation import KILLED, NOT_BUILT, PASSED, RTL, SAME, SIM, TARGETS, Mutant, select

TIMED_OUT = "timed out"
"""Outcome of a trial whose check did not end in time: the mutant is killed."""
CRASHED = "crashed"
"""Outcome of a trial whose process died: the mutant is killed."""
SURVIVED = PASSED
_DISCARDED = frozenset({NOT_BUILT, SAME})
_TRIAL_SECONDS = 1800
_SOURCES = ("hw/systol_hw", "sim/systol_sim")
_TEST_FILES = ("tests/sim/test_microprograms.py", "docs/microprograms.md")
_PYTEST_OPTIONS = "[pytest]\nmarkers =\n    verilator: builds and runs the RTL\n"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one mutant.

    Parameters
    ----------
    mutant
    outcome
        `"passed"` (it survives), `"killed"`, `"timed out"`, `"crashed"`, or for mutants that do not
        count `"not built"` or `"same hardware"`.
    check
        The check that it came to.
    by
        What that check found.
    seconds
        Of the whole trial.
    """

    mutant: Mutant
    outcome: str
    check: str
    by: str
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether it is a mutant of a working machine at all."""
        return self.outcome not in _DISCARDED

    @property
    def killed(self) -> bool:
        """Whether the mutant was found."""
        return self.outcome in (KILLED, TIMED_OUT, CRASHED)

    @property
    def verdict(self) -> str:
        """What killed the mutant, in words."""
        if not self.killed:
            return "survives" if self.counts else f"{self.outcome}: {self.by}"
        return f"{self.check}: {self.by or self.outcome}"

    def as_record(self) -> dict[str, Any]:
        """The trial as JSON has it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Trial":
        """The inverse of `as_record`."""
        return cls(**{**record, "mutant": Mutant(**record["mutant"])})


class Workshop:
    """A copy of the sources, in which mutants are made and tried; changes to the sources while it
    is in use do not matter.

    Parameters
    ----------
    root
        The project's checkout.
    directory
        Scratch.

    Raises
    ------
    InputError
        If `root` is not a checkout.
    """

    def __init__(self, root: Path, directory: Path) -> None:
        for name in (*_SOURCES, *_TEST_FILES):
            if not (root / name).exists():
                raise InputError(
                    f"mutants need the project's checkout, and {root} has no {name}: run this from "
                    "a checkout with an editable install"
                )
        self.base = directory / "base"
        self.directory = directory
        self.digests: list[str] = []
        for name in _SOURCES:
            shutil.copytree(
                root / name, self.base / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in _TEST_FILES:
            (self.base / name).parent.mkdir(parents=True)
            shutil.copy(root / name, self.base / name)
        (self.base / "pytest.ini").write_text(_PYTEST_OPTIONS, "utf-8")

    def check_base(self, target: str) -> float:
        """Try the unchanged sources, which must pass; the seconds that it takes.

        Raises
        ------
        DifferenceError
            If they do not pass.
        """
        started = time.monotonic()
        record = self._run(target, self.base, self.directory / "base-cache", [])
        if record["outcome"] != PASSED:
            raise DifferenceError(
                f"the unchanged sources do not pass the trial of {target}: {record['check']}: "
                f"{record.get('by', record['outcome'])}; mend that before planting mistakes"
            )
        if target == RTL:
            self.digests = list(record["digests"].values())
        return time.monotonic() - started

    def try_mutant(self, mutant: Mutant) -> Trial:
        """Plant one mistake and look for it."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            scratch = Path(name)
            tree = scratch / "tree"
            if mutant.target == SIM:
                shutil.copytree(self.base, tree)
            else:
                # The simulator is the right one, and stays compiled.
                shutil.copytree(self.base / "hw", tree / "hw")
            module = tree / mutant.path
            module.write_text(mutant.apply(module.read_text("utf-8")), "utf-8")
            record = self._run(mutant.target, tree, scratch / "cache", self.digests)
        return Trial(
            mutant=mutant,
            outcome=record["outcome"],
            check=record.get("check", ""),
            by=record.get("by", ""),
            seconds=round(time.monotonic() - started, 1),
        )

    def _run(
        self, target: str, tree: Path, cache: Path, digests: Sequence[str]
    ) -> dict[str, Any]:
        """One trial of `tree`, completed by the sources that it does not change."""
        base_cache = self.directory / "base-cache"
        changed = {RTL: "hw", SIM: "sim"}[target]
        roots = {name: self.base / name for name in ("hw", "sim")}
        roots[changed] = tree / changed
        # What does not change keeps its cache: models for a simulator's mutant, compiled steps for
        # the hardware's.
        models, compiled = (cache, base_cache) if target == RTL else (base_cache, cache)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(path) for path in roots.values()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(models),
            "NUMBA_CACHE_DIR": str(compiled / "numba"),
        }
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / "record.json"
        path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "systol_sim.mutant_trial", target, str(path), *digests]
        # A group of its own: compilers that it started must not outlive it.
        process = subprocess.Popen(
            command, env=environment, cwd=cache, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        try:
            _, errors = process.communicate(timeout=_TRIAL_SECONDS)
            status = process.returncode
        except subprocess.TimeoutExpired:
            status, errors = -signal.SIGALRM, ""
        finally:
            if process.returncode is None or process.returncode == -signal.SIGALRM:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        record: dict[str, Any] = {"check": "start"}
        if path.exists():
            record |= json.loads(path.read_text("utf-8"))
        if "outcome" not in record:
            last = (errors.strip().splitlines() or [f"status {status}"])[-1]
            timed_out = status == -signal.SIGALRM
            record["outcome"] = TIMED_OUT if timed_out else CRASHED
            record["by"] = "took too long" if timed_out else last
        return record


def campaign(
    workshop: Workshop,
    counts: Mapping[str, int],
    seed: int,
    *,
    known: Mapping[Mutant, Trial] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[Trial]:
    """Try mutants until so many of each target count; yields every trial, those not counted too.

    Parameters
    ----------
    counts
        Number of mutants by target. More mutants of the same seed contain fewer.
    known
        Trials that need not be made again.
    report
        Told in words what goes on.
    """
    known = known or {}
    for target, wanted in counts.items():
        if not wanted:
            continue
        report(f"{target}: trying the unchanged sources")
        seconds = workshop.check_base(target)
        report(f"{target}: they pass, in {seconds:.0f} s")
        counted = 0
        for mutant in select(workshop.base, target, seed):
            trial = known.get(mutant)
            if trial is None:
                report(f"{target} {counted + 1}/{wanted}: {mutant.place}: {mutant.change}")
                trial = workshop.try_mutant(mutant)
                report(f"  {trial.verdict} ({trial.seconds:.0f} s)")
            yield trial
            counted += trial.counts
            if counted >= wanted:
                break


def format_table(trials: Sequence[Trial]) -> Table:
    """Place, change, what killed it and in how many seconds."""
    table = Table("place", "kind", "change", "killed by", "s", show_lines=True)
    for trial in trials:
        if trial.counts:
            mutant = trial.mutant
            cells = (
                f"{mutant.target} {mutant.place}", mutant.operator, mutant.change, trial.verdict,
                f"{trial.seconds:.0f}",
            )
            table.add_row(*(Text(cell) for cell in cells))
    return table


def format_summary(trials: Sequence[Trial]) -> str:
    """Killed and survived by target, and what was not counted."""
    lines = []
    for target in TARGETS:
        mine = [trial for trial in trials if trial.mutant.target == target]
        counted = [trial for trial in mine if trial.counts]
        if not mine:
            continue
        killed = sum(trial.killed for trial in counted)
        line = f"{target}: {killed} of {len(counted)} mutants killed"
        for outcome in sorted(_DISCARDED):
            number = sum(trial.outcome == outcome for trial in mine)
            line += f"; {number} {outcome}" if number else ""
        lines.append(line)
        lines += [
            f"  survives: {trial.mutant.path}:{trial.mutant.line}: {trial.mutant.change}"
            for trial in counted
            if not trial.killed
        ]
    return "\n".join(lines)


def _load(path: Path) -> dict[Mutant, Trial]:
    if not path.exists():
        return {}
    try:
        trials = [Trial.from_record(record) for record in json.loads(path.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not hold the trials of an earlier run: {error}") from error
    return {trial.mutant: trial for trial in trials}


def _save(path: Path, trials: Sequence[Trial]) -> None:
    text = json.dumps([trial.as_record() for trial in trials], indent=1)
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(text + "\n", "utf-8")
    os.replace(scratch, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m systol_sim.mutants",
        description="Plant mistakes in the hardware and the simulator and count those found.",
    )
    parser.add_argument("--mutants", type=int, default=30, help="how many (30)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--target", choices=(*TARGETS, "both"), default="both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial to FILE")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE",
        help="take the trials that FILE holds as made, and add each new one to it",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit status 0 if every mutant was tried, whether killed or not."""
    options = _parser().parse_args(arguments)
    try:
        if options.mutants < 1:
            raise InputError(f"--mutants must be at least 1, not {options.mutants}")
        _run(options)
    except SystolError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _run(options: argparse.Namespace) -> None:
    counts = {options.target: options.mutants}
    if options.target == "both":
        counts = {RTL: options.mutants // 2, SIM: options.mutants - options.mutants // 2}
    files = [path for path in (options.json, options.resume) if path is not None]
    known = _load(options.resume) if options.resume is not None else {}
    trials: list[Trial] = []
    # Trials of an earlier run that come later in this one must not be lost on the way.
    rest = dict(known)
    with tempfile.TemporaryDirectory(prefix="systol-mutants-") as directory:
        workshop = Workshop(Path(__file__).resolve().parents[2], Path(directory))
        for trial in campaign(
            workshop, counts, options.seed, known=known,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        ):
            trials.append(trial)
            rest.pop(trial.mutant, None)
            for path in files:
                _save(path, [*trials, *(rest.values() if path == options.resume else ())])
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(format_table(trials))
    console.print(format_summary(trials), markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
