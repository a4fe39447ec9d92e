"""A fuzz run that can be interrupted: how far it came and what it found, in a file."""

import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from systol_hw.arch import Arch
from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError
from systol_hw.json_file import read_json
from systol_sim.fuzz.report import Report

Settings = dict[str, Any]
"""What must be equal for a run to go on: the same programs on the same machines and sources."""


def settings_of(
    seed: int, machines: Iterable[Arch], executors: Iterable[str], faulting: float
) -> Settings:
    """The settings of a run, as plain values."""
    return {
        "seed": seed,
        "machines": {arch.name: arch.fingerprint() for arch in machines},
        "executors": list(executors),
        "faulting": faulting,
        "sources": _sources_digest(),
    }


def _sources_digest() -> str:
    """SHA-256 of the Python and C++ sources of machine and simulator."""
    digest = hashlib.sha256()
    for package in ("systol_hw", "systol_sim"):
        root = Path(str(resources.files(package)))
        for path in sorted((*root.rglob("*.py"), *root.rglob("*.cpp"), *root.rglob("*.h"))):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def save_state(path: Path, settings: Settings, report: Report) -> None:
    """Write what is done so far; the file is whole at every moment."""
    content = {"settings": settings, "report": report.to_dict()}
    with replacing(path) as stream:
        stream.write(json.dumps(content).encode())


def load_state(path: Path, settings: Settings) -> Report:
    """What was done so far: the first `programs` programs of the run.

    Raises
    ------
    InputError
        If the file is no state of a run, or of one with other settings.
    """
    content = read_json(path)
    try:
        report = Report.from_dict(content["report"])
        old = content["settings"]
        if not isinstance(old, dict):
            raise TypeError("settings must be an object")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the state of a fuzz run: {error}") from error
    for name, value in settings.items():
        if old.get(name) != value:
            raise InputError(
                f"{path}: the run that it belongs to had other {name}; give the same ones, or "
                "begin anew with another state file"
            )
    return report
