"""The matrix engine: walks the loops of `matmul`, reads activations, feeds the systolic array.

Ref: docs/timing.md, sections 6.5 and 6.6.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import Arch
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.interfaces import (
    AccumulatorWriteSignature,
    EngineSignature,
    TileSignature,
    UbReadSignature,
    amount_bits,
)
from systol_hw.rtl.contract.widths import ACCUMULATOR_BITS, ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.matrix.array import SystolicArray, array_latency
from systol_hw.rtl.parts.delay_line import DelayLine
from systol_hw.rtl.walk.address_check import outside
from systol_hw.rtl.walk.loop_nest import LoopNest
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

__all__ = ["MatrixEngine", "MatrixWalker"]

STATES = {state.name: state.code for state in UNIT_STATES[Unit.MATRIX]}

_LINE_BITS = 26
"""Bits of a signed input row number: 2**15 + 255*255 + 65535*255 at the most."""
_ACCUMULATOR_ROW_BITS = 17
"""A row in range (2**15 at the most) plus one step of 16 bits: the machine stops before more."""
_LOOPS = {"x": 16, "y": 16, "k2": 16, "k1": 8, "k0": 8, "n": 12}
_ENTRY_CYCLES = 2
"""Cycles from a row's issue to its entry into the array (TileSignature)."""


