"""Copies between views that share no contiguous axis, by whichever unit is cheapest.

The vector unit moves rows: where source and result are contiguous along different axes, its rows
have one byte. Two products with ones and zeros move the same bytes by rows of the array:

- a *selection* reads the bytes that a row of the result comes from, whatever their order, times a
  constant matrix with one 1 in each column: permuted, stepped, reversed and repeated channels;
- a *transposition* takes the source as weights, read transposed, and the identity as activations.

Sums of one product are the codes themselves, and a multiplier of 1 keeps them: all three ways give
the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from systol_compiler.nests.building.rows import rows
from systol_compiler.nests.building.under_way import NestsUnderWay
from systol_compiler.nests.matrix import ActivationWeights, MatrixNest, StoredWeights
from systol_compiler.nests.operand import Loop, Operand, common_loops
from systol_compiler.nests.view import View
from systol_compiler.numbers.limits import MULTIPLIER_MIN, Array, bounds
from systol_hw.arch import INSTRUCTION_BYTES, PARAMETER_BYTES

_ONE_SHIFT = 16
"""`MULTIPLIER_MIN / 2**16` is 1."""
_MATRIX_CYCLES = 300
"""What a copy by products takes beside its rows: the first weights on their way, the pipeline."""
_NEST_CYCLES = 100
"""What each of its nests takes beside its rows and weights."""
_PRODUCT_INSTRUCTIONS = 3
"""Of a product: its weights', its own, and that of its results."""
_ROW_CYCLES = 20
"""What an instruction of the vector unit takes beside its rows."""
_WIDEST_SELECTION = 4096
"""Bytes of a row that a selection takes at most."""
_MOST_NESTS = 64
"""Nests that one copy may take."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Bounds of the codes that are copied; where `parameters` names a constant buffer, one set for
    each byte of a row of the result, they are requantized with it, and moved by `zero_point`."""

    lo: int
    hi: int
    parameters: str = ""
    zero_point: int = 0


