"""What docs/architecture.md says of where to change what is true, and all that is needed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rooms import ROOT
from toy_changes import TOYS

PAGE = ROOT / "docs" / "architecture.md"


@pytest.mark.parametrize("name", TOYS)
def test_the_page_lists_what_a_change_needs(name: str) -> None:
    toy = TOYS[name]
    assert len(toy.edits) <= toy.most_files
    sections = re.split(r"^### ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.lower().startswith(f"a {name}\n")
                  or text.lower().startswith(f"an {name}\n"))  # fmt: skip
    assert toy.title in " ".join(section.split())
    listed = re.findall(r"^\d+\. `([^`]+)`", section, flags=re.MULTILINE)
    assert listed == list(toy.edits)


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_change_applies_to_the_sources(name: str, tmp_path: Path) -> None:
    for place in TOYS[name].edits:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, tmp_path / place)
    TOYS[name].apply(tmp_path)


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TOYS)
def test_a_toy_change_is_all_that_executors_need_to_agree(name: str, tmp_path: Path) -> None:
    """Simulator, reference and RTL of the changed copy, on random programs that use it."""
    packages = ("hw/systol_hw", "sim/systol_sim")
    for place in packages:
        shutil.copytree(
            ROOT / place, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__")
        )
    TOYS[name].apply(tmp_path)
    path = os.pathsep.join(str((tmp_path / place).parent) for place in packages)
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    script = Path(__file__).parent / "shared" / "toy_changes.py"
    done = subprocess.run(
        [sys.executable, "-P", str(script), name], env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
