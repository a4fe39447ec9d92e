"""What README shows is what its commands print."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 900


def _sessions(page: Path) -> list[tuple[str, list[str]]]:
    """(command, lines shown below it) of the page's ```console blocks, in order."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def _shows(printed: list[str], shown: list[str]) -> str | None:
    """The first shown line that is not printed, in order; `...` stands for any lines."""
    place = 0
    for line in shown:
        if line.strip() == "...":
            continue
        while place < len(printed) and printed[place].rstrip() != line.rstrip():
            place += 1
        if place == len(printed):
            return line
        place += 1
    return None


@pytest.mark.timeout(1800)
def test_the_tour(tmp_path: Path) -> None:
    sessions = _sessions(ROOT / "README.md")
    assert len(sessions) >= 5
    (tmp_path / "systol").write_text(f'#!/bin/sh\nexec {sys.executable} -m systol "$@"\n')
    (tmp_path / "systol").chmod(0o755)
    (tmp_path / "runtime").symlink_to(ROOT / "runtime")
    path = ":".join(str(ROOT / folder) for folder in ("hw", "sim", "compiler", "runtime"))
    environment = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": path,
        "HOME": str(Path.home()),
        "COLUMNS": "80",
    }
    for command, shown in sessions:
        if command.startswith("readelf") and shutil.which("readelf") is None:
            continue
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, text=True,
            capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        missing = _shows(done.stdout.splitlines(), shown)
        assert missing is None, f"{command} does not print {missing!r}, but:\n{done.stdout}"
