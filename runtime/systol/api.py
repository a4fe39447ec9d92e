"""The Python interface's two verbs: `compile` and `load`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from systol_compiler.calibration import CalibrationData
from systol_compiler.driver import CompileOptions, compile_model
from systol_compiler.graph.importer import ModelSource
from systol_compiler.model import CompiledModel
from systol_hw.arch import Arch, load_arch


def compile(
    model: ModelSource,
    *,
    arch: str | Path | Arch = "edge16",
    calibration: CalibrationData | None = None,
    shapes: Mapping[str, int] | None = None,
    batch: int = 1,
    options: CompileOptions | None = None,
    strict: bool = False,
) -> CompiledModel:
    """Quantize and compile a float32 ONNX model.

    Parameters
    ----------
    model
        A path, a serialized model, or an `onnx.ModelProto`.
    arch
        The machine: a preset's name, a TOML file, or an `Arch`.
    calibration
        Real inputs of the model, by name: float32 [samples, ...]. One array will do for a model
        of one input.
    shapes
        Values of dynamic dimensions, by name.
    batch
        Items that one run of the binary takes, where the model leaves that open.
    options
        The compiler's own.
    strict
        Refuse a model that needs the host.

    Raises
    ------
    InputError, UnsupportedModelError, ConfigurationError
        With the node, the rule that it broke, the value and the remedy.
    """
    machine = arch if isinstance(arch, Arch) else load_arch(arch)
    options = options or CompileOptions()
    return compile_model(
        model,
        arch=machine,
        calibration=calibration,
        shapes=shapes,
        batch=batch,
        options=dataclasses.replace(options, strict=strict or options.strict),
    )


def load(path: str | Path) -> CompiledModel:
    """Read a binary that `CompiledModel.save` wrote; see `CompiledModel.load`."""
    return CompiledModel.load(path)
