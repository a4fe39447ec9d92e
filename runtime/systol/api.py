"""The Python interface's verbs: `compile`, `load` and `inspect`."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from systol.samples import open_samples
from systol_compiler.binary.model import CompiledModel
from systol_compiler.binary.reader import load as _load
from systol_compiler.calibrate.inputs.preprocessing import parse_preprocessing
from systol_compiler.calibrate.inputs.samples import CalibrationData
from systol_compiler.calibrate.options import Override, QuantizationOptions, load_overrides
from systol_compiler.calibrate.ranges import Method
from systol_compiler.compile import CompileOptions, Observer, compile_model
from systol_compiler.graph.reading.importer import ModelSource
from systol_compiler.inspection import Inspection, inspect_model
from systol_hw.arch import Arch, load_arch
from systol_hw.errors import InputError


class CompileWarning(UserWarning):
    """What the quantizer has to say: a tensor that never moved, random calibration, and so on."""


def compile(
    model: ModelSource,
    *,
    arch: str | Path | Arch = "edge16",
    calibration: CalibrationData | None = None,
    preprocess: str = "",
    method: Method | None = None,
    overrides: str | Path | Mapping[str, Override] | None = None,
    strict: bool = False,
    effort: str | None = None,
    shapes: Mapping[str, int] | None = None,
    batch: int = 1,
    labels: Sequence[str] = (),
    options: CompileOptions | None = None,
    observer: Observer | None = None,
) -> CompiledModel:
    """Quantize and compile an ONNX model.

    Parameters
    ----------
    model
        A path, a serialized model, or an `onnx.ModelProto`.
    arch
        The machine: a preset's name, a TOML file, or an `Arch`.
    calibration
        Real inputs: arrays [samples, ...] by input name, one array for a model of one input, an
        iterator of either, an .npz file, a folder of such files or of images, or "random" where
        only cycles matter.
    preprocess
        How images become the model's input, such as "imagenet" or "crop=28,gray". The binary keeps
        it, so that it takes images too.
    method
        How ranges are chosen: one of `systol_compiler.calibrate.ranges.METHODS`.
    overrides
        What is fixed of single tensors: a TOML file, or `Override` objects by name.
    strict
        Refuse a model of which the host must run a part.
    effort
        How many schedules are tried: "fast", "normal" or "high".
    shapes
        Values of dynamic dimensions, by name.
    batch
        Items that one run of the binary takes, where the model leaves that open.
    labels
        Names of classes, kept for the outputs whose last axis has as many places.
    options
        The compiler's own, for what is not given here.
    observer
        Called with the name and result of every pass and level.

    Warns
    -----
    CompileWarning
        The notes of the compile report.

    Raises
    ------
    InputError, UnsupportedModelError, ConfigurationError
        With the node, the rule that it broke, the value and the remedy.
    """
    machine = arch if isinstance(arch, Arch) else load_arch(arch)
    if isinstance(calibration, str | Path):
        calibration = open_samples(calibration, preprocess)
    if preprocess:
        parse_preprocessing(preprocess, Path())
    compiled = compile_model(
        model,
        arch=machine,
        calibration=calibration,
        shapes=shapes,
        batch=batch,
        options=compile_options_of(
            options, method=method, overrides=overrides, strict=strict, effort=effort
        ),
        observer=observer,
    )
    for note in compiled.report["notes"]:
        warnings.warn(note, CompileWarning, stacklevel=2)
    return _described(compiled, preprocess, tuple(labels))


def load(path: str | Path) -> CompiledModel:
    """Read a binary; code and weights stay in the file until they are used.

    Raises
    ------
    InputError
        There is no such file.
    BinaryFormatError
        The file is damaged, truncated, hostile or of another version.
    """
    return _load(path)


def inspect(
    model: ModelSource,
    *,
    shapes: Mapping[str, int] | None = None,
    batch: int = 1,
    strict: bool = False,
) -> Inspection:
    """Where every node of `model` would run, why, and at what cost; see `inspect_model`."""
    return inspect_model(model, shapes=shapes, batch=batch, strict=strict)


def compile_options_of(
    options: CompileOptions | None = None,
    *,
    method: Method | None = None,
    overrides: str | Path | Mapping[str, Override] | None = None,
    strict: bool = False,
    effort: str | None = None,
) -> CompileOptions:
    """The compiler's options, from those that `compile` takes one by one."""
    options = options or CompileOptions()
    quantization = options.quantization or QuantizationOptions()
    if method is not None:
        quantization = dataclasses.replace(quantization, method=method)
    if overrides is not None:
        given = load_overrides(Path(overrides)) if isinstance(overrides, str | Path) else overrides
        quantization = dataclasses.replace(quantization, overrides=given)
    return dataclasses.replace(
        options,
        quantization=quantization,
        strict=strict or options.strict,
        effort=options.effort if effort is None else effort,
    )


def _described(
    model: CompiledModel, preprocess: str, labels: tuple[str, ...]
) -> CompiledModel:
    """`model` with what it should know of its inputs' and outputs' meaning."""
    if not preprocess and not labels:
        return model
    outputs = tuple(
        dataclasses.replace(item, labels=labels)
        if labels and model.real[item.tensor].shape[-1:] == (len(labels),)
        else item
        for item in model.outputs
    )
    if labels and outputs == model.outputs:
        shapes = [list(model.real[item.tensor].shape) for item in model.outputs]
        raise InputError(
            f"{len(labels)} labels were given, but no output's last axis has as many places: "
            f"outputs have shapes {', '.join(map(str, shapes))}"
        )
    inputs = model.inputs
    if preprocess:
        images = [n for n, item in enumerate(inputs) if len(model.real[item.name].shape) == 4]
        if len(images) != 1:
            raise InputError(
                "preprocessing is kept for a model's one input of four axes, but this model has "
                f"{len(images)}"
            )
        inputs = tuple(
            dataclasses.replace(item, preprocessing=preprocess) if n == images[0] else item
            for n, item in enumerate(inputs)
        )
    return dataclasses.replace(model, inputs=inputs, outputs=outputs)
