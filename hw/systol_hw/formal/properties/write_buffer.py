"""The vector unit's write buffer: rows pushed are written in order, each once and with its bytes.

A harness marks an arbitrary row as it is pushed and an arbitrary one of its beats, and counts the
rows before it: those to be written, and those whose bytes have yet to come.
"""

import dataclasses
from functools import partial
from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Module, Signal
from amaranth.utils import bits_for

from systol_hw.arch import PRESETS, Arch
from systol_hw.formal.proof import Insides, Mutant, Proof, free
from systol_hw.formal.properties.queues import around

__all__ = ["PROOFS"]

_ARCH = dataclasses.replace(PRESETS["nano"], vector_lanes=4)  # two beats a row


def _write_buffer(source: Any, *, arch: Arch) -> Module:
    m = Module()
    dut = source.WriteBuffer(arch)
    inside = Insides(dut)
    entry_probe = inside.submodule("entries").read_port(domain="comb")
    row_probe = inside.submodule("rows").read_port(domain="comb")
    m.submodules.buffer = fragment = inside.fragment
    registers = inside.signals(fragment)
    depth, write = arch.vector_write_rows, dut.ub_write
    free(m, dut.push, dut.push_address, dut.push_length, dut.push_last, write.grant)
    free(m, dut.valid, dut.beat, dut.beat_last, dut.results)
    bits = bits_for(depth)
    held, whole_rows = Signal(bits), Signal(bits)
    written, completed = Signal(), Signal()
    m.d.comb += [
        written.eq(write.request & write.grant),
        completed.eq(dut.valid & dut.beat_last),
        # The vector unit pushes where there is room, and bytes are those of a row pushed before.
        Assume(~dut.push | (dut.held < depth)),
        Assume(~dut.valid | (held != whole_rows)),
        Assume(dut.beat < dut.beats),
    ]
    m.d.sync += [
        held.eq(held + dut.push - written),
        whole_rows.eq(whole_rows + completed - written),
    ]

    tracked, mark, whole, has_beat = Signal(), Signal(), Signal(), Signal()
    before, to_fill = Signal(bits), Signal(bits)
    pushed = Cat(dut.push_address, dut.push_length, dut.push_last)
    row = Signal(len(pushed))
    beat = Signal.like(dut.beat)
    value = Signal.like(dut.results)
    m.d.comb += [mark.eq(AnySeq(1)), beat.eq(AnyConst(len(beat))), Assume(beat < dut.beats)]
    with m.If(~tracked & dut.push & mark):
        m.d.sync += [
            tracked.eq(1), whole.eq(0), has_beat.eq(0), row.eq(pushed),
            before.eq(held - written), to_fill.eq(held - whole_rows - completed),
        ]  # fmt: skip
    with m.Elif(tracked):
        m.d.sync += before.eq(before - written)
        with m.If(written & (before == 0)):
            m.d.sync += tracked.eq(0)
        with m.If(~whole & (to_fill != 0)):
            m.d.sync += to_fill.eq(to_fill - completed)
        with m.Elif(~whole):
            m.d.sync += whole.eq(completed)
            with m.If(dut.valid & (dut.beat == beat)):
                m.d.sync += [has_beat.eq(1), value.eq(dut.results)]

    lanes = len(dut.results)
    presented = Cat(write.address, write.length)
    stored = entry_probe.data.as_value()
    turn = Signal()
    m.d.comb += [
        turn.eq(tracked & (before == 0)),
        Assert(~turn | (write.request == whole)),
        Assert(~turn | (presented == row[:-1])),
        Assert(~(turn & has_beat) | (write.data.word_select(beat, lanes) == value)),
        Assert(~dut.end | written),
        Assert(~(turn & written) | (dut.end == row[-1])),
        Assert(dut.held == held),
        Assert(held <= depth),
        Assert(registers["complete"] == whole_rows),
        Assert(whole_rows <= held),
        Assert(registers["head"] < depth),
        Assert(registers["pushed"] == around(m, registers["head"], held, depth, "end")),
        Assert(registers["filled"] == around(m, registers["head"], whole_rows, depth, "gap")),
        Assert(~tracked | (before < held)),
        Assert(~tracked | (whole == (before < whole_rows))),
        Assert(~tracked | whole | (to_fill == before - whole_rows)),
        entry_probe.addr.eq(around(m, registers["head"], before, depth, "place")),
        row_probe.addr.eq(entry_probe.addr),
        Assert(~tracked | (stored == row)),
        Assert(~(tracked & has_beat) | (row_probe.data.word_select(beat, lanes) == value)),
    ]
    return m


PROOFS: tuple[Proof, ...] = tuple(
    Proof(
        name=f"write-buffer-{rows}",
        source="systol_hw.rtl.vector.write_buffer",
        states="any row pushed is presented after exactly the rows before it, once its last beat "
        "has come and not sooner, at its address and with the bytes that came for it; none is "
        "lost, repeated, overtaken or written over, and `held` counts them; an end is the write "
        f"of an instruction's last row. {rows} rows",
        build=partial(
            _write_buffer, arch=dataclasses.replace(_ARCH, vector_write_rows=rows)
        ),
        depth=2 * rows + 2,
        mutants=(
            Mutant(old="complete + completed - written", new="complete + (completed & ~written)"),
            Mutant(old="row_write.addr.eq(filled)", new="row_write.addr.eq(pushed)"),
            Mutant(old='pointer("filled", completed)', new='pointer("filled", self.valid)'),
            Mutant(old="self.held + self.push - written", new="self.held + self.push - self.end"),
            *([Mutant(old="slot == depth - 1", new="slot == depth")] if rows == 3 else []),
        ),
    )
    for rows in (3, 4)
)
"""Proofs about the write buffer."""
