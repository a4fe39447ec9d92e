"""A memory port: grants, pace, bounded waiting, and deliveries (docs/timing.md, section 3).

Grants and pace are compared with counters written from the page: `credits` as 3.3 has them and the
burst's owner as 3.4 has it. Bounded waiting needs a memory that never makes the pacer late, and
owners that present their next beat at once: its bound is 3.6.
"""

from functools import partial
from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, signed

from systol_hw.formal.proof import Insides, Mutant, Proof
from systol_hw.rtl.interfaces import BeatSignature

__all__ = ["PROOFS"]

_NAMES = ("fetch", "weights", "load", "store")
_USER_BITS = 2
_COST_BITS = 6
"""Bits of what a burst costs in the proof of bounded waiting: wider numbers only take longer."""
_LATENCIES = (6, 7)
_QUEUE_DEPTH = 16
_ADDRESS_BITS = 3


def _requesters() -> dict[str, BeatSignature]:
    return {
        name: BeatSignature(width_bytes=1, user_bits=_USER_BITS, write=name == "store")
        for name in _NAMES
    }


def _constant(m: Module, target: Any) -> None:
    m.d.comb += target.eq(AnyConst(len(target)))


def _port(source: Any, m: Module) -> tuple[Any, dict[str, Signal], list[Any]]:
    """A port among arbitrary requests and an arbitrary memory, its registers and requesters."""
    dut = source.MemoryPort(
        width_bytes=1, requesters=_requesters(), max_latency_cycles=_QUEUE_DEPTH
    )
    inside = Insides(dut)
    m.submodules.port = fragment = inside.fragment
    registers = inside.signals(fragment)
    beats = [getattr(dut, name) for name in _NAMES]
    for beat in beats:
        for signal in (beat.request, beat.burst_last, beat.user, beat.address):
            m.d.comb += signal.eq(AnySeq(len(signal)))
    memory = dut.memory
    for signal in (memory.request_ready, memory.response_valid, memory.response_data):
        m.d.comb += signal.eq(AnySeq(len(signal)))
    for signal in (dut.beat_cost, dut.credit_income, dut.latency):
        _constant(m, signal)
    m.d.comb += [
        dut.credit_cap.eq(dut.beat_cost + dut.credit_income),
        # What `arch.MemoryPort` admits.
        Assume(dut.credit_income >= 1),
        Assume(dut.credit_income <= dut.beat_cost),
    ]
    return dut, registers, beats


def _burst(m: Module, grants: Any, last: Any) -> Signal:
    """The owner of the burst that the port is in, one-hot; 0 outside (3.4)."""
    owner = Signal(len(_NAMES), name="expected_owner")
    with m.If(grants.any()):
        m.d.sync += owner.eq(Mux((grants & last).any(), 0, grants))
    return owner


def _grants(source: Any) -> Module:
    m = Module()
    dut, registers, beats = _port(source, m)
    m.d.comb += dut.run.eq(AnySeq(1))
    grants, requests, last = (Signal(len(beats), name=n) for n in ("grants", "requests", "lasts"))
    m.d.comb += [
        grants.eq(Cat(beat.grant for beat in beats)),
        requests.eq(Cat(beat.request for beat in beats)),
        last.eq(Cat(beat.burst_last for beat in beats)),
    ]
    owner = _burst(m, grants, last)

    # 3.3, in integers that cannot wrap.
    credits = Signal(22)
    later = Signal(22)
    started = Signal()
    now = Mux(started, credits, dut.beat_cost)
    m.d.comb += later.eq(now + dut.credit_income - Mux(grants.any(), dut.beat_cost, 0))
    with m.If(dut.run):
        m.d.sync += [started.eq(1), credits.eq(Mux(later < dut.credit_cap, later, dut.credit_cap))]
    with m.Else():
        m.d.sync += started.eq(0)

    allowed = Signal(len(beats))
    eligible = Signal(len(beats))
    m.d.comb += [
        allowed.eq(Mux(owner.any(), owner, (1 << len(beats)) - 1)),
        eligible.eq(requests & allowed),
        Assert((grants & (grants - 1)[: len(beats)]) == 0),
        Assert((grants & ~requests) == 0),
        Assert(~owner.any() | (grants & ~owner == 0)),
        Assert(~grants.any() | dut.run),
        Assert(~(dut.run & grants.any()) | (now >= dut.beat_cost)),
        Assert(now <= dut.credit_cap),
        Assert(~later[-1] | ~dut.run),
        # The first that may have it does, unless pace or memory holds it back.
        Assert(~grants.any() | (grants == (eligible & (-eligible)[: len(beats)]))),
        Assert(
            grants.any()
            | ~eligible.any()
            | ~dut.run
            | (now < dut.beat_cost)
            | ~registers["accepts"]
        ),
        Assert(registers["surplus"] == now - dut.beat_cost),
        Assert(registers["in_burst"] == owner.any()),
        Assert(~owner.any() | (registers["owner"] == owner)),
    ]
    return m


