"""The operands of an access, held while the vector lanes take them beat by beat."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from systol_hw.arch import Arch
from systol_hw.rtl.vector.mode import OPERAND_BITS, VectorMode

__all__ = ["LOADS", "VALUE_BITS", "OperandHold"]

LOADS = ("word", "a_low", "a_high", "b_low", "b_high")
"""What a read brings: a row of accumulators, or a plane of A or of B."""

VALUE_BITS = 2 * OPERAND_BITS
"""A lane's value: of `binary` a in the low half and b in the high one, else 32 bits or u."""


class OperandHold(Component):
    """Registers for every channel, and each lane's value of the present beat.

    What an instruction does not load is zero, so that the sources need not be selected among: a
    value is the accumulator, or low + 256 * high + offset.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    clear : In(1)
        An instruction starts.
    mode : In(VectorMode)
        From the cycle after `clear` on.
    loads : In
        Reads that were granted in this cycle, by the names of `LOADS`.
    a_data, b_data : In(8 * W), accumulator_data : In
        Their data, one cycle later.
    beat : In
        Two cycles behind the reads and later: the channels that `values` is of.
    values : Out
        `VALUE_BITS` for each lane; combinational.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        width = 8 * arch.ub_width_bytes
        super().__init__(
            {
                "clear": In(1),
                "mode": In(VectorMode),
                "loads": In(data.StructLayout({name: 1 for name in LOADS})),
                "a_data": In(width),
                "b_data": In(width),
                "accumulator_data": In(data.ArrayLayout(32, arch.columns)),
                "beat": In(range(arch.vector_slot_cycles)),
                "values": Out(data.ArrayLayout(unsigned(VALUE_BITS), arch.vector_lanes)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        loads = Signal.like(self.loads)
        m.d.sync += loads.eq(self.loads)
        sources = {
            "word": self.accumulator_data.as_value(),
            "a_low": self.a_data,
            "a_high": self.a_data,
            "b_low": self.b_data,
            "b_high": self.b_data,
        }
        held: dict[str, list[Any]] = {}
        for name in LOADS:
            bits = 32 if name == "word" else 8
            # One register over all channels is one statement for the simulators.
            register = Signal(bits * arch.columns, name=f"held_{name}")
            with m.If(self.clear):
                m.d.sync += register.eq(0)
            with m.Elif(loads[name]):
                m.d.sync += register.eq(sources[name])
            held[name] = [register[bits * c : bits * (c + 1)] for c in range(arch.columns)]

        for lane in range(arch.vector_lanes):
            own = range(lane, arch.columns, arch.vector_lanes)
            now = {}
            for name in LOADS:
                shape = unsigned(32) if name == "word" else signed(8)
                now[name] = Signal(shape, name=f"{name}_{lane}")
                m.d.comb += now[name].eq(Array(held[name][c] for c in own)[self.beat])
            a = Signal(signed(OPERAND_BITS), name=f"a_{lane}")
            b = Signal(signed(OPERAND_BITS), name=f"b_{lane}")
            # Joined, not added: synthesis would merge two additions into a costlier one.
            tops = [now[f"{name}_high"] - now[f"{name}_low"][-1] for name in "ab"]
            both = [
                Cat(now[f"{name}_low"][:8], top).as_signed()
                for name, top in zip("ab", tops, strict=True)
            ]
            m.d.comb += [
                a.eq(both[0] + self.mode.a_offset),
                b.eq(both[1] + self.mode.b_offset),
                self.values[lane].eq(
                    Cat(a, Mux(self.mode.binary, b, a[-1].replicate(OPERAND_BITS)))
                    | now["word"]
                ),
            ]
        return m
