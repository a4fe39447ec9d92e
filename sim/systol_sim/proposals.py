"""Draws single random instructions that are valid after the instructions before them."""

import random
from collections.abc import Callable, Sequence

import numpy as np

from systol_hw.arch import Arch
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, instruction
from systol_sim.footprint import ACCUMULATORS, UB, WEIGHT, WINDOW, footprint

_TRIES = 12
_LOOPS = Sequence[tuple[int, int]]


class Memories:
    """Sizes of a program's memories, and which bytes and rows have a value.

    Parameters
    ----------
    weight_data_bytes
        Weight memory that may be written: everything before the code.
    weight_bytes
        Weight memory that may be read.
    window_bytes
        Size of each host window.
    """

    def __init__(self, arch: Arch, *, weight_data_bytes: int, weight_bytes: int,
                 window_bytes: tuple[int, ...]) -> None:
        self.arch = arch
        self.weight_data_bytes, self.weight_bytes = weight_data_bytes, weight_bytes
        self.window_bytes = window_bytes
        self.written = {
            UB: np.zeros(arch.ub_bytes, bool),
            ACCUMULATORS: np.zeros(arch.accumulator_rows, bool),
        }

    def allows(self, item: Instruction) -> bool:
        """Whether `item` stays in its memories, reads only values, and not its own output."""
        accesses = footprint(item, self.arch)
        for region in accesses.reads:
            if region.last >= self._size(region.space, self.weight_bytes):
                return False
            known = self.written.get(region.space)
            if known is not None and not known[region.index()].all():
                return False
            if item.unit is Unit.VECTOR and region.overlap(accesses.writes[0]) is not None:
                return False
        return all(
            region.last < self._size(region.space, self.weight_data_bytes)
            for region in accesses.writes
        )

    def _size(self, space: int, weight_bytes: int) -> int:
        if space == WEIGHT:
            return weight_bytes
        if space >= WINDOW:
            return self.window_bytes[space - WINDOW]
        return self.written[space].size

    def note(self, item: Instruction) -> None:
        """`item` comes next."""
        for region in footprint(item, self.arch).writes:
            if region.space in self.written:
                self.written[region.space][region.index()] = True

    def stretches(self, space: int) -> list[tuple[int, int]]:
        """All maximal stretches (first, past the last) of places with a value."""
        padded = np.concatenate(([False], self.written[space], [False]))
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


