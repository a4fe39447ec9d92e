"""Cuts matrix work into steps: one matmul instruction each, within a bank of accumulators.

The accumulators are two banks; successive chunks alternate between them, so that the requantization
of one chunk runs while the next one is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from systol_compiler.work import LoweredNetwork, MatrixWork, Work
from systol_hw.arch import INSTRUCTION_BYTES, Arch


@dataclass(frozen=True, kw_only=True)
class TilingOptions:
    """Choices that the cost model decides.

    Attributes
    ----------
    least_chunks
        Cut the positions of each convolution's plane into at least so many chunks.
    early_start
        Cut the reduction of linear layers, so that they begin before all of their input is there.
    together
        Finish the column tiles of a linear layer by the bank, in fewer instructions, where more
        tiles follow.
    """

    least_chunks: int = 1
    early_start: bool = True
    together: bool = True


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A rectangle of outputs of one plane: what one half of the accumulators holds.

    `rows` and `columns` are half-open ranges of outputs (after pooling), `product_rows` and
    `product_columns` of the positions that they need.
    """

    plane: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    product_rows: tuple[int, int]
    product_columns: tuple[int, int]

    @property
    def positions(self) -> int:
        """Accumulator rows of one column tile."""
        height = self.product_rows[1] - self.product_rows[0]
        return height * (self.product_columns[1] - self.product_columns[0])


