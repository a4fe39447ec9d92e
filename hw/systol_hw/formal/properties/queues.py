"""The queues: what goes in comes out, once and in order.

A harness marks an arbitrary word as it is pushed and counts the words before it: when none is left
the head must be that word. As the word is arbitrary, no word is lost, repeated or overtaken.
"""

from functools import partial
from typing import Any

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.utils import bits_for, ceil_log2

from systol_hw.formal.proof import Insides, Mutant, Proof

__all__ = ["PROOFS", "around"]

_WIDTH = 2  # a queue treats all bits alike


def _head_queue(source: Any, *, depth: int) -> Module:
    m = Module()
    queue = source.HeadQueue(_WIDTH, depth)
    inside = Insides(queue)
    memory = inside.submodule("memory")
    probe = memory.read_port(domain="comb")
    (write,) = memory.write_ports
    read = memory.read_ports[0]
    m.submodules.queue = inside.fragment

    m.d.comb += [queue.push.eq(AnySeq(1)), queue.pop.eq(AnySeq(1)), queue.word.eq(AnySeq(_WIDTH))]
    m.d.comb += Assume(~queue.push | (queue.level < depth))
    m.d.comb += Assume(~queue.pop | (queue.level != 0))

    tracked, mark = Signal(), Signal()
    word = Signal(_WIDTH)
    before = Signal(bits_for(depth))
    m.d.comb += mark.eq(AnySeq(1))
    with m.If(~tracked & queue.push & mark):
        m.d.sync += [tracked.eq(1), word.eq(queue.word), before.eq(queue.level - queue.pop)]
    with m.Elif(queue.pop):
        m.d.sync += [before.eq(before - 1), tracked.eq(tracked & (before != 0))]
    m.d.comb += Assert(~tracked | (before != 0) | (queue.head == word))

    counted = Signal(bits_for(depth))
    m.d.sync += counted.eq(counted + queue.push - queue.pop)
    m.d.comb += [
        Assert(queue.level == counted),
        Assert(queue.level <= depth),
        Assert(~tracked | (before < queue.level)),
        Assert((read.addr < depth) & (write.addr < depth)),
        Assert(write.addr == around(m, read.addr, queue.level, depth, "end")),
        probe.addr.eq(around(m, read.addr, before, depth, "place")),
        Assert(~tracked | (probe.data == word)),
    ]
    return m


def around(m: Module, slot: Any, steps: Any, depth: int, name: str) -> Signal:
    """The slot `steps` (at most `depth`) after `slot` in a ring."""
    total = Signal(bits_for(2 * depth), name=f"{name}_total")
    wrapped = Signal(bits_for(2 * depth), name=f"{name}_wrapped")
    m.d.comb += [
        total.eq(slot + steps),
        wrapped.eq(Mux(total >= depth, total - depth, total)),
    ]
    return wrapped


def _block_queue(source: Any, *, depth: int) -> Module:
    m = Module()
    queue = source.BlockQueue(_WIDTH, depth)
    inside = Insides(queue)
    memory = inside.submodule("memory")
    probe, at_front = memory.read_port(domain="comb"), memory.read_port(domain="comb")
    m.submodules.queue = fragment = inside.fragment
    registers = inside.signals(fragment)
    tail, front = registers["tail"], registers["front"]

    level = Signal(ceil_log2(depth) + 1)
    m.d.comb += [
        queue.push.eq(AnySeq(1)),
        queue.pop.eq(AnySeq(1)),
        queue.item.eq(AnySeq(_WIDTH)),
        level.eq(tail - front),
        Assume(~queue.push | (level < depth)),
        Assume(~queue.pop | queue.valid),
    ]
    tracked, mark = Signal(), Signal()
    word = Signal(_WIDTH)
    before = Signal.like(level)
    m.d.comb += mark.eq(AnySeq(1))
    with m.If(~tracked & queue.push & mark):
        m.d.sync += [tracked.eq(1), word.eq(queue.item), before.eq(level - queue.pop)]
    with m.Elif(queue.pop):
        m.d.sync += [before.eq(before - 1), tracked.eq(tracked & (before != 0))]
    m.d.comb += Assert(~tracked | (before != 0) | ~queue.valid | (queue.head == word))

    # What was there a cycle ago and was not taken shows: nothing waits for ever.
    waited = Signal()
    m.d.sync += waited.eq(level - queue.pop != 0)
    m.d.comb += [
        Assert(queue.valid == waited),
        Assert(level <= depth),
        Assert(~queue.valid | (level != 0)),
        Assert(~tracked | (before < level)),
        probe.addr.eq(front + before),
        at_front.addr.eq(front),
        Assert(~tracked | (probe.data == word)),
        Assert(~queue.valid | (queue.head == at_front.data)),
    ]
    return m


_HEAD_QUEUE_STATES = (
    "any word pushed is the head after exactly the words before it: none is lost, repeated or "
    "overtaken; the level counts them and stays within the depth"
)

PROOFS: tuple[Proof, ...] = (
    *(
        Proof(
            name=f"head-queue-{depth}",
            source="systol_hw.rtl.parts.head_queue",
            states=_HEAD_QUEUE_STATES,
            build=partial(_head_queue, depth=depth),
            depth=2 * depth + 2,
            mutants=(
                Mutant(old="self.level + self.push - self.pop", new="self.level + self.push"),
                *([] if depth == 1 else [
                    Mutant(old="+ self.push - self.pop", new="+ (self.push & ~self.pop)"),
                    Mutant(old="write.addr.eq(write_slot)", new="write.addr.eq(read_slot)"),
                ]),
                *([Mutant(old="slot == depth - 1", new="slot == depth")] if depth == 3 else []),
            ),
        )
        for depth in (1, 3, 4)
    ),
    Proof(
        name="block-queue",
        source="systol_hw.rtl.memory.memory_port",
        states="the same of the memory ports' queues of items and responses; an item shows from "
        "the second cycle after its push on, if it is the oldest",
        build=partial(_block_queue, depth=4),
        depth=8,
        mutants=(
            Mutant(old="self.valid.eq(next_front != tail)", new="self.valid.eq(front != tail)"),
            Mutant(old="read.addr.eq(next_front)", new="read.addr.eq(front)"),
        ),
    ),
)
"""Proofs about queues."""
