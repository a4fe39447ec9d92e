"""The performance counters (docs/timing.md, 8; the table is `systol_hw.tables.counters`)."""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import TAGS, Arch
from systol_hw.rtl.contract.interfaces import amount_bits
from systol_hw.rtl.contract.widths import GROUP_BITS, STATE_BITS, TAG_BITS, TOKEN_UNITS
from systol_hw.tables.counters import AMOUNTS, COUNTER_BITS, SCALAR_GROUP, SCALARS, STATES
from systol_hw.tables.faults import Unit

__all__ = ["PEAKS", "AmountCounters", "Counters", "StateCounters"]


def _peak_limits(arch: Arch) -> dict[str, int]:
    """Greatest value of each occupancy whose peak is kept, by the scalar's name."""
    limits = {f"peak_queue_{unit.name.lower()}": arch.queue_depth for unit in TOKEN_UNITS}
    return limits | {
        "peak_weight_fifo": arch.weight_fifo_tiles,
        "peak_store_buffer": arch.store_buffer_beats,
        "peak_vector_rows": arch.vector_write_rows,
    }


PEAKS = tuple(scalar.name for scalar in SCALARS if scalar.name.startswith("peak_"))
"""The occupancies, named by their scalar."""


class StateCounters(Component):
    """One unit's 16 x 16 state counters in block RAM: adds 1 at `address` in each cycle.

    Members
    -------
    count, address : In
        Add 1 in this cycle; `address` is the tag, then the state code in the low bits.
    clear, clear_address : In
        Write zero; not together with `count`, nor within two cycles of it.
    read_address, read_data : In, Out
        The value one cycle later; from two cycles after the last `count` on.
    """

    count: In(1)
    address: In(TAG_BITS + STATE_BITS)
    clear: In(1)
    clear_address: In(TAG_BITS + STATE_BITS)
    read_address: In(TAG_BITS + STATE_BITS)
    read_data: Out(COUNTER_BITS)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=COUNTER_BITS, depth=TAGS * STATES, init=[])
        write = memory.write_port()
        read = memory.read_port()
        # Event registered, then read, then added and written.
        valid = Signal(2)
        addresses = [Signal.like(self.address, name=f"address_{i}") for i in range(2)]
        m.d.sync += [
            valid.eq(Cat(self.count, valid[0])),
            addresses[0].eq(self.address),
            addresses[1].eq(addresses[0]),
        ]
        # The read of an address that was written in the same cycle is stale.
        written = Signal(COUNTER_BITS)
        stale = Signal()
        value = Signal(COUNTER_BITS)
        m.d.comb += [
            read.addr.eq(Mux(valid[0], addresses[0], self.read_address)),
            value.eq(Mux(stale, written, read.data) + 1),
            write.en.eq(valid[1] | self.clear),
            write.addr.eq(Mux(valid[1], addresses[1], self.clear_address)),
            write.data.eq(Mux(valid[1], value, 0)),
            self.read_data.eq(read.data),
        ]
        m.d.sync += [
            written.eq(value),
            stale.eq(valid[1] & (addresses[1] == addresses[0])),
        ]
        return m


