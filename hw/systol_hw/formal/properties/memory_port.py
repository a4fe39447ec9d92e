"""A memory port: grants, pace and bounded waiting (docs/timing.md, section 3).

Grants and pace are compared with counters written from the page: `credits` as 3.3 has them and the
burst's owner as 3.4 has it. Bounded waiting needs a memory that never makes the pacer late, and
owners that present their next beat at once: its bound is 3.6.
"""

from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, signed

from systol_hw.formal.proof import Insides, Mutant, Proof
from systol_hw.rtl.contract.interfaces import BeatSignature

__all__ = ["COST_BITS", "PROOFS", "QUEUE_DEPTH", "USER_BITS", "port_among_requests"]

_NAMES = ("fetch", "weights", "load", "store")
USER_BITS = 2
"""Bits that come back with a delivery."""
COST_BITS = 24
"""Bits of what a burst costs in the proof of bounded waiting: of the most, 4096 bytes at 4095."""
QUEUE_DEPTH = 16
"""Beats that the port's queues hold."""


def _requesters() -> dict[str, BeatSignature]:
    return {
        name: BeatSignature(width_bytes=1, user_bits=USER_BITS, write=name == "store")
        for name in _NAMES
    }


def _constant(m: Module, target: Any) -> None:
    m.d.comb += target.eq(AnyConst(len(target)))


def port_among_requests(source: Any, m: Module) -> tuple[Any, dict[str, Signal], list[Any]]:
    """A port among arbitrary requests and an arbitrary memory, its registers and requesters."""
    dut = source.MemoryPort(
        width_bytes=1, requesters=_requesters(), max_latency_cycles=QUEUE_DEPTH
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
    dut, registers, beats = port_among_requests(source, m)
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
    dut, registers, beats = port_among_requests(source, m)
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

    # All sums are equally wide, with room for the greatest, so that the solver can cancel terms.
    first, surplus = beats[0], registers["surplus"]
    limit, left, after, debt, earned, owed = (
        Signal(signed(COST_BITS + 3), name=name)
        for name in ("limit", "left", "after", "debt", "earned", "owed")
    )
    limit_bits = Signal(COST_BITS)
    _constant(m, limit_bits)
    # `left`: what the beats left of the present burst may cost; a burst costs at most `limit`.
    m.d.comb += [
        limit.eq(limit_bits),
        Assume(limit >= dut.beat_cost),
        after.eq(Mux(owner.any(), left, limit) - dut.beat_cost),
        Assume(~grants.any() | (grants & last).any() | (after >= dut.beat_cost)),
    ]
    with m.If(grants.any()):
        m.d.sync += left.eq(after)
    # `debt`, what is left less the credits held, falls by the income in each cycle of waiting,
    # whether a beat is issued or not: so waiting ends. `owed` is the debt when it began.
    waits, waited = Signal(), Signal()
    m.d.comb += [waits.eq(first.request & ~first.grant), debt.eq(left - surplus)]
    m.d.sync += [waited.eq(waits), earned.eq(Mux(waits, earned + dut.credit_income, 0))]
    with m.If(~waited):
        m.d.sync += owed.eq(debt)
    m.d.comb += [
        # In the w-th cycle of waiting, w - 1 incomes are earned (3.6).
        Assert(~waits | (earned <= limit)),
        Assert(earned >= 0),
        Assert(earned == Mux(waited, owed - debt, 0)),
        Assert(~waits | (debt >= 0)),
        Assert(~waited | (owed <= limit)),
        Assert((left >= 0) & (left <= limit - dut.beat_cost)),
        Assert(surplus >= dut.credit_income - dut.beat_cost),
        Assert(surplus <= dut.credit_income),
        Assert(registers["in_burst"] == owner.any()),
        Assert(~owner.any() | (registers["owner"] == owner)),
        Assert(~owner.any() | (left >= dut.beat_cost)),
    ]
    return m


_SOURCE = "systol_hw.rtl.memory.memory_port"

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
        "rate and burst that `arch` admits",
        build=_waiting,
        depth=3,
        mutants=(
            Mutant(old="wants[index] & ~wants[:index].any() & may_issue",
                   new="wants[index] & ~wants[index + 1:].any() & may_issue"),
            Mutant(old="spent.eq(surplus + (self.credit_income - self.beat_cost))",
                   new="spent.eq(surplus - self.beat_cost)"),
        ),
    ),
)
"""Proofs about memory ports."""
