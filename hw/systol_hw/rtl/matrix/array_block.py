"""A rectangle of the systolic array's processing elements, in one module.

Converting and compiling an array grows faster than its size, so a large array is many copies of
one block (`array.SystolicArray`), and a block is one flat module: a module per element would take
ten times as long to elaborate.
"""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Shape, Signal
from amaranth.lib.wiring import Component, In, Out

from systol_hw.rtl.matrix.multiplier import recipe
from systol_hw.rtl.parts.convert_once import converted_once

__all__ = ["ArrayBlock", "sum_growth"]


def sum_growth(row: int) -> int:
    """Bits by which the sum of rows 0..`row` is wider than one term: ceil(log2(row + 1))."""
    return row.bit_length()


class ArrayBlock(Component):
    """A rectangle of processing elements. Every output is a register; blocks abut without glue.

    A block has the skew of its place inside it: what enters row r must be r cycles later than what
    enters row 0, and what enters column pair p, p cycles later than pair 0. Each output leaves
    with the skew that the abutting block needs.

    Parameters
    ----------
    rows, columns : int
        Size of the block; `columns` is even.
    packed : bool
        Recipe of the products, see `multiplier`.
    first_row : int
        Rows above the block in the array. At 0 `sums_in` must be 0. Blocks that are to be copies
        of one another take that of the lowest, whose sums are widest.
    total_growth : int
        Bits by which running sums at the ports are wider than one term.

    Members
    -------
    activations_in, activations_out : rows signed bytes, row 0 lowest
    shifts_in, shifts_out : one bit per row: capture the weight from above
    swaps_in, swaps_out : one bit per row: shadow weights become active for this activation
    weights_in, weights_out : columns signed bytes, column 0 lowest
    sums_in, sums_out : running sums, pair by pair, in the order of the recipe's terms
    """

    def __init__(self, rows: int, columns: int, *, packed: bool, first_row: int, total_growth: int):
        self.rows = rows
        self.columns = columns
        self.packed = packed
        self.recipe = recipe(packed=packed)
        self.first_row = first_row
        self.total_growth = total_growth
        self.sum_widths = [shape.width + total_growth for shape in self.recipe.terms]
        sums_width = columns // 2 * sum(self.sum_widths)
        super().__init__(
            {
                "activations_in": In(8 * rows),
                "activations_out": Out(8 * rows),
                "shifts_in": In(rows),
                "shifts_out": Out(rows),
                "swaps_in": In(rows),
                "swaps_out": Out(rows),
                "weights_in": In(8 * columns),
                "weights_out": Out(8 * columns),
                "sums_in": In(sums_width),
                "sums_out": Out(sums_width),
            }
        )

    def split_sums(self, sums: Any, pair: int) -> tuple[Any, ...]:
        """The running sums of column pair `pair` in a sums port, each with its sign."""
        start = pair * sum(self.sum_widths)
        parts = []
        for shape, width in zip(self.recipe.terms, self.sum_widths, strict=True):
            part = sums[start : start + width]
            parts.append(part.as_signed() if shape.signed else part)
            start += width
        return tuple(parts)

    @converted_once("rows", "columns", "packed", "first_row", "total_growth")
    def elaborate(self, platform: Any) -> Module:
        m = Module()

        def keep(value: Any) -> Any:
            gate = Signal(len(value), name="gate")
            m.d.comb += gate.eq(value)
            return gate

        pairs = self.columns // 2
        sums = [self.split_sums(self.sums_in, pair) for pair in range(pairs)]
        weights = [self.weights_in[16 * pair : 16 * pair + 16] for pair in range(pairs)]
        for r in range(self.rows):
            # What moves right is one shift register per row; bit or byte p arrives at pair p + 1.
            activations = Signal(8 * pairs, reset_less=True, name=f"activations_{r}")
            shifts = Signal(pairs, name=f"shifts_{r}")
            swaps = Signal(pairs, name=f"swaps_{r}")
            m.d.sync += [
                activations.eq(Cat(self.activations_in.word_select(r, 8), activations)),
                shifts.eq(Cat(self.shifts_in[r], shifts)),
                swaps.eq(Cat(self.swaps_in[r], swaps)),
            ]
            m.d.comb += [
                self.activations_out.word_select(r, 8).eq(activations[-8:]),
                self.shifts_out[r].eq(shifts[-1]),
                self.swaps_out[r].eq(swaps[-1]),
            ]
            shift = Cat(self.shifts_in[r], shifts)
            swap = Cat(self.swaps_in[r], swaps)
            actives = []
            for pair in range(pairs):
                shadow = Signal(16, reset_less=True, name=f"shadow_{r}_{pair}")
                active = Signal(16, reset_less=True, name=f"active_{r}_{pair}")
                with m.If(shift[pair]):
                    m.d.sync += shadow.eq(weights[pair])
                with m.If(swap[pair]):
                    m.d.sync += active.eq(shadow)
                weights[pair] = shadow
                actives.append(active)
            products = self.recipe.multiply(
                [activations.word_select(pair, 8).as_signed() for pair in range(pairs)],
                [active[:8].as_signed() for active in actives],
                [active[8:].as_signed() for active in actives],
                keep,
            )
            for pair in range(pairs):
                sums[pair] = self._accumulate(m, r, pair, products[pair], sums[pair])
        m.d.comb += self.weights_out.eq(Cat(weights))
        for pair in range(pairs):
            for port, value in zip(self.split_sums(self.sums_out, pair), sums[pair], strict=True):
                m.d.comb += port.eq(value)
        return m

    def _accumulate(
        self, m: Module, row: int, pair: int, products: tuple[Any, ...], above: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Register the products, add them to the sums from above, register."""
        registered = []
        for k, (shape, value) in enumerate(zip(self.recipe.products, products, strict=True)):
            product = Signal(shape, reset_less=True, name=f"product{k}_{row}_{pair}")
            m.d.sync += product.eq(value)
            registered.append(product)
        below = []
        growth = sum_growth(self.first_row + row)
        terms = self.recipe.split(*registered)
        for k, (shape, term) in enumerate(zip(self.recipe.terms, terms, strict=True)):
            total = Signal(
                Shape(shape.width + growth, shape.signed),
                reset_less=True,
                name=f"sum{k}_{row}_{pair}",
            )
            m.d.sync += total.eq(above[k] + term)
            below.append(total)
        return tuple(below)
