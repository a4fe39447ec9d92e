"""Places every node of a canonical graph on the machine or on the host, and orders them.

What the machine can run is what the registry has an operator for, whose rules the node keeps; and
it computes on float32 alone. Products always run there. Everything else that could goes where a
minimum cut puts it: the cost of a tensor that crosses, against that of the nodes on each side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush
from math import prod
from typing import Final

import onnx

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.quantized.build import MachineNode
from systol_compiler.quantized.fuse import fuse
from systol_compiler.quantized.operator import Operator, registry
from systol_compiler.quantized.placement.min_cut import UNBOUNDED, MinCut
from systol_compiler.quantized.placement.node_cost import elements, float_bytes, node_macs
from systol_hw.errors import UnsupportedModelError

Unit = MachineNode | Node

_CROSSING: Final = 20_000
"""Cost of any crossing, in passes over one element: the host must wait, or be waited for."""
_CROSSED_ELEMENT: Final = 6
_HOST_ELEMENT: Final = 4
_MACHINE, _HOST = 0, 1
_RANDOM: Final = frozenset(
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
_LISTED_MOST: Final = 40


class Place(StrEnum):
    """Where a node runs."""

    MACHINE = "machine"
    HOST = "host"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class PlacedNode:
    """What becomes of a node of the source.

    Attributes
    ----------
    name, op
        As the model's author wrote them.
    reason
        Why it is there: on the host the rule that it breaks and the value that breaks it.
    remedy
        What the author can do to have it on the machine, or "".
    macs, bytes
        Multiply-accumulates, and bytes read and written, by its definition: int8 on the machine,
        the model's own types on the host. A node that several stand for counts with the first.
    """

    name: str
    op: str
    place: Place
    reason: str
    remedy: str = ""
    macs: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"node {self.name!r} ({self.op}): {self.reason}{remedy}"


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A tensor that passes between host and machine once in a run."""

    tensor: str
    to: Place
    elements: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """All nodes in an order in which the machine's and the host's alternate least.

    Attributes
    ----------
    units
        Machine nodes (with what is fused into them) and host nodes.
    placed
        One row for each node of the source that the canonical graph still has, in its order.
    crossings
        Tensors that pass between the two, the model's inputs and outputs included.
    """

    graph: Graph
    units: tuple[Unit, ...]
    placed: tuple[PlacedNode, ...]
    crossings: tuple[Crossing, ...]

    @property
    def machine(self) -> tuple[MachineNode, ...]:
        return tuple(unit for unit in self.units if isinstance(unit, MachineNode))

    @property
    def host(self) -> tuple[Node, ...]:
        return tuple(unit for unit in self.units if isinstance(unit, Node))

    @property
    def segments(self) -> tuple[tuple[Unit, ...], ...]:
        """Maximal runs of units of one kind."""
        runs: list[list[Unit]] = []
        for unit in self.units:
            if runs and isinstance(runs[-1][0], MachineNode) == isinstance(unit, MachineNode):
                runs[-1].append(unit)
            else:
                runs.append([unit])
        return tuple(map(tuple, runs))


def partition(
    graph: Graph,
    *,
    strict: bool = False,
    host: Mapping[str, str] | None = None,
    operators: Mapping[str, Operator] | None = None,
    refuse: bool = True,
) -> Partition:
    """Place every node.

    Parameters
    ----------
    graph
        Canonical, with concrete shapes.
    strict
        Put on the machine whatever can be there, preferences or not, and refuse a model of which
        the host must run a part.
    host
        Reasons by node name for nodes that must not run on the machine.
    operators
        The registry, unless a test brings its own.
    refuse
        Without it, rows say what is refused and nothing is raised.

    Raises
    ------
    UnsupportedModelError
        A node can run nowhere, or `strict` and the host would have one to run; the message lists
        all of the nodes.
    """
    table = registry() if operators is None else operators
    reasons = {
        node.name: _why_not(node, graph, table, host or {}, strict) for node in graph.nodes
    }

    def operator_of(node: Node) -> Operator | None:
        return table[node.op] if reasons[node.name] is None else None

    units = fuse(graph, operator_of)
    on_machine = _cut(graph, units, table, keep=strict)
    if not any(on_machine):
        on_machine = _cut(graph, units, table, keep=True)
    placed = _rows(graph, units, on_machine, reasons)
    if refuse:
        _refuse(graph, placed, strict)
    order = _schedule(graph, units, on_machine)
    chosen: list[Unit] = []
    for index in order:
        unit = units[index]
        if isinstance(unit, MachineNode) and not on_machine[index]:
            chosen += _parts(graph, unit)
        else:
            chosen.append(unit)
    return Partition(
        graph=graph,
        units=tuple(chosen),
        placed=placed,
        crossings=_crossings(graph, chosen),
    )


