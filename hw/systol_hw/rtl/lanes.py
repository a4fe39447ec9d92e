"""The vector unit's arithmetic: running maximum and requantization, `vector_lanes` at a time.

Ref: docs/timing.md, 7.2 and 7.5. Of a tap performed in cycle t, beat s (channels s*L .. s*L+L-1,
L = `vector_lanes`, S beats) passes in these cycles::

    t + 1      the row is read from a buffer
    t + 2 + s  it is held; the maximum with the row's earlier taps
    t + 3 + s  + bias
    t + 4 + s  two partial products
    t + 5 + s  their sum
    t + 6 + s  shift by a multiple of 8
    t + 7 + s  shift by the rest, rounding, zero point, saturation, clip
    t + 8 + s  result

The last result is there in t + S + 7 and is written to a buffer that can be read in t + S + 8.
"""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.rtl.convert_once import converted_once

__all__ = ["REQUANTIZE_CYCLES", "Requantizer", "RunningMaximum", "VectorLanes"]

REQUANTIZE_CYCLES = 5
"""Cycles from `Requantizer.value` to `result`."""

_MULTIPLIER_BITS = 18
_SHIFT_BITS = 6
_LOW_BITS = 17
"""Bits of the lower half of a value: unsigned, it is an operand of a signed 18x18 multiplier."""
_PRODUCT_BITS = 32 + _MULTIPLIER_BITS
_QUOTIENT_BITS = 10
"""Signed bits of a rounded quotient that the zero point can still bring into -128..127."""
_EMPTY = -(1 << 31)
"""Maximum over no tap."""


class Requantizer(Component):
    """One lane: `clip(saturate(round_half_even((value + bias) * multiplier / 2**shift) + zp))`.

    A value a cycle. `bias` comes with `value`, `multiplier` one cycle and `shift` three cycles
    behind it, so that a user can select parameters stage by stage.

    Members
    -------
    value, bias : In(signed(32)), multiplier : In(signed(18)), shift : In(6)
    zero_point, low, high : In(signed(8))
        Constant while values are under way; `low` <= `high`.
    wrapped : Out(1)
        `value + bias` left 32 bits and wrapped; one cycle behind `value`.
    result : Out(signed(8)), saturated : Out(1)
        `REQUANTIZE_CYCLES` behind `value`; `saturated` if it left -128..127 before the clip.
    """

    value: In(signed(32))
    bias: In(signed(32))
    multiplier: In(signed(_MULTIPLIER_BITS))
    shift: In(_SHIFT_BITS)
    zero_point: In(signed(8))
    low: In(signed(8))
    high: In(signed(8))
    wrapped: Out(1)
    result: Out(signed(8))
    saturated: Out(1)

    @converted_once()
    def elaborate(self, platform: Any) -> Module:
        m = Module()
        total = Signal(signed(33))
        biased = Signal(signed(32), reset_less=True)
        m.d.comb += total.eq(self.value + self.bias)
        m.d.sync += [biased.eq(total), self.wrapped.eq(total[32] ^ total[31])]

        # Two products of at most 18x18 bits: one DSP block each.
        lower = Signal(signed(_LOW_BITS + 1))
        upper = Signal(signed(32 - _LOW_BITS))
        m.d.comb += [lower.eq(biased[:_LOW_BITS]), upper.eq(biased[_LOW_BITS:])]
        low_product = Signal(signed(_LOW_BITS + 1 + _MULTIPLIER_BITS), reset_less=True)
        high_product = Signal(signed(_PRODUCT_BITS - _LOW_BITS), reset_less=True)
        product = Signal(signed(_PRODUCT_BITS), reset_less=True)
        m.d.sync += [
            low_product.eq(lower * self.multiplier),
            high_product.eq(upper * self.multiplier),
            product.eq(
                Cat(
                    low_product[:_LOW_BITS],
                    (high_product + (low_product >> _LOW_BITS))[: len(high_product)],
                )
            ),
        ]

        # One bit for rounding stands below the product's; `sticky` is whether anything below that
        # was not zero. The shifter narrows as it goes: bits above what the smaller shifts to come
        # can still bring into the quotient only say `large`.
        window: Any = Cat(Const(0, 1), product).as_signed()
        window, large, sticky = self._shift(window, Const(0), Const(0), (5, 4, 3), self.shift)
        coarse = Signal(signed(len(window)), reset_less=True)
        coarse_large, coarse_sticky, negative = Signal(), Signal(), Signal()
        fine_shift = Signal(3, reset_less=True)
        m.d.sync += [
            coarse.eq(window),
            coarse_large.eq(large),
            coarse_sticky.eq(sticky),
            negative.eq(product[-1]),
            fine_shift.eq(self.shift[:3]),
        ]
        window, large, sticky = self._shift(
            coarse, coarse_large, coarse_sticky, (2, 1, 0), fine_shift
        )
        quotient = Signal(signed(_QUOTIENT_BITS))
        round_up = Signal()
        shifted = Signal(signed(_QUOTIENT_BITS + 2))
        m.d.comb += [
            quotient.eq(window[1:]),
            round_up.eq(window[0] & (sticky | quotient[0])),
            shifted.eq(quotient + self.zero_point + round_up),
        ]
        saturated, below = Signal(), Signal()
        byte = Signal(signed(8))
        m.d.comb += [
            saturated.eq(large | ~(shifted[7:].all() | ~shifted[7:].any())),
            below.eq(Mux(large, negative, shifted[-1])),
            byte.eq(Mux(saturated, Mux(below, -128, 127), shifted)),
        ]
        m.d.sync += self.saturated.eq(saturated)
        with m.If(byte < self.low):
            m.d.sync += self.result.eq(self.low)
        with m.Elif(byte > self.high):
            m.d.sync += self.result.eq(self.high)
        with m.Else():
            m.d.sync += self.result.eq(byte)
        return m

    def _shift(
        self, window: Any, large: Any, sticky: Any, levels: tuple[int, ...], shift: Any
    ) -> tuple[Any, Any, Any]:
        """Shift right by the chosen bits of `shift`, largest first."""
        for level in levels:
            step = 1 << level
            # The smaller shifts to come drop step - 1 bits at the most.
            width = _QUOTIENT_BITS + 1 + step - 1
            chosen = shift[level]
            top = window[width - 1 :]
            large = large | (~chosen & top.any() & ~top.all())
            sticky = sticky | (chosen & window[:step].any())
            window = Mux(chosen, window >> step, window)[:width].as_signed()
        return window, large, sticky


