"""Where a mutant is made and tried: copies of the sources, and processes of their own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from systol_hw.errors import DifferenceError, InputError
from systol_hw.termination import begun_whole
from systol_sim.mutation.changes import (
    CHECKER,
    CHECKER_TESTS,
    EQUIVALENT,
    FIRST_TEST,
    KILLED,
    LAST_TESTS,
    NOT_BUILT,
    PASSED,
    RTL,
    SAME,
    SIM,
    Mutant,
)

TIMED_OUT = "timed out"
"""Outcome of a trial whose check did not end in time: the mutant is killed."""
CRASHED = "crashed"
"""Outcome of a trial whose process died: the mutant is killed."""
DISCARDED = frozenset({NOT_BUILT, SAME, EQUIVALENT})
"""Outcomes of mutants that do not count."""
_TRIAL_SECONDS = 5400
_SOURCES = (
    "hw/systol_hw", "sim/systol_sim", "compiler/systol_compiler", "runtime/systol", "tests/shared",
)
_TEST_FILES = (
    *(f"tests/sim/{module}.py" for module in (FIRST_TEST, *LAST_TESTS)),
    *(f"tests/{module}.py" for module in CHECKER_TESTS),
    "docs/microprograms.md",
)
_PYTEST_OPTIONS = """\
[pytest]
markers =
    verilator: builds and runs the RTL
    slow: left out
"""
# An example that compiles something first takes long, and is no mistake.
_CONFTEST = """\
from hypothesis import settings
settings.register_profile("mutants", deadline=None)
settings.load_profile("mutants")
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one mutant.

    Parameters
    ----------
    mutant
    outcome
        `"passed"` (it survives), `"killed"`, `"timed out"`, `"crashed"`, or for mutants that do not
        count `"not built"`, `"same hardware"` or `"equivalent"`.
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
        return self.outcome not in DISCARDED

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
        for name in _SOURCES:
            shutil.copytree(
                root / name, self.base / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in _TEST_FILES:
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, self.base / name)
        (self.base / "pytest.ini").write_text(_PYTEST_OPTIONS, "utf-8")
        (self.base / "tests" / "conftest.py").write_text(_CONFTEST, "utf-8")

    def check_base(self, target: str) -> float:
        """Try the unchanged sources, which must pass; the seconds that it takes.

        Raises
        ------
        DifferenceError
            If they do not pass.
        """
        started = time.monotonic()
        record = self._run(target, self.base, self._base_cache, changed=False)
        if record["outcome"] != PASSED:
            raise DifferenceError(
                f"the unchanged sources do not pass the trial of {target}: {record['check']}: "
                f"{record.get('by', record['outcome'])}; mend that before planting mistakes"
            )
        return time.monotonic() - started

    def try_mutant(self, mutant: Mutant) -> Trial:
        """Plant one mistake and look for it."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            scratch = Path(name)
            tree = scratch / "tree"
            if mutant.target == RTL:
                # The simulator is the right one, and stays compiled.
                shutil.copytree(self.base / "hw", tree / "hw")
            else:
                for folder in ("sim", "tests", "docs"):
                    shutil.copytree(self.base / folder, tree / folder)
                shutil.copy(self.base / "pytest.ini", tree)
            module = tree / mutant.path
            module.write_text(mutant.apply(module.read_text("utf-8")), "utf-8")
            record = self._run(mutant.target, tree, scratch / "cache", changed=True)
        return Trial(
            mutant=mutant,
            outcome=record["outcome"],
            check=record.get("check", ""),
            by=record.get("by", ""),
            seconds=round(time.monotonic() - started, 1),
        )

    @property
    def _base_cache(self) -> Path:
        """What the trials of the unchanged sources left behind."""
        return self.directory / "base-cache"

    def _run(self, target: str, tree: Path, cache: Path, *, changed: bool) -> dict[str, Any]:
        """One trial of `tree`, completed by the sources that it does not change."""
        base_cache = self._base_cache
        folder = {RTL: "hw", SIM: "sim", CHECKER: "sim"}[target]
        roots = {
            name: self.base / name for name in ("hw", "sim", "compiler", "runtime", "tests/shared")
        }
        roots[folder] = tree / folder
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
        command = [sys.executable, "-P", "-m", "systol_sim.mutation.trial", target, str(path)]
        command += [str(base_cache)] if changed else []
        with contextlib.ExitStack() as stack:
            with begun_whole():
                # A group of its own: compilers that it started must not outlive it.
                process = subprocess.Popen(
                    command, env=environment, cwd=cache, start_new_session=True,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                )  # fmt: skip
                stack.callback(_end_group, process)
            try:
                _, errors = process.communicate(timeout=_TRIAL_SECONDS)
                status = process.returncode
            except subprocess.TimeoutExpired:
                status, errors = -signal.SIGPROF, ""
        record: dict[str, Any] = {"check": "start"}
        if path.exists():
            record |= json.loads(path.read_text("utf-8"))
        if "outcome" not in record:
            last = (errors.strip().splitlines() or [f"status {status}"])[-1]
            timed_out = status == -signal.SIGPROF
            # Before its first check, a trial only imports what it is about to try.
            crashed = NOT_BUILT if record["check"] == "start" else CRASHED
            record["outcome"] = TIMED_OUT if timed_out else crashed
            record["by"] = "took too long" if timed_out else last
        return record


def _end_group(process: "subprocess.Popen[str]") -> None:
    """Leave nothing of a trial that was cut short, by us or by its own limit of time."""
    if process.returncode is None or process.returncode == -signal.SIGPROF:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
