"""Synchronization with the host: each report has one execution, after its own answer (2.3).

The surroundings are those of the component's contract: `reached` stays until `done`, the host
answers only while it is waited for, and `latency` holds still.
"""

from typing import Any

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Module, Mux, Signal

from systol_hw.formal.proof import Insides, Mutant, Proof

__all__ = ["PROOFS"]

_SOURCE = "systol_hw.rtl.control.host_sync"


def _host_sync(source: Any) -> Module:
    m = Module()
    dut = source.HostSync()
    inside = Insides(dut)
    m.submodules.sync_host = fragment = inside.fragment
    registers = inside.signals(fragment)
    # Since the report of the point that is waited at: cycles, and whether an answer came.
    reported, answered = Signal(), Signal()
    age = Signal(len(dut.latency) + 1)
    m.d.comb += [
        dut.latency.eq(AnyConst(len(dut.latency))),
        dut.reached.eq(AnySeq(1)),
        dut.ack.eq(AnySeq(1)),
        Assume(dut.latency >= 1),
        Assume(~reported | dut.reached),
        Assume(~dut.ack | dut.valid),
    ]
    with m.If(dut.done):
        m.d.sync += [reported.eq(0), answered.eq(0), age.eq(0)]
    with m.Elif(dut.reached):
        m.d.sync += [
            reported.eq(1),
            answered.eq(answered | dut.ack),
            age.eq(Mux(age.all(), age, age + 1)),
        ]
    due = dut.reached & (age >= dut.latency)
    m.d.comb += [
        Assert(dut.report == (dut.reached & ~reported)),
        Assert(dut.valid == (dut.reached & ~answered)),
        Assert(dut.done == (due & answered)),
        Assert(dut.late == (due & ~answered)),
        Assert(registers["acknowledged"] == answered),
        Assert(registers["elapsed"] == Mux(age < dut.latency, age, dut.latency)),
        Assert(reported == (age != 0)),
        Assert(reported | ~answered),
    ]
    return m


PROOFS: tuple[Proof, ...] = (
    Proof(
        name="host-sync",
        source=_SOURCE,
        states="each point is reported once, in its first cycle; the host is waited for until it "
        "answers; the instruction is executed in the first cycle that is `latency` cycles after "
        "the report and after the answer, and an answer serves one report only; late are the "
        "cycles between. Every latency",
        build=_host_sync,
        depth=6,
        mutants=(
            Mutant(old="acknowledged | self.ack", new="self.ack"),
            Mutant(old="[elapsed.eq(0), acknowledged.eq(0)]", new="elapsed.eq(0)"),
            Mutant(old="with m.If(~due):", new="with m.If(1):"),
            Mutant(old="due & acknowledged)", new="due & (acknowledged | self.ack))"),
        ),
    ),
)
"""The proof about synchronization with the host."""
