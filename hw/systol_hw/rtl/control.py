"""Dispatch, and the machine's life: start, halt, faults, watchdog (docs/timing.md, 2, 5.6, 5.7)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import TAGS, Arch
from systol_hw.counters import STATES
from systol_hw.faults import FaultCause, Unit
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.registers import CODE_LENGTH_BITS
from systol_hw.rtl.decoder import UNIT_BITS, Decoder, fields_of
from systol_hw.rtl.frame import state_codes
from systol_hw.rtl.interfaces import INSTRUCTION_BITS, STATE_BITS, TAG_BITS
from systol_hw.rtl.tokens import TOKEN_UNITS

__all__ = ["CAUSE_BITS", "CYCLE_BITS", "Dispatch", "Supervisor"]

CAUSE_BITS = bits_for(max(FaultCause))
CYCLE_BITS = 48
_OWN = ("nop", "halt", "tag", "interrupt", "barrier")


class Dispatch(Component):
    """Looks at the next instruction in each cycle, and executes or dispatches it (2.3, 2.4).

    Members
    -------
    word, visible, pc : In
        The next instruction, from fetch.
    code_length : In
    advance : Out(1)
        The instruction leaves control in this cycle.
    full, quiet : In(5)
        From the units' frames, by `unit - 1`.
    push : Out(5), tag : Out(4)
        Dispatch to a unit's queue, with this tag.
    interrupt, interrupt_value : Out
        The interrupt instruction is executed in this cycle.
    halt : Out(1)
        The halt instruction is executed in this cycle.
    illegal, unsupported : Out(1)
        Faults found in this cycle.
    state : Out
        Counted under `tag`. A cycle that finds a fault is `busy`.
    started, ended : Out(1)
        Trace of control's own instructions (2.5), at `pc`.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        units = len(TOKEN_UNITS)
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "visible": In(1),
                "pc": In(CODE_LENGTH_BITS),
                "code_length": In(CODE_LENGTH_BITS),
                "advance": Out(1),
                "full": In(units),
                "quiet": In(units),
                "push": Out(units),
                "tag": Out(TAG_BITS),
                "interrupt": Out(1),
                "interrupt_value": Out(
                    OPERATION_BY_NAME["interrupt"].field("value").width
                ),
                "halt": Out(1),
                "illegal": Out(1),
                "unsupported": Out(1),
                "state": Out(STATE_BITS),
                "started": Out(1),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        code = state_codes(Unit.CONTROL)
        m.submodules.decoder = decoder = Decoder(self.arch)
        m.d.comb += decoder.word.eq(self.word)
        own = Signal()
        seen = Signal()
        m.d.comb += [
            own.eq(decoder.unit == Unit.CONTROL),
            self.interrupt_value.eq(fields_of(self.word, "interrupt").value),
        ]
        with m.If(self.pc == self.code_length):
            m.d.comb += [self.illegal.eq(1), self.state.eq(code["busy"])]
        with m.Elif(~self.visible):
            m.d.comb += self.state.eq(code["wait_fetch"])
        with m.Elif(decoder.illegal | decoder.unsupported):
            m.d.comb += [
                self.illegal.eq(decoder.illegal),
                self.unsupported.eq(decoder.unsupported),
                self.state.eq(code["busy"]),
            ]
        with m.Elif(own):
            self._execute(m, decoder.opcode, code)
            m.d.comb += [self.started.eq(~seen), self.ended.eq(self.advance)]
            m.d.sync += seen.eq(~self.advance)
        with m.Else():
            with m.Switch(decoder.unit):
                for unit in TOKEN_UNITS:
                    with m.Case(unit):
                        m.d.comb += [
                            self.advance.eq(~self.full[unit - 1]),
                            self.push[unit - 1].eq(~self.full[unit - 1]),
                            self.state.eq(code[f"full_{unit.name.lower()}"]),
                        ]
        with m.If(self.advance):
            m.d.comb += self.state.eq(code["busy"])
        return m

    def _execute(self, m: Module, opcode: Signal, code: dict[str, int]) -> None:
        """Control's own instructions."""
        with m.Switch(opcode):
            for name in _OWN:
                with m.Case(OPERATION_BY_NAME[name].opcode):
                    if name in ("barrier", "halt"):
                        m.d.comb += [
                            self.advance.eq(self.quiet.all()),
                            self.state.eq(code["wait_quiet"]),
                        ]
                    else:
                        m.d.comb += self.advance.eq(1)
                    if name == "halt":
                        m.d.comb += self.halt.eq(self.advance)
                    elif name == "interrupt":
                        m.d.comb += self.interrupt.eq(1)
                    elif name == "tag":
                        m.d.sync += self.tag.eq(fields_of(self.word, "tag").tag)


