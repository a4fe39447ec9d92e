"""What each layer of a program costs, exactly: the simulator's counters, attributed by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from systol_compiler.binary.network import LayerRange, MachineSegment
from systol_hw.arch import Arch, MemoryPort
from systol_hw.tables.counter_categories import CATEGORIES, STALL_CAUSES, Category
from systol_hw.tables.counters import AMOUNTS, UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_sim.tag_windows import GroupCounters, count_by_group, tag_setters

_AMOUNT = {(amount.unit, amount.name): index for index, amount in enumerate(AMOUNTS)}
_BYTES = {
    "host_read": ((Unit.LOAD, "host_bytes"),),
    "host_written": ((Unit.STORE, "host_bytes"),),
    "weights": ((Unit.WEIGHTS, "weight_bytes"),),
    "loaded": ((Unit.LOAD, "weight_bytes"),),
    "spilled": ((Unit.STORE, "weight_bytes"),),
    "instructions": ((Unit.CONTROL, "fetch_bytes"),),
}
"""Bytes by port and purpose; the first two pass the host port, the others the weight port.
`loaded` is what comes from weight memory into the unified buffer: parameters, and what had been
`spilled`."""
_HOST_PORT = ("host_read", "host_written")


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerFigures:
    """The cost of one layer in one run of its segment; whole numbers, exact.

    Attributes
    ----------
    layer, source_nodes
        As in the debug map; "" for what belongs to no layer.
    cycles
        By how many cycles the layer ends later than everything before it. Over all layers of a
        segment they sum to its cycles.
    first_cycle, last_cycle
        When its first instruction starts and its last one ends; -1 if it has none.
    array, causes
        Cycles of the array charged to it, by Table 3's categories, and the causes of those without
        matrix work. Cycles in which the matrix unit has nothing at all belong to no layer.
    busy
        Cycles by unit in which the unit worked for it.
    bytes
        By purpose (`host_read`, `host_written`, `weights`, `loaded`, `spilled`, `instructions`).
    useful_macs, padding_macs, elements
        As the counters of these names.
    bound_cycles, bound_by
        The longest that one of "array", "vector", "host port" and "weight port" must work for it,
        whatever the schedule, and which: rows that enter the array, cycles of the vector unit, and
        bytes over bandwidth.
    """

    layer: str
    source_nodes: tuple[str, ...]
    cycles: int
    first_cycle: int
    last_cycle: int
    array: Mapping[str, int]
    causes: Mapping[str, int]
    busy: Mapping[str, int]
    bytes: Mapping[str, int]
    useful_macs: int
    padding_macs: int
    elements: int
    bound_cycles: int
    bound_by: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values, by the attributes' names."""
        return {
            "layer": self.layer,
            "source_nodes": list(self.source_nodes),
            "cycles": self.cycles,
            "first_cycle": self.first_cycle,
            "last_cycle": self.last_cycle,
            "bound_cycles": self.bound_cycles,
            "bound_by": self.bound_by,
            "array": dict(self.array),
            "causes": dict(self.causes),
            "busy": dict(self.busy),
            "bytes": dict(self.bytes),
            "useful_macs": self.useful_macs,
            "padding_macs": self.padding_macs,
            "elements": self.elements,
        }


def layer_figures(segment: MachineSegment) -> list[LayerFigures]:
    """The layers of `segment`, whose program is valid, in the order of their first instructions,
    and at last what belongs to none.

    A layer whose instructions stand behind no `tag` instruction of their own is charged to the
    layer before it; its array, causes, busy, bytes and amounts are then zero.
    """
    program = segment.program
    layers = list(dict.fromkeys(item.layer for item in segment.layers))
    place = {layer: index for index, layer in enumerate(layers)}
    sources = {item.layer: item.source_nodes for item in segment.layers}
    groups = _groups(tag_setters(program), segment.layers, place)
    counted = count_by_group(program, groups, len(layers))
    spans = _spans(segment.layers, place, counted.times)
    total = int(counted.states[Unit.CONTROL].sum())
    rows, end = [], -1
    for index, layer in enumerate((*layers, "")):
        first, last = spans[index] if layer else (-1, total - 1)
        rows.append(
            _figures(
                counted, index, program.arch, layer=layer, source_nodes=sources.get(layer, ()),
                cycles=max(0, last - end), first=first, last=last,
            )
        )
        end = max(end, last)
    return rows