class Proposer:
    """Draws instructions; `parameter_blocks` are (address, channels) of good parameters."""

    def __init__(self, arch: Arch, rng: random.Random, memories: Memories) -> None:
        self.arch, self.rng, self.memories = arch, rng, memories
        self.parameter_blocks: list[tuple[int, int]] = []

    def _try(self, draw: Callable[[], Instruction | None]) -> Instruction | None:
        for _ in range(_TRIES):
            item = draw()
            if item is not None and self.memories.allows(item):
                return item
        return None

    def _fit(self, low: int, high: int, length: int, loops: _LOOPS) -> int | None:
        """A random base with which all accesses of `length` places lie in low .. high - 1."""
        least = sum(min(0, (count - 1) * stride) for count, stride in loops)
        most = sum(max(0, (count - 1) * stride) for count, stride in loops) + length
        if high - low < most - least:
            return None
        first, last = low - least, high - most
        # Ends of memories and of banks are where mistakes are.
        return self.rng.choice((self.rng.randint(first, last), first, last)) if (
            self.rng.random() < 0.2
        ) else self.rng.randint(first, last)

    def _stretch(self, space: int, least: int = 1) -> tuple[int, int] | None:
        """A stretch of places with values, the longer the likelier."""
        found = [s for s in self.memories.stretches(space) if s[1] - s[0] >= least]
        if not found:
            return None
        return self.rng.choices(found, [b - a for a, b in found])[0]

    def _stride(self, length: int) -> int:
        rng = self.rng
        return rng.choice(
            (length, length, length + rng.randint(1, 9), -length, 0, length // 2,
             -length - rng.randint(1, 9), rng.randint(-40, 40))
        )

    # Load and Store

    def _transfer_shape(self) -> dict[str, int]:
        rng, width = self.rng, self.arch.ub_width_bytes
        run = rng.choice(
            (1, 3, width, 2 * width - 1, rng.randint(1, 40), rng.randint(1, 40),
             rng.randint(40, 160))
        )
        count0 = rng.randint(1, 6) if run <= 40 else rng.randint(1, 2)
        count1 = rng.choice((1, 1, 2, 3)) if run * count0 <= 100 else 1
        shape = {"run_bytes": run, "count0": count0, "count1": count1}
        for side in ("memory", "ub"):
            shape[f"{side}_stride0"] = self._stride(run)
            shape[f"{side}_stride1"] = self._stride(run * count0)
        return shape

    def _transfer(self, host: str, weight: str, *, load: bool) -> Instruction | None:
        rng, memories, shape = self.rng, self.memories, self._transfer_shape()
        if rng.random() < 0.65:
            window = rng.randrange(len(memories.window_bytes))
            name, extra = host, {"window": window}
            size = memories.window_bytes[window]
        else:
            name, extra = weight, {}
            size = memories.weight_bytes if load else memories.weight_data_bytes
        place: tuple[int, int] | None = (0, self.arch.ub_bytes)
        if not load:
            place = self._stretch(UB)
        if place is None:
            return None
        bases = {}
        for side, (low, high) in (("memory", (0, size)), ("ub", place)):
            loops = (
                (shape["count0"], shape[f"{side}_stride0"]),
                (shape["count1"], shape[f"{side}_stride1"]),
            )
            base = self._fit(low, high, shape["run_bytes"], loops)
            if base is None:
                return None
            bases[f"{side}_address"] = base
        return instruction(name, **extra, **shape, **bases)

    def load(self) -> Instruction | None:
        """A LOAD instruction, or None if none was found."""
        return self._try(lambda: self._transfer("read_host", "read_weight_memory", load=True))

    def store(self) -> Instruction | None:
        """A STORE instruction, or None if none was found."""
        return self._try(lambda: self._transfer("write_host", "write_weight_memory", load=False))

    # Weights and Matrix

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
        }
        wide = arch.columns if n_count > 1 else shape["n_last"]
        deep = arch.rows if period > 1 else last
        high = self.memories.weight_bytes
        for steps in ("wild", "packed", "still"):
            pitch = wide + rng.randint(0, 5) if steps != "still" else rng.randint(0, 1)
            tile = pitch * deep
            strides = [
                {"wild": self._stride(tile), "packed": tile, "still": 0}[steps] for _ in range(3)
            ]
            loops = ((n_count, strides[0]), (shape["outer_count"], strides[1]),
                     (period, strides[2]), (deep, pitch))
            base = self._fit(0, high, wide, loops)
            if base is not None:
                return instruction(
                    "read_weights", **shape, address=base, row_pitch=pitch,
                    n_stride=strides[0], outer_stride=strides[1], inner_stride=strides[2],
                )
        raise AssertionError("a tile without strides fits any weight memory")

    def matmul(self, period: int, last: int, periods: int) -> Instruction:
        """A MATRIX instruction that takes these tiles; one that reads nothing if need be."""
        item = self._try(lambda: self._matmul(period, last, periods))
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
        }
        rows = x_count * y_count
        place: tuple[int, int] | None = (0, arch.accumulator_rows)
        if rng.random() < 0.4:
            fields["accumulate"] = 1
            place = self._stretch(ACCUMULATORS)
        if place is None:
            return None
        fields["acc_n_step"] = rng.choice((rows, 0, rng.randint(0, rows)))
        base = self._fit(*place, rows, ((n_count, fields["acc_n_step"]),))
        if base is None:
            return None
        source = self._tensor(fields) if rng.random() < 0.6 else self._free(fields)
        if source is None:
            return None
        return instruction("matmul", **fields, **source, acc_address=base)

    def _tensor(self, fields: dict[str, int]) -> dict[str, int] | None:
        """A window over a tensor of lines, with padding on all sides."""
        rng = self.rng
        pitch = rng.randint(1, 48)
        place = self._stretch(UB, pitch)
        if place is None:
            return None
        y_limit = rng.randint(1, min(12, (place[1] - place[0]) // pitch))
        base = self._fit(*place, pitch * y_limit, ())
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
        place = self._stretch(UB)
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
        base = self._fit(*place, length, along + across)
        start = self._fit(0, 1 << 16, length, along)
        if base is None or start is None:
            return None
        return {
            **steps, "ub_address": base, "p_start": start, "p_limit": 1 << 17,
            "y_limit": 0xFFFF, "y_start": rng.randint(0, 9), "y_step": rng.randint(0, 255),
            "k0_step": rng.randint(0, 255),
        }

    # Vector

    def vector(self) -> Instruction | None:
        """A VECTOR instruction, or None if none was found."""
        (draw,) = self.rng.choices((self._fill, self._window), (1, 6))
        return self._try(draw)

    def _rows(self) -> dict[str, int]:
        rng, arch = self.rng, self.arch
        slots = max(2, 96 // arch.vector_slot_cycles)
        n_count = rng.choice((1, 1, 1, 2, 3))
        x_count = rng.randint(1, max(1, min(8, slots // n_count)))
        y_count = rng.randint(1, max(1, min(6, slots // (n_count * x_count))))
        return {
            "n_count": n_count, "x_count": x_count, "y_count": y_count,
            "n_last": rng.choice((arch.columns, rng.randint(1, arch.columns))),
            "zero_point": rng.choice((0, rng.randint(-128, 127))),
        }

    def _output(self, fields: dict[str, int]) -> dict[str, int] | None:
        wide = self.arch.columns if fields["n_count"] > 1 else fields["n_last"]
        steps = {
            "out_x_step": self._stride(wide),
            "out_y_step": self._stride(wide * fields["x_count"]),
            "out_n_step": self._stride(wide * fields["x_count"] * fields["y_count"]),
        }
        loops = [(fields[f"{name}_count"], steps[f"out_{name}_step"]) for name in "xyn"]
        base = self._fit(0, self.arch.ub_bytes, wide, loops)
        return None if base is None else {**steps, "out_address": base}

    def _fill(self) -> Instruction | None:
        fields = self._rows()
        out = self._output(fields)
        return None if out is None else instruction("fill", **fields, **out)

    def _window(self) -> Instruction | None:
        rng = self.rng
        name = rng.choice(("requantize", "requantize", "copy"))
        fields = self._rows()
        if rng.random() < 0.4:
            fields["low"], fields["high"] = rng.randint(-128, 127), rng.randint(-128, 127)
        fields["source_ub"] = int(rng.random() < 0.5)
        if name == "requantize":
            address = self._parameters(fields)
            if address is None:
                return None
            fields["parameter_address"] = address
        out = self._output(fields)
        source = self._taps(fields) if rng.random() < 0.6 else self._free_taps(fields)
        if out is None or source is None:
            return None
        return instruction(name, **fields, **out, **source)

    def _parameters(self, fields: dict[str, int]) -> int | None:
        rng = self.rng
        channels = (fields["n_count"] - 1) * self.arch.columns + fields["n_last"]
        blocks = [b for b in self.parameter_blocks if b[1] >= channels]
        if blocks and rng.random() < 0.85:
            address, room = rng.choice(blocks)
            return address + 8 * rng.randint(0, room - channels)
        place = self._stretch(UB)
        return None if place is None else self._fit(*place, 8 * channels, ())

    def _source(self, fields: dict[str, int]) -> tuple[tuple[int, int] | None, int]:
        """A stretch of operands and the places that one of them covers."""
        if not fields["source_ub"]:
            return self._stretch(ACCUMULATORS), 1
        wide = self.arch.columns if fields["n_count"] > 1 else fields["n_last"]
        return self._stretch(UB, wide), wide

    def _taps(self, fields: dict[str, int]) -> dict[str, int] | None:
        """A pooling window over a tensor, with padding on all sides."""
        rng = self.rng
        place, wide = self._source(fields)
        if place is None:
            return None
        x_pitch = wide + rng.choice((0, 0, rng.randint(0, 5))) if fields["source_ub"] else 1
        room = (place[1] - place[0] - wide) // x_pitch + 1
        x_limit = rng.randint(1, min(room, 8))
        y_pitch = x_pitch * x_limit + rng.choice((0, 0, rng.randint(0, 5)))
        span = x_pitch * (x_limit - 1) + wide
        y_limit = rng.randint(1, min(8, (place[1] - place[0] - span) // y_pitch + 1))
        base = self._fit(*place, span + y_pitch * (y_limit - 1), ())
        if base is None:
            return None
        x_start, y_start = rng.randint(-2, 1), rng.randint(-2, 1)
        steps = {name: rng.randint(0, 2) for name in ("x_step", "y_step", "kx_step", "ky_step")}
        return {
            **steps,
            "kx_count": rng.randint(1, 3), "ky_count": rng.randint(1, 3),
            "x_start": x_start, "y_start": y_start, "x_limit": x_limit, "y_limit": y_limit,
            "a_address": base + x_start * x_pitch + y_start * y_pitch,
            "a_x_step": steps["x_step"] * x_pitch, "a_y_step": steps["y_step"] * y_pitch,
            "a_kx_step": steps["kx_step"] * x_pitch, "a_ky_step": steps["ky_step"] * y_pitch,
            "a_n_step": 0,
        }

    def _free_taps(self, fields: dict[str, int]) -> dict[str, int] | None:
        """Steps of any kind within one stretch of values, without padding."""
        rng = self.rng
        place, wide = self._source(fields)
        if place is None:
            return None
        taps = {"kx_count": rng.randint(1, 2), "ky_count": rng.choice((1, 1, 2))}
        reach = 12 if fields["source_ub"] else 2
        steps = {f"a_{n}_step": rng.randint(-reach, reach) for n in ("n", "y", "x", "ky", "kx")}
        counts = {**fields, **taps}
        loops = [(counts[f"{n}_count"], steps[f"a_{n}_step"]) for n in ("n", "y", "x", "ky", "kx")]
        base = self._fit(*place, wide, loops)
        if base is None:
            return None
        return {
            **taps, **steps, "a_address": base, "x_limit": 0xFFFF, "y_limit": 0xFFFF,
            "x_start": rng.randint(0, 9), "y_start": rng.randint(0, 9),
            "x_step": rng.randint(0, 63), "y_step": rng.randint(0, 63),
            "kx_step": rng.randint(0, 15), "ky_step": rng.randint(0, 15),
        }
