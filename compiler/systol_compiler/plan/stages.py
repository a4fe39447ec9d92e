"""Stages: a nest and those that follow it band by band. The unit of time of the memory plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.vector import VectorNest
from systol_compiler.nests.window import WHOLE
from systol_compiler.plan.tiling import Banks, Cut, Tile, needs, tile_nest
from systol_hw.arch import Arch

_ENDLESS = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Places of its nests in the network: the first one leads, the others are vector nests that
    read what earlier ones of the stage write."""

    nests: tuple[int, ...]


def form_stages(network: LoweredNetwork) -> tuple[Stage, ...]:
    """A vector nest joins the stage of the nest before it if it reads what that stage writes."""
    stages: list[list[int]] = []
    written: set[str] = set()
    for place, nest in enumerate(network.nests):
        follows = isinstance(nest, VectorNest) and any(
            operand.buffer in written for operand in nest.reads
        )
        if follows:
            stages[-1].append(place)
            written.add(nest.output.buffer)
        else:
            stages.append([place])
            written = {nest.output.buffer}
    return tuple(Stage(nests=tuple(places)) for places in stages)


def same_grid(a: Operand, b: Operand) -> bool:
    """Whether both are the same bytes in the same coordinates."""
    return a == b


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledStage:
    """A stage with the tiles of its nests, and their order: (place in `stage.nests`, tile)."""

    stage: Stage
    tiles: tuple[tuple[Tile, ...], ...]
    order: tuple[tuple[int, int], ...]
    rolling: frozenset[str] = field(default_factory=frozenset)
    """Buffers of which only two bands exist at a time."""


def tile_stage(
    network: LoweredNetwork, stage: Stage, arch: Arch, cut: Cut, banks: Banks
) -> TiledStage:
    """Cut the nests of a stage; followers in the bands of the leader where rows agree."""
    lead = network.nests[stage.nests[0]]
    from_host = any(
        network.buffers[operand.buffer].home is Home.INPUT for operand in lead.reads[:1]
    ) and stage.nests[0] == min(network.readers[lead.reads[0].buffer], default=-1)
    tiles = [tile_nest(lead, arch, cut, banks, from_host=from_host)]
    bands = tuple(dict.fromkeys(t.unit.lines for t in tiles[0] if t.unit.planes[0] == 0))
    for place in stage.nests[1:]:
        nest = network.nests[place]
        aligned = nest.output.lines == lead.output.lines and len(nest.output.planes) == len(
            lead.output.planes
        )
        own = Cut(
            bands=max(cut.bands, len(bands)), columns=cut.columns, channels=cut.channels,
            rows=bands if aligned else (),
        )
        tiles.append(tile_nest(nest, arch, own, banks))
    nests = [network.nests[place] for place in stage.nests]
    order = tuple(_interleave(nests, tiles))
    return TiledStage(
        stage=stage, tiles=tuple(tiles), order=order,
        rolling=frozenset(_rolling(network, nests, tiles, order)),
    )


def _interleave(
    nests: Sequence[Nest], tiles: Sequence[tuple[Tile, ...]]
) -> Iterator[tuple[int, int]]:
    """The leader's tiles in order, each follower's as soon as what it needs is complete."""
    done = [0] * len(nests)
    fronts = [_fronts(nest, own) for nest, own in zip(nests, tiles, strict=True)]
    writers: dict[str, list[int]] = {}
    for index, nest in enumerate(nests):
        writers.setdefault(nest.output.buffer, []).append(index)

    def ready(index: int) -> bool:
        nest, tile = nests[index], tiles[index][done[index]]
        for operand, box in zip(nest.reads, needs(nest, tile), strict=True):
            sources = [w for w in writers.get(operand.buffer, ()) if w < index]
            if sources:
                high = operand.span(box)[1]
                if any(high > fronts[w][done[w]] for w in sources):
                    return False
        return True

    while done[0] < len(tiles[0]):
        yield 0, done[0]
        done[0] += 1
        for index in range(1, len(nests)):
            while done[index] < len(tiles[index]) and ready(index):
                yield index, done[index]
                done[index] += 1
    assert done == [len(own) for own in tiles], [nest.name for nest in nests]


def _fronts(nest: Nest, tiles: Sequence[Tile]) -> list[int]:
    """For each number of done tiles: the first byte of the output that is not complete."""
    fronts = [_ENDLESS]
    for tile in reversed(tiles):
        fronts.append(min(fronts[-1], nest.output.span(tile.unit)[0]))
    return fronts[::-1]


def _rolling(
    network: LoweredNetwork, nests: Sequence[Nest], tiles: Sequence[tuple[Tile, ...]],
    order: Sequence[tuple[int, int]],
) -> Iterator[str]:
    """Buffers that one nest of the stage writes and only later ones of it read, unit by unit."""
    places = {id(nest): index for index, nest in enumerate(nests)}
    for index, nest in enumerate(nests):
        name = nest.output.buffer
        if network.buffers[name].home is not Home.NONE or len(network.writers[name]) != 1:
            continue
        readers = [network.nests[place] for place in network.readers[name]]
        units = list(dict.fromkeys(tile.unit for tile in tiles[index]))
        if readers and len(units) > 2 and all(
            id(reader) in places
            and isinstance(reader, VectorNest)
            and reader.window == WHOLE
            and all(op == nest.output for op in reader.reads if op.buffer == name)
            and list(dict.fromkeys(t.unit for t in tiles[places[id(reader)]])) == units
            for reader in readers
        ) and _in_step(index, [places[id(reader)] for reader in readers], tiles, order):
            yield name


def _in_step(
    writer: int, readers: Sequence[int], tiles: Sequence[tuple[Tile, ...]],
    order: Sequence[tuple[int, int]],
) -> bool:
    """Whether every reader reads each unit before the writer begins the next one."""
    present = None
    for place, number in order:
        unit = tiles[place][number].unit
        if place == writer:
            present = unit
        elif place in readers and unit != present:
            return False
    return True


def leads_with_matrix(network: LoweredNetwork, stage: Stage) -> bool:
    """Whether the array works in the stage."""
    return isinstance(network.nests[stage.nests[0]], MatrixNest)


def stage_times(network: LoweredNetwork, stages: Sequence[Stage]) -> Mapping[int, int]:
    """The stage of each nest, by place."""
    return {place: time for time, stage in enumerate(stages) for place in stage.nests}
