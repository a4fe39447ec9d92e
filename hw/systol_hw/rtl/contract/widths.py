"""Widths that parts of the machine agree on, each with what it follows from."""

from amaranth.utils import bits_for

from systol_hw.arch import INSTRUCTION_BYTES, TAGS
from systol_hw.tables.counters import SCALAR_GROUP
from systol_hw.tables.faults import FaultCause, Unit

__all__ = [
    "ACCUMULATOR_BITS",
    "ADDRESS_BITS",
    "BEAT_COST_BITS",
    "CAUSE_BITS",
    "CREDIT_CAP_BITS",
    "CREDIT_INCOME_BITS",
    "CYCLE_BITS",
    "GROUP_BITS",
    "INSTRUCTION_BITS",
    "LATENCY_BITS",
    "STATE_BITS",
    "TAG_BITS",
    "TOKEN_UNITS",
    "UNIT_BITS",
]

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES
ADDRESS_BITS = 32
"""Bits of a byte address, in whatever memory."""
ACCUMULATOR_BITS = 32

TOKEN_UNITS = tuple(unit for unit in Unit if unit is not Unit.CONTROL)
"""The units that exchange tokens; bit `unit - 1` of a mask stands for each."""
UNIT_BITS = bits_for(max(Unit))
CAUSE_BITS = bits_for(max(FaultCause))

TAG_BITS = bits_for(TAGS - 1)
STATE_BITS = 4
"""Bits of a state code (`systol_hw.tables.counters`)."""
GROUP_BITS = bits_for(SCALAR_GROUP)
"""Bits of the number of a group of counters."""
CYCLE_BITS = 48

BEAT_COST_BITS = 18
"""Bits of `arch.MemoryPort.beat_cost`: at most 64 * 4095."""
CREDIT_INCOME_BITS = 12
"""Bits of `arch.MemoryPort.credit_income`: at most 4095."""
CREDIT_CAP_BITS = 19
"""Bits of `arch.MemoryPort.credit_cap`: the sum of the other two."""
LATENCY_BITS = 9
"""Bits of `arch.MemoryPort.latency_cycles`: at most 511."""
