"""The machine as a host sees it through AXI4-Lite: one table for RTL, host driver and docs page.

Registers are 32 bits wide, at byte offsets that are multiples of 4. Only whole words are written.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from systol_hw.arch import ALL_WINDOWS
from systol_hw.tables.registers import REGISTERS, Register

ADDRESS_BITS = 10
"""Bits of a byte offset."""
IDENTITY = 0x53595354
"""What `identity` reads: "SYST" in ASCII."""
VERSION = 2
"""Version of this map; what moves or changes meaning raises it."""
BASE_ALIGNMENT_BYTES = 4096
"""A memory's place in the address space is a multiple of this."""


class Access(enum.Enum):
    """What a host may do with a register."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, kw_only=True)
class MappedRegister:
    """One register of the map: `width` bits from bit 0 of the word at byte `offset`."""

    offset: int
    name: str
    access: Access
    width: int
    doc: str


def _read(offset: int, name: str, width: int, doc: str) -> MappedRegister:
    return MappedRegister(offset=offset, name=name, access=Access.READ, width=width, doc=doc)


def _write(offset: int, name: str, width: int, doc: str) -> MappedRegister:
    return MappedRegister(offset=offset, name=name, access=Access.WRITE, width=width, doc=doc)


def _base(offset: int, name: str, what: str) -> tuple[MappedRegister, MappedRegister]:
    return (
        _write(offset, f"{name}_low", 32, f"low word of the address of {what}; a multiple of 4096"),
        _write(offset + 4, f"{name}_high", 32, f"high word of the address of {what}"),
    )


_CONFIGURATION_OFFSET = 0x200

MEMORY_BASES: tuple[str, ...] = ("weight_base", *(f"window_base_{i}" for i in range(ALL_WINDOWS)))
"""Registers (`_low` and `_high` words) that place weight memory and each host window."""


def configuration_offset(register: Register) -> int:
    """Byte offset of a configuration register of `systol_hw.tables.registers`."""
    return _CONFIGURATION_OFFSET + 4 * register.address


ADDRESS_MAP: tuple[MappedRegister, ...] = (
    _read(0x000, "identity", 32, f"{IDENTITY:#010x}"),
    _read(0x004, "version", 32, f"version of this map: {VERSION}"),
    _write(0x008, "control", 3,
           "bit 0 starts a run, if none is going on; bit 1 takes the interrupt request back; bit 2 "
           "acknowledges the sync_host that waits"),
    _read(0x00C, "status", 7,
          "bit 0 busy: a run is being prepared or is going on; bit 1 running; bit 2 halted; bit 3 "
          "faulted; bit 4 bus error: since the start a memory answered a beat with an error; bit 5 "
          "interrupt request, as on the `irq` wire: since it was last taken back an interrupt "
          "instruction was executed, a sync_host reported, or a run ended; bit 6 a sync_host waits "
          "to be acknowledged"),
    _read(0x010, "fault", 11, "with faulted: bits 0..2 the cause, bits 8..10 the unit"),
    _read(0x014, "fault_pc", 32, "with faulted: index of the faulting instruction"),
    _read(0x018, "fault_cycle_low", 32, "with faulted: cycle of the fault, low word"),
    _read(0x01C, "fault_cycle_high", 16, "with faulted: cycle of the fault, high word"),
    _read(0x020, "interrupt", 32,
          "bits 0..15 value of the last interrupt or sync_host instruction; bits 16..31 number of "
          "them since the start, wrapping"),
    _write(0x024, "counter_address", 13,
           "which counter to read: bits 8..12 its group, bits 4..7 tag, bits 0..3 code"),
    _read(0x028, "counter_low", 32, "the counter named, low word; once the machine is not busy"),
    _read(0x02C, "counter_high", 16, "the counter named, high word"),
    _read(0x030, "program_status", 32, "the status word that set_config writes"),
    _write(0x034, "acknowledge_all", 1,
           "bit 0: every sync_host is acknowledged at once, for a host that has nothing to do"),
    *_base(0x100, "weight_base", "weight memory"),
    *(
        register
        for i in range(ALL_WINDOWS)
        for register in _base(0x108 + 8 * i, f"window_base_{i}", f"host window {i}")
    ),
    *(
        _write(configuration_offset(register), register.name, register.width, register.doc)
        for register in REGISTERS
    ),
)
"""Every register, by ascending offset."""

REGISTER_AT: Mapping[str, MappedRegister] = MappingProxyType({r.name: r for r in ADDRESS_MAP})
"""The registers by name."""
