"""Plants mistakes in hardware, simulator and checker, one at a time, and counts those found.

`python -m systol_sim.mutation.campaign --mutants 30 --seed 1` makes mutants (`changes`) of a copy
of the sources (`workshop`) and lets each be tried (`trial`) in a process of its own. It fails if
one survives that is not explained (`survivors`).
"""

import argparse
import json
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import systol_sim
from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError, SystolError
from systol_hw.formal.proof import require_tools
from systol_hw.json_file import read_json
from systol_sim.mutation.changes import RTL, SIM, TARGETS, Mutant, select
from systol_sim.mutation.survivors import Survivor, explained
from systol_sim.mutation.workshop import DISCARDED, Trial, Workshop

UNEXPLAINED = 1
"""Exit status of a campaign with a survivor that `survivors` does not explain."""


def campaign(
    workshop: Workshop,
    counts: Mapping[str, int],
    seed: int,
    *,
    known: Mapping[Mutant, Trial] | None = None,
    processes: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[Trial]:
    """Try mutants until so many of each target count; yields every trial, those not counted too.

    Parameters
    ----------
    counts
        Number of mutants by target. More mutants of the same seed contain fewer.
    known
        Trials that need not be made again.
    processes
        Trials side by side. Their order, and so which mutants count, does not depend on it.
    report
        Told in words what goes on.
    """
    known = known or {}
    for target, wanted in counts.items():
        if not wanted:
            continue
        if target == RTL:
            require_tools()
        report(f"{target}: trying the unchanged sources")
        seconds = workshop.check_base(target)
        report(f"{target}: they pass, in {seconds:.0f} s")
        waiting = select(workshop.base, target, seed)
        counted = 0
        with ThreadPoolExecutor(processes) as pool:
            running: deque[Future[Trial]] = deque()
            while counted < wanted:
                # No more are begun than are still wanted: none is tried in vain.
                while len(running) < wanted - counted and _unfinished(running) < processes:
                    mutant = next(waiting, None)
                    if mutant is None:
                        break
                    running.append(pool.submit(_trial, workshop, mutant, known))
                if not running:
                    break
                if not running[0].done():
                    wait([f for f in running if not f.done()], return_when=FIRST_COMPLETED)
                    continue
                trial = running.popleft().result()
                counted += trial.counts
                report(
                    f"{target} {counted}/{wanted}: {trial.mutant.place}: {trial.mutant.change}\n"
                    f"  {trial.verdict} ({trial.seconds:.0f} s)"
                )
                yield trial


def _unfinished(running: Iterable[Future[Trial]]) -> int:
    return sum(not future.done() for future in running)


def _trial(workshop: Workshop, mutant: Mutant, known: Mapping[Mutant, Trial]) -> Trial:
    return known[mutant] if mutant in known else workshop.try_mutant(mutant)


def markdown(trials: Sequence[Trial]) -> str:
    """The counted trials as Markdown, a table for each target."""
    lines = []
    for target in TARGETS:
        mine = [t for t in trials if t.mutant.target == target and t.counts]
        if not mine:
            continue
        killed = sum(trial.killed for trial in mine)
        lines += [
            f"## {target}: {killed} of {len(mine)} killed", "",
            "| place | kind | change | killed by |", "|---|---|---|---|",
        ]
        for trial in mine:
            change = " becomes ".join(
                _cell(text, code=True) for text in (trial.mutant.before, trial.mutant.after)
            )
            verdict = _cell(trial.verdict) if trial.killed else "**survives**"
            cells = (trial.mutant.place, trial.mutant.operator, change, verdict)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str, *, code: bool = False) -> str:
    """`text` on one line, safe in a cell of a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    if not code:
        return text.replace("<", "\\<")
    return f"`{text}`" if text else "nothing"


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


def unexplained(trials: Iterable[Trial], known: Container[Mutant]) -> list[Trial]:
    """The survivors that are not among the `known` ones."""
    return [t for t in trials if t.counts and not t.killed and t.mutant not in known]


def format_summary(trials: Sequence[Trial], known: Mapping[Mutant, Survivor]) -> str:
    """Killed and survived by target, what was not counted, and the reasons `known`."""
    lines = []
    for target in TARGETS:
        mine = [trial for trial in trials if trial.mutant.target == target]
        counted = [trial for trial in mine if trial.counts]
        if not mine:
            continue
        killed = sum(trial.killed for trial in counted)
        line = f"{target}: {killed} of {len(counted)} mutants killed"
        for outcome in sorted(DISCARDED):
            number = sum(trial.outcome == outcome for trial in mine)
            line += f"; {number} {outcome}" if number else ""
        lines.append(line)
        for trial in counted:
            mutant = trial.mutant
            place = f"{mutant.path}:{mutant.line}: {mutant.change}"
            if mutant in known:
                reason = known[mutant].why
                verdict = "is killed, though explained as" if trial.killed else "is explained"
                lines.append(f"  {verdict}: {place}: {reason}")
            elif not trial.killed:
                lines.append(f"  survives: {place}")
    return "\n".join(lines)


def _load(path: Path) -> dict[Mutant, Trial]:
    if not path.exists():
        return {}
    try:
        trials = [Trial.from_record(record) for record in read_json(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not hold the trials of an earlier run: {error}") from error
    return {trial.mutant: trial for trial in trials}


def _save(path: Path, trials: Sequence[Trial]) -> None:
    text = json.dumps([trial.as_record() for trial in trials], indent=1)
    with replacing(path) as stream:
        stream.write(f"{text}\n".encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m systol_sim.mutation.campaign",
        description="Plant mistakes in hardware, simulator or checker and count those found.",
    )
    parser.add_argument("--mutants", type=int, default=30, help="how many (30)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--target", choices=(*TARGETS, "both"), default="both",
                        help="where; both are rtl and sim, in halves (both)")  # fmt: skip
    parser.add_argument(
        "--processes", type=int, default=2, help="trials side by side (2)", metavar="N"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.md", help="write the tables to FILE.md as Markdown"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial to FILE")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE",
        help="take the trials that FILE holds as made, and add each new one to it",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit status 0 if every mutant was killed or is an explained survivor."""
    options = _parser().parse_args(arguments)
    try:
        if options.mutants < 1:
            raise InputError(f"--mutants must be at least 1, not {options.mutants}")
        if options.processes < 1:
            raise InputError(f"--processes must be at least 1, not {options.processes}")
        survivors = _run(options)
    except SystolError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for trial in survivors:
        print(f"nothing finds or explains {trial.mutant.place}: {trial.mutant.change}",
              file=sys.stderr)  # fmt: skip
    if survivors:
        print("a test is missing, or an entry of systol_sim.mutation.survivors", file=sys.stderr)
    return UNEXPLAINED if survivors else 0