Reason = tuple[Place, str, str]
"""Place, reason, remedy."""


def _why_not(
    node: Node, graph: Graph, table: Mapping[str, Operator], host: Mapping[str, str], strict: bool
) -> Reason | None:
    """Why a node cannot run on the machine; None if it can."""
    if any(isinstance(v, onnx.GraphProto | onnx.FunctionProto) for v in _attributes(node)):
        return Place.REFUSED, "it has a body of other nodes", "unroll it before exporting"
    if node.op in _RANDOM:
        return Place.REFUSED, "its result is random", "give random numbers as an input"
    if not onnx.defs.has(node.op):
        return Place.REFUSED, f"ONNX has no operator {node.op}", "replace it by ONNX operators"
    if node.name in host:
        return Place.HOST, host[node.name], ""
    computed = [name for name in node.inputs if name and name not in graph.constants]
    for name in (*computed, *filter(None, node.outputs)):
        if graph.types[name].dtype != "float32":
            return (
                Place.HOST,
                f"the machine computes on float32 only; {name!r} is {graph.types[name].dtype}",
                "",
            )
    operator = table.get(node.op)
    if operator is None:
        return Place.HOST, f"the machine has no {node.op}", "replace it by operators that it has"
    if not computed:
        return Place.HOST, "all of its operands are constant", "fold it before exporting"
    broken = operator.broken(node, graph, strict=strict)
    if broken is not None:
        rule, value = broken
        return Place.HOST, f"{rule.text}; found {value}", rule.remedy
    return None


def _attributes(node: Node) -> list[object]:
    return [*node.attributes.values()]


def _reads(unit: Unit, graph: Graph) -> list[str]:
    node = unit.node if isinstance(unit, MachineNode) else unit
    return [name for name in dict.fromkeys(node.inputs) if name and name not in graph.constants]


def _writes(unit: Unit) -> list[str]:
    if isinstance(unit, MachineNode):
        rest = [name for name in unit.node.outputs[1:] if name]
        return [unit.output, *rest]
    return [name for name in unit.outputs if name]


def _cut(
    graph: Graph, units: Sequence[Unit], table: Mapping[str, Operator], *, keep: bool
) -> list[bool]:
    """By unit: whether it runs on the machine. `keep`: whatever can be there is."""
    capable = [isinstance(unit, MachineNode) for unit in units]
    if keep:
        return capable
    cut = MinCut(2)
    places = []
    for unit in units:
        if not isinstance(unit, MachineNode):
            places.append(_HOST)
            continue
        if any(node_macs(node, graph) for node in _parts(graph, unit)):
            places.append(_MACHINE)
            continue
        operator, size = table[unit.node.op], elements(unit.node, graph)
        here = cut.place()
        places.append(here)
        # An arc is cut if its start is on the machine and its end on the host.
        cut.arc(_MACHINE, here, size if operator.moves else _HOST_ELEMENT * size)
        cut.arc(here, _HOST, 0 if operator.moves else operator.passes * size)
    shown = {output.tensor for output in graph.outputs}
    written = {name: place for unit, place in zip(units, places, strict=True)
               for name in _writes(unit)}
    readers: dict[str, list[int]] = {}
    for unit, place in zip(units, places, strict=True):
        for name in _reads(unit, graph):
            readers.setdefault(name, []).append(place)
    for name in dict.fromkeys((*written, *readers)):
        start = written.get(name, _HOST)
        ends = set(readers.get(name, ())) | ({_HOST} if name in shown else set())
        cost = _CROSSING + _CROSSED_ELEMENT * prod(graph.types[name].shape)
        if graph.types[name].dtype != "float32" or ends == {start}:
            continue
        out, back = cut.place(), cut.place()
        cut.arc(start, out, cost)
        cut.arc(back, start, cost)
        for end in sorted(ends):
            cut.arc(out, end, UNBOUNDED)
            cut.arc(end, back, UNBOUNDED)
    sides = cut.reached(_MACHINE, _HOST)
    return [sides[place] for place in places]


