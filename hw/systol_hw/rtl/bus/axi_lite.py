"""The AXI4-Lite slave: `systol_hw.tables.address_map` between a host and a machine."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib.wiring import Component, In, Member, Out

from systol_hw.rtl.bus.axi import AXI_ADDRESS_BITS, AXI_OKAY, AXI_SLVERR, AxiLiteSignature
from systol_hw.rtl.contract.widths import (
    CAUSE_BITS,
    CYCLE_BITS,
    GROUP_BITS,
    STATE_BITS,
    TAG_BITS,
    UNIT_BITS,
)
from systol_hw.tables import registers
from systol_hw.tables.address_map import (
    ADDRESS_BITS,
    ADDRESS_MAP,
    BASE_ALIGNMENT_BYTES,
    IDENTITY,
    MEMORY_BASES,
    VERSION,
    Access,
)
from systol_hw.tables.counters import COUNTER_BITS
from systol_hw.tables.registers import CODE_LENGTH_BITS, REGISTERS

__all__ = ["CONTROL_MEMBERS", "AxiLiteRegisters"]

_READ_CYCLES = registers.COUNTER_READ_LATENCY_CYCLES + 1
_STROBES = 0b1111


CONTROL_MEMBERS: Mapping[str, Member] = MappingProxyType(
    {
        "config_write": Out(1),
        "config_address": Out(registers.ADDRESS_BITS),
        "config_data": Out(registers.DATA_BITS),
        "start": Out(1),
        "busy": In(1),
        "running": In(1),
        "halted": In(1),
        "faulted": In(1),
        "fault_cause": In(CAUSE_BITS),
        "fault_unit": In(UNIT_BITS),
        "fault_pc": In(CODE_LENGTH_BITS),
        "fault_cycle": In(CYCLE_BITS),
        "interrupt_valid": In(1),
        "interrupt_value": In(16),
        "sync_valid": In(1),
        "sync_ack": Out(1),
        "status": In(32),
        "read_group": Out(GROUP_BITS),
        "read_tag": Out(TAG_BITS),
        "read_code": Out(STATE_BITS),
        "read_data": In(COUNTER_BITS),
    }
)
"""What a machine shows its host (`Machine`), from the host's side."""


