"""Branches and loops, entered where their conditions follow from the model's input shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import onnx

from systol_compiler.graph.tracing.scope import Scope, inline_tensor
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError, UnsupportedModelError


class NodeReader(Protocol):
    """What reads the nodes inside."""

    trace: Trace

    def read_nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope) -> None: ...

    def spend(self, nodes: int, place: str, scope: Scope) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An If or Loop that is about to be read: its inputs are tensors of the graph."""

    place: str
    name: str
    source: str
    inputs: tuple[str, ...]
    attributes: dict[str, onnx.AttributeProto]
    scope: Scope

    def graph(self, key: str) -> onnx.GraphProto:
        """The inner graph in attribute `key`."""
        if key not in self.attributes or not self.attributes[key].HasField("g"):
            raise InputError(f"{self.place}: it has no {key!r}; export the model again")
        return self.attributes[key].g

    def input(self, position: int) -> str:
        """The input's name, or "" if it was left out."""
        return self.inputs[position] if position < len(self.inputs) else ""


def read_if(reader: NodeReader, entry: Entry) -> list[str] | None:
    """The tensors that the branch taken gives; None if it was refused.

    Raises
    ------
    InputError
        A branch is missing or breaks a rule of ONNX.
    """
    condition = reader.trace.value(entry.input(0))
    if condition is None or condition.size != 1:
        reader.trace.blockers.add(
            f"{entry.place}: which branch runs must follow from the model's input shapes, but its "
            "condition depends on data; export a traced model without it"
        )
        return None
    branch = entry.graph("then_branch" if condition.reshape(-1)[0] else "else_branch")
    inner = entry.scope.inner(entry.name, entry.source)
    return _read_body(reader, entry, branch, inner)


def read_loop(reader: NodeReader, entry: Entry) -> list[str] | None:
    """What the loop carries out and scans, every trip written out; None if it was refused.

    Raises
    ------
    InputError
        The body does not fit, or breaks a rule of ONNX.
    UnsupportedModelError
        There are more trips than may be written out.
    """
    trace, body = reader.trace, entry.graph("body")
    carried = list(entry.inputs[2:])
    scans = len(body.output) - 1 - len(carried)
    if scans < 0 or len(body.input) != 2 + len(carried):
        raise InputError(
            f"{entry.place}: its body must take and give the {len(carried)} tensors that it "
            "carries; export the model again"
        )
    trips, going = _known(trace, entry.input(0)), _known(trace, entry.input(1))
    if isinstance(trips, int) and trips > 0:
        # Not begun where it cannot be finished.
        reader.spend(trips, entry.place, entry.scope)
    seen: list[list[str]] = [[] for _ in range(scans)]
    trip = 0
    while True:
        if trips is _UNKNOWN or going is _UNKNOWN:
            trace.blockers.add(
                f"{entry.place}: the number of its trips must follow from the model's input "
                "shapes, but depends on data; export the model unrolled"
            )
            return None
        if (trips is not None and trip >= trips) or going is False or going == 0:
            break
        inner = entry.scope.inner(f"{entry.name}/{trip}", entry.source)
        number = trace.constant(inner.prefix, np.array(trip, dtype=np.int64))
        begins = entry.input(1) or trace.constant(f"{inner.prefix}/on", np.array(True))
        names = (value.name for value in body.input)
        inner.names.update(zip(names, (number, begins, *carried), strict=True))
        results = _read_body(reader, entry, body, inner)
        if any(result in trace.poisoned for result in results):
            return None
        going = _known(trace, results[0])
        carried = results[1 : 1 + len(carried)]
        for scan, result in zip(seen, results[1 + len(carried) :], strict=True):
            scan.append(result)
        trip += 1
        reader.spend(1, entry.place, entry.scope)
    if scans and not trip:
        trace.blockers.add(
            f"{entry.place}: it makes no trip, so that its scanned outputs are empty; remove it"
        )
        return None
    return [*carried, *(_stack(trace, scan, entry) for scan in seen)]


def _read_body(reader: NodeReader, entry: Entry, graph: onnx.GraphProto, scope: Scope) -> list[str]:
    """Read an inner graph; the tensors of its outputs."""
    if graph.sparse_initializer:
        raise UnsupportedModelError(
            f"{entry.place}: sparse initializers are not supported; store the tensor densely"
        )
    for tensor in graph.initializer:
        wish = f"{scope.prefix}/{tensor.name}"
        value = inline_tensor(tensor, entry.place)
        scope.names[tensor.name] = reader.trace.constant(wish, value)
    reader.read_nodes(graph.node, scope)
    found = []
    for result in graph.output:
        tensor = scope.find(result.name)
        if tensor is None:
            raise InputError(
                f"{entry.place}: its output {result.name!r} is defined by nothing inside; export "
                "the model again"
            )
        found.append(tensor)
    return found


def _stack(trace: Trace, scan: Sequence[str], entry: Entry) -> str:
    """What a loop scans, along a new first axis."""
    call = Call(
        op="Concat",
        inputs=(),
        outputs=(),
        name=entry.name,
        source=entry.source,
        source_op="Loop",
    )
    axes = trace.constant(f"{entry.name}.axes", np.array([0], dtype=np.int64))
    parts = []
    for tensor in scan:
        parts.append(trace.tensor_names.take(f"{entry.name}.part"))
        trace.emit(call.changed(op="Unsqueeze", inputs=(tensor, axes), outputs=(parts[-1],)))
    result = trace.tensor_names.take(f"{entry.name}.scan")
    trace.emit(call.changed(inputs=tuple(parts), outputs=(result,), attributes={"axis": 0}))
    return result


def _known(trace: Trace, name: str) -> Any:
    """A scalar's value, None where it was left out, or `_UNKNOWN`."""
    if not name:
        return None
    value = trace.value(name)
    return _UNKNOWN if value is None or value.size != 1 else value.reshape(-1)[0].item()


_UNKNOWN: Final = object()
