"""A part alone in Amaranth's simulator, held to a model cycle by cycle.

A bench drives all inputs of a cycle with `drive`, compares outputs with `expect` and goes on with
`tick`. A failure names the seed, the cycle, each output that differs in it and what the cycles
before it were like.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from amaranth.hdl import Value
from amaranth.sim import Simulator

__all__ = ["PartBench"]

CYCLES_SHOWN = 6


class PartBench:
    """One simulation of one part.

    Parameters
    ----------
    part
        The component; its members are named as it names them, a structure's fields with a dot.
    seed
        What the bench's draws come from, as a failure shows it.
    """

    def __init__(self, part: Any, *, seed: str) -> None:
        self.part, self.seed = part, seed
        self.cycle = 0
        self.ctx: Any = None
        self.signals: dict[str, Any] = {}
        self.driven: dict[str, int] = {}
        self.found: dict[str, int] = {}
        self.past: deque[str] = deque(maxlen=CYCLES_SHOWN)

    def run(self, bench: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Simulate the part under `bench` until that returns."""

        async def testbench(ctx: Any) -> None:
            self.ctx = ctx
            await bench()

        simulator = Simulator(self.part)
        simulator.add_clock(1e-6)
        simulator.add_testbench(testbench)
        simulator.run()

    def drive(self, inputs: Mapping[str, int]) -> None:
        """Set inputs; signed values as they are."""
        for name, value in inputs.items():
            self.ctx.set(self._signal(name), value)
        self.driven |= inputs

    def expect(self, outputs: Mapping[str, int]) -> None:
        """Compare outputs with what the model says they are in this cycle."""
        found = {name: int(self.ctx.get(self._signal(name))) for name in outputs}
        self.found |= found
        differing = [
            f"{name} is {found[name]:#x}, not {expected:#x}"
            for name, expected in outputs.items()
            if found[name] != expected
        ]
        if differing:
            raise AssertionError(
                f"seed {self.seed!r}, cycle {self.cycle}: {'; '.join(differing)}\n"
                + "\n".join([*self.past, self._line()])
            )

    async def tick(self) -> None:
        """Go on to the next cycle."""
        self.past.append(self._line())
        self.driven, self.found = {}, {}
        await self.ctx.tick()
        self.cycle += 1

    def _signal(self, name: str) -> Any:
        if name not in self.signals:
            found = self.part
            for number, step in enumerate(name.split(".")):
                found = getattr(found, step) if number == 0 else found[step]
            self.signals[name] = Value.cast(found)
        return self.signals[name]

    def _line(self) -> str:
        given, got = (
            " ".join(f"{name}={value:#x}" for name, value in values.items())
            for values in (self.driven, self.found)
        )
        return f"  cycle {self.cycle}: {given} -> {got}"
