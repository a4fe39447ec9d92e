"""The two ends of a valid/ready stream for test benches in Amaranth's simulator.

A bench drives both ends in each cycle, looks, and then tells them what happened: `drive`, checks,
`finish`, `await ctx.tick()`. A source that is not idle keeps its item until it is taken; the rates
say how idle the source and how willing the sink is.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RandomSource:
    """Presents items, one after another.

    Parameters
    ----------
    valid, ready
        The stream's signals; the bench drives `valid`.
    payload
        Signals of an item, by name.
    rate
        Chance that a next item is presented in a cycle.
    """

    valid: Any
    ready: Any
    payload: Mapping[str, Any]
    rng: random.Random
    rate: float
    items: list[dict[str, int]] = field(default_factory=list)
    presented: dict[str, int] | None = None

    def drive(self, ctx: Any) -> None:
        """Present the item that stands, or perhaps the next one; noise if none."""
        if self.presented is None and self.items and self.rng.random() < self.rate:
            self.presented = self.items.pop(0)
        ctx.set(self.valid, self.presented is not None)
        for name, signal in self.payload.items():
            noise = self.rng.getrandbits(len(signal))
            ctx.set(signal, noise if self.presented is None else self.presented[name])

    def finish(self, ctx: Any) -> dict[str, int] | None:
        """The item taken in this cycle."""
        if self.presented is None or not ctx.get(self.ready):
            return None
        taken, self.presented = self.presented, None
        return taken


@dataclass
class RandomSink:
    """Takes items, and holds the source to the rule that an item stands until it is taken.

    Parameters
    ----------
    valid, ready
        The stream's signals; the bench drives `ready`.
    payload
        Signals of an item, by name.
    rate
        Chance of `ready` in a cycle.
    """

    valid: Any
    ready: Any
    payload: Mapping[str, Any]
    rng: random.Random
    rate: float
    offered: dict[str, int] | None = None

    def drive(self, ctx: Any) -> None:
        """Be ready or not."""
        ctx.set(self.ready, self.rng.random() < self.rate)

    def finish(self, ctx: Any) -> dict[str, int] | None:
        """The item taken in this cycle."""
        if not ctx.get(self.valid):
            assert self.offered is None, f"{self.offered} was offered and taken back"
            return None
        item = {name: int(ctx.get(signal)) for name, signal in self.payload.items()}
        assert self.offered in (None, item), f"{self.offered} became {item} before it was taken"
        self.offered = None if ctx.get(self.ready) else item
        return None if self.offered else item
