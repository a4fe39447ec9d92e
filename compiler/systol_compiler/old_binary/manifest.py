"""The manifest of a binary: all but code, weights and host graphs, as canonical JSON."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from systol_compiler.old_binary.fields import MAX_ELEMENTS, Fields, parse_json
from systol_compiler.model import (
    Binding,
    CompiledModel,
    LayerRange,
    MachineSegment,
    Segment,
)
from systol_compiler.old_quantized import (
    INT8_MAX,
    INT8_MIN,
    DequantizeOutput,
    HostOutput,
    HostSegment,
    Output,
    QTensor,
    QuantizeInput,
)
from systol_hw.arch import TAGS, WINDOWS, Arch, MemoryPort
from systol_hw.errors import BinaryFormatError, InputError, InvalidProgramError, SystolError
from systol_hw.program import MEMORY_LIMIT_BYTES, Program, Window

HOST_DTYPES = (
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
"""Element types that a host segment's output may have."""
MAX_MANIFEST_BYTES = 4 << 20
"""Parsed JSON takes many times its text's memory; a network of a thousand layers needs a tenth."""
_MAX_INSTRUCTIONS = MEMORY_LIMIT_BYTES // 64

Bytes = Callable[[str], np.ndarray]
"""The contents of the section of that name, uint8; raises `BinaryFormatError` if there is none."""


def dump_manifest(model: CompiledModel) -> bytes:
    """The manifest of `model`; equal models have equal manifests.

    Raises
    ------
    InputError
        It would be longer than a reader accepts.
    """
    values = {
        "arch": model.arch.to_dict(),
        "fingerprint": model.arch.fingerprint(),
        "inputs": [dataclasses.asdict(item) for item in model.inputs],
        "name": model.name,
        "outputs": [_output_to_dict(item) for item in model.outputs],
        "report": dict(model.report),
        "segments": [_segment_to_dict(segment) for segment in model.segments],
        "tensors": [_tensor_to_dict(tensor) for tensor in model.tensors.values()],
    }
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"the manifest of {model.name!r} would have {len(text)} bytes, and may have "
            f"{MAX_MANIFEST_BYTES}; shorten names or the report"
        )
    return text.encode()


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


def _tensor_to_dict(tensor: QTensor) -> dict[str, Any]:
    return {**dataclasses.asdict(tensor), "dtype": "int8", "layout": "packed, channels last"}


def _tensor(fields: Fields) -> QTensor:
    fields.choice("dtype", ("int8",))
    fields.choice("layout", ("packed, channels last",))
    return QTensor(
        name=fields.string("name"),
        shape=fields.shape("shape"),
        scale=fields.scale("scale"),
        zero_point=fields.integer("zero_point", INT8_MIN, INT8_MAX),
        source=fields.string("source"),
    )


def _input(fields: Fields) -> QuantizeInput:
    return QuantizeInput(
        name=fields.string("name"),
        source_shape=fields.shape("source_shape"),
        permutation=fields.integers("permutation", 0, 7),
        tensor=fields.string("tensor"),
        scale=fields.scale("scale"),
        zero_point=fields.integer("zero_point", INT8_MIN, INT8_MAX),
    )


def _output_to_dict(output: Output) -> dict[str, Any]:
    kind = "host" if isinstance(output, HostOutput) else "machine"
    return {"kind": kind, **dataclasses.asdict(output)}


def _output(fields: Fields) -> Output:
    if fields.choice("kind", ("host", "machine")) == "host":
        return _host_output(fields)
    return DequantizeOutput(
        name=fields.string("name"),
        source_shape=fields.shape("source_shape"),
        permutation=fields.integers("permutation", 0, 7),
        tensor=fields.string("tensor"),
        scale=fields.scale("scale"),
        zero_point=fields.integer("zero_point", INT8_MIN, INT8_MAX),
    )


def _host_output(fields: Fields) -> HostOutput:
    return HostOutput(
        name=fields.string("name"),
        source_shape=fields.shape("source_shape"),
        dtype=fields.choice("dtype", HOST_DTYPES),
    )


def _segment_to_dict(segment: Segment) -> dict[str, Any]:
    if isinstance(segment, HostSegment):
        values = {
            field.name: getattr(segment, field.name)
            for field in dataclasses.fields(segment)
            if field.name not in ("model", "outputs")
        }
        outputs = [dataclasses.asdict(output) for output in segment.outputs]
        return {"kind": "host", **values, "outputs": outputs}
    program = segment.program
    return {
        "kind": "machine",
        "name": segment.name,
        "code_address": program.code_address,
        "weight_memory_bytes": program.weight_memory_bytes,
        "windows": [dataclasses.asdict(window) for window in program.windows],
        "inputs": [dataclasses.asdict(binding) for binding in segment.inputs],
        "outputs": [dataclasses.asdict(binding) for binding in segment.outputs],
        "layers": [dataclasses.asdict(item) for item in segment.layers],
    }


def _segment(fields: Fields, index: int, arch: Arch, contents: Bytes) -> Segment:
    if fields.choice("kind", ("host", "machine")) == "host":
        return HostSegment(
            name=fields.string("name"),
            inputs=fields.strings("inputs"),
            outputs=fields.items("outputs", _host_output),
            model=contents(f".onnx.{index}").tobytes(),
            operators=fields.strings("operators"),
            reason=fields.string("reason"),
            source_nodes=fields.strings("source_nodes"),
        )
    windows = fields.items(
        "windows",
        lambda window: Window(
            name=window.string("name"),
            size_bytes=window.integer("size_bytes", 1, MEMORY_LIMIT_BYTES),
        ),
    )
    if len(windows) > WINDOWS:
        fields.fail("windows", f"at most {WINDOWS}", len(windows))
    code = contents(f".text.{index}")
    if code.size % 64:
        raise BinaryFormatError(f"section .text.{index} is not a whole number of instructions")
    return MachineSegment(
        name=fields.string("name"),
        program=Program(
            arch=arch,
            code=code.reshape(-1, 64),
            weight_image=contents(f".weights.{index}"),
            weight_memory_bytes=fields.integer("weight_memory_bytes", 1, MEMORY_LIMIT_BYTES),
            code_address=fields.integer("code_address", 0, MEMORY_LIMIT_BYTES),
            windows=windows,
        ),
        inputs=fields.items("inputs", _binding),
        outputs=fields.items("outputs", _binding),
        layers=fields.items("layers", _layer),
    )


def _binding(fields: Fields) -> Binding:
    return Binding(
        tensor=fields.string("tensor"),
        window=fields.string("window"),
        offset_bytes=fields.integer("offset_bytes", 0, MAX_ELEMENTS),
    )


def _layer(fields: Fields) -> LayerRange:
    return LayerRange(
        layer=fields.string("layer"),
        first=fields.integer("first", 0, _MAX_INSTRUCTIONS),
        count=fields.integer("count", 1, _MAX_INSTRUCTIONS),
        tag=fields.integer("tag", 0, TAGS - 1),
        source_nodes=fields.strings("source_nodes"),
    )


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
