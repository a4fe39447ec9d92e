"""Which tensors need numbers, and which of them must have the same."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, prod

from systol_compiler.graph.float_graph import Graph
from systol_compiler.quantized.build import MachineNode
from systol_compiler.quantized.operator import Operator
from systol_compiler.quantized.placement.partition import Partition


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """Tensors with one scale, zero point and width.

    Attributes
    ----------
    members
        In order of definition.
    observed
        Those whose values tell everything of the others'.
    symmetric
        The zero point must be 0.
    wide
        16 bits.
    fixed
        (scale, zero point, width) that operators want of members, each once.
    limits
        What clips leave of the members' values.
    """

    members: tuple[str, ...]
    observed: tuple[str, ...]
    symmetric: bool
    wide: bool
    fixed: tuple[tuple[float, int, int], ...]
    limits: tuple[float, float] = (-inf, inf)


def quantized_tensors(units: Iterable[MachineNode], graph: Graph) -> tuple[str, ...]:
    """Float tensors that machine nodes read or write, in order of first use."""
    names: dict[str, None] = {}
    for unit in units:
        for name in unit.node.inputs:
            if name and name not in graph.constants:
                names[name] = None
        names[unit.output] = None
        for name in filter(None, unit.node.outputs[1:]):
            names[name] = None
    return tuple(names)


def group_tensors(
    partition: Partition, operators: Mapping[str, Operator], *, unify_add: bool = False
) -> tuple[TensorGroup, ...]:
    """The groups that operators' wishes make of the quantized tensors, in order of first use."""
    graph = partition.graph
    names = quantized_tensors(partition.machine, graph)
    known = set(names)
    sets = _DisjointSets(names)
    symmetric: set[str] = set()
    wide: set[str] = set()
    fixed: dict[str, list[tuple[float, int, int]]] = {}
    derived: set[str] = set()
    limits = {unit.output: (unit.least, unit.greatest) for unit in partition.machine}
    for unit in partition.machine:
        operator = operators[unit.node.op]
        wish = operator.wish(unit.node, graph)
        # Fused nodes move the result to another name.
        own = {unit.node.outputs[0]: unit.output}

        def real(wished: Iterable[str], own: Mapping[str, str] = own) -> list[str]:
            return [n for n in (own.get(name, name) for name in wished) if n in known]

        for same in wish.same:
            sets.join(real(same))
        symmetric.update(real(wish.symmetric))
        wide.update(real(wish.wide))
        for name, scale, zero_point in wish.fixed:
            for tensor in real([name]):
                width = 16 if name in wish.wide else 8
                fixed.setdefault(tensor, []).append((scale, zero_point, width))
        if operator.moves:
            derived.update(_moved(unit, graph, sets))
        if unify_add and unit.node.op == "Add":
            sets.join(real((*unit.node.inputs, *unit.node.outputs)))
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(sets.root(name), []).append(name)
    return tuple(
        TensorGroup(
            members=tuple(group),
            observed=tuple(name for name in group if name not in derived) or (group[0],),
            symmetric=not symmetric.isdisjoint(group),
            wide=not wide.isdisjoint(group),
            limits=_hull([limits.get(name, (-inf, inf)) for name in group if name not in derived]),
            fixed=tuple(dict.fromkeys(one for name in group for one in fixed.get(name, ()))),
        )
        for group in members.values()
    )


def _hull(spans: list[tuple[float, float]]) -> tuple[float, float]:
    if not spans:
        return -inf, inf
    return min(span[0] for span in spans), max(span[1] for span in spans)


def _moved(unit: MachineNode, graph: Graph, sets: "_DisjointSets") -> list[str]:
    """Results that hold nothing but values of the one operand, whose numbers they share."""
    sources = [name for name in unit.node.inputs if name and name not in graph.constants]
    if len(sources) != 1:
        return []
    size = prod(graph.types[sources[0]].shape)
    return [
        name
        for name in (unit.output, *filter(None, unit.node.outputs[1:]))
        if sets.root(name) == sets.root(sources[0]) and prod(graph.types[name].shape) <= size
    ]


class _DisjointSets:
    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, names: Iterable[str]) -> None:
        roots = [self.root(name) for name in names]
        for root in roots[1:]:
            self._parent[self.root(root)] = self.root(roots[0])
