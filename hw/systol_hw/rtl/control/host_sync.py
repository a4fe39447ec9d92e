"""The machine's side of `sync_host`: report, least time, acknowledgement (docs/timing.md, 2.3)."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Component, In, Out

from systol_hw.rtl.contract.widths import LATENCY_BITS

__all__ = ["HostSync"]


class HostSync(Component):
    """Tells the host that a point of the program is reached and waits for its answer.

    As a memory port's pacer does, it makes a host that is fast enough exact: whenever the
    acknowledgement comes within `latency` cycles, the instruction takes just these.

    Members
    -------
    reached : In(1)
        Control looks at a `sync_host` and the machine is quiet; stays until `done`.
    latency : In(9)
        Cycles from the report to the execution, at least 1; holds still during a run.
    report : Out(1)
        The first cycle with `reached`.
    valid : Out(1)
        The host is waited for: from the report until it acknowledges.
    ack : In(1)
        The host's answer, in a cycle with `valid`; the machine sees it one cycle later.
    done : Out(1)
        The instruction is executed in this cycle.
    late : Out(1)
        The host keeps it waiting in this cycle.
    """

    reached: In(1)
    latency: In(LATENCY_BITS)
    report: Out(1)
    valid: Out(1)
    ack: In(1)
    done: Out(1)
    late: Out(1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        elapsed = Signal(LATENCY_BITS)  # cycles since the report; 0 before it
        acknowledged = Signal()
        due = Signal()
        m.d.comb += [
            self.report.eq(self.reached & (elapsed == 0)),
            self.valid.eq(self.reached & ~acknowledged),
            due.eq(self.reached & (elapsed == self.latency)),
            self.done.eq(due & acknowledged),
            self.late.eq(due & ~acknowledged),
        ]
        with m.If(self.done):
            m.d.sync += [elapsed.eq(0), acknowledged.eq(0)]
        with m.Elif(self.reached):
            m.d.sync += acknowledged.eq(acknowledged | self.ack)
            with m.If(~due):
                m.d.sync += elapsed.eq(elapsed + 1)
        return m
