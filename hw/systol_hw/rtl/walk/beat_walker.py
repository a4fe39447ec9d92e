"""From a run of bytes to the beats of a memory port (docs/timing.md, 3.2)."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.rtl.contract.widths import ADDRESS_BITS

__all__ = ["BeatWalker"]


class BeatWalker(Component):
    """Walks over the aligned words that a run of bytes touches.

    `load` starts a run; from the next cycle on the outputs describe its first beat, and after each
    `advance` the next one. The user loads the next run as it advances over the last beat, so runs
    follow each other without a gap.

    Parameters
    ----------
    widths_bytes : tuple[int, int]
        Widths of a beat, powers of two, chosen by `second`.
    burst_bytes : int
        Aligned block that a burst does not leave.
    length_bits : int
        Width of a run's length.

    Members
    -------
    load : In(1), address_in : In(32), length_in : In(length_bits), second : In(1)
        A new run; `second` must hold still during a run. `load` goes before `advance`.
    advance : In(1)
        The present beat is done.
    address : Out(32)
        First live byte.
    beat_address : Out(32)
        The aligned word.
    offset : Out
        `address` - `beat_address`.
    available : Out
        Bytes from `address` to the end of its word.
    live : Out
        Live bytes: what is available, or what is left of the run.
    run_last, burst_last : Out(1)
        The beat is the last of its run, of its burst.
    limit : In(32)
        Bytes of the memory; at most 2**31.
    beyond, run_beyond : Out(1)
        Live bytes of the beat, bytes of the whole run, are outside the memory.
    """

    def __init__(self, *, widths_bytes: tuple[int, int], burst_bytes: int, length_bits: int):
        self.widths_bytes = widths_bytes
        self.burst_bits = ceil_log2(burst_bytes)
        self.length_bits = length_bits
        widest = max(widths_bytes)
        super().__init__(
            {
                "load": In(1),
                "address_in": In(ADDRESS_BITS),
                "length_in": In(length_bits),
                "second": In(1),
                "advance": In(1),
                "address": Out(ADDRESS_BITS),
                "beat_address": Out(ADDRESS_BITS),
                "offset": Out(bits_for(widest - 1)),
                "available": Out(bits_for(widest)),
                "live": Out(bits_for(widest)),
                "run_last": Out(1),
                "burst_last": Out(1),
                "limit": In(ADDRESS_BITS),
                "beyond": Out(1),
                "run_beyond": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        widest = max(self.widths_bytes)
        lane_bits = ceil_log2(widest)
        in_word = Signal(lane_bits)  # ones where the address counts bytes within a beat
        width = Signal(bits_for(widest))
        first, second = self.widths_bytes
        m.d.comb += [
            width.eq(Mux(self.second, second, first)),
            in_word.eq(Mux(self.second, second - 1, first - 1)),
        ]

        remaining = Signal(self.length_bits)
        lanes = self.address[:lane_bits]
        available = self.available
        m.d.comb += [
            self.offset.eq(lanes & in_word),
            self.beat_address.eq(self.address),
            self.beat_address[:lane_bits].eq(lanes & ~in_word),
            available.eq(width - self.offset),
            self.run_last.eq(remaining <= available),
            self.live.eq(Mux(self.run_last, remaining, available)),
            # The word is the last of its block if its address is ones from the word's bits up.
            self.burst_last.eq(
                self.run_last | (self.address[: self.burst_bits] | in_word).all()
            ),
        ]
        if self.burst_bits == 0:
            m.d.comb += self.burst_last.eq(1)
        # An access outside the memory is not even presented, so this heads every grant. The live
        # bytes pass the limit if both the run and the word do, and neither needs an adder here.
        run_end = Signal(ADDRESS_BITS + 1)
        word_last = Signal(ADDRESS_BITS)
        m.d.comb += [
            word_last.eq(self.address | in_word),
            self.run_beyond.eq(run_end > self.limit),
            self.beyond.eq(self.run_beyond & (word_last >= self.limit)),
        ]
        with m.If(self.load):
            m.d.sync += [
                self.address.eq(self.address_in),
                remaining.eq(self.length_in),
                run_end.eq(self.address_in + self.length_in),
            ]
        with m.Elif(self.advance):
            m.d.sync += [
                self.address.eq(self.beat_address + width),
                remaining.eq(remaining - available),
            ]
        return m
