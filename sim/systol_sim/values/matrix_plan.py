"""What of a program's matrix products does not depend on data: worked out once for a program.

Which tiles each matmul takes, in which exact pieces its product is made, and which consecutive
matmuls multiply the same activations, so that the matrix library can make their products at once.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from systol_hw.arch import Arch
from systol_hw.isa import Instruction
from systol_hw.tables.faults import Unit
from systol_sim.values.matrix_kernels import ROW_FIELDS, TILE_FIELDS
from systol_sim.values.transfer_kernels import span

EXACT_ROWS = 1 << 10
"""Reduction rows whose int8 products sum exactly in float32: 1024 * 128 * 128 = 2**24."""
PIECE_ELEMENTS = 1 << 22
"""Elements of the greatest float32 matrix that is made at once (unless one step needs more)."""
BATCH_COLUMNS = 2048
"""The most columns of products that are made together."""


def arguments(item: Instruction, names: tuple[str, ...]) -> np.ndarray:
    """The fields `names` of `item` as int64, for a compiled loop."""
    fields = item.fields
    return np.array([fields[name] for name in names], np.int64)


@dataclass(eq=False)
class Tiles:
    """One Weights instruction.

    Parameters
    ----------
    fields
        Its `TILE_FIELDS`, but `address` counts from `low`.
    low, high
        The bytes that it may read.
    from_ub
        Whether it reads the unified buffer, not weight memory.
    constant
        Whether nothing ever writes them.
    widest
        The greatest number of live columns of its tiles.
    """

    pc: int
    fields: np.ndarray
    low: int
    high: int
    from_ub: bool
    constant: bool
    total: int
    widest: int


@dataclass(eq=False)
class Product:
    """One matmul.

    Parameters
    ----------
    sources
        Where its tiles come from: the loader, its first tile, the matmul's tiles from and to.
    fields
        Its `ROW_FIELDS`.
    steps, positions
        Reduction steps, and rows of the accumulators for each column tile.
    groups
        Column tiles that are worked on together: (first, count).
    ranges
        Reduction steps whose product is exact and not too large: (first, end).
    tops
        For each step, and after the last, the live rows before it.
    width
        Columns of all column tiles; the last one's may be fewer than the array's.
    interval
        The bytes that all activations of column tile 0 lie in.
    weights_key
        Names the weights, if they are constant and of one loader.
    batch, left
        The products that are made together, and the first column there.
    """

    item: Instruction
    sources: list[tuple[Tiles, int, int, int]]
    fields: np.ndarray
    steps: int
    positions: int
    groups: list[tuple[int, int]]
    ranges: list[tuple[int, int]]
    tops: list[int]
    width: int
    interval: tuple[int, int]
    rows_key: tuple[int, ...]
    weights_key: Hashable
    batch: "Batch" = field(init=False)
    left: int = 0

    @property
    def replaces(self) -> bool:
        """Whether its first step sets the accumulators."""
        return not self.item["accumulate"]


@dataclass(eq=False)
class Batch:
    """Products of the same activations with constant weights; or one product."""

    members: list[Product]
    width: int

    @cached_property
    def key(self) -> Hashable:
        """Names the weights of all members."""
        return tuple(member.weights_key for member in self.members)


@dataclass(eq=False)
class MatrixPlan:
    """`Tiles` and `Product` of a program's instructions, by pc."""

    tiles: dict[int, Tiles]
    products: dict[int, Product]


def plan_matrix(items: Sequence[Instruction], arch: Arch) -> MatrixPlan:
    """The plan of a valid program."""
    spills = [
        span(item["memory_address"], item["run_bytes"], (item["count0"], item["memory_stride0"]),
             (item["count1"], item["memory_stride1"]))
        for item in items
        if item.operation.name == "write_weight_memory"
    ]
    tiles: dict[int, Tiles] = {}
    products: dict[int, Product] = {}
    fifo: deque[tuple[Tiles, int]] = deque()
    batch: Batch | None = None
    for pc, item in enumerate(items):
        if item.unit is Unit.WEIGHTS:
            tiles[pc] = _plan_tiles(pc, item, arch, spills)
            fifo.append((tiles[pc], 0))
        elif item.unit is Unit.MATRIX:
            product = _plan_product(item, arch, fifo)
            batch = _join(batch, product)
            products[pc] = product
    return MatrixPlan(tiles=tiles, products=products)


