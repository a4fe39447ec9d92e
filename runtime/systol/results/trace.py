"""Execution traces for Chrome's tracing viewer and Perfetto: tracks by unit, a slice an
instruction, named by its operation and the layer that it computes.

Slices of one track must not overlap in part: Perfetto drops those that do. So a unit with several
instructions in flight has further tracks, and a slice takes the first that is free.

Ref: "Trace Event Format" (the JSON object form: complete events, `ph` "X", instants, `ph` "i", and
metadata, `ph` "M"; times in microseconds).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from systol.results.record import RunRecord
from systol_compiler.binary.model import LayerRange
from systol_hw.arch import MOST_IN_FLIGHT, Arch
from systol_hw.errors import InputError
from systol_hw.isa import decode
from systol_hw.isa.assembly import format_instruction
from systol_hw.program import Program
from systol_hw.tables.faults import Unit
from systol_sim.results import RunResult

_NANOSECONDS_IN_MICROSECOND = 1000


def make_trace(result: RunRecord) -> dict[str, Any]:
    """The first run of every machine segment, one process a segment, times at the machine's clock.

    A slice runs from an instruction's start cycle to its end cycle, both included. It has the name
    of its operation, and beside it that of its layer in the binary's debug map, if it belongs to
    one; its arguments give the cycles and name the model's nodes. An interrupt is an instant, too,
    in the cycle of its execution. Times are rounded down to nanoseconds, which is what viewers
    count in.

    Nothing in it says which backend counted: traces of one binary and input are equal.

    Raises
    ------
    InputError
        The backend counts no cycles.
    """
    events: list[dict[str, Any]] = []
    for process, run in enumerate(result.segments):
        events += _process(
            process, f"segment {run.segment.name}", run.segment.program, run.segment.layers,
            _counted(run.first, result.backend.name),
        )  # fmt: skip
    return _viewed(events)


def trace_program(program: Program, run: RunResult, backend: str) -> dict[str, Any]:
    """The trace of a program of one's own, as `make_trace` gives that of a model's segment.

    Raises
    ------
    InputError
        The backend counts no cycles.
    """
    return _viewed(_process(0, "program", program, (), _counted(run, backend)))


def _viewed(events: list[dict[str, Any]]) -> dict[str, Any]:
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _counted(run: RunResult, backend: str) -> np.ndarray:
    if run.times is None:
        raise InputError(f"the {backend} backend counts no cycles; take sim or rtl for a trace")
    return run.times


def _process(
    process: int, name: str, program: Program, layers: Sequence[LayerRange], times: np.ndarray
) -> list[dict[str, Any]]:
    """The events of one program, under the process number `process`."""
    events: list[dict[str, Any]] = [
        {
            "name": "process_name",
            "ph": "M",
            "pid": process,
            "tid": 0,
            "args": {"name": name},
        }
    ]
    tracks = {unit: [_FREE] for unit in Unit}
    slices: list[dict[str, Any]] = []
    named = {
        pc: item
        for item in layers
        for pc in range(item.first, item.first + item.count)
    }
    for pc, row in enumerate(program.code):
        start, end = (int(cycle) for cycle in times[pc])
        if start < 0 or end < 0:
            continue
        item = decode(row.tobytes())
        layer = named.get(pc)
        begin, after = (_nanoseconds(cycle, program.arch) for cycle in (start, end + 1))
        place = {"pid": process, "tid": _take_track(tracks[item.unit], item.unit, start, end)}
        operation = item.operation.name
        slices.append(
            {
                "name": f"{operation} {layer.layer}" if layer else operation,
                "cat": item.operation.name,
                "ph": "X",
                "ts": begin / _NANOSECONDS_IN_MICROSECOND,
                "dur": (after - begin) / _NANOSECONDS_IN_MICROSECOND,
                **place,
                "args": {
                    "pc": pc,
                    "start_cycle": start,
                    "end_cycle": end,
                    "layer": layer.layer if layer else "",
                    "source_nodes": list(layer.source_nodes) if layer else [],
                    "text": format_instruction(item),
                },
            }
        )
        if item.operation.name == "interrupt":
            slices.append(
                {
                    "name": f"interrupt {item['value']}",
                    "cat": "interrupt",
                    "ph": "i",
                    "s": "p",
                    "ts": _nanoseconds(end, program.arch) / _NANOSECONDS_IN_MICROSECOND,
                    **place,
                }
            )
    for unit, ends in tracks.items():
        for number in range(len(ends)):
            events += _track(process, unit, number)
    events += slices
    return events


_FREE = -1


def _take_track(ends: list[int], unit: Unit, start: int, end: int) -> int:
    """The `tid` of the first track of `unit` that is free from cycle `start` on.

    `ends` holds the last cycle of every track's last slice.
    """
    number = next((n for n, last in enumerate(ends) if last < start), len(ends))
    ends[number:number + 1] = [end]
    return _tid(unit, number)


def _tid(unit: Unit, number: int) -> int:
    """A unit's first track has the unit's own number."""
    return int(unit) + number * len(Unit)


def _track(process: int, unit: Unit, number: int) -> list[dict[str, Any]]:
    """The name of a track, and its place behind the others of its unit."""
    name = unit.name.lower() + (f" {number + 1}" if number else "")
    place = {"ph": "M", "pid": process, "tid": _tid(unit, number)}
    order = int(unit) * (MOST_IN_FLIGHT + 1) + number
    return [
        {"name": "thread_name", **place, "args": {"name": name}},
        {"name": "thread_sort_index", **place, "args": {"sort_index": order}},
    ]


def _nanoseconds(cycle: int, arch: Arch) -> int:
    return cycle * 1_000_000_000 // arch.clock_hz
