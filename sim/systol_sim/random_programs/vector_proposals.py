"""Draws single VECTOR instructions that pool: requantize, copy and fill."""

import random

from systol_hw.arch import PARAMETER_BYTES, Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.isa.choices import Reduce, ResultWidth
from systol_sim.random_programs.draws import Draws, Place
from systol_sim.random_programs.memories import Memories
from systol_sim.validity.footprint import ACCUMULATORS, ADDRESS_SPAN, UB

BYTES, SIXTEEN, RAW = range(3)
"""Values of `width`: what the output is made of."""
PLANES = tuple(width.planes for width in ResultWidth)
"""Planes of the output, by `width`."""
_SLOTS = 96
"""Lane cycles of the rows of one instruction, about."""


class VectorDraws(Draws):
    """Windows over accumulators and bytes; `parameter_blocks` are (address, channels) of good
    requantization parameters in the unified buffer."""

    def __init__(self, arch: Arch, rng: random.Random, memories: Memories) -> None:
        super().__init__(arch, rng, memories)
        self.parameter_blocks: list[tuple[int, int]] = []

    def rows(self, width: int) -> dict[str, int]:
        """Counts, output width, zero point and clip of a vector instruction."""
        rng, arch = self.rng, self.arch
        slots = max(2, _SLOTS // (arch.vector_slot_cycles * PLANES[width]))
        n_count = rng.choice((1, 1, 1, 2, 3))
        x_count = rng.randint(1, max(1, min(8, slots // n_count)))
        y_count = rng.randint(1, max(1, min(6, slots // (n_count * x_count))))
        fields = {
            "width": width,
            "n_count": n_count, "x_count": x_count, "y_count": y_count,
            "n_last": rng.choice((arch.columns, rng.randint(1, arch.columns))),
            "zero_point": rng.choice((0, rng.randint(-128, 127))),
        }
        if rng.random() < 0.4:
            reach = rng.choice((128, 128, 1 << 15))
            fields["low"] = rng.randint(-reach, reach - 1)
            fields["high"] = rng.randint(-reach, reach - 1)
        elif width == SIXTEEN or rng.random() < 0.2:
            fields["low"], fields["high"] = -(1 << 15), (1 << 15) - 1
        return fields

    def wide(self, fields: dict[str, int]) -> int:
        """Bytes of the longest row: all columns, or those of the only group."""
        return self.arch.columns if fields["n_count"] > 1 else fields["n_last"]

    def output(self, fields: dict[str, int]) -> dict[str, int] | None:
        """Where the output goes: anywhere that it fits."""
        wide, planes = self.wide(fields), PLANES[fields["width"]]
        y_block = wide * fields["x_count"]
        block = y_block * fields["y_count"]
        steps = {
            "out_x_step": self.stride(wide),
            "out_y_step": self.stride(y_block),
            "out_n_step": self.stride(block),
        }
        loops = [(fields[f"{name}_count"], steps[f"out_{name}_step"]) for name in "xyn"]
        plane_step = self.plane_step(planes, block * fields["n_count"])
        loops.append((planes, 64 * plane_step))
        base = self.fit(0, self.arch.ub_bytes, wide, loops)
        if base is None:
            return None
        return {**steps, "out_address": base, "out_plane_step": plane_step}

    def fill(self) -> Instruction | None:
        """A fill, if its output fits."""
        fields = self.rows(self.rng.choice((BYTES, BYTES, SIXTEEN, RAW)))
        out = self.output(fields)
        return None if out is None else instruction("fill", **self._unread(), **fields, **out)

    def _unread(self) -> dict[str, int]:
        """Fields of a fill that no executor may look at."""
        rng = self.rng
        return {
            "source_ub": rng.randrange(2), "reduce": rng.randrange(3),
            "a_address": rng.getrandbits(32), "a_plane_step": rng.getrandbits(16),
            "a_x_step": rng.randint(-99, 99), "x_limit": rng.choice((0, 1, 0xFFFF)),
            "x_start": rng.randint(-9, 9), "parameter_address": rng.getrandbits(32),
            "parameter_count": rng.randint(1, self.arch.columns),
        }

    def window(self) -> Instruction | None:
        """A requantize or copy, if there is an operand and room."""
        rng = self.rng
        name = rng.choice(("requantize", "requantize", "copy"))
        widths = (BYTES, BYTES, SIXTEEN) if name == "requantize" else (BYTES, BYTES, SIXTEEN, RAW)
        fields = self.rows(rng.choice(widths))
        fields["source_ub"] = int(rng.random() < 0.5)
        fields["a_width"] = rng.randrange(2) if fields["source_ub"] else int(rng.random() < 0.2)
        fields["reduce"] = rng.choice((0, 0, 1, 2)) if name == "requantize" else rng.randrange(2)
        if name == "requantize":
            address = self._parameters(fields)
            if address is None:
                return None
            fields["parameter_address"] = address
        else:
            fields["parameter_address"] = rng.choice((0, rng.getrandbits(32)))
        out = self.output(fields)
        if out is None:
            return None
        source = self._taps(fields) if rng.random() < 0.6 else self._free_taps(fields)
        if source is None:
            return None
        return instruction(name, **fields, **out, **source)

    def _parameters(self, fields: dict[str, int]) -> int | None:
        rng = self.rng
        channels = (fields["n_count"] - 1) * self.arch.columns + fields["n_last"]
        if fields["reduce"] == Reduce.MEAN:
            channels = rng.choice((1, rng.randint(1, self.arch.columns)))
            fields["parameter_count"] = channels
        blocks = [b for b in self.parameter_blocks if b[1] >= channels]
        if blocks and rng.random() < 0.85:
            address, room = rng.choice(blocks)
            return address + PARAMETER_BYTES * rng.randint(0, room - channels)
        return self.some_place(PARAMETER_BYTES * channels)

    def _source(self, fields: dict[str, int]) -> tuple[Place | None, int, int]:
        """A stretch of operands without its high plane, the places that one of them covers, and
        the step between its planes."""
        if not fields["source_ub"]:
            return self.stretch(ACCUMULATORS), 1, self.rng.choice((0, 0, 1))
        wide = self.wide(fields)
        place = self.stretch(UB, wide)
        if place is None or not fields["a_width"]:
            return place, wide, self.rng.choice((0, 0, 1))
        room = (place[1] - place[0] - wide) // 64
        step = min(room, self.rng.choice((1, 1, 2, 3, 0)))
        return (place[0], place[1] - 64 * step), wide, step

    def _taps(self, fields: dict[str, int]) -> dict[str, int] | None:
        """A pooling window over a tensor, with padding on all sides."""
        rng = self.rng
        place, wide, plane_step = self._source(fields)
        if place is None:
            return None
        x_pitch = wide + rng.choice((0, 0, rng.randint(0, 5))) if fields["source_ub"] else 1
        room = (place[1] - place[0] - wide) // x_pitch + 1
        x_limit = rng.randint(1, min(room, 8))
        y_pitch = x_pitch * x_limit + rng.choice((0, 0, rng.randint(0, 5)))
        span = x_pitch * (x_limit - 1) + wide
        y_limit = rng.randint(1, min(8, (place[1] - place[0] - span) // y_pitch + 1))
        base = self.fit(*place, span + y_pitch * (y_limit - 1), ())
        if base is None:
            return None
        x_start, y_start = rng.randint(-2, 1), rng.randint(-2, 1)
        steps = {name: rng.randint(0, 2) for name in ("x_step", "y_step", "kx_step", "ky_step")}
        return {
            **steps,
            "kx_count": rng.randint(1, 3), "ky_count": rng.randint(1, 3),
            "x_start": x_start, "y_start": y_start, "x_limit": x_limit, "y_limit": y_limit,
            "a_address": (base + x_start * x_pitch + y_start * y_pitch) % ADDRESS_SPAN,
            "a_x_step": steps["x_step"] * x_pitch, "a_y_step": steps["y_step"] * y_pitch,
            "a_kx_step": steps["kx_step"] * x_pitch, "a_ky_step": steps["ky_step"] * y_pitch,
            "a_n_step": 0, "a_plane_step": plane_step,
        }

    def _free_taps(self, fields: dict[str, int]) -> dict[str, int] | None:
        """Steps of any kind within one stretch of values, without padding."""
        rng = self.rng
        place, wide, plane_step = self._source(fields)
        if place is None:
            return None
        taps = {"kx_count": rng.randint(1, 2), "ky_count": rng.choice((1, 1, 2))}
        reach = 12 if fields["source_ub"] else 2
        steps = {f"a_{n}_step": rng.randint(-reach, reach) for n in ("n", "y", "x", "ky", "kx")}
        counts = {**fields, **taps}
        loops = [(counts[f"{n}_count"], steps[f"a_{n}_step"]) for n in ("n", "y", "x", "ky", "kx")]
        base = self.fit(*place, wide, loops)
        if base is None:
            return None
        return {
            **taps, **steps, "a_address": base, "a_plane_step": plane_step,
            "x_limit": 0xFFFF, "y_limit": 0xFFFF,
            "x_start": rng.randint(0, 9), "y_start": rng.randint(0, 9),
            "x_step": rng.randint(0, 63), "y_step": rng.randint(0, 63),
            "kx_step": rng.randint(0, 15), "ky_step": rng.randint(0, 15),
        }
