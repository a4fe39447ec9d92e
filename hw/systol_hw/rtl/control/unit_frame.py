"""What the five units have in common: queue, start, flight, tokens, states (docs/timing.md, 5).

A frame and an engine make a unit. The frame decides when an instruction starts, remembers what is
in flight and says what the unit's cycles are charged to; the engine performs the accesses.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import Arch
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.isa.operations import OPERATIONS
from systol_hw.rtl.contract.instruction import fields_of, unit_word_bits
from systol_hw.rtl.contract.interfaces import EngineSignature, amount_bits
from systol_hw.rtl.contract.widths import INSTRUCTION_BITS, STATE_BITS, TAG_BITS, TOKEN_UNITS
from systol_hw.rtl.parts.head_queue import HeadQueue
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_hw.tables.registers import CODE_LENGTH_BITS

__all__ = ["UnitFrame", "state_codes"]

_MASK_BITS = len(TOKEN_UNITS)


def state_codes(unit: Unit) -> dict[str, int]:
    """Code of each state of `unit` by name."""
    return {state.name: state.code for state in UNIT_STATES[unit]}


class UnitFrame(Component):
    """The frame of one unit.

    Parameters
    ----------
    arch : Arch
    unit : Unit
        Not CONTROL.

    Members
    -------
    push, push_word, push_pc, push_tag : In
        Control dispatches an instruction; only while not `full`.
    full : Out(1), quiet : Out(1), level : Out
        Registered: no room in the queue; nothing queued, active or in flight; queue occupancy.
    available, consume, give
        Token masks by `unit - 1`: what this unit could consume, what it consumes (the start
        cycle), what it gives (the end cycle).
    engine : Out(EngineSignature)
    started, start_pc, ended, end_pc : Out
        An instruction starts or ends in this cycle, and which.
    address_fault : Out(1)
        The active instruction, `active_pc`, has an access out of range (5.5).
    state, state_tag : Out
        What this cycle is counted as (8.1, 8.2).
    active_tag : Out
        Tag of the instruction started last.
    """

    def __init__(self, arch: Arch, unit: Unit):
        self.arch = arch
        self.unit = unit
        super().__init__(
            {
                "push": In(1),
                "push_word": In(INSTRUCTION_BITS),
                "push_pc": In(CODE_LENGTH_BITS),
                "push_tag": In(TAG_BITS),
                "full": Out(1),
                "quiet": Out(1),
                "level": Out(bits_for(arch.queue_depth)),
                "available": In(_MASK_BITS),
                "consume": Out(_MASK_BITS),
                "give": Out(_MASK_BITS),
                "engine": Out(EngineSignature(unit, amount_bits(arch, unit))),
                "started": Out(1),
                "start_pc": Out(CODE_LENGTH_BITS),
                "ended": Out(1),
                "end_pc": Out(CODE_LENGTH_BITS),
                "address_fault": Out(1),
                "active_pc": Out(CODE_LENGTH_BITS),
                "state": Out(STATE_BITS),
                "state_tag": Out(TAG_BITS),
                "active_tag": Out(TAG_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        engine = self.engine
        code = state_codes(self.unit)

        # Bits that no instruction of the unit uses were checked to be zero and are not stored.
        word_bits = unit_word_bits(self.unit)
        entry_layout = data.StructLayout(
            {"word": word_bits, "pc": CODE_LENGTH_BITS, "tag": TAG_BITS}
        )
        m.submodules.queue = queue = HeadQueue(entry_layout.size, self.arch.queue_depth)
        head = data.View(entry_layout, queue.head)
        header = self._header(head.word)
        m.d.comb += [
            queue.push.eq(self.push),
            queue.word.eq(Cat(self.push_word[:word_bits], self.push_pc, self.push_tag)),
            queue.pop.eq(engine.start),
            self.level.eq(queue.level),
            self.full.eq(queue.level == self.arch.queue_depth),
        ]

        flight_layout = data.StructLayout(
            {"signal": _MASK_BITS, "pc": CODE_LENGTH_BITS, "tag": TAG_BITS}
        )
        m.submodules.flight = flight = HeadQueue(
            flight_layout.size, self.arch.inflight_instructions
        )
        oldest = data.View(flight_layout, flight.head)
        m.d.comb += [
            flight.push.eq(engine.start),
            flight.word.eq(Cat(header.signal, head.pc, head.tag)),
            flight.pop.eq(engine.end),
            self.quiet.eq((queue.level == 0) & (flight.level == 0)),
        ]

        # 5.2: the tests of a start, in their order.
        missing = Signal(_MASK_BITS)
        m.d.comb += missing.eq(header.wait & ~self.available)
        tests = [
            (missing[producer - 1], code[f"wait_{producer.name.lower()}"])
            for producer in TOKEN_UNITS
            if producer is not self.unit
        ]
        tests += [
            ((flight.level != 0) & self._drains(m, head.word, header), code["wait_drain"]),
            (flight.level == self.arch.inflight_instructions, code["wait_inflight"]),
        ]
        if "wait_lanes" in code:
            tests.append((~engine.ready, code["wait_lanes"]))
        refused = Signal(len(tests))
        head_state = Signal(STATE_BITS)
        m.d.comb += [refused.eq(Cat(test for test, _ in tests)), head_state.eq(code["start"])]
        for index, (_, state) in reversed(list(enumerate(tests))):
            with m.If(refused[index]):
                m.d.comb += head_state.eq(state)

        m.d.comb += [
            engine.start.eq(~engine.active & (queue.level != 0) & ~refused.any()),
            engine.word.eq(head.word),
            engine.retire_tag.eq(oldest.tag),
            self.consume.eq(Mux(engine.start, header.wait, 0)),
            self.give.eq(Mux(engine.end, oldest.signal, 0)),
            self.started.eq(engine.start),
            self.start_pc.eq(head.pc),
            self.ended.eq(engine.end),
            self.end_pc.eq(oldest.pc),
            self.address_fault.eq(engine.active & engine.address_fault),
        ]
        with m.If(engine.start):
            m.d.sync += [
                engine.active.eq(1),
                self.active_pc.eq(head.pc),
                self.active_tag.eq(head.tag),
            ]
        with m.Elif(engine.performed & engine.last):
            m.d.sync += engine.active.eq(0)

        with m.If(engine.active):
            m.d.comb += [self.state.eq(engine.state), self.state_tag.eq(self.active_tag)]
        with m.Elif(queue.level != 0):
            m.d.comb += [self.state.eq(head_state), self.state_tag.eq(head.tag)]
        with m.Elif(flight.level != 0):
            m.d.comb += [self.state.eq(code["flight"]), self.state_tag.eq(self.active_tag)]
        with m.Else():
            m.d.comb += [self.state.eq(code["idle"]), self.state_tag.eq(0)]
        return m

    def _header(self, word: Any) -> data.View:
        """Token masks and drain bit, which have one place in all of the unit's instructions."""
        operation = next(o for o in OPERATIONS if o.unit is self.unit and o.supported)
        return fields_of(Cat(word, Const(0, INSTRUCTION_BITS - len(word))), operation)

    def _drains(self, m: Module, word: Any, header: data.View) -> Any:
        """Whether the head starts only with nothing in flight (5.2, test 2)."""
        opcodes = _second_place_opcodes(self.unit)
        if not opcodes:
            return header.drain
        second = Signal()
        last_second = Signal()
        m.d.comb += second.eq(Cat(word[:8] == opcode for opcode in opcodes).any())
        with m.If(self.engine.start):
            m.d.sync += last_second.eq(second)
        return header.drain | (second != last_second)


def _second_place_opcodes(unit: Unit) -> list[int]:
    """Opcodes by which `unit` uses the other of its two memories: ends come in order because what
    uses one waits until nothing that uses the other is in flight."""
    if unit is Unit.WEIGHTS:
        return [OPERATION_BY_NAME["read_weights_ub"].opcode]
    return [
        o.opcode
        for o in OPERATIONS
        if o.unit is unit and any(field.name == "window" for field in o.fields)
    ]