def _plan_tiles(
    pc: int, item: Instruction, arch: Arch, spills: list[tuple[int, int]]
) -> Tiles:
    lines, length = arch.rows, arch.columns
    if item["transpose"]:
        lines, length = length, lines
    low, high = span(
        item["address"], length, (lines, item["row_pitch"]), (item["n_count"], item["n_stride"]),
        (item["outer_count"], item["outer_stride"]), (item["inner_count"], item["inner_stride"]),
    )
    fields = arguments(item, TILE_FIELDS)
    fields[0] -= low
    from_ub = item.operation.name == "read_weights_ub"
    return Tiles(
        pc=pc,
        fields=fields,
        low=low,
        high=high,
        from_ub=from_ub,
        constant=not from_ub and not any(first < high and low < end for first, end in spills),
        total=item["n_count"] * item["outer_count"] * item["inner_count"],
        widest=item["n_last"] if item["n_count"] == 1 else arch.columns,
    )


def _plan_product(
    item: Instruction, arch: Arch, fifo: deque[tuple[Tiles, int]]
) -> Product:
    steps = item["k0_count"] * item["k1_count"] * item["k2_count"]
    positions = item["y_count"] * item["x_count"]
    sources = _take(fifo, item["n_count"] * steps)
    k2_count = item["k2_count"]
    tops = [0]
    for step in range(steps):
        live = item["k_last"] if step % k2_count == k2_count - 1 else arch.rows
        tops.append(tops[-1] + live)
    last = arch.columns
    if item["n_count"] == 1:
        last = max(loader.widest for loader, *_ in sources)
    fields = arguments(item, ROW_FIELDS)
    loader, tile, _, _ = sources[0]
    weights_key = None
    if len(sources) == 1 and loader.constant:
        shape = (loader.low, tile, item["n_count"], steps, k2_count, item["k_last"])
        weights_key = (*loader.fields.tolist(), *shape)
    return Product(
        item=item,
        sources=sources,
        fields=fields,
        steps=steps,
        positions=positions,
        groups=_groups(item, arch, positions),
        ranges=_ranges(tops, positions),
        tops=tops,
        width=(item["n_count"] - 1) * arch.columns + last,
        interval=_interval(item, arch),
        rows_key=tuple(fields.tolist()),
        weights_key=weights_key,
    )


def _take(fifo: deque[tuple[Tiles, int]], count: int) -> list[tuple[Tiles, int, int, int]]:
    sources = []
    done = 0
    while done < count:
        loader, first = fifo.popleft()
        taken = min(count - done, loader.total - first)
        sources.append((loader, first, done, done + taken))
        done += taken
        if first + taken < loader.total:
            fifo.appendleft((loader, first + taken))
    return sources


def _groups(item: Instruction, arch: Arch, positions: int) -> list[tuple[int, int]]:
    count = item["n_count"]
    if count == 1:
        return [(0, 1)]
    if item["n_step"] or item["acc_n_step"] < positions:
        return [(n, 1) for n in range(count)]
    most = max(1, PIECE_ELEMENTS // (arch.columns * max(positions, EXACT_ROWS)))
    return [(n, min(most, count - n)) for n in range(0, count, most)]


def _ranges(tops: list[int], positions: int) -> list[tuple[int, int]]:
    most = min(EXACT_ROWS, PIECE_ELEMENTS // positions)
    ranges = []
    first = 0
    for step in range(1, len(tops)):
        if step == len(tops) - 1 or tops[step + 1] - tops[first] > most:
            ranges.append((first, step))
            first = step
    return ranges


def _interval(item: Instruction, arch: Arch) -> tuple[int, int]:
    low, high = span(
        # The address is signed and what lies outside is never read.
        item["ub_address"] + (1 << 31), arch.rows, (item["k0_count"], item["k0_address_step"]),
        (item["k1_count"], item["k1_step"]), (item["k2_count"], item["k2_step"]),
        (item["y_count"], item["y_address_step"]), (item["x_count"], item["x_step"]),
    )
    if (low, high) == (0, 1 << 32):
        return low, high
    return low - (1 << 31), high - (1 << 31)


def _join(batch: Batch | None, product: Product) -> Batch:
    """The batch of `product`: the last one if it fits, or a new one."""
    most = min(BATCH_COLUMNS, PIECE_ELEMENTS // max(product.positions, EXACT_ROWS))
    single = len(product.groups) == 1 and product.weights_key is not None
    fits = (
        batch is not None
        and single
        and batch.members[0].weights_key is not None
        and len(batch.members[0].groups) == 1
        and batch.members[0].rows_key == product.rows_key
        and batch.width + product.width <= most
    )
    if fits:
        assert batch is not None
        product.left = batch.width
        batch.members.append(product)
        batch.width += product.width
    else:
        batch = Batch(members=[product], width=product.width)
    product.batch = batch
    return batch
