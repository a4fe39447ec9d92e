"""The LOAD and STORE engines: strided runs between memories and the unified buffer (6.1, 6.2)."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.arch import ALL_WINDOWS, Arch
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.rtl.contract.instruction import fields_of
from systol_hw.rtl.contract.interfaces import (
    BeatSignature,
    EngineSignature,
    UbReadSignature,
    UbWriteSignature,
    amount_bits,
)
from systol_hw.rtl.contract.widths import ADDRESS_BITS, INSTRUCTION_BITS
from systol_hw.rtl.parts.rotate import rotate_left, rotate_right
from systol_hw.rtl.walk.beat_walker import BeatWalker
from systol_hw.rtl.walk.loop_nest import LoopNest
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

__all__ = ["STORE_USER_BITS", "LoadEngine", "StoreEngine", "TransferWalker", "load_user_layout"]

STORE_USER_BITS = 1
"""STORE wants one bit back with a delivery: the beat is its instruction's last."""

_KEPT = ("run_bytes", "count0", "count1", "memory_stride0", "memory_stride1", "ub_stride0",
         "ub_stride1")
_COUNT_BITS = 16
_RUN_BITS = 24


def _widest(arch: Arch) -> int:
    return max(arch.host_port.width_bytes, arch.weight_port.width_bytes)


def load_user_layout(arch: Arch) -> data.StructLayout:
    """What LOAD sends along with a beat: where its bytes go, and which of the word they are."""
    return data.StructLayout(
        {
            "ub_address": bits_for(arch.ub_bytes - 1),
            "offset": bits_for(_widest(arch) - 1),
            "live": bits_for(_widest(arch)),
            "last": 1,
        }
    )


