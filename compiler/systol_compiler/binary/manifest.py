"""The manifest of a binary: all but code, weights and host graphs, as canonical JSON."""

import dataclasses
import json
from typing import Any

from systol_compiler.binary.network import HostSegment, Network, Segment
from systol_hw.errors import InputError

MAX_MANIFEST_BYTES = 16 << 20
"""Parsed JSON takes many times its text's memory; a network of a thousand layers needs a tenth."""


def dump_manifest(model: Network) -> bytes:
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
        "outputs": [dataclasses.asdict(item) for item in model.outputs],
        "real": [
            {"name": name, "dtype": kind.dtype, "shape": kind.shape}
            for name, kind in model.real.items()
        ],
        "report": dict(model.report),
        "segments": [_segment_to_dict(segment) for segment in model.segments],
        "tensors": [dataclasses.asdict(tensor) for tensor in model.tensors.values()],
    }
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"the manifest of {model.name!r} would have {len(text)} bytes, and may have "
            f"{MAX_MANIFEST_BYTES}; shorten names or the report"
        )
    return text.encode()


def _segment_to_dict(segment: Segment) -> dict[str, Any]:
    if isinstance(segment, HostSegment):
        values = dataclasses.asdict(segment)
        del values["model"]
        return {"kind": "host", **values}
    program = segment.program
    # A layer may have many ranges: its name and nodes stand here once.
    layers = {item.layer: item.source_nodes for item in segment.layers}
    place = {layer: index for index, layer in enumerate(layers)}
    return {
        "kind": "machine",
        "name": segment.name,
        "code_address": program.code_address,
        "weight_memory_bytes": program.weight_memory_bytes,
        "windows": [dataclasses.asdict(window) for window in program.windows],
        "inputs": [dataclasses.asdict(binding) for binding in segment.inputs],
        "outputs": [dataclasses.asdict(binding) for binding in segment.outputs],
        "layers": [
            {"layer": layer, "source_nodes": nodes} for layer, nodes in layers.items()
        ],
        "ranges": [
            [place[item.layer], item.first, item.count, item.tag] for item in segment.layers
        ],
    }