class MatrixWalker(Component):
    """The current row of the active instruction, with its window test done a cycle ahead.

    Members
    -------
    start, word, advance
        Load an instruction; go to the next row.
    address
        Byte address (modulo 2**32) of the first live byte inside the window.
    skipped, length, live
        Live bytes before the window, inside it, and altogether. `length` is 0 if the row makes no
        access.
    row, accumulate
        Accumulator row, and whether the sums are added to it.
    tile_first, last
        First row of its tile; last row of the instruction.
    pad_value, unsigned_activations, accumulate_shift
        The instruction's: byte outside the window; bytes inside it are unsigned; the sums count
        2^(8*accumulate_shift) times.
    out_of_range
        The live bytes inside the window, or the accumulator row, do not exist.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        bits = bits_for(arch.rows)
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "advance": In(1),
                "address": Out(ADDRESS_BITS),
                "skipped": Out(bits),
                "length": Out(bits),
                "live": Out(bits),
                "row": Out(_ACCUMULATOR_ROW_BITS),
                "accumulate": Out(1),
                "tile_first": Out(1),
                "last": Out(1),
                "pad_value": Out(signed(8)),
                "unsigned_activations": Out(1),
                "accumulate_shift": Out(2),
                "out_of_range": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        kept = Signal(INSTRUCTION_BITS)
        with m.If(self.start):
            m.d.sync += kept.eq(self.word)
        new = fields_of(self.word, "matmul")
        old = fields_of(kept, "matmul")

        m.submodules.nest = nest = LoopNest(_LOOPS)
        m.d.comb += [nest.start.eq(self.start), nest.advance.eq(self.advance)]
        for name in _LOOPS:
            field = f"{name}_count"
            m.d.comb += nest.counts[name].eq(Mux(self.start, new[field], old[field]))
        steps = nest.steps

        position, offset = self._addresses(m, new, old, steps)
        line = self._lines(m, new, old, steps)
        live = Signal(bits_for(self.arch.rows))
        m.d.comb += live.eq(
            Mux(
                nest.next_last.k2,
                Mux(self.start, new["k_last"], old["k_last"]),
                self.arch.rows,
            )
        )
        self._window(m, new, old, position, offset, line, live)
        self._flags(m, new, old, steps)
        m.d.comb += [
            self.last.eq(nest.done),
            self.pad_value.eq(old["pad_value"]),
            self.unsigned_activations.eq(old["unsigned_activations"]),
            self.accumulate_shift.eq(old["accumulate_shift"]),
            self.out_of_range.eq(
                ((self.length != 0) & outside(self.address, self.length, self.arch.ub_bytes))
                | (self.row >= self.arch.accumulator_rows)
            ),
        ]
        return m

    def _addresses(self, m: Module, new: Any, old: Any, steps: Any) -> tuple[Any, Any]:
        """The next row's p, and its address less p: what only k0 and y move."""
        position = Signal(signed(32))
        next_position = Signal(signed(32))
        bases = {name: Signal(signed(32), name=f"position_{name}") for name in ("k2", "k1", "n")}
        base, step = Signal(signed(32)), Signal(signed(24))
        with m.If(steps.x):
            m.d.comb += [base.eq(position), step.eq(old["x_step"])]
        with m.Elif(steps.y):
            m.d.comb += base.eq(bases["k2"])
        with m.Elif(steps.k2):
            m.d.comb += [base.eq(bases["k2"]), step.eq(old["k2_step"])]
        with m.Elif(steps.k1):
            m.d.comb += [base.eq(bases["k1"]), step.eq(old["k1_step"])]
        with m.Elif(steps.k0):
            m.d.comb += base.eq(bases["n"])
        with m.Else():
            m.d.comb += [base.eq(bases["n"]), step.eq(old["n_step"])]
        m.d.comb += next_position.eq(Mux(self.start, new["p_start"], base + step))

        offset, k0_offset, first_offset = Signal(32), Signal(32), Signal(32)
        next_offset = Signal(32)
        with m.If(self.start):
            m.d.comb += next_offset.eq(new["ub_address"] - new["p_start"])
        with m.Elif(steps.x):
            m.d.comb += next_offset.eq(offset)
        with m.Elif(steps.y):
            m.d.comb += next_offset.eq(offset + old["y_address_step"])
        with m.Elif(steps.k2 | steps.k1):
            m.d.comb += next_offset.eq(k0_offset)
        with m.Elif(steps.k0):
            m.d.comb += next_offset.eq(k0_offset + old["k0_address_step"])
        with m.Else():
            m.d.comb += next_offset.eq(first_offset)

        with m.If(self.start | self.advance):
            m.d.sync += [position.eq(next_position), offset.eq(next_offset)]
        with m.If(self.start):
            m.d.sync += first_offset.eq(next_offset)
        with m.If(self.start | self.advance & (steps.k0 | steps.n)):
            m.d.sync += k0_offset.eq(next_offset)
        with m.If(self.start | self.advance & ~steps.x & ~steps.y):
            m.d.sync += bases["k2"].eq(next_position)
            with m.If(self.start | ~steps.k2):
                m.d.sync += bases["k1"].eq(next_position)
            with m.If(self.start | steps.n):
                m.d.sync += bases["n"].eq(next_position)
        return next_position, next_offset

    def _lines(self, m: Module, new: Any, old: Any, steps: Any) -> Any:
        """The next row's input row number."""
        line, k0_line = Signal(signed(_LINE_BITS)), Signal(signed(_LINE_BITS))
        next_line = Signal(signed(_LINE_BITS))
        with m.If(self.start):
            m.d.comb += next_line.eq(new["y_start"])
        with m.Elif(steps.x):
            m.d.comb += next_line.eq(line)
        with m.Elif(steps.y):
            m.d.comb += next_line.eq(line + old["y_step"])
        with m.Elif(steps.k2 | steps.k1):
            m.d.comb += next_line.eq(k0_line)
        with m.Elif(steps.k0):
            m.d.comb += next_line.eq(k0_line + old["k0_step"])
        with m.Else():
            m.d.comb += next_line.eq(old["y_start"])
        with m.If(self.start | self.advance):
            m.d.sync += line.eq(next_line)
        with m.If(self.start | self.advance & (steps.k0 | steps.n)):
            m.d.sync += k0_line.eq(next_line)
        return next_line

    def _window(
        self, m: Module, new: Any, old: Any, position: Any, offset: Any, line: Any, live: Any
    ) -> None:
        """Register which live bytes of the next row are inside the window, and where they are."""
        p_limit, y_limit = Signal(24), Signal(16)
        m.d.comb += [
            p_limit.eq(Mux(self.start, new["p_limit"], old["p_limit"])),
            y_limit.eq(Mux(self.start, new["y_limit"], old["y_limit"])),
        ]
        before, behind = Signal(33), Signal(signed(34))
        skipped, end = Signal.like(live), Signal.like(live)
        before_window = position[-1]
        m.d.comb += [
            before.eq(-position),
            behind.eq(p_limit - position),
            skipped.eq(Mux(before_window, Mux(before < live, before, live), 0)),
            end.eq(Mux(behind[-1], 0, Mux(behind < live, behind, live))),
        ]
        inside = Signal()
        m.d.comb += inside.eq(~line[-1] & (line < y_limit) & (end > skipped))
        with m.If(self.start | self.advance):
            m.d.sync += [
                self.live.eq(live),
                self.skipped.eq(skipped),
                self.length.eq(Mux(inside, end - skipped, 0)),
                # A row that begins before the window has its first byte at p = 0.
                self.address.eq(offset + Mux(before_window, 0, position)),
            ]

    def _flags(self, m: Module, new: Any, old: Any, steps: Any) -> None:
        n_row = Signal(_ACCUMULATOR_ROW_BITS)
        next_n_row = Signal(_ACCUMULATOR_ROW_BITS)
        m.d.comb += next_n_row.eq(n_row + old["acc_n_step"])
        with m.If(self.start):
            m.d.sync += [
                self.row.eq(new["acc_address"]),
                n_row.eq(new["acc_address"]),
                self.accumulate.eq(new["accumulate"]),
                self.tile_first.eq(1),
            ]
        with m.Elif(self.advance):
            m.d.sync += self.tile_first.eq(~(steps.x | steps.y))
            with m.If(steps.x | steps.y):
                m.d.sync += self.row.eq(self.row + 1)
            with m.Elif(steps.n):
                m.d.sync += [
                    self.row.eq(next_n_row),
                    n_row.eq(next_n_row),
                    self.accumulate.eq(old["accumulate"]),
                ]
            with m.Else():
                m.d.sync += [self.row.eq(n_row), self.accumulate.eq(1)]


