"""The accumulators: two banks, read-modify-write by the matrix unit (docs/timing.md, 4.3, 6.6)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In

from systol_hw.arch import Arch
from systol_hw.rtl.contract.interfaces import AccumulatorReadSignature, AccumulatorWriteSignature
from systol_hw.rtl.contract.widths import ACCUMULATOR_BITS
from systol_hw.rtl.parts.block_ram import BlockRam

__all__ = ["Accumulators"]


class Accumulators(Component):
    """Rows of 32-bit accumulators in two block-RAM banks, chosen by a row's highest bit.

    A matrix row reads its accumulators in its claim cycle and writes them in the next one, with the
    sums added. A row that claims the same accumulators in that next cycle would read them before
    they are written; it takes them from the register of what was written instead.

    Members
    -------
    matrix : In(AccumulatorWriteSignature)
        Never refused.
    vector : In(AccumulatorReadSignature)
        Granted unless `matrix` claims the bank.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "matrix": In(AccumulatorWriteSignature(arch)),
                "vector": In(AccumulatorReadSignature(arch)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        columns, rows = self.arch.columns, self.arch.accumulator_bank_rows
        matrix, vector = self.matrix, self.vector
        matrix_bank, vector_bank = matrix.row[-1], vector.row[-1]
        m.d.comb += vector.grant.eq(vector.request & ~(matrix.valid & (matrix_bank == vector_bank)))

        reads, writes = [], []
        for bank in range(2):
            memory = BlockRam(width=ACCUMULATOR_BITS * columns, depth=rows)
            m.submodules[f"bank_{bank}"] = memory
            read, write = memory.read, memory.write
            claimed = matrix.valid & (matrix_bank == bank)
            m.d.comb += read.addr.eq(Mux(claimed, matrix.row[:-1], vector.row[:-1]))
            reads.append(read.data)
            writes.append(write)

        vector_bank_read = Signal()
        m.d.sync += vector_bank_read.eq(vector_bank)
        m.d.comb += vector.data.eq(Mux(vector_bank_read, reads[1], reads[0]))

        # The second cycle of a matrix row.
        valid, accumulate, forward = Signal(), Signal(), Signal()
        row = Signal.like(matrix.row)
        sums = Signal.like(matrix.sums.as_value())
        beyond = Signal.like(matrix.beyond)
        written = Signal(data.ArrayLayout(signed(ACCUMULATOR_BITS), columns))
        old = Signal(data.ArrayLayout(signed(ACCUMULATOR_BITS), columns))
        new = Signal(data.ArrayLayout(signed(ACCUMULATOR_BITS), columns))
        m.d.sync += [
            valid.eq(matrix.valid),
            accumulate.eq(matrix.accumulate),
            forward.eq(valid & (matrix.row == row)),
            row.eq(matrix.row),
            sums.eq(matrix.sums),
            beyond.eq(matrix.beyond),
            written.eq(new),
        ]
        # Setting is adding to zero: the sum's operand is cleared, not its result chosen.
        stored = Mux(forward, written.as_value(), Mux(row[-1], reads[1], reads[0]))
        m.d.comb += old.as_value().eq(Mux(accumulate, stored, 0))
        addends = data.View(matrix.sums.shape(), sums)
        wrapped = []
        for column in range(columns):
            # One bit more than a sum has: it differs from the sign where 32 bits have wrapped.
            total = Signal(signed(ACCUMULATOR_BITS + 1), name=f"total_{column}")
            m.d.comb += [total.eq(old[column] + addends[column]), new[column].eq(total)]
            wrapped.append(beyond[column] | (total[ACCUMULATOR_BITS] ^ total[ACCUMULATOR_BITS - 1]))
        m.d.comb += [
            matrix.done.eq(valid),
            matrix.overflows.eq(Mux(valid, _count_ones(wrapped), 0)),
        ]
        for bank, write in enumerate(writes):
            m.d.comb += [
                write.en.eq(valid & (row[-1] == bank)),
                write.addr.eq(row[:-1]),
                write.data.eq(new),
            ]
        return m


def _count_ones(bits: list[Any]) -> Any:
    """The number of ones, by a tree of adders."""
    level: list[Any] = [Cat(bit) for bit in bits]
    while len(level) > 1:
        level = [
            level[i] + level[i + 1] if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0]
