"""Makes a program on which executors differ as short as it can be, and keeps it as text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction, decode, encode, instruction
from systol_hw.program import Program
from systol_hw.program_text import format_program, parse_program
from systol_hw.tables.faults import Unit
from systol_sim.random_programs.generate import Case
from systol_sim.validity.checker import find_violations
from systol_sim.validity.progress import tile_count
from systol_sim.validity.synchronize import strip, synchronize

DEFAULT_ATTEMPTS = 400
"""Programs that `shrink` tries at most."""


def shrink(
    case: Case,
    differs: Callable[[Case], bool],
    *,
    valid: bool = True,
    attempts: int = DEFAULT_ATTEMPTS,
) -> Case:
    """A shorter case for which `differs` still holds; `case` itself if there is none.

    Parameters
    ----------
    differs
        Runs a case and says whether the executors disagree on it; holds for `case`.
    valid
        Whether every tried program must satisfy the static checker. Where removing an instruction
        leaves too few tokens, they are made anew.
    attempts
        Most calls of `differs`.
    """
    rows = [row.tobytes() for row in case.program.code]
    size = max(1, len(rows) // 2)

    def smaller(gone: set[int]) -> list[bytes] | None:
        nonlocal attempts
        for shorter in _without(case, rows, gone, valid) if attempts > 0 else ():
            attempts -= 1
            if differs(_case(case, shorter)):
                return shorter
        return None

    while True:
        before = len(rows)
        for group in _tile_groups(rows) if valid else ():
            # Loaders and their matmuls go together or not at all; removing changes the places of
            # the other groups, so that one success ends the turn.
            shorter = smaller(group)
            if shorter is not None:
                rows = shorter
                break
        start = 0
        while start < len(rows):
            shorter = smaller(set(range(start, min(start + size, len(rows)))))
            if shorter is None:
                start += size
            else:
                rows = shorter
        if attempts <= 0 or (size == 1 and len(rows) == before):
            return _case(case, rows)
        size = max(1, size // 2)


def _tile_groups(rows: Sequence[bytes]) -> list[set[int]]:
    """The smallest runs of Weights and Matrix instructions that load what they take."""
    groups: list[set[int]] = [set()]
    ahead = 0
    for pc, row in enumerate(rows):
        item = decode(row)
        if item.unit in (Unit.WEIGHTS, Unit.MATRIX):
            groups[-1].add(pc)
            ahead += tile_count(item) if item.unit is Unit.WEIGHTS else -tile_count(item)
            if not ahead:
                groups.append(set())
    return [group for group in groups if group]


def _case(case: Case, rows: Sequence[bytes]) -> Case:
    old = case.program
    program = Program(
        arch=old.arch,
        code=np.frombuffer(b"".join(rows), np.uint8).reshape(-1, INSTRUCTION_BYTES),
        weight_image=old.weight_image,
        weight_memory_bytes=old.weight_memory_bytes,
        code_address=old.code_address,
        windows=old.windows,
    )
    return Case(program=program, contents=case.contents)


def _without(
    case: Case, rows: Sequence[bytes], gone: set[int], valid: bool
) -> list[list[bytes]]:
    """Candidates without the instructions `gone`."""
    rest = [row for index, row in enumerate(rows) if index not in gone]
    if not valid:
        return [rest]
    if len(rows) - 1 in gone:
        return []
    items = [decode(row) for row in rows]
    kept = [item for index, item in enumerate(_unpaired(items, gone)) if index not in gone]
    candidates = [[encode(item) for item in kept]]
    arch = case.program.arch
    try:
        again = synchronize(arch, strip(decode(row) for row in rest))
    except InvalidProgramError:
        again = []
    candidates.append([encode(item) for item in again])
    return [c for c in candidates if c and not find_violations(_case(case, c).program)]


def _unpaired(items: Sequence[Instruction], gone: set[int]) -> list[Instruction]:
    """`items` without the tokens whose other end is in `gone`."""
    given: dict[tuple[Unit, Unit], list[int]] = {}
    pairs = []
    taken: dict[tuple[Unit, Unit], int] = {}
    for pc, item in enumerate(items):
        for producer in item.waits:
            pair = (producer, item.unit)
            n = taken.get(pair, 0)
            taken[pair] = n + 1
            pairs.append((given[pair][n], pc, *pair))
        for consumer in item.signals:
            given.setdefault((item.unit, consumer), []).append(pc)
    waits = [item.get("wait") for item in items]
    signals = [item.get("signal") for item in items]
    for source, target, producer, consumer in pairs:
        if source in gone or target in gone:
            signals[source] &= ~(1 << (consumer - 1))
            waits[target] &= ~(1 << (producer - 1))
    return [
        instruction(item.operation, **{**item.fields, "wait": wait, "signal": signal})
        if "wait" in item.fields
        else item
        for item, wait, signal in zip(items, waits, signals, strict=True)
    ]


def write_reproducer(
    directory: Path, name: str, case: Case, notes: Sequence[str]
) -> Path:
    """Write `name`.systol (the program as text, `notes` as comments) and `name`.npz (the contents
    of its windows); returns the path of the text."""
    directory.mkdir(parents=True, exist_ok=True)
    comments = "".join(f"; {line}\n" for note in notes for line in note.splitlines())
    path = directory / f"{name}.systol"
    path.write_text(comments + format_program(case.program), encoding="utf-8")
    contents: Mapping[str, np.ndarray] = case.contents
    np.savez_compressed(path.with_suffix(".npz"), **dict(contents))  # type: ignore[arg-type]
    return path


def read_reproducer(path: Path) -> Case:
    """The inverse of `write_reproducer`, but for the notes."""
    program = parse_program(path.read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz")) as stored:
        contents = {name: stored[name] for name in stored.files}
    return Case(program=program, contents=contents)
