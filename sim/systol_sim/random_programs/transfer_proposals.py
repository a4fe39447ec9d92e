"""Draws single LOAD and STORE instructions."""

from systol_hw.arch import WINDOWS
from systol_hw.isa import Instruction, instruction
from systol_sim.random_programs.draws import Draws, Place
from systol_sim.validity.footprint import UB


class TransferDraws(Draws):
    """Transfers between the unified buffer and the memories."""

    def load(self) -> Instruction | None:
        """A LOAD instruction, or None if none was found."""
        return self.attempt(lambda: self._transfer("read_host", "read_weight_memory", load=True))

    def store(self) -> Instruction | None:
        """A STORE instruction, or None if none was found."""
        return self.attempt(
            lambda: self._transfer("write_host", "write_weight_memory", load=False)
        )

    def _shape(self) -> dict[str, int]:
        rng, width = self.rng, self.arch.ub_width_bytes
        run = rng.choice(
            (1, 3, width, 2 * width - 1, rng.randint(1, 40), rng.randint(1, 40),
             rng.randint(40, 160))
        )
        count0 = rng.randint(1, 6) if run <= 40 else rng.randint(1, 2)
        count1 = rng.choice((1, 1, 2, 3)) if run * count0 <= 100 else 1
        shape = {"run_bytes": run, "count0": count0, "count1": count1}
        for side in ("memory", "ub"):
            shape[f"{side}_stride0"] = self.stride(run)
            shape[f"{side}_stride1"] = self.stride(run * count0)
        return shape

    def _transfer(self, host: str, weight: str, *, load: bool) -> Instruction | None:
        rng, memories, shape = self.rng, self.memories, self._shape()
        if rng.random() < 0.65:
            number = rng.randrange(len(memories.window_bytes))
            name = host if number < WINDOWS else f"{host}_alternate"
            extra = {"window": number % WINDOWS}
            size = memories.window_bytes[number]
        else:
            name, extra = weight, {}
            size = memories.weight_bytes if load else memories.weight_data_bytes
        place: Place | None = (0, self.arch.ub_bytes)
        if not load:
            place = self.stretch(UB)
        if place is None:
            return None
        bases = {}
        for side, (low, high) in (("memory", (0, size)), ("ub", place)):
            loops = (
                (shape["count0"], shape[f"{side}_stride0"]),
                (shape["count1"], shape[f"{side}_stride1"]),
            )
            base = self.fit(low, high, shape["run_bytes"], loops)
            if base is None:
                return None
            bases[f"{side}_address"] = base
        return instruction(name, **extra, **shape, **bases)
