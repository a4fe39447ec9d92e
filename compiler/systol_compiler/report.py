"""What the compiler has to say: who runs what and why, crossings, work and predicted cycles."""

from typing import Any

from systol_compiler.old_quantized import HostSegment, QLinear, QMaxPool, QuantizedGraph
from systol_compiler.search import BackendResult, describe_choices
from systol_compiler.work import MatrixWork
from systol_hw.arch import Arch
from systol_hw.faults import Unit


def build_report(graph: QuantizedGraph, arch: Arch, result: BackendResult) -> dict[str, Any]:
    """The report of a compilation, as JSON values.

    `operators` says for each layer where it runs and why; `layers` gives each machine work's MACs,
    weight tiles and matmuls over the whole batch; `predicted_cycles` is exact, because the cost
    model is the simulator.
    """
    counters = result.counters
    useful = counters.amount(Unit.MATRIX, "useful_macs")
    cycles = result.cycles
    return {
        "arch": arch.name,
        "batch": graph.tensors[graph.inputs[0].tensor].shape[0],
        "operators": _operators(graph, result),
        "crossings": _crossings(graph),
        "layers": _layers(result),
        "choices": list(describe_choices(result)),
        "instructions": len(result.emitted.program.code),
        "weight_memory_bytes": result.emitted.program.weight_memory_bytes,
        "unified_buffer_peak_bytes": result.plan.allocation.peak_bytes,
        "predicted_cycles": cycles,
        "useful_macs": useful,
        "predicted_utilization": useful / (cycles * arch.macs_per_cycle),
        "predicted_seconds": cycles / arch.clock_hz,
    }


def _operators(graph: QuantizedGraph, result: BackendResult) -> list[dict[str, Any]]:
    fused = {
        name: work.name
        for work in result.plan.groups[0].works
        for name in work.layers
        if name != work.name
    }
    rows = []
    for layer in graph.layers:
        if isinstance(layer, HostSegment):
            kind, why = ", ".join(layer.operators), layer.reason
        elif isinstance(layer, QMaxPool):
            kind = "max-pool"
            if layer.name in fused:
                why = f"fused into {fused[layer.name]!r}: runs from its accumulators"
            else:
                why = "vector unit, from the unified buffer"
        else:
            kind = "linear" if isinstance(layer, QLinear) else "convolution"
            why = "matrix unit, with requantization and clip on the vector unit"
        rows.append(
            {
                "layer": layer.name,
                "kind": kind,
                "place": "host" if isinstance(layer, HostSegment) else "machine",
                "why": why,
                "source_nodes": list(layer.source_nodes),
            }
        )
    return rows


def _crossings(graph: QuantizedGraph) -> int:
    """Tensors that pass between host and machine in one run."""
    outputs = {item.tensor for item in graph.outputs if hasattr(item, "tensor")}
    for segment in graph.host_segments:
        outputs |= set(segment.inputs)
    inputs = {entry.tensor for entry in graph.inputs}
    return len(inputs) + len(outputs - inputs)


def _layers(result: BackendResult) -> list[dict[str, Any]]:
    rows = []
    for index, first in enumerate(result.plan.groups[0].works):
        macs = tiles = matmuls = 0
        for network in result.plan.groups:
            tiled = result.tiled[network.images].works[index]
            if isinstance(tiled.work, MatrixWork):
                macs += tiled.work.macs
            tiles += tiled.weight_tiles
            matmuls += len(tiled.steps)
        rows.append(
            {
                "layer": "+".join(first.layers),
                "macs": macs,
                "weight_tiles": tiles,
                "matmuls": matmuls,
            }
        )
    return rows