@dataclass(frozen=True, kw_only=True)
class Step:
    """One matmul over some column tiles and some reduction steps of a chunk.

    Attributes
    ----------
    tiles
        Column tiles; every second one where neighbours lie in different banks.
    reduction
        Half-open range of reduction steps at each (k0, k1).
    accumulator
        First accumulator row of the first tile; the others follow without gaps.
    accumulate
        Adds to what earlier steps left.
    finish
        The tiles, which are then consecutive, are requantized behind this step.
    """

    chunk: Chunk
    tiles: range
    reduction: tuple[int, int]
    accumulator: int
    accumulate: bool
    finish: bool

    def weight_tiles(self, work: MatrixWork) -> int:
        """Tiles that it reads, over all (k0, k1)."""
        places = work.taps[0] * work.taps[1]
        return places * len(self.tiles) * (self.reduction[1] - self.reduction[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledWork:
    """A work and its steps, in order; a `PoolWork` has none."""

    work: Work
    column_tiles: int
    reduction_steps: int
    """Steps at one (k0, k1)."""
    steps: tuple[Step, ...]

    @property
    def weight_tiles(self) -> int:
        """Tiles that all steps of one group read."""
        if not isinstance(self.work, MatrixWork):
            return 0
        return sum(step.weight_tiles(self.work) for step in self.steps)

    def cycles(self, arch: Arch) -> int:
        """Cycles of all weight tiles, whether their rows or their weights take longer."""
        if not isinstance(self.work, MatrixWork):
            return 0
        return sum(
            step.weight_tiles(self.work) * _tile_cycles(arch, step.chunk.positions)
            for step in self.steps
        )

    def verify(self, arch: Arch) -> None:
        """Check that the steps compute each output once, inside a bank of accumulators."""
        if not isinstance(self.work, MatrixWork):
            assert not self.steps
            return
        products: dict[tuple[int, int, int, int], int] = {}
        finished = 0
        for step in self.steps:
            chunk = step.chunk
            last = step.accumulator + len(step.tiles) * chunk.positions - 1
            bank = arch.accumulator_bank_rows
            assert step.accumulator // bank == last // bank < 2, "a step lies in one bank"
            assert not step.finish or step.tiles.step == 1 or len(step.tiles) == 1
            for tile in step.tiles:
                place = (chunk.plane, chunk.rows[0], chunk.columns[0], tile)
                done = products.get(place, 0)
                assert step.reduction[0] == done and step.accumulate == (done > 0), place
                products[place] = step.reduction[1]
                if step.finish:
                    assert step.reduction[1] == self.reduction_steps, place
                    height = chunk.rows[1] - chunk.rows[0]
                    finished += height * (chunk.columns[1] - chunk.columns[0])
        rows, columns = self.work.out_size
        assert finished == self.work.planes * rows * columns * self.column_tiles, self.work.name

    def __str__(self) -> str:
        lines = [
            f"{self.work}",
            (
                f"    {self.column_tiles} column tiles x {self.reduction_steps} reduction steps, "
                f"{len(self.steps)} matmuls, {self.weight_tiles} weight tiles"
            ),
        ]
        for step in self.steps:
            c = step.chunk
            lines.append(
                f"    plane {c.plane} rows {_range(c.rows)} columns {_range(c.columns)} tiles "
                f"{','.join(map(str, step.tiles))} k {_range(step.reduction)} accumulators from "
                f"{step.accumulator}"
                f"{' +=' if step.accumulate else ''}{' requantize' if step.finish else ''}"
            )
        return "\n".join(lines)


def _range(pair: tuple[int, int]) -> str:
    return f"{pair[0]}..{pair[1] - 1}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledNetwork:
    """A lowered network with every work's steps: a tiled loop nest."""

    lowered: LoweredNetwork
    works: tuple[TiledWork, ...]

    def verify(self, arch: Arch) -> None:
        """Check every work."""
        self.lowered.verify()
        for work in self.works:
            work.verify(arch)

    def __str__(self) -> str:
        body = "\n".join(f"  {line}" for work in self.works for line in str(work).split("\n"))
        return f"tiled {self.lowered.name!r}, groups of {self.lowered.images} {{\n{body}\n}}"


def tile(network: LoweredNetwork, arch: Arch, options: TilingOptions) -> TiledNetwork:
    """The steps of every work of `network`."""
    works, banks = [], _Banks(arch)
    for work in network.works:
        if not isinstance(work, MatrixWork):
            works.append(TiledWork(work=work, column_tiles=0, reduction_steps=0, steps=()))
            continue
        if work.streams:
            steps = tuple(_stream(work, arch, options, banks, work.input in network.inputs))
        else:
            steps = tuple(_planes(work, arch, options, banks))
        works.append(
            TiledWork(
                work=work,
                column_tiles=_ceil(work.out_channels, arch.columns),
                reduction_steps=_ceil(work.step_bytes, arch.rows),
                steps=steps,
            )
        )
    return TiledNetwork(lowered=network, works=tuple(works))


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def _cuts(total: int, most: int) -> list[tuple[int, int]]:
    """`total` in the fewest ranges of at most `most`, as even as possible."""
    count = _ceil(total, most)
    edges = [total * i // count for i in range(count + 1)]
    return list(pairwise(edges))


class _Banks:
    """Where tiles go next.

    The vector unit can read a bank of accumulators only while the matrix unit writes to the other
    one; so what is finished next never lies in the bank of what was finished last.
    """

    def __init__(self, arch: Arch) -> None:
        self._rows = arch.accumulator_bank_rows
        self._bank, self._half = 0, 0

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


def _planes(
    work: MatrixWork, arch: Arch, options: TilingOptions, banks: _Banks
) -> Iterator[Step]:
    """Steps of a convolution: planes outside, then rectangles, then column tiles; each fills a bank
    of accumulators, turn by turn."""
    limit = arch.accumulator_bank_rows
    tiles = _ceil(work.out_channels, arch.columns)
    reduction = (0, _ceil(work.step_bytes, arch.rows))
    rows, columns = _rectangle(work, limit, options.least_chunks)
    for plane in range(work.planes):
        for row_range in _cuts(work.out_size[0], rows):
            for column_range in _cuts(work.out_size[1], columns):
                chunk = Chunk(
                    plane=plane,
                    rows=row_range,
                    columns=column_range,
                    product_rows=work.pool.span(0, *row_range, work.size[0]),
                    product_columns=work.pool.span(1, *column_range, work.size[1]),
                )
                for tile_range in _cuts(tiles, limit // chunk.positions):
                    yield Step(
                        chunk=chunk,
                        tiles=range(*tile_range),
                        reduction=reduction,
                        accumulator=banks.together(),
                        accumulate=False,
                        finish=True,
                    )


def _rectangle(work: MatrixWork, limit: int, least_chunks: int) -> tuple[int, int]:
    """Rows and columns of outputs whose products fit `limit` accumulator rows."""

    def widest(axis: int, outputs: int) -> int:
        """Most products along an axis that a cut of at most `outputs` outputs needs."""
        spans = (
            work.pool.span(axis, *cut, work.size[axis])
            for cut in _cuts(work.out_size[axis], outputs)
        )
        return max(high - low for low, high in spans)

    rows, columns = work.out_size
    for height in range(max(1, _ceil(rows, least_chunks)), 0, -1):
        if widest(0, height) * widest(1, columns) <= limit:
            return height, columns
    tall = widest(0, 1)
    for width in range(columns - 1, 0, -1):
        if tall * widest(1, width) <= limit:
            return 1, width
    raise AssertionError(f"{work.name}: fusion keeps one output's window within a bank")


def _stream(
    work: MatrixWork, arch: Arch, options: TilingOptions, banks: _Banks, from_host: bool
) -> Iterator[Step]:
    """Steps of a linear layer.

    At the beginning the reduction is cut into parts; all but the last run over all column tiles
    that the accumulators hold, so that each part of the input is used as soon as it is there. The
    last part runs tile by tile, so that finished tiles are requantized while the next ones are
    computed; so does the last group, behind which nothing hides a requantization. Between them,
    where a tile's products outlast its requantization, a group is one step: fewer instructions do
    as well.
    """
    bank = arch.accumulator_bank_rows
    tiles = _ceil(work.out_channels, arch.columns)
    steps = _ceil(work.step_bytes, arch.rows)
    first = True
    for rows in _cuts(work.size[0], bank):
        chunk = Chunk(
            plane=0, rows=rows, columns=(0, 1), product_rows=rows, product_columns=(0, 1)
        )
        cost = _tile_cycles(arch, chunk.positions)
        most = 2 * (bank // 2 // chunk.positions) or 1
        for group in _cuts(tiles, most):
            count = group[1] - group[0]
            if not options.early_start or not first:
                parts = [(0, steps)]
            elif from_host:
                parts = _parts_by_arrival(arch, chunk.positions, steps, cost, count)
            else:
                parts = _head_and_tail(arch, steps, count)
            duration = cost * (parts[-1][1] - parts[-1][0])
            hidden = duration >= chunk.positions * arch.vector_slot_cycles
            inner = not first and (rows[1], group[1]) != (work.size[0], tiles)
            if options.together and inner and hidden:
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
                        chunk=chunk, tiles=tile_set, reduction=part, accumulator=accumulator,
                        accumulate=part[0] > 0, finish=False,
                    )
            for low in range(group[0], group[1], together):
                tile_set, accumulator = next(p for p in places if low in p[0])
                yield Step(
                    chunk=chunk,
                    tiles=range(low, min(low + together, group[1])),
                    reduction=parts[-1],
                    accumulator=accumulator + tile_set.index(low) * chunk.positions,
                    accumulate=parts[-1][0] > 0,
                    finish=True,
                )
            first = False


def _tile_cycles(arch: Arch, positions: int) -> int:
    """Cycles of one tile: of its rows, or of its weights where they take longer."""
    return max(positions, int(arch.rows * arch.columns / arch.weight_port.bytes_per_cycle))


def _parts_by_arrival(
    arch: Arch, positions: int, steps: int, cost: int, tiles: int
) -> list[tuple[int, int]]:
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


def _head_and_tail(arch: Arch, steps: int, tiles: int) -> list[tuple[int, int]]:
    """A head, which early results of the layer before feed, and a tail that, where other tiles
    follow, outlasts a requantization."""
    tail = 1 if tiles == 1 else max(arch.vector_slot_cycles + 2, steps // 2)
    return [(0, steps - tail), (steps - tail, steps)] if tail < steps else [(0, steps)]
