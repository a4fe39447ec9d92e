"""The head queue under random pushes and pops."""

import random
from collections import deque

import pytest
from amaranth.sim import Simulator

from systol_hw.rtl.parts.head_queue import HeadQueue


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 8])
def test_head_queue(depth: int) -> None:
    queue = HeadQueue(20, depth)
    rng = random.Random(depth)
    seen_levels = set()

    async def bench(ctx):  # type: ignore[no-untyped-def]
        model: deque[int] = deque()
        for cycle in range(600):
            assert ctx.get(queue.level) == len(model)
            seen_levels.add(len(model))
            if model:
                assert ctx.get(queue.head) == model[0]
            pop = bool(model) and rng.random() < 0.5
            push = len(model) < depth and rng.random() < (0.3, 0.8)[cycle // 50 % 2]
            word = rng.getrandbits(20)
            ctx.set(queue.pop, pop)
            ctx.set(queue.push, push)
            ctx.set(queue.word, word)
            await ctx.tick()
            if pop:
                model.popleft()
            if push:
                model.append(word)

    simulator = Simulator(queue)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen_levels == set(range(depth + 1))
