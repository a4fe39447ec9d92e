"""A memory port: arbitration, pace and exact latency (docs/timing.md, section 3)."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Const, Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import bits_for, ceil_log2

from systol_hw.rtl.contract.interfaces import BeatSignature, MemorySignature
from systol_hw.rtl.contract.widths import (
    ADDRESS_BITS,
    BEAT_COST_BITS,
    CREDIT_CAP_BITS,
    CREDIT_INCOME_BITS,
    LATENCY_BITS,
)
from systol_hw.rtl.parts.block_ram import NO_COLLISIONS

__all__ = ["BlockQueue", "MemoryPort"]

_SHORTEST_QUEUE = 64


class BlockQueue(Component):
    """A queue in block RAM. What is pushed in cycle t can be the head from cycle t + 2 on.

    Parameters
    ----------
    shape
        Of an item.
    depth : int
        A power of two, at least 2. There is no `full`: the user counts.

    Members
    -------
    push : In(1), item : In(shape)
        Appends `item`.
    valid : Out(1), head : Out(shape)
        The oldest item. `valid` may be low for a cycle or two after a push into an empty queue.
    pop : In(1)
        Removes the head; only while `valid`.
    """

    def __init__(self, shape: Any, depth: int):
        assert depth >= 2 and depth & (depth - 1) == 0
        self.shape = shape
        self.depth = depth
        super().__init__(
            {"push": In(1), "item": In(shape), "valid": Out(1), "head": Out(shape), "pop": In(1)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # A plain word: synthesis tools then see one memory and one register.
        width = Shape.cast(self.shape).width
        m.submodules.memory = memory = Memory(
            shape=unsigned(width), depth=self.depth, init=[], attrs=NO_COLLISIONS
        )
        write, read = memory.write_port(), memory.read_port()
        tail = Signal(ceil_log2(self.depth) + 1)
        front = Signal.like(tail)
        next_front = Signal.like(tail)
        m.d.comb += [
            next_front.eq(front + self.pop),
            write.en.eq(self.push),
            write.addr.eq(tail),
            write.data.eq(self.item),
            read.en.eq(1),
            read.addr.eq(next_front),
            self.head.eq(read.data),
        ]
        # Only items written in earlier cycles count: the memory does not forward.
        m.d.sync += [front.eq(next_front), self.valid.eq(next_front != tail)]
        with m.If(self.push):
            m.d.sync += tail.eq(tail + 1)
        return m


class MemoryPort(Component):
    """Grants beats to requesters by rank, at the declared pace, and delivers them after exactly
    `latency` cycles.

    A granted beat stands at `memory` from the next cycle on; its response is kept until the beat
    is due. With a memory that is always ready and responds in the cycle after acceptance, every
    latency from 6 cycles on is exact. A slower memory makes deliveries and grants late, never
    wrong: they stay in order, and `late` counts the cycles.

    Parameters
    ----------
    width_bytes : int
        Bytes of a beat.
    requesters : Mapping[str, BeatSignature]
        Names of the requesters and their signatures, highest rank first.
    max_latency_cycles : int
        Greatest value of `latency`: a power of two. See `systol_hw.tables.registers.latency_limit`.

    Members
    -------
    <requester> : In(BeatSignature)
    memory : Out(MemorySignature)
    beat_cost, credit_income, credit_cap, latency : In
        Configuration; they hold still during a run.
    run : In(1)
        High in the cycles 0.. of a run (3.3). While it is low nothing is granted, and a request
        that `memory` has not seen yet is withdrawn: so an access that faulted never leaves the
        machine. A new run needs a reset, which must wait for `idle`. Stands at 1 if not connected.
    idle : Out(1)
        Every request that `memory` accepted has been answered.
    late : Out(1)
        In this cycle a beat that the pacer allows was held back because of the memory, or a
        response is missing that would be delivered in the next cycle.
    """

    def __init__(
        self,
        *,
        width_bytes: int,
        requesters: Mapping[str, BeatSignature],
        max_latency_cycles: int = _SHORTEST_QUEUE,
    ):
        self.width_bytes = width_bytes
        self.names = tuple(requesters)
        self.depth = max_latency_cycles
        self.user_bits = max(
            Shape.cast(signature.members["user"].shape).width
            for signature in requesters.values()
        )
        super().__init__(
            {name: In(signature) for name, signature in requesters.items()}
            | {
                "memory": Out(MemorySignature(width_bytes=width_bytes)),
                "beat_cost": In(BEAT_COST_BITS),
                "credit_income": In(CREDIT_INCOME_BITS),
                "credit_cap": In(CREDIT_CAP_BITS),
                "latency": In(LATENCY_BITS),
                "run": In(1, init=1),
                "idle": Out(1),
                "late": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beats = [getattr(self, name) for name in self.names]

        issue = Signal()  # a beat is granted in this cycle
        paced = self._pace(m, issue)
        accepts = Signal()  # the request register and the queue can take a beat
        grants = Signal(len(beats))
        wanted = self._arbitrate(m, beats, grants, paced & self.run & accepts)
        m.d.comb += issue.eq(grants.any())

        room = Signal()
        m.d.comb += accepts.eq(self._request(m, beats, grants) & room)
        overdue = self._deliver(m, beats, grants, room)
        m.d.comb += self.late.eq(overdue | (wanted & paced & self.run & ~accepts))
        return m

    def _pace(self, m: Module, issue: Any) -> Any:
        """Credits (3.3); returns whether there are enough for a beat."""
        # Credits beyond one beat's cost: zero in cycle 0, and what the sign says is the answer.
        surplus = Signal(signed(CREDIT_CAP_BITS + 2))
        ceiling = Signal.like(surplus)
        m.d.comb += ceiling.eq(self.credit_cap - self.beat_cost)

        def capped(value: Any) -> Any:
            return Mux(value < ceiling, value, ceiling)

        grown = Signal.like(surplus)
        spent = Signal.like(surplus)
        m.d.comb += [
            grown.eq(surplus + self.credit_income),
            spent.eq(surplus + (self.credit_income - self.beat_cost)),
        ]
        with m.If(~self.run):
            m.d.sync += surplus.eq(0)
        with m.Else():
            m.d.sync += surplus.eq(Mux(issue, capped(spent), capped(grown)))
        return ~surplus[-1]

    def _arbitrate(self, m: Module, beats: list[Any], grants: Any, may_issue: Any) -> Any:
        """Drives the grants (3.4); returns whether some beat could be granted but for the rest."""
        in_burst = Signal()
        owner = Signal(len(beats))
        last = Signal(len(beats))
        wants = Signal(len(beats))
        for index, beat in enumerate(beats):
            m.d.comb += [
                wants[index].eq(beat.request & (~in_burst | owner[index])),
                grants[index].eq(wants[index] & ~wants[:index].any() & may_issue),
                last[index].eq(beat.burst_last),
                beat.grant.eq(grants[index]),
            ]
        with m.If(grants.any()):
            m.d.sync += [in_burst.eq(~(grants & last).any()), owner.eq(grants)]
        return wants.any()

    def _request(self, m: Module, beats: list[Any], grants: Any) -> Any:
        """The request register; returns whether it can take a beat in this cycle."""
        memory = self.memory
        pending = Signal()
        seen = Signal()  # the memory has seen the request and not accepted it: it must stay
        free = Signal()
        accepted = Signal()
        m.d.comb += [
            memory.request_valid.eq(pending & (self.run | seen)),
            accepted.eq(memory.request_valid & memory.request_ready),
            free.eq(~pending | memory.request_ready),
        ]
        m.d.sync += seen.eq(memory.request_valid & ~memory.request_ready)
        with m.If(grants.any()):
            m.d.sync += pending.eq(1)
        with m.Elif(memory.request_ready | ~memory.request_valid):
            m.d.sync += pending.eq(0)

        def chosen(values: list[Any]) -> Any:
            return reduce(or_, (Mux(g, v, 0) for g, v in zip(grants, values, strict=True)))

        zero = Const(0, 1)
        with m.If(grants.any()):
            m.d.sync += [
                memory.request_write.eq(
                    chosen([Const(int(hasattr(beat, "strobe")), 1) for beat in beats])
                ),
                memory.request_window.eq(chosen([beat.window for beat in beats])),
                memory.request_address.eq(chosen([beat.address for beat in beats])),
                memory.request_data.eq(chosen([getattr(beat, "data", zero) for beat in beats])),
                memory.request_strobe.eq(chosen([getattr(beat, "strobe", zero) for beat in beats])),
            ]
        assert ADDRESS_BITS == len(memory.request_address)

        unanswered = Signal(bits_for(self.depth))
        m.d.sync += unanswered.eq(unanswered + accepted - memory.response_valid)
        m.d.comb += self.idle.eq((unanswered == 0) & ~memory.request_valid)
        return free

    def _deliver(self, m: Module, beats: list[Any], grants: Any, room: Any) -> Any:
        """Holds responses until they are due (3.5); returns whether one is due and missing.

        The decision falls one cycle ahead of the delivery, so that a delivery comes out of
        registers: it goes on through the unified buffer's rotator in the same cycle.
        """
        # Wide enough to tell past from future; the clock stands still before that becomes unsure.
        time_bits = ceil_log2(self.depth) + 2
        entry = data.StructLayout(
            {"due": time_bits, "owner": len(beats), "user": max(self.user_bits, 1)}
        )
        m.submodules.order = order = BlockQueue(entry, self.depth)
        m.submodules.responses = responses = BlockQueue(8 * self.width_bytes, self.depth)
        now = Signal(time_bits)
        age = Signal(time_bits)
        due = Signal()
        decide = Signal()
        users = [Mux(grants[index], beat.user, 0) for index, beat in enumerate(beats)]
        m.d.comb += [
            age.eq(now - order.head.due),
            due.eq(order.valid & ~age[-1]),
            decide.eq(due & responses.valid),
            order.push.eq(grants.any()),
            order.item.due.eq(now + self.latency - 1),
            order.item.owner.eq(grants),
            order.item.user.eq(reduce(or_, users)),
            order.pop.eq(decide),
            # There are never more responses than queued beats, so there is always room.
            self.memory.response_ready.eq(1),
            responses.push.eq(self.memory.response_valid),
            responses.item.eq(self.memory.response_data),
            responses.pop.eq(decide),
        ]
        with m.If(~(due & age[:-1].all())):
            m.d.sync += now.eq(now + 1)
        queued = Signal(bits_for(self.depth))
        m.d.sync += queued.eq(queued + grants.any() - decide)
        m.d.comb += room.eq(queued != self.depth)

        owner = Signal(len(beats))
        user = Signal(max(self.user_bits, 1))
        read_data = Signal(8 * self.width_bytes)
        m.d.sync += [
            owner.eq(Mux(decide, order.head.owner, 0)),
            user.eq(order.head.user),
            read_data.eq(responses.head),
        ]
        for index, beat in enumerate(beats):
            m.d.comb += [beat.delivered.eq(owner[index]), beat.delivered_user.eq(user)]
            if hasattr(beat, "read_data"):
                m.d.comb += beat.read_data.eq(read_data)
        return due & ~responses.valid

