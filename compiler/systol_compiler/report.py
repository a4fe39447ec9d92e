"""What the compiler says about a compiled network: who runs what and why, and at what cost."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final

from systol_compiler.binary.network import HostSegment, MachineSegment, Network
from systol_compiler.graph.reading.model_file import ModelSource, open_model
from systol_compiler.layer_figures import LayerFigures, bound_together, layer_figures
from systol_compiler.quantized.placement.partition import PlacedNode

SCHEMA: Final = "systol.compile/1"
FOLDED: Final = "folded"
"""Place of a node whose work is done at compile time, or by a neighbour."""


def build_report(
    network: Network,
    *,
    nodes: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    details: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The report of a compilation, as JSON values.

    Its cycles are exact: they are the simulator's, and time never depends on data.

    Parameters
    ----------
    network
        The compiled network; its own report is not read.
    nodes
        `node_rows` of the model; without them nodes are known by their layers alone.
    notes
        Warnings of the quantizer.
    details
        What the back half says of a machine segment, by segment: JSON values.

    Returns
    -------
    dict
        `nodes`: every node of the source, with place, reason, remedy and cost. `segments`: in
        order, with cycles, or operators and reason. `layers`: `LayerFigures` of all machine
        segments. `crossings`: tensors that pass between host and machine in one run. `summary`:
        totals. `notes`.
    """
    layers: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    rows: list[LayerFigures] = []
    for segment in network.segments:
        if isinstance(segment, HostSegment):
            segments.append(_host_segment(segment))
            continue
        found = layer_figures(segment)
        rows += found
        layers += [{"segment": segment.name, **row.to_json()} for row in found]
        segments.append(_machine_segment(segment, found, (details or {}).get(segment.name, {})))
    crossings = find_crossings(network)
    return {
        "schema": SCHEMA,
        "arch": network.arch.name,
        "batch": network.batch,
        "nodes": list(nodes) or _nodes_of_layers(network),
        "segments": segments,
        "layers": layers,
        "crossings": crossings,
        "summary": _summary(network, rows, segments, len(crossings)),
        "notes": list(notes),
    }


def source_nodes(model: ModelSource) -> tuple[tuple[str, str], ...]:
    """Names and operators of a model's own nodes, in order, as the importer names them."""
    nodes = open_model(model).model.graph.node
    return tuple(
        (node.name or f"{node.op_type}_{index}", node.op_type) for index, node in enumerate(nodes)
    )


def node_rows(
    source: Iterable[tuple[str, str]], placed: Iterable[PlacedNode]
) -> list[dict[str, Any]]:
    """A row for each node of the source, in its order, and for what the importer added: placed
    nodes, and those that are no more."""
    left = {row.name: row for row in placed}
    rows: dict[str, dict[str, Any]] = {}
    for name, operator in source:
        row = left.pop(name, None)
        if row is not None:
            rows[name] = _row(
                row.name, row.op, row.place, row.reason, row.remedy, row.macs, row.bytes
            )
        elif name not in rows:
            rows[name] = node_row(
                name, operator, FOLDED, "its work is done at compile time, or by a neighbour"
            )
    rest = [_row(r.name, r.op, r.place, r.reason, r.remedy, r.macs, r.bytes)
            for r in left.values()]
    return [*rows.values(), *rest]


def node_row(name: str, operator: str, place: str, reason: str) -> dict[str, Any]:
    """A node that runs nowhere as JSON values."""
    return _row(name, operator, place, reason, "", 0, 0)


def _row(
    name: str, operator: str, place: str, reason: str, remedy: str, macs: int, size: int
) -> dict[str, Any]:
    return {
        "node": name, "operator": operator, "place": str(place), "reason": reason,
        "remedy": remedy, "macs": macs, "bytes": size,
    }


def find_crossings(network: Network) -> list[dict[str, Any]]:
    """Tensors that pass between host and machine in one run, in order: the model's tensor, the
    quantized one, where to, and how many bytes."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()

    def cross(name: str, to: str) -> None:
        tensor = network.tensors[name]
        if name not in seen:
            seen.add(name)
            rows.append(
                {
                    "tensor": tensor.source,
                    "quantized": name,
                    "to": to,
                    "bytes": tensor.size_bytes,
                    "elements": prod(tensor.shape),
                }
            )

    for segment in network.segments:
        if isinstance(segment, MachineSegment):
            for binding in segment.inputs:
                if binding.tensor in network.quantized:
                    cross(binding.tensor, "machine")
            continue
        for name in segment.inputs:
            if name in network.by_source:
                cross(network.by_source[name].name, "host")
    for output in network.outputs:
        if output.tensor in network.by_source:
            cross(network.by_source[output.tensor].name, "host")
    return rows


def _nodes_of_layers(network: Network) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for segment in network.segments:
        if isinstance(segment, HostSegment):
            for name in segment.source_nodes:
                rows[name] = {"node": name, "place": "host", "reason": segment.reason}
            continue
        for item in segment.layers:
            for name in item.source_nodes:
                reason = f"part of layer {item.layer!r}"
                rows.setdefault(name, {"node": name, "place": "machine", "reason": reason})
    return list(rows.values())


def _host_segment(segment: HostSegment) -> dict[str, Any]:
    return {
        "segment": segment.name,
        "place": "host",
        "operators": list(segment.operators),
        "reason": segment.reason,
        "source_nodes": list(segment.source_nodes),
    }


def _machine_segment(
    segment: MachineSegment, rows: Sequence[LayerFigures], details: Mapping[str, Any]
) -> dict[str, Any]:
    program = segment.program
    bound, bound_by = bound_together(rows, program.arch)
    return {
        "segment": segment.name,
        "place": "machine",
        "layers": len({item.layer for item in segment.layers}),
        "instructions": len(program.code),
        "weight_memory_bytes": program.weight_memory_bytes,
        "cycles": sum(row.cycles for row in rows),
        "bound_cycles": bound,
        "bound_by": bound_by,
        **details,
    }


def _summary(
    network: Network, rows: Sequence[LayerFigures], segments: Sequence[Mapping[str, Any]],
    crossings: int,
) -> dict[str, Any]:
    cycles, macs = sum(row.cycles for row in rows), sum(row.useful_macs for row in rows)
    arch = network.arch
    return {
        "cycles": cycles,
        "bound_cycles": sum(row["bound_cycles"] for row in segments if "bound_cycles" in row),
        "seconds": cycles / arch.clock_hz,
        "useful_macs": macs,
        "useful_mac_share": macs / (cycles * arch.macs_per_cycle) if cycles else 0.0,
        "machine_segments": len(network.machine_segments),
        "host_segments": len(network.host_segments),
        "crossings": crossings,
        "instructions": sum(len(s.program.code) for s in network.machine_segments),
        "weight_memory_bytes": sum(
            s.program.weight_memory_bytes for s in network.machine_segments
        ),
    }
