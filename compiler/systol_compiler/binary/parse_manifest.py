"""Reads manifests (`binary.manifest`) from strangers into compiled models."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from systol_compiler.binary.check import DTYPES, MAX_RANK
from systol_compiler.binary.fields import MAX_ELEMENTS, Fields, parse_json
from systol_compiler.binary.model import CompiledModel
from systol_compiler.binary.network import (
    Binding,
    HostSegment,
    LayerRange,
    MachineSegment,
    ModelInput,
    ModelOutput,
    Segment,
)
from systol_compiler.graph.float_graph import TensorType
from systol_compiler.numbers.limits import INT8_MAX, INT8_MIN
from systol_compiler.numbers.tensor import QTensor
from systol_hw.arch import (
    ALL_WINDOWS,
    INSTRUCTION_BYTES,
    MEMORY_LIMIT_BYTES,
    TAGS,
    Arch,
    MemoryPort,
)
from systol_hw.errors import BinaryFormatError, InputError, InvalidProgramError, SystolError
from systol_hw.program import Program, Window

_MAX_INSTRUCTIONS = MEMORY_LIMIT_BYTES // INSTRUCTION_BYTES

Bytes = Callable[[str], np.ndarray]
"""The contents of the section of that name, uint8; raises `BinaryFormatError` if there is none."""


def parse_manifest(data: bytes, contents: Bytes) -> CompiledModel:
    """The model that a manifest describes, its code and weights taken from `contents`.

    Raises
    ------
    BinaryFormatError
        For anything that is not as `dump_manifest` would have written it.
    """
    root = Fields(parse_json(data), "manifest")
    arch = _arch(root.child("arch"))
    if root.string("fingerprint") != arch.fingerprint():
        raise BinaryFormatError("the fingerprint is not that of the machine that is stated")
    counter = itertools.count()
    report = root.take("report")
    if not isinstance(report, dict):
        root.fail("report", "an object", report)
    try:
        model = CompiledModel(
            arch=arch,
            inputs=root.items("inputs", _input),
            name=root.string("name"),
            outputs=root.items("outputs", _output),
            real=dict(root.items("real", _real)),
            report=report,
            segments=root.items(
                "segments", lambda fields: _segment(fields, next(counter), arch, contents)
            ),
            tensors={tensor.name: tensor for tensor in root.items("tensors", _tensor)},
        )
    except (InputError, InvalidProgramError) as error:
        raise BinaryFormatError(str(error)) from error
    except RecursionError as error:
        raise BinaryFormatError("manifest: the report is nested too deeply") from error
    root.done()
    return model


def _tensor(fields: Fields) -> QTensor:
    return QTensor(
        name=fields.string("name"),
        shape=fields.shape("shape"),
        scale=fields.scale("scale"),
        zero_point=fields.integer("zero_point", INT8_MIN, INT8_MAX),
        width=fields.integer("width", 8, 16),
        source=fields.string("source"),
    )


def _real(fields: Fields) -> tuple[str, TensorType]:
    kind = TensorType(dtype=fields.choice("dtype", DTYPES), shape=fields.shape("shape"))
    return fields.string("name"), kind


def _input(fields: Fields) -> ModelInput:
    return ModelInput(name=fields.string("name"), preprocessing=fields.string("preprocessing"))


def _output(fields: Fields) -> ModelOutput:
    return ModelOutput(
        name=fields.string("name"),
        tensor=fields.string("tensor"),
        labels=fields.strings("labels"),
    )


def _segment(fields: Fields, index: int, arch: Arch, contents: Bytes) -> Segment:
    if fields.choice("kind", ("host", "machine")) == "host":
        return HostSegment(
            name=fields.string("name"),
            inputs=fields.strings("inputs"),
            outputs=fields.strings("outputs"),
            model=contents(f".onnx.{index}").tobytes(),
            operators=fields.strings("operators"),
            reason=fields.string("reason"),
            source_nodes=fields.strings("source_nodes"),
        )
    windows = fields.items("windows", _window)
    if len(windows) > ALL_WINDOWS:
        fields.fail("windows", f"at most {ALL_WINDOWS}", len(windows))
    code = contents(f".text.{index}")
    if code.size % INSTRUCTION_BYTES:
        raise BinaryFormatError(f"section .text.{index} is not a whole number of instructions")
    return MachineSegment(
        name=fields.string("name"),
        program=Program(
            arch=arch,
            code=code.reshape(-1, INSTRUCTION_BYTES),
            weight_image=contents(f".weights.{index}"),
            weight_memory_bytes=fields.integer("weight_memory_bytes", 1, MEMORY_LIMIT_BYTES),
            code_address=fields.integer("code_address", 0, MEMORY_LIMIT_BYTES),
            windows=windows,
        ),
        inputs=fields.items("inputs", _binding),
        outputs=fields.items("outputs", _binding),
        layers=_layers(fields),
    )


def _window(fields: Fields) -> Window:
    size = fields.integer("size_bytes", 1, MEMORY_LIMIT_BYTES)
    return Window(name=fields.string("name"), size_bytes=size)


def _binding(fields: Fields) -> Binding:
    return Binding(
        tensor=fields.string("tensor"),
        window=fields.string("window"),
        offset_bytes=fields.integer("offset_bytes", 0, MAX_ELEMENTS),
        order=fields.integers("order", 0, MAX_RANK - 1),
    )


def _layers(fields: Fields) -> tuple[LayerRange, ...]:
    names = fields.items(
        "layers", lambda item: (item.string("layer"), item.strings("source_nodes"))
    )
    ranges = []
    for place, first, count, tag in fields.rows("ranges", 4, _MAX_INSTRUCTIONS):
        if place >= len(names) or tag >= TAGS:
            fields.fail("ranges", f"of {len(names)} layers and {TAGS} tags", [place, tag])
        layer, nodes = names[place]
        ranges.append(
            LayerRange(layer=layer, first=first, count=count, tag=tag, source_nodes=nodes)
        )
    return tuple(ranges)


def _arch(fields: Fields) -> Arch:
    """The machine; typed here because `Arch.from_dict` trusts its TOML file further."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Arch):
        if field.type is MemoryPort:
            port = fields.child(field.name)
            values[field.name] = {
                "width_bytes": port.integer("width_bytes", 0, 1 << 16),
                "bytes_per_cycle": port.fraction("bytes_per_cycle"),
                "latency_cycles": port.integer("latency_cycles", 0, 1 << 16),
            }
            port.done()
        elif field.type is str:
            values[field.name] = fields.string(field.name)
        else:
            values[field.name] = fields.integer(field.name, 0, 1 << 40)
    fields.done()
    try:
        return Arch.from_dict(values)
    except SystolError as error:
        raise BinaryFormatError(f"manifest: {error}") from error
