"""Vector work of its own, such as a pool beside convolutions, runs under the array's work.

A stage of vector nests alone that needs nothing of the stages just before it is spread over them:
its tiles become guests there, as many as the vector unit has time for.
"""

from collections.abc import Sequence
from dataclasses import replace

from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.vector import VectorNest
from systol_compiler.plan.cost import array_cycles, vector_cycles
from systol_compiler.plan.stages import Stage, TiledStage
from systol_compiler.plan.tiling import Tile
from systol_hw.arch import Arch

_FARTHEST = 8
"""Stages over which work is spread at most: what it reads and writes lies there all the time."""


def spread(
    network: LoweredNetwork, stages: Sequence[TiledStage], arch: Arch
) -> list[TiledStage]:
    """`stages` with guests; a stage all of whose tiles are guests elsewhere stays, empty."""
    result = list(stages)
    idle = [_idle(network, stage, arch) for stage in result]
    written = _last_writers(network, result)
    for time, stage in enumerate(stages):
        if len(stage.stage.nests) != 1:
            continue
        place = stage.stage.nests[0]
        nest = network.nests[place]
        if not isinstance(nest, VectorNest) or len(stage.tiles[0]) < 2:
            continue
        first = 1 + max(
            (written.get(operand.buffer, -1) for operand in nest.reads), default=-1
        )
        first = max(first, time - _FARTHEST)
        if network.writers[nest.output.buffer] != (place,) or first >= time:
            continue
        _move(result, idle, time, first, vector_cycles(nest, arch))
    return result


def _idle(network: LoweredNetwork, stage: TiledStage, arch: Arch) -> int:
    """Cycles for which the array works longer than the vector unit."""
    nests = [network.nests[place] for place in stage.stage.nests]
    array = sum(array_cycles(nest, arch) for nest in nests)
    return array - sum(vector_cycles(nest, arch) for nest in nests)


def _last_writers(network: LoweredNetwork, stages: Sequence[TiledStage]) -> dict[str, int]:
    return {
        network.nests[place].output.buffer: time
        for time, stage in enumerate(stages)
        for place in stage.stage.nests
    }


def _move(
    stages: list[TiledStage], idle: list[int], time: int, first: int, work: int
) -> None:
    """Give tiles of the stage at `time` to those from `first` on, in order."""
    own = stages[time]
    place, tiles = own.stage.nests[0], list(own.tiles[0])
    each = max(1, work // len(tiles))
    for host in range(first, time):
        count = min(len(tiles), max(0, idle[host]) // each)
        if not count or not stages[host].order:
            continue
        stages[host] = _with_guests(stages[host], place, tuple(tiles[:count]))
        idle[host] -= count * each
        tiles = tiles[count:]
    if len(tiles) == len(own.tiles[0]):
        return
    if tiles:
        order = tuple((0, number) for number in range(len(tiles)))
        stages[time] = replace(own, tiles=(tuple(tiles),), order=order)
    else:
        stages[time] = TiledStage(stage=Stage(nests=()), tiles=(), order=())


def _with_guests(host: TiledStage, place: int, guests: tuple[Tile, ...]) -> TiledStage:
    """`host` with `guests` evenly before its tiles: so the vector unit works on them while the
    array works on a tile, whose results it takes afterwards."""
    index = len(host.stage.nests)
    order: list[tuple[int, int]] = []
    given = 0
    for number, entry in enumerate(host.order, 1):
        due = number * len(guests) // len(host.order)
        order += [(index, guest) for guest in range(given, due)]
        order.append(entry)
        given = due
    return replace(
        host, stage=Stage(nests=(*host.stage.nests, place)), tiles=(*host.tiles, guests),
        order=tuple(order),
    )
