"""The machine with standard interfaces: AXI4 to its memories, AXI4-Lite to its host.

Ports have the names that vendors' tools recognize: `m_axi_weight_*`, `m_axi_host_*`, `s_axil_*`.
"""

from pathlib import Path
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Cat, Module
from amaranth.lib.wiring import Component, Out, connect

from systol_hw.arch import ALL_WINDOWS, Arch, load_arch
from systol_hw.rtl.bus.axi import AxiLiteSignature, AxiMaster, AxiSignature
from systol_hw.rtl.bus.axi_lite import CONTROL_MEMBERS, AxiLiteRegisters
from systol_hw.rtl.machine import Machine
from systol_hw.safe_children import safe_children
from systol_hw.tables import registers
from systol_hw.tables.address_map import ADDRESS_BITS, MEMORY_BASES

__all__ = ["AXI_TOP_NAME", "AxiMachine", "convert_axi_verilog"]

AXI_TOP_NAME = "systol_axi_machine"
"""Name of the top module."""


class AxiMachine(Component):
    """A machine, an AXI4 master for each of its memories, and an AXI4-Lite slave for its host.

    Parameters
    ----------
    arch : Arch
    packed : bool
        Recipe of the array's products, see `systol_hw.rtl.matrix.array`; the function is the same.

    Members
    -------
    m_axi_weight_*, m_axi_host_* : AxiSignature
    s_axil_* : AxiLiteSignature, flipped
    irq : Out(1)
        Interrupt request (`status`, bit 5).
    """

    def __init__(self, arch: Arch, *, packed: bool):
        self.arch = arch
        self.machine = Machine(arch, packed=packed)
        self.widths = {
            "weight": arch.weight_port.width_bytes,
            "host": arch.host_port.width_bytes,
        }
        self.buses = {
            f"m_axi_{name}": AxiSignature(width_bytes=width) for name, width in self.widths.items()
        } | {"s_axil": AxiLiteSignature(address_bits=ADDRESS_BITS).flip()}
        # Flat, because a name between the prefix and the signal would hide the bus from tools.
        super().__init__(
            {
                f"{prefix}_{name}": member
                for prefix, signature in self.buses.items()
                for name, member in signature.members.items()
            }
            | {"irq": Out(1)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.machine = machine = self.machine
        m.submodules.control = control = AxiLiteRegisters()
        for name, member in CONTROL_MEMBERS.items():
            source, target = getattr(control, name), getattr(machine, name)
            m.d.comb += target.eq(source) if member.flow is Out else source.eq(target)
        self._connect_bus(m, "s_axil", control.bus)
        m.d.comb += self.irq.eq(control.irq)

        bases = [getattr(control, name) for name in MEMORY_BASES]
        errors = []
        for name, first, memories in (("weight", 0, 1), ("host", 1, ALL_WINDOWS)):
            memory_port = {"weight": self.arch.weight_port, "host": self.arch.host_port}[name]
            master = AxiMaster(
                width_bytes=memory_port.width_bytes,
                memories=memories,
                outstanding=registers.latency_limit(memory_port.latency_cycles),
            )
            m.submodules[name] = master
            connect(m, getattr(machine, name), master.native)
            self._connect_bus(m, f"m_axi_{name}", master.axi)
            m.d.comb += master.bases.eq(Cat(bases[first : first + memories]))
            errors.append(master.error)
        m.d.comb += control.bus_error.eq(Cat(errors).any())
        return m

    def _connect_bus(self, m: Module, prefix: str, inner: Any) -> None:
        for name, member in self.buses[prefix].members.items():
            outer, other = getattr(self, f"{prefix}_{name}"), getattr(inner, name)
            m.d.comb += outer.eq(other) if member.flow is Out else other.eq(outer)


def convert_axi_verilog(arch: Arch | str | Path, packed: bool = True) -> str:
    """The Verilog of `arch`'s machine with AXI ports, its top module called `AXI_TOP_NAME`.

    Parameters are those of `systol_hw.rtl.emit.convert_verilog`.
    """
    if not isinstance(arch, Arch):
        arch = load_arch(arch)
    machine = AxiMachine(arch, packed=packed)
    with safe_children():  # Amaranth runs yosys in one
        text: str = verilog.convert(machine, name=AXI_TOP_NAME, emit_src=False)
    return text
