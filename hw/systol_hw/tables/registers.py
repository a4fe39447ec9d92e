"""The configuration registers of a machine: one table for RTL, harness and boards.

Registers are written before `start` and hold still during a run. Those that describe a memory port
come up with the values of the machine's `Arch`, so that one build can stand for many machines that
differ only in their memories.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from systol_hw.arch import ALL_WINDOWS, MEMORY_LIMIT_BYTES, Arch, MemoryPort

ADDRESS_BITS = 6
"""Bits of a register's number."""
DATA_BITS = 32
"""Bits of the register write port."""
CODE_LENGTH_BITS = (MEMORY_LIMIT_BYTES // 64).bit_length()
"""Bits of a number of instructions, and of a program counter."""
DEFAULT_WATCHDOG_CYCLES = 1 << 24
"""What `watchdog_cycles` comes up with; the host's default where a port's beat takes one cycle."""
LARGEST_WATCHDOG_CYCLES = (1 << 32) - 1
COUNTER_READ_LATENCY_CYCLES = 2
"""Cycles from a counter's address at the read port to its value."""


@dataclass(frozen=True, kw_only=True)
class Register:
    """One configuration register; `address` is its number at the write port."""

    address: int
    name: str
    width: int
    doc: str


def _port_registers(first: int, port: str) -> tuple[Register, ...]:
    return (
        Register(address=first, name=f"{port}_beat_cost", width=18,
                 doc=f"credits that a beat of the {port} port takes"),
        Register(address=first + 1, name=f"{port}_credit_income", width=12,
                 doc=f"credits that the {port} port earns in a cycle"),
        Register(address=first + 2, name=f"{port}_credit_cap", width=19,
                 doc=f"the most credits that the {port} port can hold"),
        Register(address=first + 3, name=f"{port}_latency", width=9,
                 doc=f"cycles from a beat's issue to its delivery on the {port} port"),
    )


REGISTERS: tuple[Register, ...] = (
    Register(address=0, name="code_address", width=32,
             doc="byte address of the code in weight memory, a multiple of 64"),
    Register(address=1, name="code_length", width=CODE_LENGTH_BITS,
             doc="instructions of the program"),
    Register(address=2, name="weight_bytes", width=32, doc="size of weight memory"),
    Register(address=3, name="watchdog_cycles", width=32,
             doc="cycles without progress after which the machine faults; at least 1"),
    *_port_registers(4, "weight"),
    *_port_registers(8, "host"),
    *(Register(address=16 + i, name=f"window_bytes_{i}", width=32,
               doc=f"size of host window {i}; 0 where the program has none")
      for i in range(ALL_WINDOWS)),
)
"""Every register, by ascending address."""

REGISTER_BY_NAME: Mapping[str, Register] = MappingProxyType({r.name: r for r in REGISTERS})


def latency_limit(built_latency_cycles: int) -> int:
    """Greatest latency that a port built for `built_latency_cycles` can be set to."""
    return max(64, 1 << (built_latency_cycles + 8).bit_length())


def port_values(port: str, memory: MemoryPort) -> dict[str, int]:
    """Register values that make port `port` ("weight" or "host") behave as `memory`."""
    return {
        f"{port}_beat_cost": memory.beat_cost,
        f"{port}_credit_income": memory.credit_income,
        f"{port}_credit_cap": memory.credit_cap,
        f"{port}_latency": memory.latency_cycles,
    }


def default_watchdog_cycles(weight_port: MemoryPort, host_port: MemoryPort) -> int:
    """What a host writes to `watchdog_cycles` if nobody says otherwise.

    No instruction ends or starts while a long one waits for a slow port, so the limit grows with
    the cycles that the slower port takes for a beat: 2**24 of its beats, as far as the register
    reaches.
    """
    cycles = max(weight_port.beat_cycles, host_port.beat_cycles)
    return min(DEFAULT_WATCHDOG_CYCLES * cycles, LARGEST_WATCHDOG_CYCLES)


def reset_values(arch: Arch) -> dict[str, int]:
    """The value that each register of a machine comes up with."""
    values = {register.name: 0 for register in REGISTERS}
    values["watchdog_cycles"] = DEFAULT_WATCHDOG_CYCLES
    values |= port_values("weight", arch.weight_port)
    values |= port_values("host", arch.host_port)
    return values
