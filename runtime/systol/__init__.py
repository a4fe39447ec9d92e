"""Systol: compile a neural network for an open 8-bit TPU, run it and read its counters.

>>> import systol
>>> from systol import bundled
>>> samples = bundled.calibration_images()
>>> path = bundled.model_path("mnist_mlp")
>>> model = systol.compile(path, arch="edge16", calibration=samples, batch=50)
>>> images, labels = bundled.test_images()
>>> result = systol.Device("sim").run(model, {"image": images})
>>> bool((result.outputs["logits"].argmax(axis=1) == labels).mean() > 0.9)
True
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from systol.api import compile, inspect, load
    from systol.execution.session import Device, Session
    from systol.program_run import ProgramResult, place_tokens
    from systol.results.report import make_report
    from systol.results.result import ModelResult
    from systol_compiler.binary.model import CompiledModel
    from systol_hw.arch import Arch, load_arch
    from systol_hw.errors import (
        BinaryFormatError,
        ConfigurationError,
        DifferenceError,
        InputError,
        InvalidProgramError,
        MachineFaultError,
        MissingToolError,
        SystolError,
        UnsupportedModelError,
    )
    from systol_hw.program import Program
    from systol_hw.program_text import parse_program

_HOMES = {
    "systol.api": ("compile", "inspect", "load"),
    "systol.results.report": ("make_report",),
    "systol.execution.session": ("Device", "Session"),
    "systol.program_run": ("ProgramResult", "place_tokens"),
    "systol.results.result": ("ModelResult",),
    "systol_compiler.binary.model": ("CompiledModel",),
    "systol_hw.arch": ("Arch", "load_arch"),
    "systol_hw.program": ("Program",),
    "systol_hw.program_text": ("parse_program",),
}
"""Modules, and what of them is public. What is in none of them is an error class."""

__all__ = [
    "Arch",
    "BinaryFormatError",
    "CompiledModel",
    "ConfigurationError",
    "Device",
    "DifferenceError",
    "InputError",
    "InvalidProgramError",
    "MachineFaultError",
    "MissingToolError",
    "ModelResult",
    "Program",
    "ProgramResult",
    "Session",
    "SystolError",
    "UnsupportedModelError",
    "compile",
    "inspect",
    "load",
    "load_arch",
    "make_report",
    "parse_program",
    "place_tokens",
]


def __getattr__(name: str) -> object:
    """Public names are imported when they are first asked for: they take a second to load, in which
    the command line must already answer an interrupt."""
    if name == "__version__":
        from systol.version import version

        return version()
    if name not in __all__:
        from systol_hw.nearest import did_you_mean

        raise AttributeError(
            f"module 'systol' has no attribute {name!r}{did_you_mean(name, __dir__())}"
        )
    home = next((home for home, names in _HOMES.items() if name in names), "systol_hw.errors")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
