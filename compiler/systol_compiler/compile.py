"""The compiler in one call: an ONNX model or a quantized graph in, a compiled model out."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from systol_compiler.binary.model import CompiledModel
from systol_compiler.binary.network import (
    Binding,
    LayerRange,
    MachineSegment,
    ModelInput,
    ModelOutput,
    Network,
    Segment,
)
from systol_compiler.calibrate.inputs.samples import CalibrationData
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import ModelSource, import_onnx
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.program.backend import BackendResult, Choice, build, describe_choices, search
from systol_compiler.program.emit import EmittedBinding
from systol_compiler.quantized.graph import MachinePart, QuantizedGraph
from systol_compiler.quantized.host import HostLayer
from systol_compiler.quantized.lowering import lower
from systol_compiler.report import build_report, node_rows, source_nodes
from systol_hw.arch import Arch
from systol_hw.errors import InputError, UnsupportedModelError
from systol_sim.validity.checker import check

LEVELS: Final = ("graph", "quantized", "lowered", "tiled", "allocated", "scheduled", "asm")
"""Levels of `--emit`, in the compiler's order."""

EFFORTS: Final = {"fast": 0, "normal": 24_000, "high": 240_000}
"""Instructions that the search for a better schedule may emit, by effort."""

_NAMELESS: Final = ("", "main_graph", "torch_jit", "torch-jit-export", "graph")
"""What exporters call a graph whose author gave it no name."""

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
    effort
        How many schedules are tried (`EFFORTS`); budgets are counts, so that results repeat.
    most_images
        Greatest number of images that the machine works on together (None: as many as fit).
    """

    quantization: QuantizationOptions | None = None
    strict: bool = False
    effort: str = "normal"
    most_images: int | None = None

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise InputError(
                f"effort must be one of {', '.join(EFFORTS)}, but is {self.effort!r}"
            )


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
        Real inputs, or "random" (`calibrate.samples`).
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
        The model needs something that neither the machine nor the host has; the message names
        every node that stands in the way.
    """
    options = options or CompileOptions()
    if batch < 1:
        raise InputError(f"batch must be at least 1, but is {batch}")
    graph = import_graph(model, shapes=shapes, batch=batch, observer=observer)
    quantization = quantize(graph, calibration, options.quantization, strict=options.strict)
    return compile_quantized(
        quantization.quantized, arch=arch, options=options, observer=observer,
        nodes=node_rows(source_nodes(model), quantization.partition.placed),
    )


def import_graph(
    model: ModelSource, *, shapes: Mapping[str, int] | None = None, batch: int = 1,
    observer: Observer | None = None,
) -> Graph:
    """The canonical float graph of a model; raises what `graph.importer.import_onnx` does.

    Where the model's author gave it no name, its file's is taken.
    """
    imported = import_onnx(model, shapes, batch=batch)
    if imported.name in _NAMELESS and isinstance(model, str | os.PathLike):
        imported = replace(imported, name=Path(model).stem)
    return run_pipeline(imported, observer=observer)


def compile_quantized(
    graph: QuantizedGraph,
    *,
    arch: Arch,
    options: CompileOptions | None = None,
    observer: Observer | None = None,
    nodes: Sequence[Mapping[str, Any]] = (),
) -> CompiledModel:
    """Compile a quantized graph for `arch`: lower, plan, order, emit and check.

    `nodes` says for the report where the source's nodes went (`report.node_rows`).

    Raises
    ------
    UnsupportedModelError
        A layer does not fit the machine, or `options.strict` and the host would run a part.
    """
    options = options or CompileOptions()
    graph.verify()
    if options.strict and graph.host_layers:
        names = ", ".join(
            f"{layer.name!r} ({', '.join(layer.operators)}: {layer.reason})"
            for layer in graph.host_layers
        )
        raise UnsupportedModelError(
            f"strict compilation allows no operator on the host, but there must run {names}; end "
            "the model before them, or compile without strict"
        )
    see = observer or _ignore
    see("quantized", graph)
    segments: list[Segment] = []
    details: dict[str, dict[str, Any]] = {}
    for part in graph.parts:
        if isinstance(part, HostLayer):
            segments.append(part)
            continue
        result = _compile_part(graph, part, arch, options)
        see("lowered", result.plan.network)
        for group in dict.fromkeys(result.plan.groups):
            see("tiled", group)
        see("allocated", result.plan)
        see("scheduled", result.order)
        check(result.emitted.program)
        see("asm", result.emitted)
        details[part.name] = {
            "choices": list(describe_choices(result)),
            "peak_unified_buffer_bytes": result.plan.allocation.peak_bytes,
        }
        segments.append(_machine_segment(part, result))
    return _assemble(graph, arch, tuple(segments), nodes, details)


