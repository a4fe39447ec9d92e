"""The weight-stationary systolic array, with a shadow weight plane.

Activations move right and partial sums move down, one processing element a cycle. Everything is
skewed by the same wavefront: element (r, p), row r and column *pair* p, sees in port cycle
`t + r + p` what entered in cycle t. That is its local time t, and it holds for activations,
weights, the enables that capture weights, and swaps alike, so that in local time every element
does the same thing in the same cycle:

* A tile's R weight rows enter in local cycles u..u+R-1, the last row first. Each column's shadow
  registers are one chain; row r shifts in cycles u..u+R-1-r and then holds its own weight. In
  physical time all rows of a pair therefore *stop* together, in cycle u+R-1, and start one after
  another: the enable walks down one row a cycle, and one "last row" signal clears it everywhere.
* A row with `swap` copies shadow to active as its activation is registered, so that it is itself
  multiplied with the new weights. A shift may replace the shadow in that same cycle.

Skewing by pair and not by column lets two columns share a multiplier (`multiplier.PackedPair`)
and halves the activation registers. The skew at the edges is kept in small memories, not in
triangles of registers; they also hold back what the pairs save, so that latency follows
`array_latency`.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from systol_hw.errors import ConfigurationError
from systol_hw.rtl.matrix.array_block import ArrayBlock, sum_growth
from systol_hw.rtl.parts.delay_line import DelayLine

__all__ = ["MULTIPLIER_LATENCY", "SystolicArray", "array_latency"]

MULTIPLIER_LATENCY = 2
"""Cycles of `array_latency` that depend on neither rows nor columns."""

_LARGEST_BLOCK = 16
"""Rows and columns of a block: larger ones convert and compile in more than linear time."""


def array_latency(rows: int, columns: int) -> int:
    """Cycles from a row vector at `SystolicArray.activations` to its column sums at `sums`."""
    return rows + columns + MULTIPLIER_LATENCY


def _block_size(size: int, step: int, limit: int) -> int:
    """Largest divisor of `size` that is a multiple of `step` and at most `limit`."""
    return max(d for d in range(step, max(limit, step) + 1, step) if size % d == 0)


class SystolicArray(Component):
    """`rows` x `columns` signed 8x8 multiply-accumulates with a shadow weight plane.

    A row presented with `valid` in cycle t gives its column sums, all together, on `sums` with
    `sums_valid` in cycle `t + array_latency(rows, columns)`. There is no stall: rows may come every
    cycle and with any gaps.

    R = `rows` consecutive cycles with `shift` load one tile, row R-1 first. A row with `swap` is
    the first that uses it; it may come at the earliest in the cycle after the tile's last shift.
    The next tile's first shift may come at the earliest in the cycle of that swap. Tiles that each
    serve M rows thus follow one another every max(M, R) cycles. The weights of the first tile are
    undefined before the first swap.

    Parameters
    ----------
    rows : int
        4 to 256.
    columns : int
        Even, 4 to 256.
    packed : bool
        True: one 18x18 multiplier per two columns. False: one 8x8 product per column. Function and
        timing are the same.
    block_limit : int
        Largest number of rows and of columns of an `ArrayBlock`.

    Members
    -------
    activations : In(ArrayLayout(signed(8), rows))
    valid : In(1)
        `activations` holds a row in this cycle.
    swap : In(1)
        This row is the first that uses the new tile; ignored without `valid`.
    weights : In(ArrayLayout(signed(8), columns))
    shift : In(1)
        `weights` holds a row of a tile in this cycle.
    sums : Out(ArrayLayout(signed(16 + ceil_log2(rows)), columns))
        Exact sums; undefined without `sums_valid`.
    sums_valid : Out(1)

    Raises
    ------
    ConfigurationError
        `rows` or `columns` is out of range or odd.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        packed: bool,
        *,
        block_limit: int = _LARGEST_BLOCK,
    ):
        for name, value, even in (("rows", rows, False), ("columns", columns, True)):
            if not 4 <= value <= 256 or (even and value % 2):
                raise ConfigurationError(
                    f"array {name} must be {'an even number ' if even else ''}from 4 to 256, not "
                    f"{value}: choose {name} in that range"
                )
        self.rows = rows
        self.columns = columns
        self.packed = packed
        block_rows = _block_size(rows, 1, block_limit)
        block_columns = _block_size(columns, 2, block_limit)
        self.block = self._make_block(block_rows, block_columns)
        super().__init__(
            {
                "activations": In(ArrayLayout(signed(8), rows)),
                "valid": In(1),
                "swap": In(1),
                "weights": In(ArrayLayout(signed(8), columns)),
                "shift": In(1),
                "sums": Out(ArrayLayout(signed(16 + ceil_log2(rows)), columns)),
                "sums_valid": Out(1),
            }
        )

    def _make_block(self, rows: int, columns: int) -> ArrayBlock:
        return ArrayBlock(
            rows,
            columns,
            packed=self.packed,
            first_row=self.rows - rows,
            total_growth=sum_growth(self.rows - 1),
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pairs = self.columns // 2
        tick_bits = ceil_log2(max(self.rows, self.columns))
        tick = Signal(tick_bits)
        m.d.sync += tick.eq(tick + 1)

        def delay(name: str, value: Any, cycles: int) -> Any:
            m.submodules[name] = line = DelayLine(len(value), cycles, tick_bits)
            m.d.comb += [line.tick.eq(tick), line.i.eq(value)]
            return line.o

        activations = [delay(f"skew_row_{r}", self.activations[r], r) for r in range(self.rows)]
        weights = [
            delay(
                f"skew_pair_{p}",
                Cat(self.weights[2 * p], self.weights[2 * p + 1]),
                p,
            )
            for p in range(pairs)
        ]
        shifts, swaps = self._row_control(m)
        sums = self._connect_blocks(m, Cat(activations), shifts, swaps, Cat(weights))
        activation_sums = self._activation_sums(m, activations)
        for p in range(pairs):
            even, odd = self.block.recipe.columns(
                self.block.split_sums(sums, p), activation_sums[p]
            )
            width = self.sums[0].shape().width
            # A running sum of pair p can be read rows + 2 + p cycles after row 0 came in: one for
            # the activation's register, one for the product's.
            aligned = delay(
                f"deskew_pair_{p}",
                Cat(even[:width], odd[:width]),
                array_latency(self.rows, self.columns) - (self.rows + 2 + p),
            )
            m.d.comb += Cat(self.sums[2 * p], self.sums[2 * p + 1]).eq(aligned)

        in_flight = Signal(array_latency(self.rows, self.columns))
        m.d.sync += in_flight.eq(Cat(self.valid, in_flight))
        m.d.comb += self.sums_valid.eq(in_flight[-1])
        return m

    def _row_control(self, m: Module) -> tuple[Any, Any]:
        """Shift and swap for each row, at the first column pair."""
        position = Signal(range(self.rows))
        last = Signal()
        m.d.comb += last.eq(self.shift & (position == self.rows - 1))
        with m.If(last):
            m.d.sync += position.eq(0)
        with m.Elif(self.shift):
            m.d.sync += position.eq(position + 1)
        lower_shifts = Signal(self.rows - 1)
        lower_swaps = Signal(self.rows - 1)
        shifts = Cat(self.shift, lower_shifts)
        swaps = Cat(self.swap & self.valid, lower_swaps)
        m.d.sync += [
            lower_shifts.eq(Mux(last, 0, shifts)),
            lower_swaps.eq(swaps),
        ]
        return shifts, swaps

    def _connect_blocks(
        self, m: Module, activations: Any, shifts: Any, swaps: Any, weights: Any
    ) -> Any:
        """Tile the array with blocks; returns the running sums below the last row."""
        block = self.block
        below_weights = [
            weights[8 * c : 8 * (c + block.columns)] for c in range(0, self.columns, block.columns)
        ]
        below_sums: list[Any] = [Const(0, len(block.sums_in)) for _ in below_weights]
        for top in range(0, self.rows, block.rows):
            end = top + block.rows
            right = (activations[8 * top : 8 * end], shifts[top:end], swaps[top:end])
            for k in range(len(below_weights)):
                outputs = self._place_block(
                    m,
                    f"block_{top // block.rows}_{k}",
                    {
                        "activations": right[0],
                        "shifts": right[1],
                        "swaps": right[2],
                        "weights": below_weights[k],
                        "sums": below_sums[k],
                    },
                )
                right = (outputs["activations"], outputs["shifts"], outputs["swaps"])
                below_weights[k] = outputs["weights"]
                below_sums[k] = outputs["sums"]
        return Cat(below_sums)

    def _place_block(self, m: Module, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Add one block; returns its outputs."""
        # The first submodule is `block` itself, so that none is made and left unused.
        first = name == "block_0_0"
        block = self.block if first else self._make_block(self.block.rows, self.block.columns)
        m.submodules[name] = block
        m.d.comb += [getattr(block, f"{port}_in").eq(v) for port, v in inputs.items()]
        return {port: getattr(block, f"{port}_out") for port in inputs}

    def _activation_sums(self, m: Module, activations: list[Any]) -> list[Any]:
        """Sum of each row vector's activations, when its running sums leave each column pair."""
        pairs = self.columns // 2
        if not self.block.recipe.needs_activation_sum:
            return [None] * pairs
        total: Any = Const(0, 1)
        for r, activation in enumerate(activations):
            register = Signal(
                signed(8 + sum_growth(r)), reset_less=True, name=f"activation_sum_{r}"
            )
            m.d.sync += register.eq(total + activation.as_signed())
            total = register
        delayed = []
        # The running sums are two registers behind: the activation's own and the product's.
        for stage in range(pairs + 2):
            if stage >= 2:
                delayed.append(total)
            register = Signal.like(total, name=f"activation_sum_delayed_{stage}")
            m.d.sync += register.eq(total)
            total = register
        return delayed
