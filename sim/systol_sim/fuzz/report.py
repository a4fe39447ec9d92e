"""What a fuzz run found: differences, coverage and figures, as text, Markdown and JSON."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError
from systol_hw.shown import shown
from systol_sim.fuzz.coverage import Coverage

BEGIN, END = "<!-- fuzz:begin -->", "<!-- fuzz:end -->"
"""What stands between these lines of a page is the report's."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A program on which something is wrong.

    `machine`, `seed` and `kind` (None for a valid program) make it again; `lines` say what differs;
    `reproducer` is the shrunk program's file, if a directory was given.
    """

    machine: str
    seed: int
    kind: str | None
    lines: tuple[str, ...]
    instructions: int
    reproducer: Path | None

    def __str__(self) -> str:
        what = "valid program" if self.kind is None else f"program with {self.kind}"
        head = f"{self.machine}, seed {self.seed}, {what}: "
        head += f"shrunk to {self.instructions} instructions"
        if self.reproducer is not None:
            head += f" in {self.reproducer}"
        return "\n  ".join((head, *self.lines))


@dataclass(kw_only=True)
class Report:
    """The outcome of `fuzz`."""

    programs: int = 0
    faulting: int = 0
    cycles: int = 0
    seconds: float = 0.0
    mismatches: list[Mismatch] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    def merge(self, other: "Report") -> None:
        """Add another report's figures, but for the time."""
        self.programs += other.programs
        self.faulting += other.faulting
        self.cycles += other.cycles
        self.mismatches += other.mismatches
        self.coverage.merge(other.coverage)

    def format(self, *, coverage: bool = True) -> str:
        """All of it as text."""
        lines = [str(mismatch) for mismatch in self.mismatches]
        if coverage:
            lines.append(self.coverage.format())
        lines.append(
            f"{self.programs} programs ({self.faulting} faulting), {self.cycles} cycles, "
            f"{len(self.mismatches)} mismatches, {self.seconds:.1f} s"
        )
        return "\n".join(lines)

    def markdown(self, heading: str) -> str:
        """`heading`, the figures in a sentence, and the coverage as a table."""
        missing = self.coverage.missing()
        reached = "every goal reached" if not missing else f"never reached: {', '.join(missing)}"
        figures = (
            f"**{self.programs:,} programs, {self.programs - self.faulting:,} valid and "
            f"{self.faulting:,} faulting; {self.cycles:,} cycles; {len(self.mismatches)} "
            f"differences; {reached}.** {self.seconds / 60:.0f} minutes."
        )
        lines = [
            heading,
            "",
            figures,
            "",
            "| reached | times |",
            "|---|---:|",
            *(f"| {name} | {count:,} |" for name, count in self.coverage.rows()),
        ]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "programs": self.programs,
            "faulting": self.faulting,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "mismatches": [
                {
                    "machine": m.machine, "seed": m.seed, "kind": m.kind, "lines": list(m.lines),
                    "instructions": m.instructions,
                    "reproducer": None if m.reproducer is None else str(m.reproducer),
                }
                for m in self.mismatches
            ],
            "coverage": dict(self.coverage.counts),
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Report":
        """The inverse of `to_dict`; raises `ValueError` for anything else."""
        report = cls(
            programs=_count(values, "programs"), faulting=_count(values, "faulting"),
            cycles=_count(values, "cycles"), seconds=_get(values, "seconds", float, int),
        )
        for found in _get(values, "mismatches", list):
            place = _get(found, "reproducer", str, type(None))
            lines = _get(found, "lines", list)
            if not all(isinstance(line, str) for line in lines):
                raise ValueError("lines must be texts")
            report.mismatches.append(
                Mismatch(
                    machine=_get(found, "machine", str), seed=_get(found, "seed", int),
                    kind=_get(found, "kind", str, type(None)), lines=tuple(lines),
                    instructions=_count(found, "instructions"),
                    reproducer=None if place is None else Path(place),
                )
            )
        coverage = _get(values, "coverage", dict)
        report.coverage.counts.update({name: _count(coverage, name) for name in coverage})
        return report


_MOST = 1 << 62
"""More than anything that is counted here can be."""


def _get(values: Any, name: str, *types: type) -> Any:
    """`values[name]`, which must be of one of `types`."""
    if not isinstance(values, dict) or name not in values:
        raise ValueError(f"{shown(name)} is missing")
    value = values[name]
    if type(value) not in types:
        wanted = " or ".join(t.__name__ for t in types)
        raise ValueError(f"{shown(name)} must be {wanted}, not {shown(value)}")
    return value


def _count(values: Any, name: str) -> int:
    value: int = _get(values, name, int)
    if not 0 <= value <= _MOST:
        raise ValueError(f"{shown(name)} must lie in 0..2**62, not {shown(value)}")
    return value


def write_markdown(path: Path, text: str) -> None:
    """Write `text` between the two marks of the file `path`; a new file is made with both.

    Raises
    ------
    InputError
        The file has no such marks: it is something else, and stays as it is.
    """
    before, after = _around_marks(path)
    with replacing(path) as stream:
        stream.write(f"{before}{BEGIN}\n{text}{END}{after}".encode())


def check_marks(path: Path) -> None:
    """Raise what `write_markdown` would, before there is anything to write."""
    _around_marks(path)


def _around_marks(path: Path) -> tuple[str, str]:
    if not path.exists() or path.is_char_device() or path.is_fifo():
        return "", "\n"
    try:
        old = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{path} has no lines {BEGIN} and {END} to write between; it was left as it is"
        )
    return before, after