class AmountCounters(Component):
    """One amount's 16 sums, by tag, in distributed memory.

    Members
    -------
    amount, tag : In
        Add `amount` to the sum of `tag` in this cycle.
    clear, clear_tag, read_tag, read_data
        As in `StateCounters`, but `read_data` answers in the same cycle.
    """

    def __init__(self, width: int):
        super().__init__(
            {
                "amount": In(width),
                "tag": In(TAG_BITS),
                "clear": In(1),
                "clear_tag": In(TAG_BITS),
                "read_tag": In(TAG_BITS),
                "read_data": Out(COUNTER_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=COUNTER_BITS, depth=TAGS, init=[])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        valid = Signal()
        amount = Signal.like(self.amount)
        tag = Signal.like(self.tag)
        m.d.sync += [valid.eq(self.amount != 0), amount.eq(self.amount), tag.eq(self.tag)]
        m.d.comb += [
            read.addr.eq(Mux(valid, tag, self.read_tag)),
            write.en.eq(valid | self.clear),
            write.addr.eq(Mux(valid, tag, self.clear_tag)),
            write.data.eq(Mux(valid, read.data + amount, 0)),
            self.read_data.eq(read.data),
        ]
        return m


class Counters(Component):
    """All counters of the machine.

    Members
    -------
    running : In(1)
        Only cycles with `running` count.
    state_<unit>, tag_<unit> : In
        Each unit's state of this cycle, and the tag that it is charged to.
    amount_<group>, amount_tag_<group> : In
        For each of `AMOUNTS`.
    level_<peak> : In
        Registered occupancies, for each of `PEAKS`.
    cycle : In(48)
        The supervisor's count; after the run, of the run.
    late : In(2)
        By how much `late_cycles` grows in this cycle.
    clear, clear_address : In
        While not running, zeroes one address; once zeroes the scalars.
    read_group, read_tag, read_code, read_data
        While not running, from four cycles after the run on; the value appears
        `registers.COUNTER_READ_LATENCY_CYCLES` after the address. In group 31, `read_code` is the
        scalar's index.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        members: dict[str, Any] = {
            "running": In(1),
            "cycle": In(COUNTER_BITS),
            "late": In(2),
            "clear": In(1),
            "clear_address": In(TAG_BITS + STATE_BITS),
            "read_group": In(GROUP_BITS),
            "read_tag": In(TAG_BITS),
            "read_code": In(STATE_BITS),
            "read_data": Out(COUNTER_BITS),
        }
        for unit in Unit:
            members[f"state_{unit.name.lower()}"] = In(STATE_BITS)
            members[f"tag_{unit.name.lower()}"] = In(TAG_BITS)
        for amount in AMOUNTS:
            members[f"amount_{amount.group}"] = In(amount_bits(arch, amount.unit)[amount.name])
            members[f"amount_tag_{amount.group}"] = In(TAG_BITS)
        for name, limit in _peak_limits(arch).items():
            members[f"level_{name}"] = In(bits_for(limit))
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        values: list[Any] = [Const(0, COUNTER_BITS)] * (1 << GROUP_BITS)
        for unit in Unit:
            name = unit.name.lower()
            m.submodules[f"states_{name}"] = counters = StateCounters()
            m.d.comb += [
                counters.count.eq(self.running),
                counters.address.eq(
                    Cat(getattr(self, f"state_{name}"), getattr(self, f"tag_{name}"))
                ),
                counters.clear.eq(self.clear),
                counters.clear_address.eq(self.clear_address),
                counters.read_address.eq(Cat(self.read_code, self.read_tag)),
            ]
            values[unit] = counters.read_data
        for amount in AMOUNTS:
            value = getattr(self, f"amount_{amount.group}")
            m.submodules[f"amount_{amount.group}"] = sums = AmountCounters(len(value))
            registered = Signal(COUNTER_BITS, name=f"read_amount_{amount.group}")
            m.d.comb += [
                sums.amount.eq(Mux(self.running, value, 0)),
                sums.tag.eq(getattr(self, f"amount_tag_{amount.group}")),
                sums.clear.eq(self.clear),
                sums.clear_tag.eq(self.clear_address[STATE_BITS:]),
                sums.read_tag.eq(self.read_tag),
            ]
            m.d.sync += registered.eq(sums.read_data)
            values[amount.group] = registered
        values[SCALAR_GROUP] = self._scalars(m)
        group = Signal.like(self.read_group)
        m.d.sync += [group.eq(self.read_group), self.read_data.eq(Array(values)[group])]
        return m

    def _scalars(self, m: Module) -> Signal:
        """The scalar that `read_code` names."""
        late = Signal(COUNTER_BITS)
        with m.If(self.clear):
            m.d.sync += late.eq(0)
        with m.Elif(self.running):
            m.d.sync += late.eq(late + self.late)
        scalars: dict[str, Any] = {"cycles": self.cycle, "late_cycles": late}
        for name in PEAKS:
            level = getattr(self, f"level_{name}")
            peak = Signal.like(level, name=name)
            with m.If(self.clear):
                m.d.sync += peak.eq(0)
            with m.Elif(self.running & (level > peak)):
                m.d.sync += peak.eq(level)
            scalars[name] = peak
        value = Signal(COUNTER_BITS, name="read_scalar")
        with m.Switch(self.read_code):
            for scalar in SCALARS:
                with m.Case(scalar.index):
                    m.d.sync += value.eq(scalars[scalar.name])
            with m.Default():
                m.d.sync += value.eq(0)
        return value
