"""Dispatch, with what control executes itself (docs/timing.md, section 2)."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from systol_hw.arch import Arch
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.isa.choices import ConfigRegister
from systol_hw.isa.operations import OPERATIONS
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.widths import (
    INSTRUCTION_BITS,
    LATENCY_BITS,
    STATE_BITS,
    TAG_BITS,
    TOKEN_UNITS,
)
from systol_hw.rtl.control.decoder import Decoder
from systol_hw.rtl.control.host_sync import HostSync
from systol_hw.rtl.control.unit_frame import state_codes
from systol_hw.tables.faults import Unit
from systol_hw.tables.registers import CODE_LENGTH_BITS

__all__ = ["CONFIGURATION", "VALUE_BITS", "Dispatch"]

CONFIGURATION = tuple(register.name.lower() for register in ConfigRegister)
"""What `set_config` writes, by register number."""
VALUE_BITS = OPERATION_BY_NAME["set_config"].field("value").width
_OWN = tuple(o for o in OPERATIONS if o.unit is Unit.CONTROL)
_REPORT_BITS = OPERATION_BY_NAME["interrupt"].field("value").width


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
        In this cycle the interrupt instruction is executed, or sync_host reports its value.
    sync_latency, sync_valid, sync_ack, sync_late
        The wait for the host, see `HostSync`.
    configure : Out, config_value : Out(32)
        set_config is executed in this cycle and writes that one of `CONFIGURATION`.
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
                "interrupt_value": Out(_REPORT_BITS),
                "sync_latency": In(LATENCY_BITS),
                "sync_valid": Out(1),
                "sync_ack": In(1),
                "sync_late": Out(1),
                "configure": Out(len(CONFIGURATION)),
                "config_value": Out(VALUE_BITS),
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
        m.submodules.sync = sync = HostSync()
        own = Signal()
        seen = Signal()
        m.d.comb += [
            own.eq(decoder.unit == Unit.CONTROL),
            sync.latency.eq(self.sync_latency),
            sync.ack.eq(self.sync_ack),
            self.sync_valid.eq(sync.valid),
            self.sync_late.eq(sync.late),
            self.config_value.eq(fields_of(self.word, "set_config").value),
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
            self._execute(m, decoder.opcode, sync, code)
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

    def _execute(self, m: Module, opcode: Signal, sync: HostSync, code: dict[str, int]) -> None:
        """Control's own instructions."""
        quiet = self.quiet.all()
        with m.Switch(opcode):
            for operation in _OWN:
                fields = fields_of(self.word, operation)
                with m.Case(operation.opcode):
                    match operation.name:
                        case "barrier":
                            leaves = quiet
                        case "halt":
                            leaves = quiet
                            m.d.comb += self.halt.eq(quiet)
                        case "sync_host":
                            leaves = sync.done
                            m.d.comb += [
                                sync.reached.eq(quiet),
                                self.interrupt.eq(sync.report),
                                self.interrupt_value.eq(fields.value),
                            ]
                        case "interrupt":
                            leaves = 1
                            m.d.comb += [
                                self.interrupt.eq(1),
                                self.interrupt_value.eq(fields.value),
                            ]
                        case "tag":
                            leaves = 1
                            m.d.sync += self.tag.eq(fields.tag)
                        case "set_config":
                            leaves = 1
                            m.d.comb += self.configure.eq(1 << fields.register)
                        case _:
                            leaves = 1
                    # Where it does not leave, that is for want of quiet, or of the host.
                    m.d.comb += [
                        self.advance.eq(leaves),
                        self.state.eq(Mux(sync.reached, code["wait_host"], code["wait_quiet"])),
                    ]