class AxiLiteRegisters(Component):
    """The slave; one transfer of each direction at a time.

    Members
    -------
    <name>, for each of `CONTROL_MEMBERS`
    bus : In(AxiLiteSignature)
    bus_error : In(1)
        A memory answered a beat with an error in this cycle.
    irq : Out(1)
        Interrupt request.
    <base> : Out(64), for each of `MEMORY_BASES`
    """

    def __init__(self) -> None:
        super().__init__(
            dict(CONTROL_MEMBERS)
            | {
                "bus": In(AxiLiteSignature(address_bits=ADDRESS_BITS)),
                "bus_error": In(1),
                "irq": Out(1),
            }
            | {name: Out(AXI_ADDRESS_BITS) for name in MEMORY_BASES}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word = Signal(32)
        pulses = self._accept_writes(m, word)
        self._write(m, pulses, word)
        self._read(m, self._values(m, pulses, word))
        return m

    def _accept_writes(self, m: Module, word: Signal) -> dict[str, Signal]:
        """Takes address and data in either order, and answers; returns, by register, the pulses
        with which `word` is written."""
        bus = self.bus
        address, strobes = Signal(ADDRESS_BITS), Signal(4)
        have_address, have_word = Signal(), Signal()
        m.d.comb += [bus.awready.eq(~have_address), bus.wready.eq(~have_word)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [have_address.eq(1), address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [have_word.eq(1), word.eq(bus.wdata), strobes.eq(bus.wstrb)]
        perform = Signal()
        allowed = Signal()
        m.d.comb += perform.eq(have_address & have_word & ~bus.bvalid)
        pulses: dict[str, Signal] = {}
        with m.Switch(address[2:]):
            for register in ADDRESS_MAP:
                if register.access is not Access.WRITE:
                    continue
                pulses[register.name] = pulse = Signal(name=f"write_{register.name}")
                with m.Case(register.offset >> 2):
                    always = register.name == "control"
                    m.d.comb += [
                        allowed.eq((strobes == _STROBES) & (always | ~self.busy)),
                        pulse.eq(perform & allowed),
                    ]
        with m.If(perform):
            m.d.sync += [
                bus.bvalid.eq(1),
                bus.bresp.eq(AXI_OKAY),
                have_address.eq(0),
                have_word.eq(0),
            ]
            with m.If(~allowed):
                m.d.sync += bus.bresp.eq(AXI_SLVERR)
        with m.Elif(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        return pulses

    def _write(self, m: Module, pulses: dict[str, Signal], word: Signal) -> None:
        """What the pulses do."""
        acknowledge_all = Signal()
        m.d.comb += [
            self.start.eq(pulses["control"] & word[0]),
            self.config_data.eq(word),
            self.sync_ack.eq(acknowledge_all | (pulses["control"] & word[2])),
        ]
        with m.If(pulses["acknowledge_all"]):
            m.d.sync += acknowledge_all.eq(word[0])
        for register in REGISTERS:
            with m.If(pulses[register.name]):
                m.d.comb += [self.config_write.eq(1), self.config_address.eq(register.address)]
        with m.If(pulses["counter_address"]):
            m.d.sync += Cat(self.read_code, self.read_tag, self.read_group).eq(
                Cat(word[0:4], word[4:8], word[8:])
            )
        for name in MEMORY_BASES:
            base = getattr(self, name)
            with m.If(pulses[f"{name}_low"]):
                m.d.sync += base[:32].eq(word & -BASE_ALIGNMENT_BYTES)
            with m.If(pulses[f"{name}_high"]):
                m.d.sync += base[32:].eq(word)

    def _values(self, m: Module, pulses: dict[str, Signal], word: Signal) -> dict[str, Any]:
        """What each register reads."""
        begins = self.start & ~self.busy
        bus_error, request, was_busy = Signal(), Signal(), Signal()
        value, count = Signal(16), Signal(16)
        m.d.sync += was_busy.eq(self.busy)
        with m.If(self.bus_error):
            m.d.sync += bus_error.eq(1)
        with m.Elif(begins):
            m.d.sync += bus_error.eq(0)
        with m.If(self.interrupt_valid):
            m.d.sync += [value.eq(self.interrupt_value), count.eq(count + 1)]
        with m.Elif(begins):
            m.d.sync += count.eq(0)
        with m.If(self.interrupt_valid | (was_busy & ~self.busy)):
            m.d.sync += request.eq(1)
        with m.Elif(pulses["control"] & word[1]):
            m.d.sync += request.eq(0)
        m.d.comb += self.irq.eq(request)
        status = Cat(
            self.busy, self.running, self.halted, self.faulted, bus_error, request, self.sync_valid
        )
        cause = Cat(self.fault_cause, Const(0, 8 - len(self.fault_cause)))
        return {
            "identity": IDENTITY,
            "version": VERSION,
            "status": status,
            "fault": Cat(cause, self.fault_unit),
            "fault_pc": self.fault_pc,
            "fault_cycle_low": self.fault_cycle[:32],
            "fault_cycle_high": self.fault_cycle[32:],
            "interrupt": Cat(value, count),
            "counter_low": self.read_data[:32],
            "counter_high": self.read_data[32:],
            "program_status": self.status,
        }

    def _read(self, m: Module, values: dict[str, Any]) -> None:
        """Answers reads with `values`, by register."""
        bus = self.bus
        address = Signal(ADDRESS_BITS)
        # A counter named just before is at the machine's read port by then.
        waited = Signal(range(_READ_CYCLES + 1))
        pending = Signal()
        m.d.comb += bus.arready.eq(~pending & ~bus.rvalid)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [pending.eq(1), address.eq(bus.araddr), waited.eq(0)]
        with m.Elif(pending):
            m.d.sync += waited.eq(waited + 1)
            with m.If(waited == _READ_CYCLES):
                m.d.sync += [pending.eq(0), bus.rvalid.eq(1)]
                with m.Switch(address[2:]):
                    for register in ADDRESS_MAP:
                        if register.access is not Access.READ:
                            continue
                        with m.Case(register.offset >> 2):
                            m.d.sync += [
                                bus.rdata.eq(values[register.name]),
                                bus.rresp.eq(AXI_OKAY),
                            ]
                    with m.Default():
                        m.d.sync += [bus.rdata.eq(0), bus.rresp.eq(AXI_SLVERR)]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
