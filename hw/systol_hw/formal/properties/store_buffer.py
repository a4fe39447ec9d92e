"""STORE's buffer: beats read from the unified buffer are issued in order, once, as they were read.

A harness marks an arbitrary read and an arbitrary one of its bytes, and counts the beats before it.
Where a beat goes is what the unit's walker says in the cycle of its read; which beats the walker
makes, and in which cycles, is left to it.
"""

import dataclasses
from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Module, Signal
from amaranth.lib import data

from systol_hw.arch import PRESETS
from systol_hw.formal.proof import Insides, Mutant, Proof, free

__all__ = ["PROOFS"]

_BEATS = 3  # not a power of two: the memory has four places
_WIDTH_BYTES = 4
_NANO = PRESETS["nano"]
_ARCH = dataclasses.replace(
    _NANO,
    weight_port=dataclasses.replace(_NANO.weight_port, width_bytes=_WIDTH_BYTES),
    host_port=dataclasses.replace(_NANO.host_port, width_bytes=_WIDTH_BYTES),
    store_buffer_beats=_BEATS,
)
_ENTRY = data.StructLayout(
    {
        "data": 8 * _WIDTH_BYTES,
        "strobe": _WIDTH_BYTES,
        "address": 32,
        "window": 4,
        "on_host": 1,
        "burst_last": 1,
        "last": 1,
    }
)
"""A beat as the buffer keeps it."""


def _store_buffer(source: Any) -> Module:
    m = Module()
    dut = source.StoreEngine(_ARCH)
    inside = Insides(dut)
    walker = inside.submodule("walker")
    probe = inside.submodule("buffer").read_port(domain="comb")
    m.submodules.store = fragment = inside.fragment
    signals = inside.signals(fragment)
    ports = (dut.host, dut.weight)
    free(m, dut.engine.start, dut.engine.word, dut.engine.active, dut.weight_bytes)
    free(m, dut.window_bytes.as_value(), dut.ub.grant, dut.ub.data)
    for beat in ports:
        free(m, beat.grant)
        m.d.comb += Assume(~beat.grant | beat.request)
    read, issued = Signal(), Signal()
    held = Signal(8)
    m.d.comb += [
        read.eq(dut.ub.request & dut.ub.grant),
        issued.eq(dut.host.grant | dut.weight.grant),
    ]
    m.d.sync += held.eq(held + read - issued)

    # `fresh`: the read was granted a cycle ago, and its data are here.
    tracked, mark, fresh = Signal(), Signal(), Signal()
    before = Signal(8)
    number, value = Signal(range(_WIDTH_BYTES)), Signal(8)
    expected = Signal(
        data.StructLayout(
            {"address": 32, "window": 4, "on_host": 1, "burst_last": 1, "last": 1,
             "offset": len(walker.offset), "live": len(walker.live)}
        )
    )
    m.d.comb += [mark.eq(AnySeq(1)), number.eq(AnyConst(len(number)))]
    m.d.sync += fresh.eq(0)
    with m.If(~tracked & read & mark):
        m.d.sync += [
            tracked.eq(1), fresh.eq(1), before.eq(held - issued),
            expected.address.eq(walker.beat_address), expected.window.eq(walker.window),
            expected.on_host.eq(walker.on_host), expected.burst_last.eq(walker.burst_last),
            expected.last.eq(walker.last), expected.offset.eq(walker.offset),
            expected.live.eq(walker.live),
        ]  # fmt: skip
    with m.Elif(tracked):
        m.d.sync += [before.eq(before - issued), tracked.eq(~issued | (before != 0))]
    with m.If(fresh):
        m.d.sync += value.eq(dut.ub.data.word_select(number, 8))

    lane = Signal(8)
    strobe = Signal(_WIDTH_BYTES)
    m.d.comb += [
        lane.eq(expected.offset + number),
        strobe.eq(
            Cat(
                (expected.offset <= place) & (place < expected.offset + expected.live)
                for place in range(_WIDTH_BYTES)
            )
        ),
    ]
    known = (number < expected.live) & (lane < _WIDTH_BYTES)

    def as_read(beat: Any, last: Any) -> Any:
        """`beat`, of a port or of the buffer, is the one that is tracked."""
        found = Cat(beat.address, beat.window, beat.burst_last, last, beat.strobe)
        wanted = Cat(
            expected.address, expected.window, expected.burst_last, expected.last, strobe
        )
        return (found == wanted) & (~known | (beat.data.word_select(lane[:2], 8) == value))

    # Amaranth finds no name for the first signal of a pair.
    tail, front = signals["$signal"], signals["front"]
    level = Signal.like(tail, name="level")
    entry = data.View(_ENTRY, probe.data)
    turn = tracked & (before == 0) & ~fresh
    m.d.comb += [
        level.eq(tail - front),
        Assert(dut.buffered == held),
        Assert(held <= _BEATS),
        Assert(level + signals["came"] == held),
        Assert(~(dut.host.request & dut.weight.request)),
        Assert((dut.host.request | dut.weight.request) == (level != 0)),
        Assert(~tracked | (before < held)),
        Assert(~fresh | (tracked & signals["came"] & (before == level))),
        Assert(fresh | ~tracked | (before < level)),
        probe.addr.eq(front + before),
        Assert(fresh | ~tracked | as_read(entry, entry.last)),
        Assert(fresh | ~tracked | (entry.on_host == expected.on_host)),
    ]
    for beat, mine in ((dut.host, expected.on_host), (dut.weight, ~expected.on_host)):
        m.d.comb += [
            Assert(~turn | (beat.request == mine)),
            Assert(~(turn & mine) | as_read(beat, beat.user)),
        ]
    return m


PROOFS: tuple[Proof, ...] = (
    Proof(
        name="store-buffer",
        source="systol_hw.rtl.transfer.engines",
        states="any beat that STORE reads is issued after exactly the beats before it, on its "
        "port, with its address and its bytes in their lanes; none is lost, repeated or "
        f"overtaken, and with the read under way never more than there are places, here {_BEATS}",
        build=_store_buffer,
        depth=7,
        mutants=(
            Mutant(old="full.eq(self.buffered == arch.store_buffer_beats)",
                   new="full.eq(self.buffered > arch.store_buffer_beats)"),
            Mutant(old="self.buffered + read - issued", new="self.buffered + came - issued"),
            Mutant(old="write.addr.eq(tail)", new="write.addr.eq(front)"),
            Mutant(old="((Const(1) << live) - 1) << offset", new="(Const(1) << live) - 1"),
            Mutant(old="pushed.on_host.eq(walker.on_host)",
                   new="pushed.on_host.eq(1)"),
        ),
    ),
)
"""The proof about the store buffer."""