class Supervisor(Component):
    """Starts a run, ends it, and keeps what was found.

    After `start` the counter memories are cleared, one address a cycle, while the rest of the
    machine is held in reset; then cycle 0 begins.

    Members
    -------
    start : In(1)
        Begin a run; ignored while `busy`.
    drained : In(1)
        No response of an external memory is outstanding from before; cycle 0 waits for it.
    watchdog_cycles : In(32)
    progress : In(1)
        An instruction was dispatched, executed, started or ended in this cycle.
    halt, illegal, unsupported, pc : In
        From dispatch.
    address_fault, active_pc, token_overflow, end_pc : In
        From the units' frames, by `unit - 1`.
    running : Out(1)
        Registered: this is cycle `cycle` of a run.
    clearing, clear_address : Out
        Counter address to clear.
    busy : Out(1)
        A run is being prepared or is going on.
    halted, faulted, fault_cause, fault_unit, fault_pc, fault_cycle : Out
        How the last run ended.
    cycle : Out(48)
        Cycles so far; after the run, of the run.
    """

    def __init__(self, arch: Arch):
        # The array's pipelines have no reset: clearing lasts until they have run empty.
        self.clear_cycles = max(TAGS * STATES, 4 * (arch.rows + arch.columns))
        units = len(TOKEN_UNITS)
        pcs = data.ArrayLayout(CODE_LENGTH_BITS, units)
        super().__init__(
            {
                "start": In(1),
                "drained": In(1),
                "watchdog_cycles": In(32),
                "progress": In(1),
                "halt": In(1),
                "illegal": In(1),
                "unsupported": In(1),
                "pc": In(CODE_LENGTH_BITS),
                "address_fault": In(units),
                "active_pc": In(pcs),
                "token_overflow": In(units),
                "end_pc": In(pcs),
                "running": Out(1),
                "clearing": Out(1),
                "clear_address": Out(bits_for(self.clear_cycles - 1)),
                "busy": Out(1),
                "halted": Out(1),
                "faulted": Out(1),
                "fault_cause": Out(CAUSE_BITS),
                "fault_unit": Out(UNIT_BITS),
                "fault_pc": Out(CODE_LENGTH_BITS),
                "fault_cycle": Out(CYCLE_BITS),
                "cycle": Out(CYCLE_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        stuck = Signal(32)
        expired = Signal()
        m.d.comb += [
            expired.eq(~self.progress & (stuck + 1 == self.watchdog_cycles)),
            self.busy.eq(self.running | self.clearing),
        ]
        fault = self._fault(m, expired)

        with m.If(self.running):
            m.d.sync += [
                self.cycle.eq(self.cycle + 1),
                stuck.eq(Mux(self.progress, 0, stuck + 1)),
            ]
            with m.If(fault):
                m.d.sync += [
                    self.running.eq(0),
                    self.faulted.eq(1),
                    self.fault_cycle.eq(self.cycle),
                ]
            with m.Elif(self.halt):
                m.d.sync += [self.running.eq(0), self.halted.eq(1)]
        with m.Elif(self.clearing):
            with m.If(self.clear_address != self.clear_cycles - 1):
                m.d.sync += self.clear_address.eq(self.clear_address + 1)
            with m.Elif(self.drained):
                m.d.sync += [self.clearing.eq(0), self.running.eq(1)]
        with m.Elif(self.start):
            m.d.sync += [
                self.clearing.eq(1),
                self.clear_address.eq(0),
                self.cycle.eq(0),
                stuck.eq(0),
                self.halted.eq(0),
                self.faulted.eq(0),
            ]
        return m

    def _fault(self, m: Module, expired: Signal) -> Signal:
        """Whether a fault is found in this cycle; latches the first in order of unit (5.6)."""
        found = [
            (self.illegal, FaultCause.ILLEGAL_INSTRUCTION, Unit.CONTROL, self.pc),
            (self.unsupported, FaultCause.UNSUPPORTED, Unit.CONTROL, self.pc),
            (expired, FaultCause.WATCHDOG, Unit.CONTROL, self.pc),
        ]
        for unit in TOKEN_UNITS:
            u = unit - 1
            found += [
                (self.address_fault[u], FaultCause.ADDRESS, unit, self.active_pc[u]),
                (self.token_overflow[u], FaultCause.TOKEN_OVERFLOW, unit, self.end_pc[u]),
            ]
        fault = Signal()
        m.d.comb += fault.eq(Cat(condition for condition, *_ in found).any())
        with m.If(self.running):
            for condition, cause, unit, pc in reversed(found):
                with m.If(condition):
                    m.d.sync += [
                        self.fault_cause.eq(cause),
                        self.fault_unit.eq(unit),
                        self.fault_pc.eq(pc),
                    ]
        return fault