def _run(options: argparse.Namespace) -> list[Trial]:
    """Carry out and report a campaign; returns the survivors that nothing explains."""
    counts = {options.target: options.mutants}
    if options.target == "both":
        counts = {RTL: options.mutants // 2, SIM: options.mutants - options.mutants // 2}
    files = [path for path in (options.json, options.resume) if path is not None]
    known = _load(options.resume) if options.resume is not None else {}
    trials: list[Trial] = []
    # Trials of an earlier run that come later in this one must not be lost on the way.
    rest = dict(known)
    with tempfile.TemporaryDirectory(prefix="systol-mutants-") as directory:
        workshop = Workshop(Path(systol_sim.__file__).resolve().parents[2], Path(directory))
        reasons = explained(workshop.base)
        for trial in campaign(
            workshop, counts, options.seed, known=known, processes=options.processes,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        ):
            trials.append(trial)
            rest.pop(trial.mutant, None)
            for path in files:
                _save(path, [*trials, *(rest.values() if path == options.resume else ())])
    if options.report is not None:
        with replacing(options.report) as stream:
            stream.write(markdown(trials).encode("utf-8"))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(format_table(trials))
    console.print(format_summary(trials, reasons), markup=False, highlight=False)
    return unexplained(trials, reasons)


if __name__ == "__main__":
    sys.exit(main())
