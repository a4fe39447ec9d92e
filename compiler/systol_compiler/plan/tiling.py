"""Cuts nests into tasks: matrix tasks of matmuls within a bank of accumulators, vector tasks.

The accumulators are two banks; successive matrix tasks alternate between them, so that the
requantization of one runs while the next one is computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from systol_compiler.nests.matrix import ActivationWeights, MatrixNest
from systol_compiler.nests.nest import Nest
from systol_compiler.nests.operand import Box, Range
from systol_compiler.nests.vector import VectorNest
from systol_hw.arch import INSTRUCTION_BYTES, Arch


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How finely a nest is cut: least numbers of ranges.

    Attributes
    ----------
    bands, columns, channels
        Of a plane's output rows, columns and channels.
    reduction
        Parts of the reduction that run apart, each with its own part of the input.
    early_start
        Cut the reduction of linear layers, so that they begin before all of their input is there.
    together
        Finish the column tiles of a linear layer by the bank, in fewer instructions, where more
        tiles follow.
    exact
        Take `bands` as it is; otherwise it is a factor by which to take more bands than would
        hide most.
    rows
        Cut the rows here, instead of evenly: the bands of the nest that this one follows.
    """

    bands: int = 32
    columns: int = 1
    channels: int = 1
    reduction: int = 1
    early_start: bool = True
    together: bool = True
    exact: bool = False
    rows: tuple[Range, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One matmul over some column tiles and some reduction steps.

    Attributes
    ----------
    tiles
        Column tiles; every second one where neighbours lie in different banks.
    reduction
        Half-open range of reduction steps at each (k0, k1).
    turn
        Place in the nest's `passes`.
    accumulator
        First accumulator row of the first tile; the others follow without gaps.
    accumulate
        Adds to what earlier steps left.
    finish
        The tiles, which are then consecutive, are requantized behind this step.
    """

    tiles: range
    reduction: Range
    turn: int
    accumulator: int
    accumulate: bool
    finish: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """Outputs that are computed together.

    Attributes
    ----------
    box
        The outputs.
    unit
        The box of all tiles that share one piece of the output: `box` with all channels.
    steps
        Matmuls, in order; none of a vector nest.
    reduction
        Bytes of each position that its steps read, where the reduction is cut; else None.
    """

    box: Box
    unit: Box
    steps: tuple[Step, ...] = ()
    reduction: Range | None = None


def needs(nest: Nest, tile: Tile) -> tuple[Box, ...]:
    """What `tile` needs of each of the nest's operands."""
    boxes = nest.needs(tile.box)
    if tile.reduction is None:
        return boxes
    assert isinstance(nest, MatrixNest)
    parts = [replace(boxes[0], bytes=tile.reduction)]
    if isinstance(nest.weights, ActivationWeights):
        # Lines of the matrix, or with `transpose` bytes of each line.
        along = "bytes" if nest.weights.transpose else "lines"
        parts.append(replace(boxes[1], **{along: tile.reduction}))
    return tuple(parts)


def ceil(value: int, unit: int) -> int:
    """The quotient, rounded up."""
    return -(-value // unit)


def cuts(total: int, most: int, first: int = 0) -> list[Range]:
    """`total` from `first` on in the fewest ranges of at most `most`, as even as possible."""
    count = ceil(total, max(1, most))
    edges = [first + total * i // count for i in range(count + 1)]
    return list(pairwise(edges))


class Banks:
    """Where tiles go next.

    The vector unit can read a bank of accumulators only while the matrix unit writes to the other
    one; so what is finished next never lies in the bank of what was finished last.
    """

    def __init__(self, arch: Arch) -> None:
        self._rows = arch.accumulator_bank_rows
        self._bank, self._half = 0, 0

    @property
    def state(self) -> tuple[int, int]:
        """Where the next tiles go: what may be set again."""
        return self._bank, self._half

    @state.setter
    def state(self, value: tuple[int, int]) -> None:
        self._bank, self._half = value

    def together(self) -> int:
        """First accumulator row of what is finished as a whole, in one bank."""
        row = self._bank * self._rows
        self._bank = 1 - self._bank
        return row

    def one_by_one(self, tiles: range) -> list[tuple[range, int]]:
        """Two sets of tiles that are finished one by one, with the row at which each begins.

        Neighbours lie in different banks, in one half of each; the next ones take the other halves.
        """
        half = self._half * (self._rows // 2)
        first, second = (bank * self._rows + half for bank in (self._bank, 1 - self._bank))
        self._half = 1 - self._half
        self._bank ^= len(tiles) % 2
        return [(tiles[0::2], first), (tiles[1::2], second)]


def column_tiles(nest: MatrixNest) -> int:
    """Column tiles of a nest."""
    return ceil(nest.outputs, nest.tile_outputs)


def reduction_steps(nest: MatrixNest, arch: Arch) -> int:
    """Reduction steps at one (k0, k1)."""
    return ceil(nest.step_bytes, arch.rows)


def tile_cycles(arch: Arch, positions: int) -> int:
    """Cycles of one weight tile: of its rows, or of its weights where they take longer."""
    return max(positions, int(arch.rows * arch.columns / arch.weight_port.bytes_per_cycle))


def tile_nest(
    nest: Nest, arch: Arch, cut: Cut, banks: Banks, *, from_host: bool = False
) -> tuple[Tile, ...]:
    """The tiles of a nest, in ascending order of the addresses of their outputs."""
    if isinstance(nest, MatrixNest):
        if nest.streams and cut.columns == cut.channels == cut.reduction == 1 and not cut.rows:
            return tuple(_stream(nest, arch, cut, banks, from_host))
        return tuple(_planes(nest, arch, cut, banks))
    assert isinstance(nest, VectorNest)
    return tuple(_vector(nest, arch, cut))


def _vector(nest: VectorNest, arch: Arch, cut: Cut) -> Iterator[Tile]:
    domain = nest.domain
    rows = list(cut.rows) or cuts(nest.output.lines, ceil(nest.output.lines, cut.bands))
    columns = cuts(nest.output.positions, ceil(nest.output.positions, cut.columns))
    groups = ceil(nest.output.width, arch.columns)
    channels = [
        (low * arch.columns, min(high * arch.columns, nest.output.width))
        for low, high in cuts(groups, ceil(groups, cut.channels))
    ]
    for plane in range(*domain.planes):
        for row_range in rows:
            for column_range in columns:
                unit = Box(
                    planes=(plane, plane + 1), lines=row_range, positions=column_range,
                    bytes=domain.bytes,
                )
                for channel_range in channels:
                    yield Tile(box=replace(unit, bytes=channel_range), unit=unit)


def _planes(nest: MatrixNest, arch: Arch, cut: Cut, banks: Banks) -> Iterator[Tile]:
    """Planes outside, then rectangles, then column tiles; each step fills a bank of accumulators,
    turn by turn."""
    limit = arch.accumulator_bank_rows
    tiles = column_tiles(nest)
    steps = reduction_steps(nest, arch)
    height, width = _rectangle(nest, limit, cut)
    rows = [
        piece for band in (cut.rows or ((0, nest.output.lines),))
        for piece in cuts(band[1] - band[0], height, band[0])
    ]
    for plane in range(nest.planes):
        for row_range in rows:
            for column_range in cuts(nest.output.positions, width):
                unit = Box(
                    planes=(plane, plane + 1), lines=row_range, positions=column_range,
                    bytes=(0, nest.output.width),
                )
                yield from _unit(nest, arch, cut, banks, unit, tiles, steps)


def _unit(
    nest: MatrixNest, arch: Arch, cut: Cut, banks: Banks, unit: Box, tiles: int, steps: int
) -> Iterator[Tile]:
    positions = product_positions(nest, unit)
    parts = cuts(steps, ceil(steps, cut.reduction))
    most = min(ceil(tiles, cut.channels), arch.accumulator_bank_rows // positions)
    turns = len(nest.passes)
    whole = cut.channels == len(parts) == 1
    collected: list[Step] = []
    for tile_range in cuts(tiles, most):
        box = replace(
            unit,
            bytes=(
                tile_range[0] * nest.tile_outputs,
                min(tile_range[1] * nest.tile_outputs, nest.outputs),
            ),
        )
        accumulator = banks.together()
        for part in parts:
            made = [
                Step(
                    tiles=range(*tile_range), reduction=part, turn=turn, accumulator=accumulator,
                    accumulate=part[0] > 0 or turn > 0,
                    finish=part[1] == steps and turn == turns - 1,
                )
                for turn in range(turns)
            ]
            if whole:
                collected += made
                continue
            reduction = None
            if len(parts) > 1:
                reduction = (part[0] * arch.rows, min(part[1] * arch.rows, nest.input.width))
            yield Tile(box=box, unit=unit, steps=tuple(made), reduction=reduction)
    if whole:
        yield Tile(box=unit, unit=unit, steps=tuple(collected))


def product_positions(nest: MatrixNest, box: Box) -> int:
    """Accumulator rows of one column tile of `box`."""
    rows, columns = nest.product_rows(box), nest.product_columns(box)
    return (rows[1] - rows[0]) * (columns[1] - columns[0])


def _rectangle(nest: MatrixNest, limit: int, cut: Cut) -> tuple[int, int]:
    """Rows and columns of outputs whose products fit `limit` accumulator rows."""

    def widest(axis: int, outputs: int) -> int:
        """Most products along an axis that a cut of at most `outputs` outputs needs."""
        total = (nest.output.lines, nest.output.positions)[axis]
        spans = (nest.pool.span(axis, *piece, nest.size[axis]) for piece in cuts(total, outputs))
        return max(high - low for low, high in spans)

    rows = ceil(nest.output.lines, cut.bands)
    columns = ceil(nest.output.positions, cut.columns)
    for height in range(max(1, rows), 0, -1):
        if widest(0, height) * widest(1, columns) <= limit:
            return height, columns
    tall = widest(0, 1)
    for width in range(columns - 1, 0, -1):
        if tall * widest(1, width) <= limit:
            return 1, width
    raise AssertionError(f"{nest.name}: fusion keeps one output's window within a bank")


def _stream(
    nest: MatrixNest, arch: Arch, cut: Cut, banks: Banks, from_host: bool
) -> Iterator[Tile]:
    """A linear layer.

    At the beginning the reduction is cut into parts; all but the last run over all column tiles
    that the accumulators hold, so that each part of the input is used as soon as it is there. The
    last part runs tile by tile, so that finished tiles are requantized while the next ones are
    computed; so does the last group, behind which nothing hides a requantization. Between them,
    where a tile's products outlast its requantization, a group is one step: fewer instructions do
    as well.
    """
    bank = arch.accumulator_bank_rows
    tiles, steps = column_tiles(nest), reduction_steps(nest, arch)
    first = True
    least = ceil(nest.size[0], cut.bands)
    for rows in cuts(nest.size[0], min(bank, least)):
        unit = Box(
            planes=(0, 1), lines=rows, positions=(0, 1), bytes=(0, nest.output.width)
        )
        positions = rows[1] - rows[0]
        cost = tile_cycles(arch, positions)
        most = 2 * (bank // 2 // positions) or 1
        for group in cuts(tiles, most):
            made = list(
                _stream_group(
                    arch, cut, banks, positions, steps, group, cost, first=first,
                    from_host=from_host, last=(rows[1], group[1]) == (nest.size[0], tiles),
                )
            )
            box = replace(
                unit,
                bytes=(
                    group[0] * nest.tile_outputs,
                    min(group[1] * nest.tile_outputs, nest.outputs),
                ),
            )
            yield Tile(box=box, unit=unit, steps=tuple(made))
            first = False


def _stream_group(
    arch: Arch, cut: Cut, banks: Banks, positions: int, steps: int, group: Range, cost: int, *,
    first: bool, last: bool, from_host: bool,
) -> Iterator[Step]:
    count = group[1] - group[0]
    if not cut.early_start or not first:
        parts: Sequence[Range] = [(0, steps)]
    elif from_host:
        parts = _parts_by_arrival(arch, positions, steps, cost, count)
    else:
        parts = _head_and_tail(arch, steps, count)
    duration = cost * (parts[-1][1] - parts[-1][0])
    hidden = duration >= positions * arch.vector_slot_cycles
    if cut.together and not first and not last and hidden:
        together = count
    else:
        # Three instructions' bytes must be little beside the work of so many tiles.
        overhead = 3 * INSTRUCTION_BYTES / arch.weight_port.bytes_per_cycle * 10
        together = max(1, int(overhead / duration))
    if count == 1 or together > 1:
        places = [(range(*group), banks.together())]
    else:
        places = banks.one_by_one(range(*group))
    for part in parts[:-1]:
        for tile_set, accumulator in places:
            yield Step(
                tiles=tile_set, reduction=part, turn=0, accumulator=accumulator,
                accumulate=part[0] > 0, finish=False,
            )
    for low in range(group[0], group[1], together):
        tile_set, accumulator = next(p for p in places if low in p[0])
        yield Step(
            tiles=range(low, min(low + together, group[1])),
            reduction=parts[-1],
            turn=0,
            accumulator=accumulator + tile_set.index(low) * positions,
            accumulate=parts[-1][0] > 0,
            finish=True,
        )


def _parts_by_arrival(
    arch: Arch, positions: int, steps: int, cost: int, tiles: int
) -> list[Range]:
    """Parts that grow as fast as the host port delivers the next one during the present one."""
    load = positions * max(1, int(arch.rows / arch.host_port.bytes_per_cycle))
    ratio = tiles * cost / load
    size = 1.0 if ratio > 1 else max(1.0, steps / 8)
    parts, low = [], 0
    while low < steps:
        high = min(steps, low + int(size))
        if steps - high < arch.vector_slot_cycles + 2 and low > 0:
            high = steps
        parts.append((low, high))
        low, size = high, size * max(ratio, 1.0)
    return parts


def _head_and_tail(arch: Arch, steps: int, tiles: int) -> list[Range]:
    """A head, which early results of the layer before feed, and a tail that, where other tiles
    follow, outlasts a requantization."""
    tail = 1 if tiles == 1 else max(arch.vector_slot_cycles + 2, steps // 2)
    return [(0, steps - tail), (steps - tail, steps)] if tail < steps else [(0, steps)]


def verify_tiles(nest: Nest, tiles: Sequence[Tile], arch: Arch) -> None:
    """Check that the tiles compute each output once, inside a bank of accumulators."""
    if not isinstance(nest, MatrixNest):
        assert sum(tile.box.size for tile in tiles) == nest.domain.size, nest.name
        return
    done: dict[tuple[int, ...], tuple[int, int]] = {}
    finished = 0
    steps = reduction_steps(nest, arch)
    for tile in tiles:
        positions = product_positions(nest, tile.box)
        for step in tile.steps:
            last = step.accumulator + len(step.tiles) * positions - 1
            bank = arch.accumulator_bank_rows
            assert step.accumulator // bank == last // bank < 2, "a step lies in one bank"
            assert not step.finish or step.tiles.step == 1 or len(step.tiles) == 1
            for number in step.tiles:
                place = (*(r[0] for r in tile.box.ranges[:3]), number)
                have = done.get(place, (0, 0))
                assert (step.turn, step.reduction[0]) in (have, (have[0], have[1])) or (
                    step.turn > 0
                ), place
                assert step.accumulate == (place in done), place
                done[place] = (step.turn, step.reduction[1])
                if step.finish:
                    assert step.reduction[1] == steps, place
                    finished += 1
    count = {(t.unit.planes, t.unit.lines, t.unit.positions) for t in tiles}
    assert finished == len(count) * column_tiles(nest), nest.name