class TransferWalker(Component):
    """The beats of a transfer instruction in order, each with its place in the unified buffer.

    Parameters
    ----------
    arch : Arch
    host_operation : str
        The operation that uses the host port's primary windows; with `_alternate` behind its name
        it is the one that uses the others. The unit's third one uses weight memory.

    Members
    -------
    start : In(1), word : In(512)
        Load an instruction; its first beat stands at the outputs from the next cycle on.
    advance : In(1)
        Go on to the next beat.
    weight_bytes, window_bytes : In
        Sizes of weight memory and of the host windows, in bytes; 0 for a window not given.
    on_host : Out(1), window : Out(4)
        The instruction's port and host window.
    beat_address, offset, live, burst_last : Out
        The beat's aligned address, its live bytes' place in the word and their number (3.1, 3.2).
    ub_address : Out(32)
        Of the first live byte.
    last : Out(1)
        The beat is the instruction's last.
    fault : Out(1)
        Live bytes are outside the memory or the unified buffer.
    """

    def __init__(self, arch: Arch, host_operation: str):
        self.arch = arch
        self.operation = OPERATION_BY_NAME[host_operation]
        self.alternate = OPERATION_BY_NAME[f"{host_operation}_alternate"]
        widest = _widest(arch)
        super().__init__(
            {
                "start": In(1),
                "word": In(INSTRUCTION_BITS),
                "advance": In(1),
                "weight_bytes": In(ADDRESS_BITS),
                "window_bytes": In(data.ArrayLayout(ADDRESS_BITS, ALL_WINDOWS)),
                "on_host": Out(1),
                "window": Out(4),
                "beat_address": Out(ADDRESS_BITS),
                "offset": Out(bits_for(widest - 1)),
                "live": Out(bits_for(widest)),
                "burst_last": Out(1),
                "ub_address": Out(ADDRESS_BITS),
                "last": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        new = fields_of(self.word, self.operation)
        on_host, alternate = Signal(), Signal()
        window = Signal.like(self.window)
        m.d.comb += [
            alternate.eq(new.opcode == self.alternate.opcode),
            on_host.eq(alternate | (new.opcode == self.operation.opcode)),
            window.eq(Cat(new.window[:3], alternate)),
        ]
        kept = Signal(data.StructLayout({name: len(new[name]) for name in _KEPT}))
        limit = Signal(ADDRESS_BITS)
        with m.If(self.start):
            m.d.sync += [kept[name].eq(new[name]) for name in _KEPT]
            m.d.sync += [
                self.on_host.eq(on_host),
                self.window.eq(Mux(on_host, window, 0)),
                limit.eq(Mux(on_host, self.window_bytes[window], self.weight_bytes)),
            ]

        m.submodules.walker = walker = BeatWalker(
            widths_bytes=(arch.weight_port.width_bytes, arch.host_port.width_bytes),
            burst_bytes=arch.burst_bytes,
            length_bits=_RUN_BITS,
        )
        m.submodules.loops = loops = LoopNest({"count0": _COUNT_BITS, "count1": _COUNT_BITS})
        next_run = Signal()
        m.d.comb += [
            next_run.eq(self.advance & walker.run_last),
            loops.start.eq(self.start),
            loops.advance.eq(next_run),
        ]
        for name in ("count0", "count1"):
            m.d.comb += loops.counts[name].eq(Mux(self.start, new[name], kept[name]))

        # A turn of the outer loop goes on from where its last turn began, not from the last run.
        turn = loops.last.count0
        next_memory = self._next_run(
            m, "memory", new.memory_address, kept.memory_stride0, kept.memory_stride1,
            turn, next_run,
        )
        next_ub = self._next_run(
            m, "ub", new.ub_address, kept.ub_stride0, kept.ub_stride1, turn, next_run
        )
        m.d.comb += [
            walker.load.eq(self.start | next_run),
            walker.address_in.eq(Mux(self.start, new.memory_address, next_memory)),
            walker.length_in.eq(Mux(self.start, new.run_bytes, kept.run_bytes)),
            walker.second.eq(self.on_host),
            walker.advance.eq(self.advance),
            self.beat_address.eq(walker.beat_address),
            self.offset.eq(walker.offset),
            self.live.eq(walker.live),
            self.burst_last.eq(walker.burst_last),
            self.last.eq(walker.run_last & loops.done),
        ]
        # As for memory: the live bytes pass the buffer's end if both the run and the word do.
        word_end = Signal(ADDRESS_BITS + 1)
        run_end = Signal(ADDRESS_BITS + 1)
        m.d.comb += [
            walker.limit.eq(limit),
            word_end.eq(self.ub_address + walker.available),
            self.fault.eq(
                walker.beyond | ((word_end > arch.ub_bytes) & (run_end > arch.ub_bytes))
            ),
        ]
        with m.If(self.start):
            m.d.sync += [
                self.ub_address.eq(new.ub_address),
                run_end.eq(new.ub_address + new.run_bytes),
            ]
        with m.Elif(next_run):
            m.d.sync += [self.ub_address.eq(next_ub), run_end.eq(next_ub + kept.run_bytes)]
        with m.Elif(self.advance):
            m.d.sync += self.ub_address.eq(word_end)
        return m

    def _next_run(
        self, m: Module, name: str, first: Any, stride0: Any, stride1: Any, turn: Any, next_run: Any
    ) -> Signal:
        """Where the next run begins; `turn`: the outer loop advances."""
        run = Signal(ADDRESS_BITS, name=f"{name}_run")
        outer = Signal(ADDRESS_BITS, name=f"{name}_outer")
        following = Signal(ADDRESS_BITS, name=f"{name}_following")
        m.d.comb += following.eq(Mux(turn, outer, run) + Mux(turn, stride1, stride0))
        with m.If(self.start):
            m.d.sync += [run.eq(first), outer.eq(first)]
        with m.Elif(next_run):
            m.d.sync += run.eq(following)
            with m.If(turn):
                m.d.sync += outer.eq(following)
        return following


class LoadEngine(Component):
    """LOAD's accesses (6.1): beats of a memory port into the unified buffer.

    Members
    -------
    engine : In(EngineSignature)
    host, weight : Out(BeatSignature)
        Reads of the two memory ports.
    ub : Out(UbWriteSignature)
        Ranks first and so is always granted.
    weight_bytes, window_bytes : In
        Sizes of the memories, for the address check.
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        user_bits = load_user_layout(arch).size
        super().__init__(
            {
                "engine": In(EngineSignature(Unit.LOAD, amount_bits(arch, Unit.LOAD))),
                "host": Out(_beats(arch.host_port.width_bytes, user_bits, write=False)),
                "weight": Out(_beats(arch.weight_port.width_bytes, user_bits, write=False)),
                "ub": Out(UbWriteSignature(arch)),
                "weight_bytes": In(ADDRESS_BITS),
                "window_bytes": In(data.ArrayLayout(ADDRESS_BITS, ALL_WINDOWS)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        engine, code = self.engine, {s.name: s.code for s in UNIT_STATES[Unit.LOAD]}
        m.submodules.walker = walker = TransferWalker(self.arch, "read_host")
        layout = load_user_layout(self.arch)
        user = Signal(layout)
        granted = Signal()
        m.d.comb += [
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(granted),
            walker.weight_bytes.eq(self.weight_bytes),
            walker.window_bytes.eq(self.window_bytes),
            user.ub_address.eq(walker.ub_address),
            user.offset.eq(walker.offset),
            user.live.eq(walker.live),
            user.last.eq(walker.last),
            granted.eq(self.host.grant | self.weight.grant),
        ]
        for beat, chosen in ((self.host, walker.on_host), (self.weight, ~walker.on_host)):
            m.d.comb += [
                # What does not exist is not presented, and so refused, in its fault's cycle.
                beat.request.eq(engine.active & chosen & ~walker.fault),
                beat.address.eq(walker.beat_address),
                beat.window.eq(walker.window),
                beat.burst_last.eq(walker.burst_last),
                beat.user.eq(user),
            ]
        m.d.comb += [
            engine.ready.eq(1),
            engine.performed.eq(granted),
            engine.last.eq(walker.last),
            engine.state.eq(Mux(granted, code["busy"], code["wait_port"])),
            engine.address_fault.eq(walker.fault),
            engine.amount_host_bytes.eq(Mux(self.host.grant, walker.live, 0)),
            engine.amount_weight_bytes.eq(Mux(self.weight.grant, walker.live, 0)),
        ]

        # Only one port's beats are in flight at a time (5.2.2).
        arrived = data.View(
            layout,
            Mux(self.host.delivered, self.host.delivered_user, self.weight.delivered_user),
        )
        word = Mux(self.host.delivered, self.host.read_data, self.weight.read_data)
        widest = _widest(self.arch)
        bytes_first = Signal(8 * widest)
        m.d.comb += bytes_first.eq(word)
        m.d.comb += [
            self.ub.request.eq(self.host.delivered | self.weight.delivered),
            self.ub.address.eq(arrived.ub_address),
            self.ub.length.eq(arrived.live),
            self.ub.data.eq(rotate_right(m, bytes_first, arrived.offset, "turned")),
            engine.end.eq(self.ub.request & arrived.last),
        ]
        return m


class StoreEngine(Component):
    """STORE's accesses (6.2): reads of the unified buffer, buffered, written to a memory port.

    Members
    -------
    engine : In(EngineSignature)
    host, weight : Out(BeatSignature)
        Writes of the two memory ports.
    ub : Out(UbReadSignature)
        Ranks first and so is always granted.
    weight_bytes, window_bytes : In
        Sizes of the memories, for the address check.
    buffered : Out
        Beats in the store buffer (registered, 8.4).
    """

    def __init__(self, arch: Arch):
        self.arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(Unit.STORE, amount_bits(arch, Unit.STORE))),
                "host": Out(_beats(arch.host_port.width_bytes, STORE_USER_BITS, write=True)),
                "weight": Out(_beats(arch.weight_port.width_bytes, STORE_USER_BITS, write=True)),
                "ub": Out(UbReadSignature(arch)),
                "weight_bytes": In(ADDRESS_BITS),
                "window_bytes": In(data.ArrayLayout(ADDRESS_BITS, ALL_WINDOWS)),
                "buffered": Out(bits_for(arch.store_buffer_beats)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch, engine = self.arch, self.engine
        code = {s.name: s.code for s in UNIT_STATES[Unit.STORE]}
        m.submodules.walker = walker = TransferWalker(arch, "write_host")
        full = Signal()
        read = Signal()
        m.d.comb += [
            walker.start.eq(engine.start),
            walker.word.eq(engine.word),
            walker.advance.eq(read),
            walker.weight_bytes.eq(self.weight_bytes),
            walker.window_bytes.eq(self.window_bytes),
            full.eq(self.buffered == arch.store_buffer_beats),
            # What does not exist is not presented, and so refused, in its fault's cycle.
            self.ub.request.eq(engine.active & ~full & ~walker.fault),
            self.ub.address.eq(walker.ub_address),
            self.ub.length.eq(walker.live),
            read.eq(self.ub.request & self.ub.grant),
            engine.ready.eq(1),
            engine.performed.eq(read),
            engine.last.eq(walker.last),
            engine.state.eq(
                Mux(full, code["wait_buffer"], Mux(read, code["busy"], code["wait_bank"]))
            ),
            engine.address_fault.eq(walker.fault),
            engine.amount_host_bytes.eq(Mux(read & walker.on_host, walker.live, 0)),
            engine.amount_weight_bytes.eq(Mux(read & ~walker.on_host, walker.live, 0)),
        ]

        widest = _widest(arch)
        entry = data.StructLayout(
            {
                "data": 8 * widest,
                "strobe": widest,
                "address": ADDRESS_BITS,
                "window": 4,
                "on_host": 1,
                "burst_last": 1,
                "last": 1,
            }
        )
        # The cycle after the read: the data come, and go into their lanes of the word.
        came = Signal()
        offset = Signal.like(walker.offset)
        pushed = Signal(entry)
        live = Signal.like(walker.live)
        m.d.sync += [
            came.eq(read),
            offset.eq(walker.offset),
            live.eq(walker.live),
            pushed.address.eq(walker.beat_address),
            pushed.window.eq(walker.window),
            pushed.on_host.eq(walker.on_host),
            pushed.burst_last.eq(walker.burst_last),
            pushed.last.eq(walker.last),
        ]
        complete = Signal(entry)
        m.d.comb += [
            complete.eq(pushed),
            complete.data.eq(rotate_left(m, self.ub.data[: 8 * widest], offset, "turned")),
            complete.strobe.eq(((Const(1) << live) - 1) << offset),
        ]

        issued = Signal()
        head = Signal(entry)
        waiting = self._buffer(m, came, complete, issued, head)
        for beat, chosen in ((self.host, head.on_host), (self.weight, ~head.on_host)):
            m.d.comb += [
                beat.request.eq(waiting & chosen),
                beat.address.eq(head.address),
                beat.window.eq(head.window),
                beat.burst_last.eq(head.burst_last),
                beat.user.eq(head.last),
                beat.data.eq(head.data),
                beat.strobe.eq(head.strobe),
            ]
        m.d.comb += [
            issued.eq(self.host.grant | self.weight.grant),
            engine.end.eq(
                (self.host.delivered & self.host.delivered_user)
                | (self.weight.delivered & self.weight.delivered_user)
            ),
        ]
        m.d.sync += self.buffered.eq(self.buffered + read - issued)
        return m

    def _buffer(self, m: Module, push: Any, item: Signal, pop: Any, head: Signal) -> Any:
        """The store buffer: shows in the cycle after `push`; returns whether it holds a beat."""
        depth = 1 << ceil_log2(max(2, self.arch.store_buffer_beats))
        m.submodules.buffer = memory = Memory(shape=len(item.as_value()), depth=depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        tail, front = Signal(ceil_log2(depth) + 1), Signal(ceil_log2(depth) + 1)
        m.d.sync += [tail.eq(tail + push), front.eq(front + pop)]
        m.d.comb += [
            write.en.eq(push),
            write.addr.eq(tail),
            write.data.eq(item),
            read.addr.eq(front),
            head.eq(read.data),
        ]
        return tail != front


def _beats(width_bytes: int, user_bits: int, *, write: bool) -> BeatSignature:
    return BeatSignature(width_bytes=width_bytes, user_bits=user_bits, write=write)
