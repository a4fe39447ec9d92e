"""Fetch, dispatch and the units' frames: no queue overflows, no token is taken that is not there.

The queues' own proofs assume that nobody pushes into a full one or pops an empty one; these show
that nobody does.
"""

import dataclasses
from functools import partial
from typing import Any

from amaranth.hdl import Assert, Assume, Module, Signal
from amaranth.utils import bits_for

from systol_hw.arch import INSTRUCTION_BYTES, PRESETS
from systol_hw.formal.proof import Insides, Mutant, Proof, free
from systol_hw.tables.faults import Unit

__all__ = ["PROOFS"]

_ARCH = PRESETS["nano"]
_SMALL_FETCH = dataclasses.replace(
    _ARCH,
    weight_port=dataclasses.replace(_ARCH.weight_port, width_bytes=8),
    fetch_buffer_instructions=1,
)
"""Few beats, so that the buffer's end comes within a proof's depth."""


def _frame(source: Any, *, unit: Unit) -> Module:
    m = Module()
    dut = source.UnitFrame(_ARCH, unit)
    inside = Insides(dut)
    flight, queue = inside.submodule("flight"), inside.submodule("queue")
    m.submodules.frame = inside.fragment
    engine = dut.engine
    free(m, dut.push, dut.push_word, dut.push_pc, dut.push_tag, dut.available)
    free(m, engine.ready, engine.performed, engine.last, engine.end)
    counted, in_flight = Signal(16), Signal(16)
    m.d.sync += [
        counted.eq(counted + dut.push - dut.started),
        in_flight.eq(in_flight + dut.started - dut.ended),
    ]
    m.d.comb += [
        # Dispatch pushes only where there is room; what ends has started.
        Assume(~dut.push | ~dut.full),
        Assume(~engine.end | (in_flight != 0)),
        Assume(~engine.performed | engine.active),
        Assert(queue.level == counted),
        Assert(flight.level == in_flight),
        Assert(counted <= _ARCH.queue_depth),
        Assert(in_flight <= _ARCH.inflight_instructions),
        Assert(dut.level == counted),
        Assert(dut.full == (counted == _ARCH.queue_depth)),
        Assert(dut.quiet == ((counted == 0) & (in_flight == 0))),
        Assert(~dut.started | ((counted != 0) & ~engine.active)),
        Assert(~dut.started | (in_flight < _ARCH.inflight_instructions)),
        # The decoder refuses an instruction that waits for its own unit.
        Assert((dut.consume & ~dut.available & ~(1 << (unit - 1))) == 0),
        Assert(~dut.consume.any() | dut.started),
        Assert(~dut.give.any() | dut.ended),
    ]
    return m


def _dispatch(source: Any) -> Module:
    m = Module()
    m.submodules.dispatch = dut = source.Dispatch(_ARCH)
    free(m, dut.word, dut.visible, dut.pc, dut.code_length, dut.full, dut.quiet)
    m.d.comb += [
        Assert((dut.push & dut.full) == 0),
        Assert((dut.push & (dut.push - 1)[: len(dut.push)]) == 0),
        Assert(~dut.push.any() | dut.advance),
        Assert(~dut.advance | dut.visible),
        Assert(~dut.advance | ~(dut.illegal | dut.unsupported)),
        Assert(~(dut.illegal & dut.unsupported)),
        Assert(~dut.halt | (dut.advance & dut.quiet.all())),
    ]
    return m


def _fetch(source: Any) -> Module:
    m = Module()
    arch = _SMALL_FETCH
    dut = source.Fetch(arch)
    inside = Insides(dut)
    m.submodules.fetch = fragment = inside.fragment
    registers = inside.signals(fragment)
    beats = INSTRUCTION_BYTES // arch.weight_port.width_bytes
    depth = arch.fetch_buffer_instructions
    free(m, dut.code_address, dut.code_length, dut.beat.grant, dut.beat.delivered)
    free(m, dut.beat.read_data, dut.advance)
    # Beats issued, delivered and advanced past, from the start of the present lap of numbers.
    bits = bits_for((depth + 2) * beats)
    undelivered, held = Signal(bits), Signal(bits)
    issues = dut.beat.grant & dut.beat.request
    m.d.sync += [
        undelivered.eq(undelivered + issues - dut.beat.delivered),
        held.eq(held + dut.beat.delivered - dut.advance * beats),
    ]
    first = registers["issue_beat"] == 0
    m.d.comb += [
        Assume(~dut.advance | dut.visible),
        Assume(~dut.beat.delivered | (undelivered != 0)),
        # A beat on its way or held has a place: nothing is written over.
        Assert(undelivered + held <= depth * beats),
        Assert(dut.visible == (held >= beats)),
        Assert(
            undelivered + held
            == registers["ahead"] * beats + registers["issue_beat"]
        ),
        Assert(held == registers["arrived"] * beats + registers["write_beat"]),
        Assert(registers["ahead"] <= depth),
        Assert(first | (registers["ahead"] < depth)),
    ]
    return m


PROOFS: tuple[Proof, ...] = (
    *(
        Proof(
            name=f"frame-{unit.name.lower()}",
            source="systol_hw.rtl.control.unit_frame",
            states="the unit's queue and its instructions in flight stay within their depths; a "
            "start takes a queued instruction, with nothing active, and only tokens that are "
            "available; only a start consumes and only an end gives",
            build=partial(_frame, unit=unit),
            depth=12,
            mutants=(
                Mutant(old="header.wait & ~self.available", new="header.wait & self.available"),
                Mutant(old="flight.level == self.arch.inflight_instructions",
                       new="flight.level > self.arch.inflight_instructions"),
            ),
        )
        for unit in (Unit.STORE, Unit.MATRIX, Unit.VECTOR)
    ),
    Proof(
        name="dispatch",
        source="systol_hw.rtl.control.dispatch",
        states="at most one unit is given an instruction, and only if its queue has room; only a "
        "visible instruction that decodes leaves control; halt only when every unit is quiet",
        build=_dispatch,
        depth=1,
        mutants=(
            Mutant(old="self.push[unit - 1].eq(~self.full[unit - 1])",
                   new="self.push[unit - 1].eq(1)"),
            Mutant(old="self.quiet.all()", new="self.quiet.any()"),
        ),
    ),
    Proof(
        name="fetch",
        source="systol_hw.rtl.control.fetch",
        states="beats on their way and beats held have places in the buffer: none is written over "
        "before its instruction has left control, whatever the memory's delay",
        build=_fetch,
        depth=14,
        mutants=(
            Mutant(old="ahead != self.depth", new="ahead <= self.depth"),
            Mutant(old="ahead + complete - self.advance", new="ahead + (complete & ~self.advance)"),
        ),
    ),
)
"""Proofs about what fills and empties the queues."""