class MatrixEngine(Component):
    """Issue, activations, array, and the way of the sums to the accumulators.

    A row that issues in cycle t reads the unified buffer in t, enters the array in t + 2 and
    claims its accumulator row in t + `matrix_latency_cycles`.

    Parameters
    ----------
    arch : Arch
    packed : bool
        Recipe of the array's products, see `SystolicArray`.

    Members
    -------
    engine : In(EngineSignature(Unit.MATRIX, ...))
    ub : Out(UbReadSignature)
    tile : In(TileSignature)
    accumulators : Out(AccumulatorWriteSignature)
    """

    def __init__(self, arch: Arch, packed: bool):
        self.arch = arch
        self.array = SystolicArray(arch.rows, arch.columns, packed)
        super().__init__(
            {
                "engine": In(EngineSignature(Unit.MATRIX, amount_bits(arch, Unit.MATRIX))),
                "ub": Out(UbReadSignature(arch)),
                "tile": In(TileSignature(arch)),
                "accumulators": Out(AccumulatorWriteSignature(arch)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.walker = walker = MatrixWalker(self.arch)
        m.submodules.array = array = self.array
        engine, ub, tile = self.engine, self.ub, self.tile

        issue, tile_ready, accesses, may_issue = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(issue),
            accesses.eq(walker.length != 0),
            tile_ready.eq(tile.full | ~walker.tile_first),
            # What does not exist is not presented, and so refused, in its fault's cycle.
            may_issue.eq(engine.active & tile_ready & ~walker.out_of_range),
            ub.request.eq(may_issue & accesses),
            ub.address.eq(walker.address),
            ub.length.eq(walker.length),
            issue.eq(may_issue & (ub.grant | ~accesses)),
            tile.take.eq(issue & walker.tile_first),
            engine.ready.eq(1),
            engine.performed.eq(issue),
            engine.last.eq(walker.last),
            engine.address_fault.eq(walker.out_of_range),
        ]
        with m.If(issue):
            m.d.comb += engine.state.eq(STATES["busy"])
        with m.Elif(tile_ready):
            m.d.comb += engine.state.eq(STATES["wait_bank"])
        with m.Elif(tile.shifting):
            m.d.comb += engine.state.eq(STATES["wait_shift"])
        with m.Else():
            m.d.comb += engine.state.eq(STATES["wait_tile"])

        columns_live = Signal.like(tile.columns_live)
        columns = Signal.like(tile.columns_live)
        m.d.comb += columns.eq(Mux(walker.tile_first, tile.columns_live, columns_live))
        m.d.sync += columns_live.eq(columns)
        with m.If(issue):
            m.d.comb += [
                engine.amount_useful_macs.eq(walker.live * columns),
                engine.amount_padding_macs.eq((walker.live - walker.length)[:len(walker.live)]
                                              * columns),
            ]

        self._activations(m, walker, array, issue)
        m.d.comb += [
            array.shift.eq(tile.shift),
            array.weights.eq(tile.weights),
        ]
        self._sums(m, walker, array)
        return m

    def _activations(self, m: Module, walker: Any, array: Any, issue: Any) -> None:
        """Align the bytes read to their elements, fill in the rest, enter the array."""
        rows = self.arch.rows
        issued, swap = Signal(), Signal()
        skipped = Signal(ceil_log2(rows))
        inside, padded = Signal(rows), Signal(rows)
        m.d.sync += [
            issued.eq(issue),
            swap.eq(walker.tile_first),
            skipped.eq(walker.skipped),
            array.valid.eq(issued),
            array.swap.eq(swap),
        ]
        end = walker.skipped + walker.length
        m.d.sync += [
            inside.eq(Cat((walker.skipped <= b) & (end > b) for b in range(rows))),
            padded.eq(Cat(walker.live > b for b in range(rows))),
        ]
        aligned = self.ub.data[: 8 * rows]
        for level, bit in enumerate(skipped):
            # A signal, because every byte that is taken of an expression is a copy of it.
            moved = Signal(8 * rows, name=f"moved_{level}")
            m.d.comb += moved.eq(Mux(bit, Cat(Const(0, 8 << level), aligned)[: 8 * rows], aligned))
            aligned = moved
        for b in range(rows):
            # Taking 128 from an unsigned byte inverts its highest bit.
            read = aligned[8 * b : 8 * b + 8] ^ (walker.unsigned_activations << 7)
            byte = Mux(inside[b], read, Mux(padded[b], walker.pad_value, 0)[:8])
            m.d.sync += array.activations[b].eq(byte.as_signed())

    def _sums(self, m: Module, walker: Any, array: Any) -> None:
        """Bring the sums and the row's attributes together in the claim cycle, then its end."""
        arch, port = self.arch, self.accumulators
        latency = arch.matrix_latency_cycles
        sums, valid = array.sums, array.sums_valid
        spare = latency - _ENTRY_CYCLES - array_latency(arch.rows, arch.columns)
        assert spare >= 1, "the sums are shifted in the cycle before the claim"
        for stage in range(spare - 1):
            next_sums = Signal(array.sums.shape(), reset_less=True, name=f"sums_{stage}")
            next_valid = Signal(name=f"sums_valid_{stage}")
            m.d.sync += [next_sums.eq(sums), next_valid.eq(valid)]
            sums, valid = next_sums, next_valid

        tick = Signal(ceil_log2(latency))
        m.d.sync += tick.eq(tick + 1)
        attributes = Cat(
            walker.row[:len(port.row)], walker.accumulate, walker.last, walker.accumulate_shift
        )
        m.submodules.attributes = line = DelayLine(len(attributes), latency - 1, len(tick))
        row, accumulate = Signal.like(port.row), Signal()
        last, last_next, ending = Signal(), Signal(), Signal()
        shift = Signal.like(walker.accumulate_shift)
        m.d.comb += [
            line.tick.eq(tick),
            line.i.eq(attributes),
            Cat(row, accumulate, last_next, shift).eq(line.o),
            self.engine.end.eq(ending),
            self.engine.amount_overflows.eq(Mux(port.done, port.overflows, 0)),
        ]
        m.d.sync += [
            port.valid.eq(valid),
            port.row.eq(row),
            port.accumulate.eq(accumulate),
            last.eq(last_next),
            ending.eq(port.valid & last),
        ]
        bits = ACCUMULATOR_BITS
        for column in range(arch.columns):
            exact = Signal(signed(len(sums[column]) + 16), name=f"shifted_{column}")
            m.d.comb += exact.eq(
                Mux(shift[1], sums[column] << 16, Mux(shift[0], sums[column] << 8, sums[column]))
            )
            # All bits from the accumulator's sign on are equal where 32 bits hold the number.
            signs = exact.as_unsigned()[bits - 1 :]
            m.d.sync += [
                port.sums[column].eq(exact),
                port.beyond[column].eq(signs.any() & ~signs.all()),
            ]
