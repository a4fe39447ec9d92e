"""What a memory port delivers, and when (docs/timing.md, 3.5).

A memory is modelled whose bytes are their addresses. One grant, any of them, is followed to its
delivery.
"""

from functools import partial
from typing import Any

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal

from systol_hw.formal.proof import Mutant, Proof
from systol_hw.formal.properties.memory_port import QUEUE_DEPTH, USER_BITS, port_among_requests

__all__ = ["LATENCIES", "PROOFS", "RATES"]

LATENCIES = (8, 9)
"""The shortest that `arch.MemoryPort` admits, and one more: deliveries begin early in the bound."""
RATES = ((1, 1), (4, 1), (448, 340), (8, 5))
"""Pairs of `beat_cost` and `credit_income`: every rate of a preset, up to a common factor, by which
all credits are divided alike; and a beat in every fourth cycle."""
_ADDRESS_BITS = 3


def _deliveries(source: Any, *, fast: bool) -> Module:
    """With a fast memory: each delivery `latency` cycles after its grant, and no other. With any:
    deliveries are the grants, in order, each with its own `user` and its own address' data."""
    m = Module()
    dut, _, beats = port_among_requests(source, m)
    m.d.comb += [
        dut.run.eq(1),
        Assume((dut.latency >= LATENCIES[0]) & (dut.latency <= LATENCIES[-1])),
        Assume(
            Cat((dut.beat_cost == cost) & (dut.credit_income == income) for cost, income in RATES)
            .any()
        ),
    ]
    # One answer for each request, in order.
    memory = dut.memory
    depth = 2 if fast else QUEUE_DEPTH // 2
    pending = Signal(range(depth + 1))
    answers = [Signal(_ADDRESS_BITS, name=f"answer_{i}") for i in range(depth)]
    accepted = memory.request_valid & memory.request_ready
    left = Signal.like(pending)
    m.d.comb += [
        left.eq(pending - memory.response_valid),
        Assume(~memory.response_valid | (pending != 0)),
        Assume(~memory.response_valid | (memory.response_data == answers[0])),
        Assume(~memory.request_ready | (left != depth)),
    ]
    m.d.sync += pending.eq(left + accepted)
    for place, answer in enumerate(answers):
        younger = answers[place + 1] if place + 1 < depth else answer
        moved = Mux(memory.response_valid, younger, answer)
        m.d.sync += answer.eq(
            Mux(accepted & (left == place), memory.request_address[:_ADDRESS_BITS], moved)
        )
    if fast:
        m.d.comb += Assume(memory.request_ready & (memory.response_valid == (pending != 0)))

    grants = Cat(beat.grant for beat in beats)
    delivered = Cat(beat.delivered for beat in beats)
    chosen, tracked = Signal(), Signal()
    before, age, owner = Signal(6), Signal(6), Signal(len(beats))
    user, address = Signal(USER_BITS), Signal(_ADDRESS_BITS)
    outstanding = Signal(6)
    m.d.comb += chosen.eq(AnySeq(1))
    m.d.sync += [
        outstanding.eq(outstanding + grants.any() - delivered.any()),
        age.eq(age + 1),
        before.eq(before - delivered.any()),
    ]
    due = Signal()
    m.d.comb += due.eq(tracked & delivered.any() & (before == 0))
    with m.If(~tracked & grants.any() & chosen):
        m.d.sync += [
            tracked.eq(1),
            age.eq(1),
            before.eq(outstanding - delivered.any()),
            owner.eq(grants),
        ]
        for beat in beats:
            with m.If(beat.grant):
                m.d.sync += [user.eq(beat.user), address.eq(beat.address[:_ADDRESS_BITS])]
    with m.Elif(due):
        m.d.sync += tracked.eq(0)
    m.d.comb += [
        Assert((delivered & (delivered - 1)[: len(beats)]) == 0),
        Assert(~delivered.any() | (outstanding != 0)),
        Assert(~due | (delivered == owner)),
        Assert(~due | (age >= dut.latency)),
    ]
    for index, beat in enumerate(beats):
        m.d.comb += Assert(~(due & owner[index]) | (beat.delivered_user == user))
        if hasattr(beat, "read_data"):
            m.d.comb += Assert(~(due & owner[index]) | (beat.read_data == address))
    if fast:
        m.d.comb += [Assert(~tracked | (due == (age == dut.latency))), Assert(~dut.late)]
    return m


_SOURCE = "systol_hw.rtl.memory.memory_port"

PROOFS: tuple[Proof, ...] = (
    Proof(
        name="port-exact",
        source=_SOURCE,
        states="with a memory that answers in the next cycle: each beat is delivered exactly "
        f"`latency` cycles after its grant, to its owner, with its data ({LATENCIES[0]} or "
        f"{LATENCIES[-1]} cycles of latency), and nothing is late",
        build=partial(_deliveries, fast=True),
        depth=16,
        bounded=True,
        mutants=(
            Mutant(old="now + self.latency - 1", new="now + self.latency"),
            Mutant(old="read.addr.eq(next_front)", new="read.addr.eq(front)"),
        ),
    ),
    Proof(
        name="port-order",
        source=_SOURCE,
        states="with any memory: deliveries are the grants, in order, none lost and none twice, "
        "each to its owner with its own data, none before `latency` cycles have passed",
        build=partial(_deliveries, fast=False),
        depth=13,
        bounded=True,
        mutants=(
            Mutant(old="decide.eq(due & responses.valid)", new="decide.eq(due)"),
            Mutant(old="accepts.eq(self._request(m, beats, grants) & room)",
                   new="accepts.eq((self._request(m, beats, grants) | 1) & room)"),
        ),
    ),
)
"""Proofs about deliveries."""
