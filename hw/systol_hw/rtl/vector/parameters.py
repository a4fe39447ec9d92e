"""Biases, multipliers and shifts for the vector lanes: by channel, by taps, or the instruction's.

Ref: docs/numerics.md, 4.
"""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.rtl.vector.mode import MULTIPLIER_BITS, SHIFT_BITS, VectorMode
from systol_hw.rtl.vector.table_lookup import TABLE_READS

__all__ = ["PARAMETER_COUNT_BITS", "VectorParameters", "read_index_bits"]

PARAMETER_COUNT_BITS = 9
_LAYOUT = data.StructLayout(
    {"bias": signed(32), "multiplier": signed(MULTIPLIER_BITS), "shift": SHIFT_BITS}
)
_PLANE_SHIFT = 3
"""log2 of the bits of a plane of raw results."""


def read_index_bits(arch: Arch) -> int:
    """Bits of the number of a parameter read of a group, or of a table read."""
    parameter_reads = -(-arch.columns * PARAMETER_BYTES // arch.ub_width_bytes)
    bits: int = bits_for(max(parameter_reads, TABLE_READS) - 1)
    return bits


class VectorParameters(Component):
    """Three sources, of which an instruction uses one; the others are zero and all are or-ed.

    A register set for each channel; a memory of the parameters of a mean, by the number of taps
    inside the window; and the instruction's constants. The last two are the same for all lanes.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    clear : In(1)
        An instruction starts.
    mode : In(VectorMode), parameter_count : In(9)
        From the cycle after `clear` on.
    read : In(1), read_index : In, read_data : In(8 * W)
        The bytes of parameter read `read_index` of the group.
    tap, tap_first, tap_inside : In(1)
        A tap is performed in this cycle, the first of its row; inside the window. The row's beats
        come from three cycles later on, and the next tap's not before them.
    bias_beat, multiplier_beat, shift_beat : In
        The beat whose value is at the stage that takes the parameter: 3, 4 and 6 cycles and more
        behind the tap, each stage so many behind the one before.
    shift_plane : In(2)
        Plane of raw results at the stage that takes the shift, else 0.
    biases, multipliers_a, multipliers_b, shifts : Out
        For each lane; combinational.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        lanes, beats = arch.vector_lanes, range(arch.vector_slot_cycles)
        super().__init__(
            {
                "clear": In(1),
                "mode": In(VectorMode),
                "parameter_count": In(PARAMETER_COUNT_BITS),
                "read": In(1),
                "read_index": In(read_index_bits(arch)),
                "read_data": In(8 * arch.ub_width_bytes),
                "tap": In(1),
                "tap_first": In(1),
                "tap_inside": In(1),
                "bias_beat": In(beats),
                "multiplier_beat": In(beats),
                "shift_beat": In(beats),
                "shift_plane": In(2),
                "biases": Out(data.ArrayLayout(signed(32), lanes)),
                "multipliers_a": Out(data.ArrayLayout(signed(MULTIPLIER_BITS), lanes)),
                "multipliers_b": Out(data.ArrayLayout(signed(MULTIPLIER_BITS), lanes)),
                "shifts": Out(data.ArrayLayout(SHIFT_BITS, lanes)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, mode = self.arch, self.mode
        raw = data.ArrayLayout(8 * PARAMETER_BYTES, arch.ub_width_bytes // PARAMETER_BYTES)
        arrived = [
            Cat(word[: 32 + MULTIPLIER_BITS], word[56 : 56 + SHIFT_BITS])
            for word in data.View(raw, self.read_data)
        ]
        channels = self._by_channel(m, arrived)
        common = self._common(m, arrived)

        # The multiplier's stage is one behind the bias', the shift's three.
        multiplier_a = Signal(signed(MULTIPLIER_BITS))
        multiplier_b = Signal(signed(MULTIPLIER_BITS))
        shifts = [common.shift, *(Signal(SHIFT_BITS, name=f"shift_{i}") for i in range(3))]
        m.d.sync += [
            multiplier_a.eq(common.multiplier),
            multiplier_b.eq(Mux(mode.mean, common.multiplier, mode.multiplier_b)),
        ]
        m.d.sync += [after.eq(before) for before, after in pairwise(shifts)]
        shift = shifts[-1] | (self.shift_plane << _PLANE_SHIFT)
        for lane in range(arch.vector_lanes):
            own = channels[lane :: arch.vector_lanes]
            multiplier = Array(p.multiplier for p in own)[self.multiplier_beat]
            m.d.comb += [
                self.biases[lane].eq(Array(p.bias for p in own)[self.bias_beat] | common.bias),
                self.multipliers_a[lane].eq(multiplier | multiplier_a),
                self.multipliers_b[lane].eq(multiplier | multiplier_b),
                self.shifts[lane].eq(Array(p.shift for p in own)[self.shift_beat] | shift),
            ]
        return m

    def _by_channel(self, m: Module, arrived: list[Any]) -> list[Any]:
        """One group's parameters; zero unless the instruction has such."""
        channels = []
        for channel in range(self.arch.columns):
            read, place = divmod(channel, len(arrived))
            stored = Signal(_LAYOUT, name=f"parameters_{channel}")
            with m.If(self.clear):
                m.d.sync += stored.eq(0)
            with m.Elif(self.read & self.mode.channel_parameters & (self.read_index == read)):
                m.d.sync += stored.as_value().eq(arrived[place])
            channels.append(stored)
        return channels

    def _common(self, m: Module, arrived: list[Any]) -> Any:
        """What all lanes take, at the bias' stage: of the row's number of taps, or constant."""
        arch, mode = self.arch, self.mode
        reads = -(-arch.columns // len(arrived))
        m.submodules.by_taps = memory = Memory(
            shape=len(arrived) * _LAYOUT.size, depth=reads, init=[]
        )
        write, read = memory.write_port(), memory.read_port(domain="comb")

        # Taps of the row inside the window, one cycle behind the tap; then its parameter's number.
        inside = Signal(PARAMETER_COUNT_BITS)
        index = Signal(PARAMETER_COUNT_BITS)
        before = Mux(self.tap_first, 0, inside)
        with m.If(self.tap):
            m.d.sync += inside.eq(
                before + (self.tap_inside & (before != self.parameter_count))
            )
        m.d.sync += index.eq(inside - inside.any())
        place_bits = ceil_log2(len(arrived))
        chosen = Signal(_LAYOUT)
        common = Signal(_LAYOUT)
        places = data.View(data.ArrayLayout(_LAYOUT.size, len(arrived)), read.data)
        m.d.comb += [
            write.en.eq(self.read & mode.mean),
            write.addr.eq(self.read_index),
            write.data.eq(Cat(arrived)),
            read.addr.eq(index >> place_bits),
            chosen.as_value().eq(places[index[:place_bits]]),
        ]
        with m.If(mode.mean):
            m.d.sync += common.eq(chosen)
        with m.Else():
            m.d.sync += [
                common.bias.eq(0),
                common.multiplier.eq(mode.multiplier_a),
                common.shift.eq(mode.shift),
            ]
        return common
