"""Mutants by the thousand, each given to the command that reads it, in processes of their own.

A case passes if the command ends by itself with a status that says what was wrong with the file,
or nothing: no exception that is not Systol's own, no crash, within bounded time and memory, and
nothing on the terminal that it would obey.
"""

import contextlib
import json
import os
import random
import re
import select
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from systol.attack.doors import DOORS, seeds_of
from systol_hw.termination import begun_whole
from systol_sim.jit.compiled import STEPPER, VALUES, compile_beside, wait_for_compilation

SECONDS, SECONDS_PER_MB = 10.0, 1.0
PEAK_BYTES, PEAK_FACTOR = 500 << 20, 20
"""What a case may take: processor time by its megabytes, memory at one time by its bytes."""
_PATIENCE = 6
"""How many times as long a case may last by the clock: other work may keep the processors."""
_START_SECONDS = 900.0
"""For a worker to begin: it may have machine code to compile."""
_BUGS = (10, 70)
"""Exit statuses that no file is a reason for."""


@dataclass(kw_only=True)
class Tally:
    """What came of the cases of one door."""

    cases: int = 0
    accepted: int = 0
    deep: int = 0
    slowest_seconds: float = 0.0
    peak_bytes: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Count one case."""
        self.cases += 1
        self.accepted += record.get("status") == 0
        self.deep += bool(record.get("deep"))
        self.slowest_seconds = max(self.slowest_seconds, record.get("seconds", 0.0))
        self.peak_bytes = max(self.peak_bytes, record.get("peak", 0))
        if record["failure"]:
            self.failures.append(record)


def mutant(door: str, seed: int, number: int, folder: Path) -> tuple[bytes, random.Random]:
    """Case `number` of `door`, and the generator that chooses its command."""
    rng = random.Random(f"{door}/{seed}/{number}")
    return DOORS[door].mutant(rng, rng.choice(seeds_of(door, folder))), rng


def attack(
    doors: Iterable[str], cases: int, seed: int, keep: Path | None = None
) -> Iterator[tuple[str, Tally]]:
    """Run `cases` mutants of each of `doors`; the tallies, as they grow.

    Parameters
    ----------
    keep
        Where mutants are kept that failed.
    """
    for door in doors:
        tally = Tally()
        with tempfile.TemporaryDirectory(prefix="systol-attack-") as name:
            folder = Path(name)
            number = 0
            while number < cases:
                with _worker(door, seed, number, cases, folder) as replies:
                    for record in replies:
                        number = record["number"] + 1
                        if record["failure"]:
                            _keep(record, door, seed, folder, keep)
                        tally.add(record)
                        yield door, tally


def _keep(
    record: dict[str, Any], door: str, seed: int, folder: Path, keep: Path | None
) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        data, _ = mutant(door, seed, record["number"], folder)
        path = keep / f"{door}-{seed}-{record['number']}{DOORS[door].suffix}"
        path.write_bytes(data)
        record["kept"] = str(path)


@contextlib.contextmanager
def _worker(
    door: str, seed: int, first: int, cases: int, folder: Path
) -> Iterator[Iterator[dict[str, Any]]]:
    """Records of the cases from `first` on, until all are done or one has ended the process."""
    command = [sys.executable, "-P", "-m", "systol.attack", "--worker", door, str(seed),
               str(first), str(cases), str(folder)]  # fmt: skip
    with contextlib.ExitStack() as stack:
        with begun_whole():
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield _replies(process)


def _replies(process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """Each case is announced before it is tried, and so is known if it never comes back."""
    assert process.stdout is not None
    handle = process.stdout.fileno()
    announced: dict[str, Any] | None = None
    waiting = b""
    while True:
        size = announced["bytes"] if announced else 0
        patience = _PATIENCE * allowed_seconds(size) if announced else _START_SECONDS
        if not select.select([handle], [], [], patience)[0]:
            process.kill()
            waiting = b""
            break
        data = os.read(handle, 1 << 16)
        if not data:
            break
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            record = json.loads(line)
            if "failure" in record:
                announced = None
                yield record
            else:
                announced = record
    status = process.wait()
    if announced is not None:
        yield announced | {"failure": f"did not come back ({status})", "status": status}
    elif status:
        raise RuntimeError(f"a worker ended with status {status} before its first case")


def allowed_seconds(size: int) -> float:
    """What a case of so many bytes may take of processor time."""
    return SECONDS + SECONDS_PER_MB * size / 1e6


def work(door: str, seed: int, first: int, cases: int, folder: Path) -> None:
    """What a worker does: announce and try one case after another, on stdout as lines of JSON."""
    from systol.cli import main

    reports = os.fdopen(os.dup(1), "w", buffering=1)
    said = tempfile.TemporaryFile()
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    path = folder / f"case{DOORS[door].suffix}"
    shallow = re.compile(DOORS[door].shallow)
    seeds_of(door, folder)
    # What is compiled once is no case's time.
    compile_beside(STEPPER, VALUES)
    wait_for_compilation()
    for number in range(first, cases):
        data, rng = mutant(door, seed, number, folder)
        path.write_bytes(data)
        words = DOORS[door].command(rng, path, folder)
        print(json.dumps({"number": number, "bytes": len(data)}), file=reports)
        said.seek(0)
        said.truncate()
        record = _try(main, words, said)
        text = record.pop("text")
        record["failure"] = _failure(record, text, len(data))
        record["deep"] = record["status"] == 0 or not shallow.search(text)
        if record["failure"]:
            record["text"] = text[-2000:]
        print(json.dumps({"number": number, "bytes": len(data)} | record), file=reports)


def _try(main: Any, words: list[str], said: IO[bytes]) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    began = time.process_time()
    try:
        status = main(words)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    seconds = time.process_time() - began
    said.seek(0)
    text = said.read().decode("utf-8", "replace")
    return {"status": status, "seconds": seconds, "peak": _peak_bytes(), "text": text}


def _failure(record: dict[str, Any], text: str, size: int) -> str:
    if not isinstance(record["status"], int) or record["status"] in _BUGS:
        return f"status {record['status']}"
    if record["seconds"] > allowed_seconds(size):
        return f"took {record['seconds']:.0f} s"
    if record["peak"] > PEAK_BYTES + PEAK_FACTOR * size:
        return f"took {record['peak'] >> 20} MiB"
    if "Traceback" in text:
        return "a traceback"
    if any(unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" for c in text):
        return "characters that a terminal obeys"
    return ""


def _peak_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def describe(tallies: dict[str, Tally]) -> list[tuple[str, ...]]:
    """Rows of a table: door, cases, how many were deep and accepted, time, memory, failures."""
    return [
        (
            name, f"{t.cases:,}", f"{100 * t.deep / max(1, t.cases):.0f} %",
            f"{100 * t.accepted / max(1, t.cases):.0f} %", f"{t.slowest_seconds:.1f} s",
            f"{t.peak_bytes >> 20} MiB", str(len(t.failures)),
        )
        for name, t in tallies.items()
    ]  # fmt: skip


def kinds(tally: Tally) -> Counter[str]:
    """How often each failure was met."""
    return Counter(record["failure"] for record in tally.failures)
