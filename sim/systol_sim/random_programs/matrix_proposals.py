"""Draws single WEIGHTS and MATRIX instructions for tiles that are already decided."""

from systol_hw.isa import Instruction, instruction
from systol_sim.random_programs.draws import Draws, Place
from systol_sim.validity.footprint import ACCUMULATORS, UB

_FROM_UB = 0.4
"""Share of Weights instructions that read the unified buffer, where it holds enough."""


class MatrixDraws(Draws):
    """Loaders of tiles and their matrix instructions."""

    def weights(self, period: int, last: int, periods: int) -> Instruction:
        """A WEIGHTS instruction for `periods` times `period` tiles, of which each last one has
        `last` live rows."""
        rng, arch = self.rng, self.arch
        n_count = rng.choice([n for n in range(1, periods + 1) if periods % n == 0])
        shape = {
            "n_count": n_count,
            "outer_count": periods // n_count,
            "inner_count": period,
            "k_last": last,
            "n_last": rng.choice((arch.columns, rng.randint(1, arch.columns))),
            "transpose": int(rng.random() < 0.4),
        }
        if rng.random() < _FROM_UB:
            place = self.stretch(UB)
            if place is not None:
                item = self._tiles("read_weights_ub", shape, place)
                if item is not None:
                    return item
        found = self._tiles("read_weights", shape, (0, self.memories.weight_bytes))
        assert found is not None, "a tile without strides fits any weight memory"
        return found

    def _tiles(self, name: str, shape: dict[str, int], place: Place) -> Instruction | None:
        rng, arch = self.rng, self.arch
        wide = arch.columns if shape["n_count"] > 1 else shape["n_last"]
        deep = arch.rows if shape["inner_count"] > 1 else shape["k_last"]
        lines, line = (wide, deep) if shape["transpose"] else (deep, wide)
        for steps in ("wild", "packed", "still"):
            pitch = line + rng.randint(0, 5) if steps != "still" else rng.randint(0, 1)
            tile = pitch * lines
            if steps == "packed" and rng.random() < 0.5:
                tile += -tile % arch.burst_bytes
            strides = [
                {"wild": self.stride(tile), "packed": tile, "still": 0}[steps] for _ in range(3)
            ]
            loops = (
                (shape["n_count"], strides[0]), (shape["outer_count"], strides[1]),
                (shape["inner_count"], strides[2]), (lines, pitch),
            )
            base = self.fit(*place, line, loops)
            if base is not None:
                return instruction(
                    name, **shape, address=base, row_pitch=pitch, n_stride=strides[0],
                    outer_stride=strides[1], inner_stride=strides[2],
                )
        return None

    def matmul(self, period: int, last: int, periods: int) -> Instruction:
        """A MATRIX instruction that takes these tiles; one that reads nothing if need be."""
        item = self.attempt(lambda: self._matmul(period, last, periods))
        if item is not None:
            return item
        # Every position is outside the window: only pad bytes enter the array.
        return instruction(
            "matmul", pad_value=self.rng.randint(-128, 127), p_limit=0, k2_count=period,
            k1_count=periods, k_last=last,
            acc_address=self.rng.randrange(self.arch.accumulator_rows),
        )

    def _matmul(self, period: int, last: int, periods: int) -> Instruction | None:
        rng, arch = self.rng, self.arch
        n_count = rng.choice([n for n in range(1, periods + 1) if periods % n == 0])
        rest = periods // n_count
        k0_count = rng.choice([n for n in range(1, rest + 1) if rest % n == 0])
        most = min(arch.accumulator_rows, rng.choice((4, 12, 30)))
        x_count = rng.randint(1, min(most, 12))
        y_count = rng.randint(1, max(1, most // x_count))
        fields = {
            "n_count": n_count, "k0_count": k0_count, "k1_count": rest // k0_count,
            "k2_count": period, "k_last": last, "x_count": x_count, "y_count": y_count,
            "pad_value": rng.choice((0, -128, 127, rng.randint(-128, 127))),
            "unsigned_activations": int(rng.random() < 0.35),
            "accumulate_shift": rng.choice((0, 0, 0, 1, 1, 2)),
        }
        rows = x_count * y_count
        place: Place | None = (0, arch.accumulator_rows)
        if rng.random() < 0.4:
            fields["accumulate"] = 1
            place = self.stretch(ACCUMULATORS)
        if place is None:
            return None
        fields["acc_n_step"] = rng.choice((rows, 0, rng.randint(0, rows)))
        base = self.fit(*place, rows, ((n_count, fields["acc_n_step"]),))
        if base is None:
            return None
        source = self._tensor() if rng.random() < 0.6 else self._free(fields)
        if source is None:
            return None
        return instruction("matmul", **fields, **source, acc_address=base)

    def _tensor(self) -> dict[str, int] | None:
        """A window over a tensor of lines, with padding on all sides."""
        rng = self.rng
        pitch = rng.randint(1, 48)
        place = self.stretch(UB, pitch)
        if place is None:
            return None
        y_limit = rng.randint(1, min(12, (place[1] - place[0]) // pitch))
        base = self.fit(*place, pitch * y_limit, ())
        assert base is not None
        y_start, p_start = rng.randint(-2, 2), rng.randint(-12, 12)
        y_step, k0_step = rng.randint(0, 3), rng.randint(0, 3)
        return {
            "ub_address": base + y_start * pitch + p_start,
            "p_start": p_start, "p_limit": pitch, "y_start": y_start, "y_limit": y_limit,
            "y_step": y_step, "k0_step": k0_step,
            "y_address_step": y_step * pitch, "k0_address_step": k0_step * pitch,
            "x_step": rng.randint(-4, 9), "k1_step": rng.randint(-9, 9),
            "k2_step": rng.choice((self.arch.rows, rng.randint(-9, 9))),
            "n_step": rng.choice((0, 0, rng.randint(-9, 9))),
        }

    def _free(self, fields: dict[str, int]) -> dict[str, int] | None:
        """Steps of any kind within one stretch of values, without padding."""
        rng = self.rng
        place = self.stretch(UB)
        if place is None:
            return None
        steps = {
            name: rng.choice((0, rng.randint(-12, 12), rng.randint(0, self.arch.rows)))
            for name in ("x_step", "k2_step", "k1_step", "n_step")
        }
        along = [(fields[f"{name[:-5]}_count"], step) for name, step in steps.items()]
        steps["y_address_step"] = rng.randint(-24, 24)
        steps["k0_address_step"] = rng.randint(-24, 24)
        across = [(fields[f"{n}_count"], steps[f"{n}_address_step"]) for n in ("y", "k0")]
        length = self.arch.rows if fields["k2_count"] > 1 else fields["k_last"]
        base = self.fit(*place, length, along + across)
        start = self.fit(0, 1 << 16, length, along)
        if base is None or start is None:
            return None
        return {
            **steps, "ub_address": base, "p_start": start, "p_limit": 1 << 17,
            "y_limit": 0xFFFF, "y_start": rng.randint(0, 9), "y_step": rng.randint(0, 255),
            "k0_step": rng.randint(0, 255),
        }
