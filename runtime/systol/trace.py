"""Execution traces for Chrome's tracing viewer and Perfetto: a track a unit, a slice an
instruction.

Ref: "Trace Event Format" (the JSON array form: complete events, `ph` "X", times in microseconds).
"""

from typing import Any

from systol.session import ModelResult
from systol_hw.arch import Arch
from systol_hw.assembly import format_instruction
from systol_hw.errors import InputError
from systol_hw.faults import Unit
from systol_hw.isa import decode

_MICROSECONDS = 1_000_000


def make_trace(result: ModelResult) -> dict[str, Any]:
    """The first run of every machine segment, one process a segment, times at the machine's clock.

    A slice runs from an instruction's start cycle to its end cycle, both included. Instructions of
    one unit overlap where several are in flight.

    Raises
    ------
    InputError
        The backend counts no cycles.
    """
    events: list[dict[str, Any]] = []
    for process, run in enumerate(result.segments):
        times = run.first.times
        if times is None:
            raise InputError(
                f"the {result.backend.name} backend counts no cycles; take sim or rtl for a trace"
            )
        events.append(_name("process_name", process, 0, f"segment {run.segment.name}"))
        events += [_name("thread_name", process, unit, unit.name.lower()) for unit in Unit]
        layers = {
            pc: item.layer
            for item in run.segment.layers
            for pc in range(item.first, item.first + item.count)
        }
        for pc, row in enumerate(run.segment.program.code):
            start, end = (int(cycle) for cycle in times[pc])
            if start < 0 or end < 0:
                continue
            item = decode(row.tobytes())
            events.append(
                {
                    "name": item.operation.name,
                    "cat": layers.get(pc, "none"),
                    "ph": "X",
                    "ts": _microseconds(start, result.model.arch),
                    "dur": _microseconds(end - start + 1, result.model.arch),
                    "pid": process,
                    "tid": int(item.unit),
                    "args": {
                        "pc": pc,
                        "start_cycle": start,
                        "end_cycle": end,
                        "layer": layers.get(pc, ""),
                        "text": format_instruction(item),
                    },
                }
            )
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _microseconds(cycles: int, arch: Arch) -> float:
    return cycles * _MICROSECONDS / arch.clock_hz


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