def _compile_part(
    graph: QuantizedGraph, part: MachinePart, arch: Arch, options: CompileOptions
) -> BackendResult:
    batch = batch_of(graph, part)

    @cache
    def lower_images(images: int) -> LoweredNetwork:
        sized = graph if images == batch else graph.with_batch(images)
        return lower(sized, part, arch, images)

    budget = EFFORTS[options.effort]
    if budget and options.most_images is None:
        return search(lower_images, batch, arch, budget=budget)
    return build(lower_images, batch, arch, Choice(most_images=options.most_images))


def batch_of(graph: QuantizedGraph, part: MachinePart) -> int:
    """Items that can be computed apart: the first dimension of all tensors of `part`, or 1 where
    a layer joins items."""
    sizes = {graph.tensors[name].shape[:1] for name in (*part.inputs, *part.outputs)}
    if len(sizes) != 1 or () in sizes:
        return 1
    tensors = {
        name: tensor for name, tensor in graph.tensors.items() if name not in graph.constants
    }
    for layer in part.layers:
        own = [name for name in (*layer.inputs, *layer.outputs) if name in tensors]
        if {tensors[name].shape[:1] for name in own} != sizes or not layer.batched(graph.tensors):
            return 1
    ((batch,),) = sizes
    return batch


def emit_level(level: str, model: ModelSource, **arguments: Any) -> str:
    """The text of one of `LEVELS` for a model; the arguments are those of `compile_model`.

    Raises
    ------
    InputError
        There is no such level.
    """
    if level not in LEVELS:
        raise InputError(f"no level is called {level!r}; levels are {', '.join(LEVELS)}")
    seen: list[object] = []

    def collect(name: str, value: object) -> None:
        if level == "graph" and isinstance(value, Graph):
            seen[:] = [value]  # the last pass's is the level
        elif level == name:
            seen.append(value)

    compile_model(model, observer=collect, **arguments)
    return "\n".join(map(str, seen))


def _ignore(name: str, value: object) -> None:
    """The observer of those who want none."""


def _machine_segment(part: MachinePart, result: BackendResult) -> MachineSegment:
    emitted = result.emitted
    return MachineSegment(
        name=part.name,
        program=emitted.program,
        inputs=tuple(_binding(item) for item in emitted.inputs),
        outputs=tuple(_binding(item) for item in emitted.outputs),
        layers=tuple(
            LayerRange(
                layer=item.layer, first=item.first, count=item.count, tag=item.tag,
                source_nodes=item.source_nodes,
            )
            for item in emitted.layers
        ),
    )


def _binding(item: EmittedBinding) -> Binding:
    return Binding(
        tensor=item.tensor, window=item.window, offset_bytes=item.offset_bytes, order=item.order
    )


def _assemble(
    graph: QuantizedGraph, arch: Arch, segments: tuple[Segment, ...],
    nodes: Sequence[Mapping[str, Any]], details: Mapping[str, Mapping[str, Any]],
) -> CompiledModel:
    crossing = {
        binding.tensor
        for segment in segments if isinstance(segment, MachineSegment)
        for binding in (*segment.inputs, *segment.outputs)
    }
    parts: dict[str, Any] = {
        "name": graph.name,
        "arch": arch,
        "segments": segments,
        "tensors": {name: graph.tensors[name] for name in graph.tensors if name in crossing},
        "real": graph.real,
        "inputs": tuple(ModelInput(name=name) for name in graph.inputs),
        "outputs": tuple(
            ModelOutput(name=item.name, tensor=item.tensor) for item in graph.outputs
        ),
    }
    report = build_report(
        Network(**parts), nodes=nodes, notes=graph.notes, details=details
    )
    return CompiledModel(**parts, report=report)