class RunningMaximum(Component):
    """Maximum over the taps of a row, for one lane; beats come S at a time and in order.

    Members
    -------
    enable : In(1)
        A beat comes in.
    first : In(1)
        It belongs to the row's first tap.
    none : In(1)
        The tap is outside the window and counts for nothing.
    value : In(signed(32))
    maximum : Out(signed(32))
        Over this channel's taps so far, one cycle behind `value`.
    """

    enable: In(1)
    first: In(1)
    none: In(1)
    value: In(signed(32))
    maximum: Out(signed(32))

    def __init__(self, beats: int):
        self.beats = beats
        super().__init__()

    @converted_once("beats")
    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The beat's channel was last seen S beats ago.
        history = [Signal(signed(32), reset_less=True, name=f"beat_{i}") for i in range(self.beats)]
        before = history[-1]
        with m.If(self.enable):
            m.d.sync += [later.eq(now) for now, later in pairwise(history)]
            with m.If(~self.none & (self.first | (self.value > before))):
                m.d.sync += history[0].eq(self.value)
            with m.Elif(self.first):
                m.d.sync += history[0].eq(_EMPTY)
            with m.Else():
                m.d.sync += history[0].eq(before)
        m.d.comb += self.maximum.eq(history[0])
        return m


class VectorLanes(Component):
    """From taps to bytes, see the module's docstring.

    Members
    -------
    start, requantize, fill : In(1), zero_point, low, high : In(signed(8))
        An instruction starts; the lanes are empty. Neither `requantize` nor `fill` is `copy`.
    parameter, parameter_index : In
        The bytes on `parameter_data` are those of parameter read `parameter_index` of the group.
    parameter_data : In(8 * W)
    parameter_channels : In
        Live channels of the group; taken with `parameter`.
    tap, tap_first, tap_last, tap_none, tap_ub : In(1)
        A tap is performed in this cycle: the first, the last of its row; outside the window (or
        `fill`); operand from the unified buffer. At most one in S cycles.
    ub_data, accumulator_data : In
        The tap's operand, in the cycle after it was performed.
    valid, beat, last : Out
        Beat `beat` of a row is on `results`; it is the row's last.
    results : Out(8 * L)
    saturations, overflows : Out
        Number to count in this cycle, over live channels of `requantize`.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        self.beats = arch.vector_slot_cycles
        width = arch.ub_width_bytes
        self.channels_per_read = width // PARAMETER_BYTES
        self.reads = -(-arch.columns // self.channels_per_read)
        super().__init__(
            {
                "start": In(1),
                "requantize": In(1),
                "fill": In(1),
                "zero_point": In(signed(8)),
                "low": In(signed(8)),
                "high": In(signed(8)),
                "parameter": In(1),
                "parameter_index": In(range(self.reads)),
                "parameter_data": In(8 * width),
                "parameter_channels": In(bits_for(arch.columns)),
                "tap": In(1),
                "tap_first": In(1),
                "tap_last": In(1),
                "tap_none": In(1),
                "tap_ub": In(1),
                "ub_data": In(8 * width),
                "accumulator_data": In(data.ArrayLayout(32, arch.columns)),
                "valid": Out(1),
                "beat": Out(range(self.beats)),
                "last": Out(1),
                "results": Out(8 * arch.vector_lanes),
                "saturations": Out(bits_for(arch.columns)),
                "overflows": Out(bits_for(arch.columns)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        parameters, live = self._parameters(m)
        values, controls = self._values(m)
        zero_point = Signal(signed(8))
        low, high = Signal(signed(8)), Signal(signed(8))
        counts = Signal()
        with m.If(self.start):
            m.d.sync += [
                counts.eq(self.requantize),
                zero_point.eq(Mux(self.requantize | self.fill, self.zero_point, 0)),
                # min(max(q, low), high) with low > high is high, whatever q is.
                low.eq(
                    Mux(self.fill, -128, Mux(self.low > self.high, self.high, self.low))
                ),
                high.eq(Mux(self.fill, 127, self.high)),
            ]

        # Beat and whether there is a result, stage by stage: [0] is the maximum's output.
        stages = [controls]
        for stage in range(REQUANTIZE_CYCLES):
            register = Signal(controls.shape(), name=f"stage_{stage}")
            m.d.sync += register.eq(stages[-1])
            stages.append(register)
        m.d.comb += [
            self.valid.eq(stages[-1].valid),
            self.beat.eq(stages[-1].beat),
            self.last.eq(stages[-1].valid & (stages[-1].beat == self.beats - 1)),
        ]
        results, saturated, wrapped = [], [], []
        for lane, value in enumerate(values):
            requantizer = Requantizer()
            m.submodules[f"lane_{lane}"] = requantizer
            own = [parameters[beat * len(values) + lane] for beat in range(self.beats)]
            alive = [live[beat * len(values) + lane] for beat in range(self.beats)]
            m.d.comb += [
                requantizer.value.eq(value),
                requantizer.bias.eq(Array(p.bias for p in own)[stages[0].beat]),
                requantizer.multiplier.eq(Array(p.multiplier for p in own)[stages[1].beat]),
                requantizer.shift.eq(Array(p.shift for p in own)[stages[3].beat]),
                requantizer.zero_point.eq(zero_point),
                requantizer.low.eq(low),
                requantizer.high.eq(high),
            ]
            results.append(requantizer.result)
            wrapped.append(requantizer.wrapped & Array(alive)[stages[1].beat])
            saturated.append(requantizer.saturated & Array(alive)[stages[-1].beat])
        m.d.comb += self.results.eq(Cat(results))
        with m.If(counts & stages[1].valid):
            m.d.comb += self.overflows.eq(sum(wrapped))
        with m.If(counts & stages[-1].valid):
            m.d.comb += self.saturations.eq(sum(saturated))
        return m

    def _parameters(self, m: Module) -> tuple[list[Any], Signal]:
        """One group's parameters, a register set for each channel, and which channels live.

        `copy` is a requantization with bias 0, multiplier 1 and shift 0, `fill` one with
        multiplier 0.
        """
        layout = data.StructLayout(
            {"bias": signed(32), "multiplier": signed(_MULTIPLIER_BITS), "shift": _SHIFT_BITS}
        )
        live = Signal(self.arch.columns)
        with m.If(self.parameter):
            m.d.sync += live.eq(
                Cat(self.parameter_channels > c for c in range(self.arch.columns))
            )
        parameters = []
        for channel in range(self.arch.columns):
            read, place = divmod(channel, self.channels_per_read)
            stored = Signal(layout, name=f"parameters_{channel}")
            raw = self.parameter_data.word_select(place, 8 * PARAMETER_BYTES)
            with m.If(self.start):
                m.d.sync += [stored.eq(0), stored.multiplier.eq(~self.fill)]
            with m.Elif(self.parameter & (self.parameter_index == read)):
                m.d.sync += [
                    stored.bias.eq(raw[:32].as_signed()),
                    stored.multiplier.eq(raw[32 : 32 + _MULTIPLIER_BITS].as_signed()),
                    stored.shift.eq(raw[56 : 56 + _SHIFT_BITS]),
                ]
            parameters.append(stored)
        return parameters, live

    def _values(self, m: Module) -> tuple[list[Any], Any]:
        """Hold the operand's row, cut it into beats, take the maximum over taps."""
        arch, lanes = self.arch, self.arch.vector_lanes
        flags = data.StructLayout({"first": 1, "last": 1, "none": 1})
        tap, tap_flags, tap_ub = Signal(), Signal(flags), Signal()
        m.d.sync += [
            tap.eq(self.tap),
            tap_flags.eq(Cat(self.tap_first, self.tap_last, self.tap_none)),
            tap_ub.eq(self.tap_ub),
        ]
        # Both sources are held and the unused one is zero: their sum needs no selection. An
        # instruction has one source, so it is enough to clear both as it starts.
        held_bytes = [Signal(8, name=f"held_byte_{c}") for c in range(arch.columns)]
        held_words = [Signal(32, name=f"held_word_{c}") for c in range(arch.columns)]
        held_flags = Signal(flags)
        beat, beat_valid = Signal(range(self.beats)), Signal()
        with m.If(self.start):
            m.d.sync += [held.eq(0) for held in held_bytes + held_words]
        with m.Elif(tap & ~tap_flags.none & tap_ub):
            m.d.sync += [
                held.eq(self.ub_data.word_select(c, 8)) for c, held in enumerate(held_bytes)
            ]
        with m.Elif(tap & ~tap_flags.none):
            m.d.sync += [held.eq(self.accumulator_data[c]) for c, held in enumerate(held_words)]
        with m.If(tap):
            m.d.sync += [held_flags.eq(tap_flags), beat.eq(0), beat_valid.eq(1)]
        with m.Elif(beat == self.beats - 1):
            m.d.sync += beat_valid.eq(0)
        with m.Else():
            m.d.sync += beat.eq(beat + 1)

        layout = data.StructLayout({"valid": unsigned(1), "beat": beat.shape()})
        out = Signal(layout)
        m.d.sync += [out.valid.eq(beat_valid & held_flags.last), out.beat.eq(beat)]
        values = []
        for lane in range(lanes):
            byte, word = Signal(signed(8), name=f"byte_{lane}"), Signal(32, name=f"word_{lane}")
            channels = [b * lanes + lane for b in range(self.beats)]
            m.submodules[f"maximum_{lane}"] = maximum = RunningMaximum(self.beats)
            m.d.comb += [
                byte.eq(Array(held_bytes[c] for c in channels)[beat]),
                word.eq(Array(held_words[c] for c in channels)[beat]),
                maximum.enable.eq(beat_valid),
                maximum.first.eq(held_flags.first),
                maximum.none.eq(held_flags.none),
                maximum.value.eq(byte | word),
            ]
            values.append(maximum.maximum)
        return values, out
