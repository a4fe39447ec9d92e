"""The machine's life: start, halt, faults, watchdog, status (docs/timing.md, 5.6 and 5.7)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import TAGS, Arch
from systol_hw.rtl.contract.widths import CAUSE_BITS, CYCLE_BITS, TOKEN_UNITS, UNIT_BITS
from systol_hw.rtl.control.dispatch import CONFIGURATION, VALUE_BITS
from systol_hw.tables.counters import STATES
from systol_hw.tables.faults import FaultCause, Unit
from systol_hw.tables.registers import CODE_LENGTH_BITS

__all__ = ["Supervisor"]


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
        The host's limit; holds still during a run.
    configure, config_value : In
        From dispatch: set_config.
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
    status : Out(32)
        The status word that the program wrote last; 0 from the start of the run on.
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
                "watchdog_cycles": In(VALUE_BITS),
                "configure": In(len(CONFIGURATION)),
                "config_value": In(VALUE_BITS),
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
                "status": Out(VALUE_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        stuck = Signal(VALUE_BITS)
        limit = Signal(VALUE_BITS)  # the host's, or the program's own
        written = Signal(VALUE_BITS)
        expired = Signal()
        m.d.comb += [
            written.eq(Mux(self.config_value == 0, 1, self.config_value)),
            expired.eq(~self.progress & (stuck + 1 == limit)),
            self.busy.eq(self.running | self.clearing),
        ]
        fault = self._fault(m, expired)

        with m.If(self.running):
            m.d.sync += [
                self.cycle.eq(self.cycle + 1),
                stuck.eq(Mux(self.progress, 0, stuck + 1)),
            ]
            with m.If(self.configure[CONFIGURATION.index("watchdog")]):
                m.d.sync += limit.eq(
                    Mux(written < self.watchdog_cycles, written, self.watchdog_cycles)
                )
            with m.If(self.configure[CONFIGURATION.index("status")]):
                m.d.sync += self.status.eq(self.config_value)
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
                limit.eq(self.watchdog_cycles),
                self.status.eq(0),
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