def _schedule(graph: Graph, units: Sequence[Unit], on_machine: Sequence[bool]) -> list[int]:
    """Indices of `units`: everything that is ready on one side, then on the other, and so on.

    Taking all that is ready gives the fewest alternations from a given side; the better of the
    two sides begins.
    """
    writer = {name: i for i, unit in enumerate(units) for name in _writes(unit)}
    before = [
        {writer[name] for name in _reads(unit, graph) if name in writer} for unit in units
    ]
    after: list[list[int]] = [[] for _ in units]
    for index, needed in enumerate(before):
        for earlier in needed:
            after[earlier].append(index)

    def run(side: bool) -> tuple[int, list[int]]:
        missing = [len(needed) for needed in before]
        ready: dict[bool, list[int]] = {True: [], False: []}
        for index, count in enumerate(missing):
            if count == 0:
                ready[on_machine[index]].append(index)
        for heap in ready.values():
            heapify(heap)
        order: list[int] = []
        turns = 0
        while ready[True] or ready[False]:
            if ready[side]:
                turns += 1
            while ready[side]:
                index = heappop(ready[side])
                order.append(index)
                for later in after[index]:
                    missing[later] -= 1
                    if missing[later] == 0:
                        heappush(ready[on_machine[later]], later)
            side = not side
        return turns, order

    host_first, machine_first = run(False), run(True)
    return host_first[1] if host_first[0] < machine_first[0] else machine_first[1]


def _parts(graph: Graph, unit: MachineNode) -> list[Node]:
    """The nodes of a unit, in order."""
    nodes = [unit.node]
    while unit.output not in nodes[-1].outputs:
        nodes += graph.consumers[nodes[-1].outputs[0]]
    return nodes


def _crossings(graph: Graph, units: Sequence[Unit]) -> tuple[Crossing, ...]:
    side = {
        name: isinstance(unit, MachineNode) for unit in units for name in _writes(unit)
    }
    seen: dict[tuple[str, Place], None] = {}
    for unit in units:
        here = isinstance(unit, MachineNode)
        for name in _reads(unit, graph):
            if side.get(name, False) != here:
                seen[name, Place.MACHINE if here else Place.HOST] = None
    for output in graph.outputs:
        if side.get(output.tensor, False):
            seen[output.tensor, Place.HOST] = None
    return tuple(
        Crossing(tensor=name, to=to, elements=prod(graph.types[name].shape)) for name, to in seen
    )


def _rows(
    graph: Graph,
    units: Sequence[Unit],
    on_machine: Sequence[bool],
    reasons: Mapping[str, Reason | None],
) -> tuple[PlacedNode, ...]:
    rows: dict[str, PlacedNode] = {}

    def put(node: Node, place: Place, reason: str, remedy: str = "") -> None:
        macs, size = node_macs(node, graph), float_bytes(node, graph)
        for name in node.sources or (node.name,):
            present = rows.get(name)
            if present is None or (present.place is Place.MACHINE and place is not Place.MACHINE):
                rows[name] = PlacedNode(
                    name=name, op=node.source_op or node.op, place=place, reason=reason,
                    remedy=remedy, macs=macs, bytes=size // 4 if place is Place.MACHINE else size,
                )
            macs = size = 0

    for unit, here in zip(units, on_machine, strict=True):
        if isinstance(unit, Node):
            found = reasons[unit.name]
            assert found is not None
            put(unit, *found)
            continue
        parts = _parts(graph, unit)
        for node in parts:
            if not here:
                put(node, Place.HOST, "its neighbours are there, and it is not worth a crossing")
            elif node is unit.node:
                put(node, Place.MACHINE, f"runs as {node.op}")
            else:
                put(node, Place.MACHINE, f"part of {unit.node.name!r}")
    return tuple(rows.values())


def _refuse(graph: Graph, placed: Sequence[PlacedNode], strict: bool) -> None:
    refused = [row for row in placed if row.place is Place.REFUSED]
    if refused:
        raise UnsupportedModelError(
            f"graph {graph.name!r}: nodes that neither the machine nor the host can run: "
            f"{_listed(refused)}"
        )
    host = [row for row in placed if row.place is Place.HOST]
    if strict and host:
        raise UnsupportedModelError(
            f"graph {graph.name!r}: strict compilation allows no operator on the host, but "
            f"{len(host)} must run there: {_listed(host)}; change the model, or compile without "
            "strict"
        )


def _listed(rows: Sequence[PlacedNode]) -> str:
    text = "; ".join(map(str, rows[:_LISTED_MOST]))
    more = len(rows) - _LISTED_MOST
    return f"{text}; and {more} more" if more > 0 else text