def _waiting(source: Any) -> Module:
    m = Module()
    dut, registers, beats = _port(source, m)
    m.d.comb += dut.run.eq(1)
    grants, last = Signal(len(beats)), Signal(len(beats))
    m.d.comb += [
        grants.eq(Cat(beat.grant for beat in beats)),
        last.eq(Cat(beat.burst_last for beat in beats)),
    ]
    owner = _burst(m, grants, last)
    for index, beat in enumerate(beats):
        m.d.comb += Assume(~owner[index] | beat.request)
    m.d.comb += Assume(registers["accepts"])

    # What the beats left of the present burst cost; a burst costs at most `limit`.
    limit, left, after = Signal(_COST_BITS), Signal(_COST_BITS), Signal(_COST_BITS + 1)
    _constant(m, limit)
    m.d.comb += [
        Assume(limit >= dut.beat_cost),
        after.eq(Mux(owner.any(), left, limit) - dut.beat_cost),
        Assume(~grants.any() | (grants & last).any() | (after >= dut.beat_cost)),
    ]
    with m.If(grants.any()):
        m.d.sync += left.eq(Mux((grants & last).any(), 0, after))
    # `debt` is what is left less what is held already. Each cycle of waiting lowers it by the
    # income, whether a beat is issued or not: so waiting ends.
    first = beats[0]
    earned = Signal(_COST_BITS + 2)
    debt = Signal(signed(_COST_BITS + 2))
    surplus = registers["surplus"]
    m.d.comb += debt.eq(left - surplus)
    waits = first.request & ~first.grant
    m.d.sync += earned.eq(Mux(waits, earned + dut.credit_income, 0))
    m.d.comb += [
        # In the w-th cycle of waiting, w - 1 incomes are earned (3.6).
        Assert(~waits | (earned <= limit)),
        Assert(earned + debt <= limit),
        Assert(surplus >= dut.credit_income - dut.beat_cost),
        Assert(surplus <= dut.credit_income),
        Assert(registers["in_burst"] == owner.any()),
        Assert(~owner.any() | (registers["owner"] == owner)),
        Assert(Mux(owner.any(), left >= dut.beat_cost, left == 0)),
    ]
    return m


def _deliveries(source: Any, *, fast: bool) -> Module:
    """With a fast memory: each delivery `latency` cycles after its grant, and no other. With any:
    deliveries are the grants, in order, each with its own `user` and its own address' data."""
    m = Module()
    dut, _, beats = _port(source, m)
    m.d.comb += [
        dut.run.eq(1),
        Assume((dut.latency >= _LATENCIES[0]) & (dut.latency <= _LATENCIES[-1])),
        # The fastest pace; the others only take longer to show the same.
        Assume((dut.beat_cost == 1) & (dut.credit_income == 1)),
    ]
    # A memory whose bytes are their addresses: one answer for each request, in order.
    memory = dut.memory
    depth = 2 if fast else _QUEUE_DEPTH // 2
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
    # One grant, any of them, is followed to its delivery.
    chosen, tracked = Signal(), Signal()
    before, age, owner = Signal(6), Signal(6), Signal(len(beats))
    user, address = Signal(_USER_BITS), Signal(_ADDRESS_BITS)
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


_SOURCE = "systol_hw.rtl.ports"

PROOFS: tuple[Proof, ...] = (
    Proof(
        name="port-grants",
        source=_SOURCE,
        states="a grant goes to a requester, to at most one, and to the first in rank; inside a "
        "burst only to its owner; only with credits for a beat. Credits follow 3.3: never "
        "negative, never above the cap; with enough of them, and a memory that accepts, whoever "
        "may be granted and is first is granted. For every rate",
        build=_grants,
        depth=3,
        mutants=(
            Mutant(old="wants[index] & ~wants[:index].any() & may_issue",
                   new="wants[index] & may_issue"),
            Mutant(old="beat.request & (~in_burst | owner[index])", new="beat.request"),
            Mutant(old="return ~surplus[-1]", new="return surplus >= -1"),
            Mutant(old="Mux(value < ceiling, value, ceiling)", new="value"),
            Mutant(old="in_burst.eq(~(grants & last).any())", new="in_burst.eq(~last.any())"),
        ),
    ),
    Proof(
        name="port-waiting",
        source=_SOURCE,
        states="the first requester in rank waits no longer than 3.6 says, with a memory that "
        "never makes the pacer late and owners that present each next beat at once; for every "
        f"rate and burst of at most {(1 << _COST_BITS) - 1} credits a burst",
        build=_waiting,
        depth=4,
        mutants=(
            Mutant(old="wants[index] & ~wants[:index].any() & may_issue",
                   new="wants[index] & ~wants[index + 1:].any() & may_issue"),
        ),
    ),
    Proof(
        name="port-exact",
        source=_SOURCE,
        states="with a memory that answers in the next cycle: each beat is delivered exactly "
        f"`latency` cycles after its grant, to its owner, with its data ({_LATENCIES[0]} or "
        f"{_LATENCIES[-1]} cycles of latency), and nothing is late",
        build=partial(_deliveries, fast=True),
        depth=14,
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
        depth=12,
        bounded=True,
        mutants=(
            Mutant(old="decide.eq(due & responses.valid)", new="decide.eq(due)"),
            Mutant(old="accepts.eq(self._request(m, beats, grants) & room)",
                   new="accepts.eq((self._request(m, beats, grants) | 1) & room)"),
        ),
    ),
)
"""Proofs about memory ports."""