def row_cycles(views: Sequence[View], builder: NestsUnderWay) -> int:
    """Cycles of the vector unit for an operation over `views` (the result first), row by row."""
    arch = builder.arch
    loops, width = rows(views, arch.columns)
    slots = max(view.planes for view in views[1:]) + views[0].planes - 1
    turns = prod(size for size, _ in loops) * -(-width // arch.columns)
    cycles = turns * slots * (arch.columns // arch.vector_lanes)
    return cycles + _fetch_cycles(builder, _planes(loops))


def _fetch_cycles(builder: NestsUnderWay, instructions: int) -> int:
    """Cycles in which instructions arrive."""
    return int(instructions * INSTRUCTION_BYTES / builder.arch.weight_port.bytes_per_cycle)


def _planes(loops: Sequence[Loop]) -> int:
    """Turns of all loops but the last two, each of which has instructions of its own."""
    return prod(size for size, _ in loops[:-2])


def copy_cycles(builder: NestsUnderWay, out: View, source: View) -> int:
    """Cycles of the cheapest copy."""
    return min(cycles for cycles, _ in _ways(builder, out, source))


def product_copy(
    builder: NestsUnderWay, out: View, source: View
) -> "Callable[[Clip], None] | None":
    """What adds nests of the matrix unit that copy `source` to `out`; None where the vector unit
    is at least as fast."""
    return min(_ways(builder, out, source), key=lambda way: way[0])[1]


def product_by_channel(
    builder: NestsUnderWay, out: View, source: View, axis: int
) -> "Callable[[Clip], None] | None":
    """What adds nests that copy `source` to `out`, whose rows run along `axis`, by a transposition
    that can requantize by channel on the way; None where none is possible."""
    plan = _Transposition.plan(builder, out, source)
    if plan is None or plan.along != (out.shape[axis], (1, source.strides[axis])):
        return None
    return plan.emit


def product_take(
    builder: NestsUnderWay, out: View, source: View, axis: int, indices: Sequence[int],
    pieces: Sequence[tuple[View, View]],
) -> "Callable[[Clip], None] | None":
    """What adds nests of the matrix unit that copy elements `indices` of `source` along `axis` to
    `out`; None where copies of `pieces` (of the result and of the source) are at least as fast."""
    if out.strides[axis] != 1 or source.strides[axis] == 0:
        return None
    loops = common_loops([view.slice(axis, 0, 1) for view in (out, source)])
    offsets = np.asarray(indices, np.int64) * source.strides[axis]
    plan = _Selection.of(builder, out, source, loops, offsets)
    cycles = sum(copy_cycles(builder, *piece) + _ROW_CYCLES for piece in pieces)
    if plan is None or plan.cycles + _MATRIX_CYCLES >= cycles:
        return None
    return plan.emit


def _ways(
    builder: NestsUnderWay, out: View, source: View
) -> "list[tuple[int, Callable[[Clip], None] | None]]":
    ways: list[tuple[int, Callable[[Clip], None] | None]] = [
        (row_cycles([out, source], builder), None)
    ]
    if ways[0][0] <= _MATRIX_CYCLES:
        return ways
    for plan in (_Selection.plan(builder, out, source), _Transposition.plan(builder, out, source)):
        if plan is not None:
            ways.append((plan.cycles + _MATRIX_CYCLES, plan.emit))
    return ways


def _product(
    builder: NestsUnderWay, weights: StoredWeights | ActivationWeights, *, source: Operand,
    output: Operand, step_bytes: int, clip: Clip, tile_bytes: int = 0, taps: int = 1,
    step: int = 1,
) -> None:
    ones = np.full(output.width, MULTIPLIER_MIN, np.int64)
    builder.add(
        MatrixNest(
            name=builder.fresh(builder.layer), layer=builder.layer,
            source_nodes=builder.sources, output=output, input=source, outputs=output.width,
            size=(output.lines, output.positions), steps=(1, step), taps=(1, taps),
            step_bytes=step_bytes, weights=weights,
            tile_outputs=builder.arch.columns, tile_bytes=tile_bytes,
            parameters=clip.parameters or builder.parameters(
                np.zeros_like(ones), ones, np.full_like(ones, _ONE_SHIFT)
            ),
            zp_in=0, zp_out=clip.zero_point, lo=clip.lo, hi=clip.hi,
        )
    )


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Columns of the result's rows that one nest can select.

    Column c of tile t reads, behind the row's byte `base`, byte
    `taps[c] * tap_pitch + t * tile_pitch + bytes[c]`.
    """

    first: int
    base: int
    taps: Array
    bytes: Array
    tap_pitch: int
    tile_pitch: int
    width: int
    """Bytes behind the start of a tap that any tile reads."""

    @property
    def columns(self) -> int:
        """Columns of the result."""
        return int(self.taps.size)

    @property
    def tap_count(self) -> int:
        """Steps of the reduction."""
        return int(self.taps.max()) + 1

    @property
    def step_bytes(self) -> int:
        """Bytes of a step."""
        return int(self.bytes.max()) + 1

    def turns(self, builder: NestsUnderWay, source: View, out: View) -> int:
        """Cycles for one row of the result."""
        arch = builder.arch
        passes = self.tap_count * -(-self.step_bytes // arch.rows) * source.planes
        slots = arch.columns // arch.vector_lanes * out.planes
        return -(-self.columns // arch.columns) * max(passes, slots)

    @property
    def weight_bytes(self) -> int:
        """Bytes that it reads of weights and parameters."""
        return self.columns * (self.tap_count * self.step_bytes + PARAMETER_BYTES)


def _piece(
    row: Array, first: int, last: int, columns: int, tap_pitch: int
) -> _Piece | None:
    """One nest for columns `first .. last - 1` of a row that comes from the bytes `row`, in tiles
    of `columns`; None if it would have to read before the row's first byte or behind its last."""
    offsets = row[first:last]
    taps, rest = np.zeros_like(offsets), offsets
    if tap_pitch:
        if row.min() < 0:
            return None
        taps, rest = np.divmod(offsets, tap_pitch)
    base = int(taps.min()) * tap_pitch + int(rest.min())
    taps, rest = taps - taps.min(), rest - rest.min()
    tiles = np.arange(offsets.size) // columns
    later = tiles > 0
    pitch = int((rest[later] // tiles[later]).min()) if later.any() else 0
    for tile_pitch in dict.fromkeys((pitch, 0)):
        inner = rest - tiles * tile_pitch
        width = int(tiles[-1]) * tile_pitch + int(inner.max()) + 1
        if base + int(taps.max()) * tap_pitch + width <= int(row.max()) + 1:
            return _Piece(
                first=first, base=base, taps=taps, bytes=inner, tap_pitch=tap_pitch,
                tile_pitch=tile_pitch, width=width,
            )
    return None


@dataclass(frozen=True, kw_only=True)
class _Selection:
    """Rows of the result as products of a row of the source's bytes with ones and zeros."""

    builder: NestsUnderWay
    out: View
    source: View
    loops: tuple[Loop, ...]
    """Planes, then lines and positions, of the result and of the source."""
    pieces: tuple[_Piece, ...]
    cycles: int

    @classmethod
    def plan(cls, builder: NestsUnderWay, out: View, source: View) -> "_Selection | None":
        loops = common_loops([out, source])
        if not loops or loops[-1][1][0] != 1:
            return None
        # The row: loops that are one run of the result's bytes, wherever the source has them.
        best: _Selection | None = None
        offsets = np.zeros(1, np.int64)
        pitches = [0]
        while loops and loops[-1][1][0] == offsets.size:
            size, (_, stride) = loops.pop()
            if offsets.size * size > _WIDEST_SELECTION:
                break
            if stride > 1:
                pitches.append(stride)
            offsets = (np.arange(size)[:, None] * stride + offsets).reshape(-1)
            for pitch in pitches:
                found = cls.of(builder, out, source, loops, offsets, pitch)
                if found is not None and (best is None or found.cycles < best.cycles):
                    best = found
        return best

    @classmethod
    def of(
        cls, builder: NestsUnderWay, out: View, source: View, loops: Sequence[Loop],
        offsets: Array, tap_pitch: int = 0,
    ) -> "_Selection | None":
        """Rows of the bytes `offsets` of the source, in all turns of `loops`.

        Without a `tap_pitch` one step reads all of a tile's bytes; with one the bytes are those
        around each multiple of it.
        """
        placed = _lines_and_positions(loops)
        if placed is None:
            return None
        span = int(offsets.max()) - int(offsets.min()) + 1
        if np.unique(offsets).size < span and not builder.complete(source.buffer):
            # The machine may not read what is still to be written, though times 0.
            return None
        if tap_pitch and placed[-1][1][1] % tap_pitch:
            return None
        columns = builder.arch.columns
        starts = range(0, offsets.size, columns)
        found: _Selection | None = None
        # All tiles in one nest; the last one, which may be narrow, apart; or each apart.
        for cuts in dict.fromkeys(((0,), (0, starts[-1]), tuple(starts))):
            pieces = [
                _piece(offsets, low, high, columns, tap_pitch)
                for low, high in zip(cuts, (*cuts[1:], offsets.size), strict=True)
                if low < high
            ]
            known = [piece for piece in pieces if piece is not None]
            if len(known) != len(pieces) or len(known) > _MOST_NESTS:
                continue
            if any(piece.tap_count > 255 for piece in known):
                continue
            cycles = cls._cycles(builder, out, source, placed, known)
            if found is None or cycles < found.cycles:
                found = cls(
                    builder=builder, out=out, source=source, loops=tuple(placed),
                    pieces=tuple(known), cycles=cycles,
                )
        return found

    @staticmethod
    def _cycles(
        builder: NestsUnderWay, out: View, source: View, loops: Sequence[Loop],
        pieces: Sequence[_Piece],
    ) -> int:
        arch = builder.arch
        rows = prod(size for size, _ in loops)
        turns = sum(piece.turns(builder, source, out) for piece in pieces)
        weights = sum(piece.weight_bytes for piece in pieces)
        if out.size * out.planes > arch.ub_bytes // 4:
            # What does not stay in the buffer is read again for each nest.
            weights += (len(pieces) - 1) * out.size * out.planes
        return (
            rows * turns + _NEST_CYCLES * len(pieces)
            + _fetch_cycles(
                builder, _planes(loops) * len(pieces) * source.planes * _PRODUCT_INSTRUCTIONS
            )
            + int(weights / arch.weight_port.bytes_per_cycle)
        )

    def emit(self, clip: Clip) -> None:
        *planes, lines, positions = self.loops
        starts = [_starts(view.offset, planes, i) for i, view in enumerate((self.out, self.source))]
        for piece in self.pieces:
            step = positions[1][1] // piece.tap_pitch if piece.tap_pitch else 1
            output = Operand(
                buffer=self.out.buffer, planes=tuple(start + piece.first for start in starts[0]),
                lines=lines[0], positions=positions[0], width=piece.columns,
                line_pitch=lines[1][0], position_pitch=positions[1][0],
                byte_planes=self.out.planes,
            )
            source = Operand(
                buffer=self.source.buffer, planes=tuple(start + piece.base for start in starts[1]),
                lines=lines[0], positions=(positions[0] - 1) * step + piece.tap_count,
                width=piece.width, line_pitch=lines[1][1],
                position_pitch=piece.tap_pitch or positions[1][1],
                byte_planes=self.source.planes,
            )
            ones = np.zeros((piece.tap_count * piece.step_bytes, piece.columns), np.int8)
            ones[piece.taps * piece.step_bytes + piece.bytes, np.arange(piece.columns)] = 1
            _product(
                self.builder, StoredWeights(values=ones), source=source, output=output,
                step_bytes=piece.step_bytes, tile_bytes=piece.tile_pitch, taps=piece.tap_count,
                step=step, clip=clip,
            )


def _lines_and_positions(loops: Sequence[Loop]) -> list[Loop] | None:
    """The loops with those of lines and positions last, which the matrix unit can walk: forwards,
    within the reach of its steps. None if planes would be too many."""
    rest = list(loops)
    chosen: list[Loop] = []
    # A line of the source has all its positions, so these lie closest together.
    for limit in (1 << 19, 1 << 23):
        fitting = [
            loop for loop in rest
            if 0 < loop[1][1] < limit and abs(loop[1][0]) < limit
            and loop[0] * loop[1][1] < 1 << 22 and loop[0] <= 65_535
            and (not chosen or loop[1][1] >= chosen[0][0] * chosen[0][1][1])
        ]
        if not fitting:
            break
        best = max(fitting, key=lambda loop: loop[0])
        rest.remove(best)
        chosen.insert(0, best)
    while len(chosen) < 2:
        chosen.insert(0, (1, (0, 0)))
    if prod(size for size, _ in rest) > 4 * _MOST_NESTS:
        return None
    return [*rest, *chosen]


def _starts(offset: int, loops: Sequence[Loop], index: int) -> list[int]:
    turns = product(*(range(size) for size, _ in loops))
    return [
        offset + sum(i * strides[index] for i, (_, strides) in zip(turn, loops, strict=True))
        for turn in turns
    ]


@dataclass(frozen=True, kw_only=True)
class _Transposition:
    """The source as transposed weights under the identity: the array's rows at a time."""

    builder: NestsUnderWay
    out: View
    source: View
    planes: tuple[Loop, ...]
    across: Loop
    """The loop along which the source is contiguous."""
    along: Loop
    """The loop along which the result is contiguous."""
    cycles: int

    @classmethod
    def plan(cls, builder: NestsUnderWay, out: View, source: View) -> "_Transposition | None":
        arch = builder.arch
        loops = common_loops([out, source])
        along = [loop for loop in loops if loop[1][0] == 1]
        across = [loop for loop in loops if loop[1][1] == 1]
        if not along or not across or along[0] is across[0] or along[0][1][1] <= 0:
            return None
        rest = [loop for loop in loops if loop is not along[0] and loop is not across[0]]
        full, part = divmod(across[0][0], arch.rows)
        turns = prod(size for size, _ in rest)
        if turns * (full + 1) > 16 * _MOST_NESTS or not 0 < across[0][1][0] < 1 << 23:
            return None
        if along[0][1][1] >= 1 << 19:
            return None
        slots = arch.columns // arch.vector_lanes * out.planes
        # Tiles of the array's rows arrive while others are in use; results leave row by row.
        block = full * max(arch.rows * slots, arch.rows * source.planes)
        block += max(part * slots, arch.rows * source.planes) if part else 0
        return cls(
            builder=builder, out=out, source=source, planes=tuple(rest), across=across[0],
            along=along[0],
            cycles=turns * -(-along[0][0] // arch.columns) * block + _fetch_cycles(
                builder,
                turns * (full + bool(part)) * source.planes * _PRODUCT_INSTRUCTIONS,
            ),
        )

    def emit(self, clip: Clip) -> None:
        step = self.builder.arch.rows
        full, part = divmod(self.across[0], step)
        if full:
            self._blocks(0, full, step, clip)
        if part:
            self._blocks(full * step, 1, part, clip)

    def _blocks(self, first: int, count: int, size: int, clip: Clip) -> None:
        """`count` blocks of `size` of the source's bytes, from `first` on."""
        (out_pitch, _), (_, source_pitch) = self.across[1], self.along[1]
        loops = [*self.planes, (count, (size * out_pitch, size))]
        eye = np.eye(size, dtype=np.int8).view(np.uint8).reshape(-1)
        identity = self.builder.constant(f"{self.builder.layer}.identity", eye)
        targets = _starts(self.out.offset + first * out_pitch, loops, 0)
        weights = Operand(
            buffer=self.source.buffer, planes=tuple(_starts(self.source.offset + first, loops, 1)),
            lines=self.along[0], positions=1, width=size, line_pitch=source_pitch,
            position_pitch=0, byte_planes=self.source.planes,
        )
        _product(
            self.builder, ActivationWeights(operand=weights, transpose=True),
            source=Operand(
                buffer=identity, planes=(0,) * len(targets), lines=size, positions=1, width=size,
                line_pitch=size, position_pitch=size,
            ),
            output=Operand(
                buffer=self.out.buffer, planes=tuple(targets), lines=size, positions=1,
                width=self.along[0], line_pitch=out_pitch, position_pitch=0,
                byte_planes=self.out.planes,
            ),
            step_bytes=size, clip=clip,
        )


def whole_range(view: View) -> Clip:
    """Bounds that clip nothing."""
    return Clip(lo=bounds(8 * view.planes)[0], hi=bounds(8 * view.planes)[1])
