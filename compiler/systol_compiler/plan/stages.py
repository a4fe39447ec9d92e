"""Stages: a nest and those that follow it band by band. The unit of time of the memory plan.

In a stage's program order the bands of its nests alternate, so that vector work runs under the
array's, and what only the stage itself reads need never be there as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from systol_compiler.nests.buffer import Home
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.network import LoweredNetwork
from systol_compiler.nests.operand import Box, Range
from systol_compiler.nests.vector import VectorNest
from systol_compiler.nests.window import WHOLE
from systol_compiler.plan.cost import choose_bands
from systol_compiler.plan.tiling import Banks, Cut, Tile, ceil, cuts, needs, tile_nest
from systol_hw.arch import Arch

MOST_NESTS = 12
"""Nests of a stage: each one more needs room for its bands."""
SLOTS = 2
"""Places by turns for the bands of a buffer that is never there as a whole."""
_LAG = 2
_LAG_LEAST = 8
"""Tiles below which a nest has no `_LAG`: waiting would cost more."""
_ENDLESS = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Places of its nests in the network: the first one leads, the others follow it."""

    nests: tuple[int, ...]


def form_stages(network: LoweredNetwork) -> tuple[Stage, ...]:
    """Cuts the network into stages.

    A vector nest joins the stage of the nest before it if it reads what that stage writes. A
    matrix nest joins if its output rows are the stage's and it needs no other rows than those of
    what it reads, as 1x1 convolutions do (not linear layers, which run in one band); or if the
    vector nest behind it joins its result with the stage's, as a shortcut's convolution and the
    main branch's.
    """
    stages: list[list[int]] = []
    written: set[str] = set()
    for place, nest in enumerate(network.nests):
        if stages and len(stages[-1]) < MOST_NESTS and (
            _follows(nest, written)
            or _continues(network, stages[-1], nest, written)
            or _joins(network, stages[-1], place)
        ):
            stages[-1].append(place)
            written.add(nest.output.buffer)
        else:
            stages.append([place])
            written = {nest.output.buffer}
    return tuple(Stage(nests=tuple(places)) for places in stages)


def _follows(nest: Nest, written: set[str]) -> bool:
    return isinstance(nest, VectorNest) and any(op.buffer in written for op in nest.reads)


def _same_rows(a: Nest, b: Nest) -> bool:
    return a.output.lines == b.output.lines and len(a.output.planes) == len(b.output.planes)


