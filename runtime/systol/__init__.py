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

from systol.api import compile, load
from systol.report import make_report
from systol.session import Device, ModelResult, Session
from systol_compiler.model import CompiledModel
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
    "Session",
    "SystolError",
    "UnsupportedModelError",
    "compile",
    "load",
    "load_arch",
    "make_report",
]
