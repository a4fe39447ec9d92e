"""Orderings by brute force, written from docs/timing.md 9.1 and 9.2: every pair, every path."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from systol_hw.arch import Arch
from systol_hw.isa import Instruction, instruction, mask_of_units
from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import UB, Region, footprint

_BARRIERS = ("barrier", "sync_host")


@dataclass(frozen=True, kw_only=True)
class Closure:
    """What certainly precedes what.

    `edge[2*i + a, 2*j + b]` says whether the start (a = 0) or end (a = 1) of i precedes the start
    or end of j. `signals` and `waits` are the instructions of each pair's tokens, in order.
    """

    edge: npt.NDArray[np.bool_]
    signals: dict[tuple[Unit, Unit], list[int]]
    waits: dict[tuple[Unit, Unit], list[int]]

    @property
    def ends_before_start(self) -> npt.NDArray[np.bool_]:
        """[i, j]: whether end(i) -> start(j) follows."""
        return self.edge[1::2, 0::2]

    def greatest_count(self) -> int:
        """The most tokens that any counter can hold in any timing."""
        greatest = 0
        for pair, signals in self.signals.items():
            for n, signal in enumerate(signals, start=1):
                served = sum(
                    bool(self.edge[2 * wait + 1, 2 * signal + 1])
                    for wait in self.waits.get(pair, [])
                )
                greatest = max(greatest, n - served)
        return greatest


def closure(items: Sequence[Instruction]) -> Closure:
    """The transitive closure of what tokens, drains, barriers and the units themselves order."""
    count = len(items)
    edge = np.zeros((2 * count, 2 * count), bool)
    signals: dict[tuple[Unit, Unit], list[int]] = {}
    waits: dict[tuple[Unit, Unit], list[int]] = {}
    last: dict[Unit, int] = {}
    for j, item in enumerate(items):
        edge[2 * j, 2 * j + 1] = True
        if item.unit is Unit.CONTROL:
            if item.operation.name in _BARRIERS:
                edge[1 : 2 * j : 2, 2 * j] = True
                edge[2 * j + 1, 2 * j + 2 :: 2] = True
            continue
        if item.unit in last:
            i = last[item.unit]
            edge[2 * i, 2 * j] = edge[2 * i + 1, 2 * j + 1] = True
            edge[2 * i + 1, 2 * j] = bool(item["drain"]) or _source(items[i]) != _source(item)
        last[item.unit] = j
        for producer in item.waits:
            waits.setdefault((producer, item.unit), []).append(j)
        for consumer in item.signals:
            signals.setdefault((item.unit, consumer), []).append(j)
    for pair, targets in waits.items():
        for source, target in zip(signals.get(pair, []), targets, strict=False):
            edge[2 * source + 1, 2 * target] = True
    for k in range(2 * count):
        edge |= np.outer(edge[:, k], edge[k])
    return Closure(edge=edge, signals=signals, waits=waits)


def _source(item: Instruction) -> str:
    """What 5.2.2 keeps apart within one unit: transfers of the two ports, tiles of two memories."""
    if item.unit in (Unit.LOAD, Unit.STORE):
        return "host" if "window" in item.fields else "weight"
    return item.operation.name if item.unit is Unit.WEIGHTS else ""


def conflicting_pairs(items: Sequence[Instruction], arch: Arch) -> list[tuple[int, int]]:
    """Pairs (i, j) in program order whose end and start must be ordered (9.2), by looking at each
    place of every pair's accesses."""
    accesses = [footprint(item, arch) for item in items]
    reads = [_places(item.reads) for item in accesses]
    writes = [_places(item.writes) for item in accesses]
    pairs = []
    for j in range(len(items)):
        for i in range(j):
            if items[i].unit is items[j].unit:
                own = items[i].unit is Unit.VECTOR
                needed = own and UB in _meet(writes[i], reads[j])
            else:
                needed = bool(
                    _meet(writes[i], reads[j])
                    or _meet(writes[i], writes[j])
                    or _meet(reads[i], writes[j])
                )
            if needed:
                pairs.append((i, j))
    return pairs


def _places(regions: Sequence[Region]) -> dict[int, int]:
    """For each memory, a number whose bit p says that place p is accessed."""
    found: dict[int, int] = {}
    for region in regions:
        places = region.places()
        bits = np.zeros(int(places.max()) + 1, bool)
        bits[places] = True
        mask = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
        found[region.space] = found.get(region.space, 0) | mask
    return found


def _meet(first: dict[int, int], second: dict[int, int]) -> set[int]:
    """The memories in which both access a common place."""
    return {space for space, places in first.items() if places & second.get(space, 0)}


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A program without one thing that orders it, and what that was."""

    what: str
    items: list[Instruction]


def removals(items: Sequence[Instruction]) -> list[Removal]:
    """Every program that lacks one matched pair of wait and signal, one drain bit, or one barrier
    or host synchronization."""
    found = []
    signals: dict[tuple[Unit, Unit], list[int]] = {}
    taken: dict[tuple[Unit, Unit], int] = {}
    for pc, item in enumerate(items):
        for producer in item.waits:
            pair = (producer, item.unit)
            source = signals[pair][taken.get(pair, 0)]
            taken[pair] = taken.get(pair, 0) + 1
            changed = list(items)
            for at, name, unit in ((source, "signal", item.unit), (pc, "wait", producer)):
                changed[at] = _with(changed[at], name, changed[at][name] & ~mask_of_units((unit,)))
            found.append(Removal(what=f"the token of pc {source} for pc {pc}", items=changed))
        for consumer in item.signals:
            signals.setdefault((item.unit, consumer), []).append(pc)
        if item.get("drain"):
            changed = list(items)
            changed[pc] = _with(item, "drain", 0)
            found.append(Removal(what=f"the drain bit of pc {pc}", items=changed))
        elif item.operation.name in _BARRIERS:
            without = [*items[:pc], *items[pc + 1 :]]
            found.append(Removal(what=f"the {item.operation.name} at pc {pc}", items=without))
    return found


def _with(item: Instruction, name: str, value: int) -> Instruction:
    return instruction(item.operation, **{**item.fields, name: value})