def _rows_behind(nest: Nest, lead: Nest, bands: Sequence[Range]) -> tuple[Range, ...]:
    """The bands of a nest whose rows are the leader's, or each of which needs as many of them as
    its window is high, and no other does; () where bands do not fall together so."""
    if _same_rows(nest, lead):
        return tuple(bands)
    if not isinstance(nest, VectorNest) or nest.window == WHOLE:
        return ()
    height = nest.window.kernel[0]
    same_planes = len(nest.output.planes) == len(lead.output.planes)
    exact = nest.output.lines * height == lead.output.lines
    if not (same_planes and exact and _apart(nest)) or any(low % height for low, _ in bands):
        return ()
    return tuple((low // height, high // height) for low, high in bands)


def _bands(tiles: Sequence[Tile]) -> tuple[Range, ...]:
    return tuple(dict.fromkeys(t.unit.lines for t in tiles if t.unit.planes[0] == 0))


def _whole_windows(nests: Sequence[Nest], bands: tuple[Range, ...]) -> tuple[Range, ...]:
    """About as many bands of the leader, so that no follower's window lies in two of them."""
    lines = nests[0].output.lines
    heights = [
        nest.window.kernel[0] for nest in nests[1:]
        if isinstance(nest, VectorNest) and nest.window != WHOLE and _apart(nest)
        and nest.output.lines * nest.window.kernel[0] == lines
    ]
    height = max(heights, default=1)
    if all(low % height == 0 for low, _ in bands):
        return bands
    most = ceil(lines // height, len(bands))
    return tuple((low * height, high * height) for low, high in cuts(lines // height, most))


def _apart(nest: VectorNest) -> bool:
    """Whether no row is part of two windows, or of padding."""
    window = nest.window
    return window.strides[0] == window.kernel[0] and not window.pads[0]


def _row_by_row(nest: MatrixNest) -> bool:
    """Whether output row r needs input row r alone."""
    return (
        nest.taps[0] == nest.steps[0] == 1
        and nest.pads[0] == 0
        and not nest.pooled
        and nest.input.lines == nest.output.lines
    )


def _continues(
    network: LoweredNetwork, stage: Sequence[int], nest: Nest, written: set[str]
) -> bool:
    lead = network.nests[stage[0]]
    return (
        isinstance(nest, MatrixNest)
        and not isinstance(nest.weights, ActivationWeights)
        and nest.input.buffer in written
        and isinstance(lead, MatrixNest)
        and not lead.streams
        and not nest.streams
        and nest.output.lines > 1
        and _same_rows(nest, lead)
        and _row_by_row(nest)
        and all(_same_rows(network.nests[place], lead) for place in stage)
    )


def _joins(network: LoweredNetwork, stage: Sequence[int], place: int) -> bool:
    """Whether the matrix nest at `place` and the last one of `stage` feed one vector nest."""
    nests = network.nests
    if place + 1 >= len(nests):
        return False
    first, second, behind = nests[stage[-1]], nests[place], nests[place + 1]
    outputs = [first.output.buffer, second.output.buffer]
    return (
        isinstance(first, MatrixNest)
        and isinstance(second, MatrixNest)
        and isinstance(behind, VectorNest)
        and not isinstance(second.weights, ActivationWeights)
        and _same_rows(first, second)
        and all(_same_rows(nests[other], second) for other in stage)
        and all(
            operand.buffer not in {nests[other].output.buffer for other in stage}
            for operand in second.reads
        )
        and outputs[0] != outputs[1]
        and all(name in {operand.buffer for operand in behind.reads} for name in outputs)
        and all(network.readers[name] == (place + 1,) for name in outputs)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledStage:
    """A stage with the tiles of its nests, and their order: (place in `stage.nests`, tile)."""

    stage: Stage
    tiles: tuple[tuple[Tile, ...], ...]
    order: tuple[tuple[int, int], ...]
    banded: frozenset[str] = field(default_factory=frozenset)
    """Buffers that the stage writes and reads band by band in step: `SLOTS` bands are enough for
    it, whatever later stages need."""


def tile_stage(
    network: LoweredNetwork, stage: Stage, arch: Arch, cut: Cut, banks: Banks
) -> TiledStage:
    """Cut the nests of a stage; followers in the bands of the leader where rows agree."""
    nests = [network.nests[place] for place in stage.nests]
    lead = nests[0]
    from_host = network.buffers[lead.reads[0].buffer].home is Home.INPUT if lead.reads else False
    from_host = from_host and stage.nests[0] == min(
        network.readers[lead.reads[0].buffer], default=-1
    )
    if not cut.exact and cut.columns == cut.channels == cut.reduction == 1:
        cut = choose_bands(nests, arch, cut)
    begun = banks.state
    tiles = [tile_nest(lead, arch, cut, banks, from_host=from_host)]
    bands = _bands(tiles[0])
    rows = _whole_windows(nests, bands)
    if rows != bands:
        banks.state = begun
        even = replace(cut, bands=len(rows), rows=rows, exact=True)
        tiles = [tile_nest(lead, arch, even, banks, from_host=from_host)]
        bands = _bands(tiles[0])
    for nest in nests[1:]:
        own = replace(
            cut, bands=max(cut.bands, len(bands)), rows=_rows_behind(nest, lead, bands),
            reduction=cut.reduction if isinstance(nest, MatrixNest) else 1,
        )
        tiles.append(tile_nest(nest, arch, own, banks))
    order = tuple(_Interleaving(nests, tiles).order())
    if sum(isinstance(nest, MatrixNest) for nest in nests) > 1:
        tiles = _alternating(tiles, order, banks)
    return TiledStage(
        stage=stage, tiles=tuple(tiles), order=order,
        banded=frozenset(_banded(network, nests, tiles, order)),
    )


def _alternating(
    tiles: Sequence[tuple[Tile, ...]], order: Sequence[tuple[int, int]], banks: Banks
) -> list[tuple[Tile, ...]]:
    """The tiles with accumulators that change banks in program order."""
    placed = [list(own) for own in tiles]
    for place, number in order:
        steps = []
        moved: dict[int, int] = {}  # by column tile: by how many rows its accumulators move
        for step in placed[place][number].steps:
            if not step.accumulate:
                shift = banks.together() - step.accumulator
                moved |= dict.fromkeys(step.tiles, shift)
            row = step.accumulator + moved[step.tiles[0]]
            steps.append(replace(step, accumulator=row))
        placed[place][number] = replace(placed[place][number], steps=tuple(steps))
    return [tuple(own) for own in placed]


class _Interleaving:
    """The leader's tiles in order, each follower's as soon as what it needs is complete.

    A matrix nest that reads what the stage writes stays a band behind: the array would else wait
    for each band's requantization.
    """

    def __init__(self, nests: Sequence[Nest], tiles: Sequence[tuple[Tile, ...]]) -> None:
        self.nests, self.tiles = nests, tiles
        self.done = [0] * len(nests)
        self.fronts = [_fronts(nest, own) for nest, own in zip(nests, tiles, strict=True)]
        self.boxes = [np.array([tile.box.ranges for tile in own]) for own in tiles]
        self.lasts: dict[tuple[int, int, int], int] = {}
        self.writers: dict[str, list[int]] = {}
        for index, nest in enumerate(nests):
            self.writers.setdefault(nest.output.buffer, []).append(index)

    def order(self) -> Iterator[tuple[int, int]]:
        """(place, tile), each once."""
        while self.done[0] < len(self.tiles[0]):
            yield 0, self.done[0]
            self.done[0] += 1
            yield from self._followers()
        finished = [len(own) for own in self.tiles]
        assert self.done == finished, [nest.name for nest in self.nests]

    def _followers(self) -> Iterator[tuple[int, int]]:
        """One unit of each follower that is ready, until none is."""
        while True:
            before = list(self.done)
            for index in range(1, len(self.nests)):
                yield from self._unit(index)
            if self.done == before:
                return

    def _unit(self, index: int) -> Iterator[tuple[int, int]]:
        tiles, first = self.tiles[index], self.done[index]
        while self.done[index] < len(tiles) and self._ready(index):
            if tiles[self.done[index]].unit != tiles[first].unit:
                return
            yield index, self.done[index]
            self.done[index] += 1

    def _ready(self, index: int) -> bool:
        nest, tile = self.nests[index], self.tiles[index][self.done[index]]
        behind = isinstance(nest, MatrixNest)
        if behind and not self._led(tile.unit, 0, behind=False):
            return False
        for operand, box in zip(nest.reads, needs(nest, tile), strict=True):
            for writer in self.writers.get(operand.buffer, ()):
                if writer >= index:
                    continue
                done = self.done[writer] - self._lag(nest, writer)
                if operand == self.nests[writer].output:
                    ready = self._last(writer, index, box) < done
                else:
                    ready = operand.span(box)[1] <= self.fronts[writer][max(done, 0)]
                if not ready or (behind and not self._led(tile.unit, writer, behind=True)):
                    return False
        return True

    def _lag(self, nest: Nest, writer: int) -> int:
        """Tiles of `writer` that must lie between it and `nest`: rows that several windows share
        may have to come back from memory, which takes about the time of a band or two."""
        tiles = self.tiles[writer]
        if not isinstance(nest, VectorNest) or nest.window == WHOLE or _apart(nest):
            return 0
        if self.done[writer] == len(tiles) or len(tiles) < _LAG_LEAST:
            return 0
        return _LAG

    def _last(self, writer: int, reader: int, box: Box) -> int:
        """The last tile of `writer` that writes into `box`, which the reader's next tile needs."""
        key = (writer, reader, self.done[reader])
        if key not in self.lasts:
            ranges = np.array(box.ranges)
            boxes = self.boxes[writer]
            meet = (boxes[:, :, 0] < ranges[:, 1]) & (ranges[:, 0] < boxes[:, :, 1])
            last, tiles = int(np.flatnonzero(meet.all(axis=1))[-1]), self.tiles[writer]
            # What lies in memory is stored unit by unit, behind the last of its channels.
            while last + 1 < len(tiles) and tiles[last + 1].unit == tiles[last].unit:
                last += 1
            self.lasts[key] = last
        return self.lasts[key]

    def _led(self, unit: Box, writer: int, *, behind: bool) -> bool:
        """Whether `writer` has reached `unit`'s rows; with `behind`, those after them, too."""
        done = self.done[writer]
        if done == len(self.tiles[writer]):
            return True
        if done == 0:
            return False
        led = self.tiles[writer][done - 1].unit
        mine, its = (unit.planes, unit.lines), (led.planes, led.lines)
        return mine < its if behind else mine <= its


def _fronts(nest: Nest, tiles: Sequence[Tile]) -> list[int]:
    """For each number of done tiles: the first byte of the output that is not complete."""
    fronts = [_ENDLESS]
    for tile in reversed(tiles):
        fronts.append(min(fronts[-1], nest.output.span(tile.unit)[0]))
    return fronts[::-1]


Grid = tuple[Range, Range, Range]


def grid(unit: Box) -> Grid:
    """A unit without its channels: what nests of one stage have in common."""
    return unit.planes, unit.lines, unit.positions


def read_grid(nest: Nest, name: str, unit: Box) -> Grid:
    """What `unit` of a nest needs of the buffer `name`, of which it has one operand."""
    boxes = zip(nest.reads, nest.needs(unit), strict=True)
    return next(grid(box) for operand, box in boxes if operand.buffer == name)


def _banded(
    network: LoweredNetwork, nests: Sequence[Nest], tiles: Sequence[tuple[Tile, ...]],
    order: Sequence[tuple[int, int]],
) -> Iterator[str]:
    """Buffers that one nest of the stage writes and later ones of it read, unit by unit."""
    places = {id(nest): index for index, nest in enumerate(nests)}
    for index, nest in enumerate(nests):
        name = nest.output.buffer
        if len(network.writers[name]) != 1:
            continue
        readers = [
            reader for reader in (network.nests[place] for place in network.readers[name])
            if id(reader) in places
        ]
        units = list(dict.fromkeys(grid(tile.unit) for tile in tiles[index]))
        if len(units) > SLOTS and readers and all(
            _unit_by_unit(reader)
            and all(op == nest.output for op in reader.reads if op.buffer == name)
            and _read_units(reader, name, tiles[places[id(reader)]]) == units
            for reader in readers
        ) and _in_step(index, [places[id(reader)] for reader in readers], nests, tiles, order):
            yield name


def _read_units(reader: Nest, name: str, tiles: Sequence[Tile]) -> list[Grid]:
    """What the tiles of a nest need of a buffer, in order."""
    return list(dict.fromkeys(read_grid(reader, name, tile.unit) for tile in tiles))


def _unit_by_unit(reader: Nest) -> bool:
    if isinstance(reader, MatrixNest):
        columns = reader.taps[1] == reader.steps[1] == 1 and reader.pads[1] == 0
        return _row_by_row(reader) and columns and reader.step_bytes <= reader.input.width
    return True


def _in_step(
    writer: int, readers: Sequence[int], nests: Sequence[Nest], tiles: Sequence[tuple[Tile, ...]],
    order: Sequence[tuple[int, int]],
) -> bool:
    """Whether every reader has read each unit before the writer begins the one `SLOTS` later."""
    name = nests[writer].output.buffer
    begun: list[Grid] = []
    last = {
        reader: {read_grid(nests[reader], name, t.unit): n for n, t in enumerate(tiles[reader])}
        for reader in readers
    }
    done = dict.fromkeys(readers, -1)
    for place, number in order:
        if place == writer:
            unit = grid(tiles[place][number].unit)
            if begun and begun[-1] == unit:
                continue
            begun.append(unit)
            if len(begun) > SLOTS:
                gone = begun[-1 - SLOTS]
                if any(done[reader] < last[reader][gone] for reader in readers):
                    return False
        elif place in readers:
            if read_grid(nests[place], name, tiles[place][number].unit) not in begun[-SLOTS:]:
                return False
            done[place] = number
    return True

