"""The compiler in one call: an ONNX model or a quantized graph in, a compiled model out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from systol_compiler.calibration import CalibrationData
from systol_compiler.emit import EmittedProgram
from systol_compiler.frontend import quantize_model
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.importer import ModelSource
from systol_compiler.model import CompiledModel, MachineSegment
from systol_compiler.old_quantized import QuantizedGraph
from systol_compiler.quantizer import QuantizationOptions
from systol_compiler.report import build_report
from systol_compiler.search import BackendResult, Choice, build, search
from systol_hw.arch import Arch
from systol_hw.assembly import format_word
from systol_hw.errors import InputError, UnsupportedModelError
from systol_sim.checker import check

LEVELS: Final = ("graph", "quantized", "tiled", "scheduled", "asm")
"""Levels of `--emit`, in the compiler's order."""

Observer = Callable[[str, object], None]
"""Called with the name of a pass or level and what it gave, which prints with `str`."""


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What the user can decide.

    Attributes
    ----------
    quantization
        How ranges are chosen.
    strict
        Refuse a model of which the host must run a part.
    search
        Try several schedules and keep the fastest; otherwise take the first.
    most_images
        Greatest number of images that the machine works on together (None: as many as fit).
    """

    quantization: QuantizationOptions | None = None
    strict: bool = False
    search: bool = True
    most_images: int | None = None


def compile_model(
    model: ModelSource,
    *,
    arch: Arch,
    calibration: CalibrationData | None,
    shapes: Mapping[str, int] | None = None,
    batch: int = 1,
    options: CompileOptions | None = None,
    observer: Observer | None = None,
) -> CompiledModel:
    """Compile an ONNX model for `arch`.

    Parameters
    ----------
    model
        A file's path, a serialized model, or a ModelProto.
    calibration
        Real inputs, float32 [samples, ...] by input name, or one array for a single input.
    shapes
        Values for dynamic dimensions, by name or as "INPUT.AXIS".
    batch
        Value of inputs' first dimension where the model leaves it open and `shapes` does not say.
    observer
        Sees the graph behind every pass, and every level of the back half.

    Raises
    ------
    InputError
        The model, the calibration data or an option is wrong.
    UnsupportedModelError
        The model needs something that the machine has not; the message names the layer.
    """
    options = options or CompileOptions()
    if batch < 1:
        raise InputError(f"batch must be at least 1, but is {batch}")
    bound = {**_open_batches(model, batch), **(shapes or {})}
    front = quantize_model(
        model,
        calibration=calibration,
        shapes=bound,
        options=options.quantization,
        observer=observer,
    )
    return compile_quantized(front.quantized, arch=arch, options=options, observer=observer)


def compile_quantized(
    graph: QuantizedGraph,
    *,
    arch: Arch,
    options: CompileOptions | None = None,
    observer: Observer | None = None,
) -> CompiledModel:
    """Compile a quantized graph for `arch`: tile, allocate, schedule, emit and check.

    Raises
    ------
    UnsupportedModelError
        A layer does not fit the machine, or `options.strict` and the host would run a part.
    """
    options = options or CompileOptions()
    graph.verify()
    if options.strict and graph.host_segments:
        segment = graph.host_segments[0]
        raise UnsupportedModelError(
            f"host segment {segment.name!r}: strict compilation allows no operator on the host, "
            f"but {', '.join(segment.operators)} must run there ({segment.reason}); end the model "
            "before them, or compile without strict"
        )
    see = observer or _ignore
    see("quantized", graph)
    if options.search and options.most_images is None:
        result = search(graph, arch)
    else:
        result = build(graph, arch, Choice(most_images=options.most_images))
    for images, network in result.tiled.items():
        see(f"lowered, {images} images", network.lowered)
        see("tiled", network)
    see("allocated", result.plan)
    see("scheduled", result.order)
    check(result.emitted.program)
    see("asm", Assembly(result.emitted))
    return _assemble(graph, arch, result)


def emit_level(level: str, model: ModelSource, **arguments: Any) -> str:
    """The text of one of `LEVELS` for a model; the arguments are those of `compile_model`.

    Raises
    ------
    InputError
        There is no such level.
    """
    if level not in LEVELS:
        raise InputError(f"no level is called {level!r}; levels are {', '.join(LEVELS)}")
    texts: list[str] = []

    def collect(name: str, value: object) -> None:
        if level == "graph" and isinstance(value, Graph):
            texts[:] = [str(value)]  # the last pass's is the level
        elif level == name:
            texts.append(str(value))

    compile_model(model, observer=collect, **arguments)
    return "\n".join(texts)


def _ignore(name: str, value: object) -> None:
    """The observer of those who want none."""


@dataclass(frozen=True)
class Assembly:
    """The emitted program; `str` is its assembler text, with the layers as comments."""

    emitted: EmittedProgram

    def __str__(self) -> str:
        names = {item.first: item.layer for item in self.emitted.layers}
        lines = []
        for pc, data in enumerate(self.emitted.program.code):
            if pc in names:
                lines.append(f"; layer {names[pc]}")
            lines.append(format_word(data.tobytes()))
        return "\n".join(lines)


def _assemble(graph: QuantizedGraph, arch: Arch, result: BackendResult) -> CompiledModel:
    emitted = result.emitted
    segment = MachineSegment(
        name="machine",
        program=emitted.program,
        inputs=emitted.inputs,
        outputs=emitted.outputs,
        layers=emitted.layers,
    )
    crossing = {item.tensor for item in (*emitted.inputs, *emitted.outputs)}
    crossing |= {entry.tensor for entry in graph.inputs}
    return CompiledModel(
        name=graph.name,
        arch=arch,
        segments=(segment, *graph.host_segments),
        tensors={name: graph.tensors[name] for name in graph.tensors if name in crossing},
        inputs=graph.inputs,
        outputs=graph.outputs,
        report=build_report(graph, arch, result),
    )


def _open_batches(model: ModelSource, batch: int) -> dict[str, int]:
    """Bindings for the open first dimensions of the model's inputs.

    A model that cannot be read gives none: the importer will say what is wrong with it.
    """
    try:
        if isinstance(model, onnx.ModelProto):
            proto = model
        elif isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load_model(Path(model), load_external_data=False)
    except Exception:  # protobuf's and the file system's own classes; the importer reports them
        return {}
    initializers = {tensor.name for tensor in proto.graph.initializer}
    bound: dict[str, int] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in initializers or not dims or dims[0].HasField("dim_value"):
            continue
        bound[dims[0].dim_param or f"{value.name}.0"] = batch
    return bound