def _groups(
    setters: np.ndarray, ranges: Sequence[LayerRange], place: Mapping[str, int]
) -> list[int]:
    """The layer, by place, that each `tag` instruction begins: the one whose range it stands in,
    or else directly before."""
    starts = np.array([item.first for item in ranges], np.int64)
    groups = []
    for pc in setters:
        index = int(np.searchsorted(starts, pc, side="right")) - 1
        inside = index >= 0 and pc < ranges[index].first + ranges[index].count
        follows = index + 1 < len(ranges) and ranges[index + 1].first == pc + 1
        if follows and not (inside and ranges[index].first == pc):
            index, inside = index + 1, True
        groups.append(place[ranges[index].layer] if inside else -1)
    return groups


def _spans(
    ranges: Sequence[LayerRange], place: Mapping[str, int], times: np.ndarray
) -> list[tuple[int, int]]:
    spans = [(-1, -1)] * len(place)
    for item in ranges:
        rows = times[item.first : item.first + item.count]
        starts, ends = rows[:, 0][rows[:, 0] >= 0], rows[:, 1]
        first = int(starts.min()) if len(starts) else -1
        before = spans[place[item.layer]]
        known = [cycle for cycle in (before[0], first) if cycle >= 0]
        spans[place[item.layer]] = (min(known, default=-1), max(before[1], int(ends.max())))
    return spans


def _figures(
    counted: GroupCounters, index: int, arch: Arch, *, layer: str, source_nodes: tuple[str, ...],
    cycles: int, first: int, last: int,
) -> LayerFigures:
    codes = {
        unit: {state.name: state.code for state in states} for unit, states in UNIT_STATES.items()
    }

    def summed(category: Category) -> int:
        states = counted.states[Unit.MATRIX, index]
        return int(sum(states[codes[Unit.MATRIX][name]] for name in category.states))

    def amount(unit: Unit, name: str) -> int:
        return int(counted.amounts[_AMOUNT[unit, name], index])

    bytes_ = {name: sum(amount(*item) for item in items) for name, items in _BYTES.items()}
    busy = {
        unit.name.lower(): int(counted.states[unit, index, codes[unit]["busy"]]) for unit in Unit
    }
    bound_cycles, bound_by = _bound(busy, bytes_, arch)
    return LayerFigures(
        layer=layer,
        source_nodes=source_nodes,
        cycles=cycles,
        first_cycle=first,
        last_cycle=last,
        array={category.name: summed(category) for category in CATEGORIES},
        causes={cause.name: summed(cause) for cause in STALL_CAUSES},
        busy=busy,
        bytes=bytes_,
        useful_macs=amount(Unit.MATRIX, "useful_macs"),
        padding_macs=amount(Unit.MATRIX, "padding_macs"),
        elements=amount(Unit.VECTOR, "elements"),
        bound_cycles=bound_cycles,
        bound_by=bound_by,
    )


def bound_together(rows: Sequence[LayerFigures], arch: Arch) -> tuple[int, str]:
    """The longest that one of the four must work for all `rows`, and which: no schedule of the
    same instructions takes fewer cycles. Bounds of layers add up to more, where layers that need
    different units overlap."""
    busy = {name: sum(row.busy[name] for row in rows) for name in ("matrix", "vector")}
    return _bound(busy, {name: sum(row.bytes[name] for row in rows) for name in _BYTES}, arch)


def _bound(busy: Mapping[str, int], bytes_: Mapping[str, int], arch: Arch) -> tuple[int, str]:
    host = sum(bytes_[name] for name in _HOST_PORT)
    needs = {
        "array": busy["matrix"],
        "vector": busy["vector"],
        "host port": _port_cycles(host, arch.host_port),
        "weight port": _port_cycles(sum(bytes_.values()) - host, arch.weight_port),
    }
    bound = max(needs, key=lambda name: needs[name])
    return needs[bound], bound if needs[bound] else ""


def _port_cycles(size: int, port: MemoryPort) -> int:
    return ceil(Fraction(size) / port.bytes_per_cycle)
