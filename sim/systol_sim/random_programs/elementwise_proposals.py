"""Draws single VECTOR instructions of one access a row: binary and table."""

import random

from systol_hw.arch import Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.isa.choices import Function, TableWidth
from systol_sim.random_programs.draws import Place
from systol_sim.random_programs.memories import Memories
from systol_sim.random_programs.vector_proposals import BYTES, SIXTEEN, VectorDraws
from systol_sim.validity.footprint import UB

TABLE_BYTES = tuple(width.table_bytes for width in TableWidth)
"""Bytes of a table, by `table_width`."""


class ElementwiseDraws(VectorDraws):
    """Sums, products and functions; `tables` are addresses where `TABLE_BYTES[1]` bytes of a table
    stand in the unified buffer."""

    def __init__(self, arch: Arch, rng: random.Random, memories: Memories) -> None:
        super().__init__(arch, rng, memories)
        self.tables: list[int] = []

    def vector(self) -> Instruction | None:
        """A VECTOR instruction, or None if none was found."""
        (draw,) = self.rng.choices((self.fill, self.window, self.binary, self.table), (2, 8, 5, 3))
        return self.attempt(draw) or self.attempt(self.window)

    def binary(self) -> Instruction | None:
        """A binary operation, if there are operands and room."""
        rng = self.rng
        fields = self.rows(rng.choice((BYTES, BYTES, SIXTEEN)))
        fields |= {"a_width": rng.randrange(2), "b_width": rng.randrange(2),
                   "function": rng.randrange(4)}
        out = self.output(fields)
        a = self._operand(fields, "a", fields["a_width"], broadcast=0.15)
        b = self._operand(fields, "b", fields["b_width"], broadcast=0.5)
        if out is None or a is None or b is None:
            return None
        if rng.random() < 0.1 and fields["a_width"] == fields["b_width"]:
            b = {name.replace("a_", "b_", 1): value for name, value in a.items()}
        zeros = {
            f"{operand}_zero_point": rng.choice((0, rng.randint(-128, 127))) for operand in "ab"
        }
        return instruction("binary", **fields, **zeros, **self._scales(fields), **a, **b, **out)

    def _scales(self, fields: dict[str, int]) -> dict[str, int]:
        """Multipliers and a shift: ties, near-equal operands, or anything."""
        rng = self.rng
        bits = [16 if fields[f"{operand}_width"] else 8 for operand in "ab"]
        if fields["function"] == Function.MUL:
            result, sides = sum(bits), 1
        else:
            result, sides = max(bits), 2
        kind = rng.random()
        if kind < 0.35:
            # Small factors: results lie half-way between two whole numbers.
            pair = [rng.choice((1, -1, 2, 3, -3, 4, 5)) for _ in range(sides)]
            wanted = result + 2
        elif kind < 0.75:
            first = rng.randint(1 << 16, (1 << 17) - 1)
            near = min(first + rng.randint(0, 3), (1 << 17) - 1)
            second = rng.choice((near, near, rng.randint(1 << 14, (1 << 17) - 1)))
            pair = [rng.choice((1, -1)) * value for value in (first, second)][:sides]
            wanted = result + 17
        else:
            pair = [
                rng.choice((-(1 << 17), (1 << 17) - 1, 0, rng.randint(-(1 << 17), (1 << 17) - 1)))
                for _ in range(sides)
            ]
            wanted = result + 17
        room = wanted - (16 if fields["width"] else 8)
        shift = rng.choice((
            *(max(0, min(63, room + rng.randint(-3, 1))) for _ in range(8)),
            0, 1, 63, rng.randint(0, 63),
        ))
        scales = {"a_multiplier": pair[0], "shift": shift}
        scales["b_multiplier"] = pair[1] if sides == 2 else rng.randint(-9, 9)
        return scales

    def table(self) -> Instruction | None:
        """A table function, if there are an operand, a table and room."""
        rng = self.rng
        fields = self.rows(rng.choice((BYTES, BYTES, SIXTEEN)))
        fields |= {"a_width": rng.randrange(2), "table_width": rng.randrange(2)}
        # 8 gives the table's own values; more narrows them.
        usual = 8 if fields["width"] or not fields["table_width"] else 16
        fields["shift"] = rng.choice((usual, usual, 8, usual + 1, usual - 2, 0, 63))
        size = TABLE_BYTES[fields["table_width"]]
        if self.tables and rng.random() < 0.8:
            fields["table_address"] = rng.choice(self.tables)
        else:
            address = self.some_place(size)
            if address is None:
                return None
            fields["table_address"] = address
        out = self.output(fields)
        a = self._operand(fields, "a", fields["a_width"], broadcast=0.1)
        if out is None or a is None:
            return None
        return instruction("table", **fields, **a, **out)

    def _operand(
        self, fields: dict[str, int], name: str, sixteen: int, *, broadcast: float
    ) -> dict[str, int] | None:
        """Address and steps of an operand in the unified buffer; steps of zero `broadcast` it."""
        rng, wide = self.rng, self.wide(fields)
        place: Place | None = self.stretch(UB, wide)
        if place is None:
            return None
        room = (place[1] - place[0] - wide) // 64
        plane_step = min(room, rng.choice((1, 1, 2, 3, 0))) if sixteen else rng.choice((0, 0, 1))
        planes = 2 if sixteen else 1
        x_step = rng.choice((wide, wide, rng.randint(-9, 9)))
        steps = {
            "x": x_step,
            "y": rng.choice((x_step * fields["x_count"], rng.randint(-24, 24))),
            "n": rng.choice((0, wide, rng.randint(-24, 24))),
        }
        if rng.random() < broadcast:
            for axis in rng.choice(("x", "y", "xy", "xyn", "yn")):
                steps[axis] = 0
        loops = [(fields[f"{axis}_count"], step) for axis, step in steps.items()]
        base = self.fit(*place, wide, [*loops, (planes, 64 * plane_step)])
        if base is None:
            steps = dict.fromkeys(steps, 0)
            base = self.fit(*place, wide, [(planes, 64 * plane_step)])
            assert base is not None, "the stretch holds one row of every plane"
        return {
            f"{name}_address": base, f"{name}_plane_step": plane_step,
            **{f"{name}_{axis}_step": step for axis, step in steps.items()},
        }
