"""Execution traces for Chrome's tracing viewer and Perfetto: a track a unit, a slice an
instruction, named by the layer that it computes.

Ref: "Trace Event Format" (the JSON object form: complete events, `ph` "X", instants, `ph` "i", and
metadata, `ph` "M"; times in microseconds).
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
    one unit overlap where several are in flight. A slice has the name of its layer in the binary's
    debug map, or of its operation if it belongs to none; its arguments name the model's nodes. An
    interrupt is an instant, too, in the cycle of its execution.

    Nothing in it says which backend counted: traces of one binary and input are equal.

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
        events += [_name("thread_name", process, int(unit), unit.name.lower()) for unit in Unit]
        layers = {
            pc: item
            for item in run.segment.layers
            for pc in range(item.first, item.first + item.count)
        }
        for pc, row in enumerate(run.segment.program.code):
            start, end = (int(cycle) for cycle in times[pc])
            if start < 0 or end < 0:
                continue
            item = decode(row.tobytes())
            layer = layers.get(pc)
            place = {"pid": process, "tid": int(item.unit)}
            events.append(
                {
                    "name": layer.layer if layer else item.operation.name,
                    "cat": item.operation.name,
                    "ph": "X",
                    "ts": _microseconds(start, result.model.arch),
                    "dur": _microseconds(end - start + 1, result.model.arch),
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
                events.append(
                    {
                        "name": f"interrupt {item['value']}",
                        "cat": "interrupt",
                        "ph": "i",
                        "s": "p",
                        "ts": _microseconds(end, result.model.arch),
                        **place,
                    }
                )
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _microseconds(cycles: int, arch: Arch) -> float:
    return cycles * _MICROSECONDS / arch.clock_hz


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
