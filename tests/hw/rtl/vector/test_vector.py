"""The vector engine against docs/timing.md 7, docs/numerics.md 3 to 5 and the ISA, every cycle."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.vector.engine import VectorEngine
from systol_hw.tables.counters import UNIT_STATES
from systol_hw.tables.faults import Unit

STATE = {state.name: state.code for state in UNIT_STATES[Unit.VECTOR]}
NANO = PRESETS["nano"]
MACHINES = {
    "nano": NANO,
    "4x8, a lane a column": replace(NANO, name="m4x8", rows=4, vector_lanes=8),
    "8x4, few rows": replace(NANO, name="m8x4", columns=4, vector_lanes=2, vector_write_rows=2),
    "16x12": replace(NANO, name="m16x12", rows=16, columns=12, vector_lanes=3,
                     vector_write_rows=5),
    "one row, one lane": replace(NANO, name="one", columns=4, vector_lanes=1,
                                 vector_write_rows=1),
    "edge16": PRESETS["edge16"],
}
WIDEST = {0: 127, 1: 32639}
LEAST = {0: -128, 1: -32639}
MASK = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class Access:
    """A prologue read, an access of a tap, or a pass."""

    channels: int
    reads: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Address and length on port "a" and "b"; row, and 1, of "accumulators"."""
    prologue: bool = False
    writes: bool = False
    plane: int = 0
    out_address: int = 0
    ends_row: bool = False
    last: bool = False
    row: tuple[int, int, int] = (0, 0, 0)


def windowed(i: Instruction) -> bool:
    return i.operation.name in ("requantize", "copy", "fill")


def at(i: Instruction, operand: str, row: tuple[int, int, int], plane: int = 0) -> int:
    """Address of a plane of operand `a`, `b` or `out` of a row, without the taps' steps."""
    n, y, x = row
    return (
        i[f"{operand}_address"] + n * i[f"{operand}_n_step"] + y * i[f"{operand}_y_step"]
        + x * i[f"{operand}_x_step"] + 64 * plane * i[f"{operand}_plane_step"]
    ) & MASK


def taps_of(i: Instruction, row: tuple[int, int, int]) -> Iterator[tuple[int, bool]]:
    """Each tap's offset to A's address, and whether it is inside the window."""
    _, y, x = row
    for ky, kx in np.ndindex(i["ky_count"], i["kx_count"]):
        line = i["y_start"] + y * i["y_step"] + ky * i["ky_step"]
        column = i["x_start"] + x * i["x_step"] + kx * i["kx_step"]
        inside = 0 <= line < i["y_limit"] and 0 <= column < i["x_limit"]
        yield ky * i["a_ky_step"] + kx * i["a_kx_step"], inside


def prologue_of(i: Instruction, n: int, channels: int, arch: Arch) -> Iterator[tuple[int, int]]:
    """Address and length of each read before group n's rows."""
    if i.operation.name == "table" and n == 0:
        for read in range(65 if i["table_width"] else 32):
            yield (i["table_address"] + 8 * read) & MASK, 2 if read == 64 else 8
    if i.operation.name == "requantize":
        mean = i["reduce"] == 2
        parameters = i["parameter_count"] if mean else channels
        begin = i["parameter_address"] + (0 if mean else 8 * arch.columns * n)
        width = arch.ub_width_bytes
        for offset in range(0, 8 * parameters, width):
            yield (begin + offset) & MASK, min(width, 8 * parameters - offset)


def accesses_of(i: Instruction, arch: Arch) -> Iterator[Access]:
    """Every access and pass of an instruction in order (7.1)."""
    name = i.operation.name
    planes = (1, 2, 4)[i["width"]]
    end = (i["n_count"] - 1, i["y_count"] - 1, i["x_count"] - 1)
    on_ub = not windowed(i) or bool(i["source_ub"])
    wide_a = on_ub and bool(i["a_width"])
    wide_b = name == "binary" and bool(i["b_width"])
    for n in range(i["n_count"]):
        live = i["n_last"] if n == end[0] else arch.columns
        for read in prologue_of(i, n, live, arch):
            yield Access(channels=live, reads={"b": read}, prologue=True)
        for y, x in np.ndindex(i["y_count"], i["x_count"]):
            row = (n, y, x)
            taps = list(taps_of(i, row)) if windowed(i) else [(0, True)]
            out = [at(i, "out", row, plane) for plane in range(planes)]
            for tap, (offset, inside) in enumerate(taps):
                for plane in (1, 0) if wide_a or wide_b else (0,):
                    reads = {}
                    if inside and name != "fill" and (plane == 0 or wide_a):
                        address = (at(i, "a", row, plane) + offset) & MASK
                        reads["a" if on_ub else "accumulators"] = (address, live if on_ub else 1)
                    if name == "binary" and (plane == 0 or wide_b):
                        reads["b"] = (at(i, "b", row, plane), live)
                    ends_row = plane == 0 and tap == len(taps) - 1
                    yield Access(
                        channels=live, reads=reads, writes=ends_row, out_address=out[0],
                        ends_row=ends_row, last=ends_row and planes == 1 and row == end, row=row,
                    )
            for plane in range(1, planes):
                yield Access(
                    channels=live, writes=True, plane=plane, out_address=out[plane],
                    last=plane == planes - 1 and row == end, row=row,
                )


def out_of_range(access: Access, arch: Arch) -> bool:
    sizes = {"a": arch.ub_bytes, "b": arch.ub_bytes, "accumulators": arch.accumulator_rows}
    return any(
        address + length > sizes[port] for port, (address, length) in access.reads.items()
    ) or (access.writes and access.out_address + access.channels > arch.ub_bytes)


def wrap32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def signed_bytes(read: np.ndarray) -> np.ndarray:
    return (read ^ 128) - 128


@dataclass(kw_only=True, eq=False)
class Memories:
    """Contents, and the result of each output row by the formulas of docs/numerics.md."""

    arch: Arch
    ub: np.ndarray
    accumulators: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, arch: Arch) -> "Memories":
        """Accumulators of all magnitudes; bytes whose upper half reads as fair parameters."""
        shape = (arch.accumulator_rows, arch.columns)
        ub = rng.integers(0, 256, arch.ub_bytes)
        # Ends of the range are frequent: -128 is where zero points and planes go wrong.
        ub = np.where(rng.random(arch.ub_bytes) < 0.2, rng.choice([0, 127, 128, 255], len(ub)), ub)
        parameters = ub[arch.ub_bytes // 2 :]
        parameters[3::8] = rng.choice([0, 0, 255, 127, 128], len(parameters) // 8)
        parameters[7::8] = rng.integers(10, 50, len(parameters) // 8)
        return cls(
            arch=arch,
            ub=ub,
            accumulators=rng.integers(-(1 << 31), 1 << 31, shape) >> rng.integers(0, 31, shape),
        )

    def operand(self, low: int, high: int | None, live: int) -> np.ndarray:
        """Bytes, or numbers of two planes."""
        values = signed_bytes(self.ub[low : low + live])
        if high is not None:
            values = values + 256 * signed_bytes(self.ub[high : high + live])
        return values

    def of_row(self, i: Instruction, operand: str, row: tuple[int, int, int], live: int,
               offset: int = 0) -> np.ndarray:
        low, high = (at(i, operand, row, plane) + offset & MASK for plane in (0, 1))
        return self.operand(low, high if i[f"{operand}_width"] else None, live)

    def reduced(
        self, i: Instruction, row: tuple[int, int, int], live: int
    ) -> tuple[list[int], int]:
        """v of each channel, and the number of taps inside."""
        inside = [offset for offset, inside in taps_of(i, row) if inside]
        if i["source_ub"]:
            taps = [self.of_row(i, "a", row, live, offset) for offset in inside]
        else:
            taps = [self.accumulators[at(i, "a", row) + offset & MASK, :live] for offset in inside]
        if i["reduce"]:
            total = np.sum([np.zeros(live, np.int64), *taps], axis=0)
            return [wrap32(int(v)) for v in total], len(inside)
        return [int(v) for v in np.max([np.full(live, -(1 << 31)), *taps], axis=0)], len(inside)

    def parameters(self, address: int) -> tuple[int, int, int]:
        raw = int.from_bytes(self.ub[address : address + 8].astype(np.uint8).tobytes(), "little")
        return wrap32(raw), ((raw >> 32 & 0x3FFFF) ^ 0x20000) - 0x20000, raw >> 56 & 63

    def knot(self, i: Instruction, index: int) -> int:
        if not i["table_width"]:
            return int(signed_bytes(self.ub[i["table_address"] + index]))
        raw = self.ub[i["table_address"] + 2 * index : i["table_address"] + 2 * index + 2]
        return int.from_bytes(raw.astype(np.uint8).tobytes(), "little", signed=True)

    def row(self, i: Instruction, row: tuple[int, int, int], live: int
            ) -> tuple[list[int], int, int]:
        """The numbers of an output row, its saturations and its overflows."""
        name = i.operation.name
        if name == "fill":
            return [i["zero_point"]] * live, 0, 0
        if name == "copy":
            values, _ = self.reduced(i, row, live)
            if i["width"] == 2:
                return values, 0, 0
            return [saturated(clipped(v, i), i) for v in values], 0, 0
        quotients, overflows = [], 0
        if name == "requantize":
            values, taps = self.reduced(i, row, live)
            for c, v in enumerate(values):
                place = row[0] * self.arch.columns + c
                if i["reduce"] == 2:
                    place = min(max(taps, 1), i["parameter_count"]) - 1
                bias, multiplier, shift = self.parameters(i["parameter_address"] + 8 * place)
                overflows += v + bias != wrap32(v + bias)
                quotients.append(Fraction(wrap32(v + bias) * multiplier, 1 << shift))
        elif name == "binary":
            a = self.of_row(i, "a", row, live) - i["a_zero_point"]
            b = self.of_row(i, "b", row, live) - i["b_zero_point"]
            left, right = a * i["a_multiplier"], b * i["b_multiplier"]
            r = (left + right, a * b * i["a_multiplier"], np.minimum(left, right),
                 np.maximum(left, right))[i["function"]]
            quotients = [Fraction(int(v), 1 << i["shift"]) for v in r]
        else:
            for v in self.of_row(i, "a", row, live):
                u = min(max(int(v) + 32768, 0), 65535) if i["a_width"] else 256 * (int(v) + 128)
                index, part = divmod(u, 256)
                r = 256 * self.knot(i, index)
                if i["table_width"]:
                    r += (self.knot(i, index + 1) - self.knot(i, index)) * part
                quotients.append(Fraction(r, 1 << i["shift"]))
        q = [round(quotient) + i["zero_point"] for quotient in quotients]
        return (
            [saturated(clipped(v, i), i) for v in q],
            sum(saturated(v, i) != v for v in q),
            overflows,
        )


def saturated(value: int, i: Instruction) -> int:
    return min(max(value, LEAST[i["width"]]), WIDEST[i["width"]])


def clipped(value: int, i: Instruction) -> int:
    return min(max(value, i["low"]), i["high"])


def plane_bytes(values: list[int], width: int, plane: int) -> bytes:
    """Plane `plane` of an output row; of two planes each is a signed byte."""
    if width == 2:
        return bytes(v.to_bytes(4, "little", signed=True)[plane] for v in values)
    low = [(v + 128) % 256 - 128 for v in values]
    if plane:
        high = [(v - part) // 256 for v, part in zip(values, low, strict=True)]
        assert all(-128 <= v <= 127 for v in high)
        return bytes(v & 255 for v in high)
    return bytes(v & 255 for v in low)


KINDS: list[dict[str, Any]] = [
    *({"name": "requantize", "source_ub": source > 0, "a_width": source == 2, "reduce": reduce,
       "width": width} for source, reduce, width in product(range(3), range(3), range(2))),
    *({"name": "copy", "source_ub": source > 0, "a_width": source == 2, "reduce": reduce,
       "width": width} for source, reduce, width in product(range(3), range(2), range(3))),
    *({"name": "fill", "width": width} for width in range(3)),
    *({"name": "binary", "function": function, "a_width": a, "b_width": b, "width": width}
      for function, a, b, width in product(range(4), range(2), range(2), range(2))),
    *({"name": "table", "a_width": a, "table_width": table, "width": width}
      for a, table, width in product(range(2), range(2), range(2))),
]
"""Every operation with every width of its operands and of its output, and every reduction."""


def random_instruction(
    rng: np.random.Generator, arch: Arch, kind: dict[str, Any]
) -> Instruction:
    """A few dozen accesses at most, all in range."""

    def small(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    name = str(kind["name"])
    rest = {key: int(value) for key, value in kind.items() if key != "name"}
    wide = kind["width"] == 1
    while True:
        # One in ten clips is upside down, one in three cuts nothing off.
        ends = [small(-32768, 32767) if wide else small(-200, 200) for _ in range(2)]
        low, high = ends if rng.random() < 0.1 else sorted(ends)
        if rng.random() < 0.3:
            low, high = -32768, 32767
        on_ub = name in ("binary", "table") or bool(kind.get("source_ub"))
        spread = 20 if on_ub else 3
        fields = dict(
            zero_point=small(-128, 127),
            low=low,
            high=high,
            a_address=small(500, 2500) if on_ub else small(0, arch.accumulator_rows - 1),
            a_n_step=small(-spread, spread),
            a_y_step=small(-spread, spread),
            a_x_step=small(-spread, spread),
            a_plane_step=small(0, 12),
            y_count=small(1, 2),
            x_count=small(1, 2),
            n_count=small(1, 2),
            n_last=small(1, arch.columns),
            out_address=small(500, 2500),
            out_n_step=small(-60, 60),
            out_y_step=small(-60, 60),
            out_x_step=small(-60, 60),
            out_plane_step=small(0, 12),
        )
        if name in ("requantize", "copy", "fill"):
            fill = name == "fill"
            fields |= dict(
                a_ky_step=small(-spread, spread),
                a_kx_step=small(-spread, spread),
                y_start=small(-2, 1),
                x_start=small(-2, 1),
                y_limit=small(1, 6),
                x_limit=small(1, 6),
                y_step=small(0, 2),
                x_step=small(0, 2),
                ky_step=small(0, 2),
                kx_step=small(0, 2),
                ky_count=1 if fill else small(1, 2),
                kx_count=1 if fill else small(1, 3),
                parameter_address=arch.ub_bytes // 2 + 8 * small(0, 100),
                parameter_count=small(1, min(arch.columns, 7)),
            )
        elif name == "binary":
            full = rng.random() < 0.5
            fields |= dict(
                a_zero_point=small(-128, 127),
                b_zero_point=small(-128, 127),
                a_multiplier=small(-(1 << 17), (1 << 17) - 1) if full else small(-9, 9),
                b_multiplier=small(-(1 << 17), (1 << 17) - 1) if full else small(-9, 9),
                shift=small(16, 36) if full else small(0, 8),
                b_address=small(500, 2500),
                b_n_step=small(-20, 20),
                b_y_step=small(-20, 20),
                b_x_step=small(-20, 20),
                b_plane_step=small(0, 12),
            )
        else:
            fields |= dict(shift=small(5, 17), table_address=small(0, arch.ub_bytes // 2))
        i = instruction(name, **(fields | rest))
        if not any(out_of_range(access, arch) for access in accesses_of(i, arch)):
            return i


@dataclass(kw_only=True)
class Bench:
    """Frame, buffers and the page's rules around the engine.

    `refusals` is how often a read or a write loses its bank, `gaps` how often a start is late.
    """

    arch: Arch
    program: list[Instruction]
    seed: int
    refusals: float = 0.3
    write_refusals: float = 0.3
    gaps: float = 0.3
    seen: set[str] = field(default_factory=set)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    performed: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    peak: int = 0

    def run(self) -> None:
        dut = VectorEngine(self.arch)

        async def bench(ctx):  # type: ignore[no-untyped-def]
            await self._bench(ctx, dut)

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()

    async def _bench(self, ctx, dut) -> None:  # type: ignore[no-untyped-def]
        arch, rng = self.arch, np.random.default_rng(self.seed)
        memories = Memories.random(rng, arch)
        slots, width = arch.vector_slot_cycles, arch.ub_width_bytes
        ports = {"a": dut.ub_a, "b": dut.ub_b, "accumulators": dut.accumulators}
        queue = list(self.program)
        present: Instruction | None = None
        work: list[Access] = []
        got: set[str] = set()
        numbers: list[int] = []
        # Rows held: first cycle of the write, address, bytes, whether the instruction ends.
        held: list[tuple[int, int, bytes, bool]] = []
        delivered: dict[str, tuple[int, int]] = {}
        entry_free = lanes_empty = t = 0
        # Counted by instruction: [saturations, overflows].
        expected: list[list[int]] = []
        counted: list[list[int]] = []
        while queue or work or held or t <= lanes_empty:
            self._deliver(ctx, ports, rng, memories, delivered)
            delivered = {}
            active = bool(work)
            start = not active and bool(queue) and t >= lanes_empty and rng.random() >= self.gaps
            ctx.set(dut.engine.start, start)
            ctx.set(dut.engine.word, int.from_bytes(encode(queue[0]), "little") if start else
                    int(rng.integers(0, 1 << 62)))
            ctx.set(dut.engine.active, active)
            assert ctx.get(dut.engine.ready) == (t >= lanes_empty), t
            assert ctx.get(dut.held_rows) == len(held)
            self.peak = max(self.peak, len(held))

            performed, presented, state = False, set[str](), ""
            if active:
                access = work[0]
                if t < entry_free:
                    state = "busy"
                elif access.prologue and t < lanes_empty:
                    state = "wait_lanes"
                elif access.writes and len(held) == arch.vector_write_rows:
                    state = "wait_buffer"
                else:
                    presented = set(access.reads) - got
                    granted = {name for name in sorted(presented) if rng.random() >= self.refusals}
                    delivered = {name: access.reads[name] for name in granted}
                    if granted and granted < presented:
                        self.seen.add("granted apart")
                    got |= granted
                    performed = got == set(access.reads)
                    state = "busy" if performed else "wait_bank"
                self.seen.add(state)
            for name, port in ports.items():
                assert ctx.get(port.request) == (name in presented), (t, name)
                ctx.set(port.grant, name in delivered)
                if name in presented:
                    address, length = access.reads[name]
                    if name == "accumulators":
                        assert ctx.get(port.row) == address
                    else:
                        assert (ctx.get(port.address), ctx.get(port.length)) == (address, length)
            assert ctx.get(dut.engine.performed) == performed
            if active:
                assert ctx.get(dut.engine.state) == STATE[state], (t, state)
                assert not ctx.get(dut.engine.address_fault)
            if performed:
                assert ctx.get(dut.engine.last) == access.last
            assert ctx.get(dut.engine.amount_elements) == (
                access.channels if performed and access.ends_row else 0)

            presents = bool(held) and t >= held[0][0]
            written = presents and rng.random() >= self.write_refusals
            assert ctx.get(dut.ub_write.request) == presents, t
            ctx.set(dut.ub_write.grant, written)
            if presents:
                _, address, row, _ = held[0]
                assert ctx.get(dut.ub_write.address) == address
                assert ctx.get(dut.ub_write.length) == len(row)
                bytes_out = ctx.get(dut.ub_write.data).to_bytes(width, "little")
                assert bytes_out[: len(row)] == row, (t, present)
            assert ctx.get(dut.engine.end) == (written and held[0][3])
            amounts = [ctx.get(dut.engine.amount_saturations), ctx.get(dut.engine.amount_overflows)]
            if counted:
                counted[-1] = [a + b for a, b in zip(counted[-1], amounts, strict=True)]
            else:
                assert amounts == [0, 0]

            if written:
                self.writes.append(t)
                if held.pop(0)[3]:
                    self.ends.append(t)
            if performed:
                assert present is not None
                work.pop(0)
                got = set()
                self.performed.append(t)
                if not access.prologue:
                    entry_free, lanes_empty = t + slots, t + slots + 8
                if access.ends_row:
                    numbers, *counts = memories.row(present, access.row, access.channels)
                    expected[-1] = [a + b for a, b in zip(expected[-1], counts, strict=True)]
                if access.writes:
                    row = plane_bytes(numbers, present["width"], access.plane)
                    held.append((t + slots + 8, access.out_address, row, access.last))
            if start:
                self.starts.append(t)
                present = queue.pop(0)
                work = list(accesses_of(present, arch))
                expected.append([0, 0])
                counted.append([0, 0])
            await ctx.tick()
            t += 1
        assert counted == expected
        for kind, total in zip(("saturations", "overflows"), np.sum(expected, axis=0), strict=True):
            if total:
                self.seen.add(kind)

    def _deliver(self, ctx, ports, rng, memories, delivered) -> None:  # type: ignore
        """What was read in the cycle before; all else is noise."""
        for name in ("a", "b"):
            data = rng.integers(0, 256, self.arch.ub_width_bytes)
            if name in delivered:
                address, length = delivered[name]
                data[:length] = memories.ub[address : address + length]
            ctx.set(ports[name].data, int.from_bytes(data.astype(np.uint8).tobytes(), "little"))
        row = rng.integers(0, 1 << 32, self.arch.columns)
        if "accumulators" in delivered:
            row = memories.accumulators[delivered["accumulators"][0]] & MASK
        for c in range(self.arch.columns):
            ctx.set(ports["accumulators"].data[c], int(row[c]))


def check_kinds(arch: Arch, kinds: list[dict[str, Any]], seed: int, busy: float) -> Bench:
    rng = np.random.default_rng([seed, arch.columns, arch.vector_lanes])
    program = [random_instruction(rng, arch, kinds[k]) for k in rng.permutation(len(kinds))]
    program.append(instruction("requantize", n_count=2, out_n_step=40, x_count=4, out_x_step=1,
                               parameter_address=arch.ub_bytes // 2))
    bench = Bench(arch=arch, program=program, seed=seed, write_refusals=busy)
    bench.run()
    assert len(bench.ends) == len(program)
    assert {"busy", "wait_bank", "wait_lanes", "granted apart"} <= bench.seen
    return bench


@pytest.mark.parametrize("machine", MACHINES)
def test_operations(machine: str) -> None:
    """Every kind on one machine or another."""
    number = list(MACHINES).index(machine)
    mixed = np.random.default_rng(0).permutation(len(KINDS))
    kinds = [KINDS[k] for k in mixed[number :: len(MACHINES)]]
    check_kinds(MACHINES[machine], kinds, number, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_every_operation(machine: str) -> None:
    """Every kind on every machine; writes that are mostly refused fill the buffer."""
    arch = MACHINES[machine]
    bench = check_kinds(arch, KINDS, 1, 0.9)
    assert {"saturations", "overflows", "wait_buffer"} <= bench.seen
    assert bench.peak == arch.vector_write_rows


def test_requantize_by_hand() -> None:
    """nano, S = 4: start in 0, 8 parameter reads in 1..8, taps in 9, 13, .., 9 + 4*4 = 25.

    The last row's write is presented, granted and the end in 25 + 4 + 8 = 37.
    """
    i = instruction("requantize", x_count=5, x_limit=5, x_step=1, a_x_step=1, n_last=8,
                    out_x_step=8, parameter_address=NANO.ub_bytes // 2)
    bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    assert bench.starts == [0] and bench.ends == [37]
    assert bench.seen <= {"busy", "saturations", "overflows"}


def test_next_instruction_waits_for_empty_lanes() -> None:
    """fill of one row: tap in 1, write and end in 1 + 4 + 8 = 13; the next start is in 13 too."""
    i = instruction("fill", zero_point=-3, n_last=5, out_address=100)
    bench = Bench(arch=NANO, program=[i, i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    assert bench.starts == [0, 13] and bench.ends == [13, 26]


def test_groups_wait_for_empty_lanes_only_for_parameters() -> None:
    """Two groups of one row each. copy: taps in 1 and 5. requantize: taps in 9 and 9+12+8 = 29."""
    for operation, end in (("copy", 5 + 12), ("requantize", 29 + 12)):
        i = instruction(operation, n_count=2, n_last=8, out_n_step=8,
                        parameter_address=NANO.ub_bytes // 2)
        bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
        bench.run()
        assert bench.ends == [end]


def test_planes_by_hand() -> None:
    """nano, S = 4, rows of one tap: high plane, low plane (writes plane 0), pass (plane 1)."""
    i = instruction("copy", source_ub=1, a_width=1, width=1, x_count=2, x_step=1, x_limit=2,
                    a_plane_step=4, out_address=2000, out_plane_step=4, out_x_step=8, n_last=8)
    bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    assert bench.performed == [1, 5, 9, 13, 17, 21]
    assert bench.writes == [5 + 12, 9 + 12, 17 + 12, 21 + 12] and bench.ends == [33]


def test_planes_are_held_one_by_one() -> None:
    """S = 1 and room for one row: a plane is held from t + 1 to its write in t + 9, both included.

    A raw row: tap in 1, its write in 10; passes in 11, 21 and 31, the last write in 40.
    """
    arch = replace(NANO, columns=4, vector_lanes=4, vector_write_rows=1)
    i = instruction("copy", width=2, out_plane_step=1, n_last=3)
    bench = Bench(arch=arch, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    assert bench.performed == [1, 11, 21, 31] and bench.writes == [10, 20, 30, 40]
    assert bench.seen == {"busy", "wait_buffer"} and bench.ends == [40]


@pytest.mark.parametrize("table_width", [0, 1])
def test_table_by_hand(table_width: int) -> None:
    """32 or 65 reads once, whatever the groups; then an access every S = 4 cycles."""
    reads = 65 if table_width else 32
    i = instruction("table", table_width=table_width, n_count=2, n_last=8, out_address=4000,
                    out_n_step=8, a_n_step=8, table_address=1003)
    bench = Bench(arch=NANO, program=[i, i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    first = [*range(1, reads + 3)]
    first[-1] = reads + 1 + 4
    end = reads + 5 + 12
    assert bench.performed == first + [t + end for t in first]
    assert bench.starts == [0, end] and bench.ends == [end, 2 * end]


def test_binary_by_hand() -> None:
    """An access for each plane of the wider operand; the other one is read with the last only."""
    i = instruction("binary", b_width=1, b_address=1000, b_plane_step=1, n_last=8, x_count=2,
                    a_x_step=8, out_address=4000)
    reads = [set(access.reads) for access in accesses_of(i, NANO)]
    assert reads == [{"b"}, {"a", "b"}] * 2
    bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    assert bench.performed == [1, 5, 9, 13] and bench.writes == [17, 25]


def test_groups_of_a_mean_read_the_same_parameters() -> None:
    """nano: one parameter a read, so 3 reads for each group; the second's wait for the lanes."""
    i = instruction("requantize", reduce=2, parameter_count=3, n_count=2, n_last=1, out_n_step=8,
                    kx_count=2, kx_step=1, x_limit=2, parameter_address=NANO.ub_bytes // 2)
    bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    # Taps in 4 and 8; the lanes are empty from 8 + 12 on.
    assert bench.performed == [1, 2, 3, 4, 8, 20, 21, 22, 23, 27] and bench.ends == [39]
    assert [a.reads["b"][0] for a in accesses_of(i, NANO) if a.prologue] == [
        NANO.ub_bytes // 2 + 8 * k for k in (0, 1, 2, 0, 1, 2)]


FAULTS = {
    "parameters": (instruction("requantize", parameter_address=NANO.ub_bytes - 20, n_last=8), 2),
    "last parameters": (instruction("requantize", parameter_address=NANO.ub_bytes - 20,
                                    n_last=2), -1),
    "accumulator": (instruction("copy", a_address=126, a_x_step=1, x_count=4, n_last=8,
                                x_limit=9, out_address=40), 2),
    "accumulator before": (instruction("copy", a_address=0, a_x_step=-1, x_count=4, n_last=8,
                                       x_limit=9, out_address=40), 1),
    "bytes": (instruction("copy", source_ub=1, a_address=NANO.ub_bytes - 9, a_kx_step=1,
                          kx_count=4, kx_step=1, x_limit=9, n_last=8), 2),
    "bytes outside the window": (
        instruction("copy", source_ub=1, a_address=NANO.ub_bytes - 8, a_kx_step=1,
                    kx_count=4, kx_step=1, x_limit=1, n_last=8), -1),
    "output": (instruction("fill", out_address=NANO.ub_bytes - 10, out_x_step=3, x_count=3,
                           n_last=7), 2),
    "output only with the last tap": (
        instruction("copy", out_address=0xFFFFFFFF, kx_count=3, n_last=8), 2),
    "high plane": (instruction("copy", source_ub=1, a_width=1, a_plane_step=256, n_last=8), 0),
    "low plane behind a high one inside": (
        instruction("copy", source_ub=1, a_width=1, a_address=2**32 - 64, a_plane_step=1,
                    n_last=8), 1),
    "second tap's high plane": (
        instruction("copy", source_ub=1, a_width=1, a_plane_step=255, a_kx_step=57, kx_count=2,
                    kx_step=1, x_limit=2, n_last=8), 2),
    "accumulators have no planes": (
        instruction("copy", a_width=1, a_plane_step=65535, n_last=8), -1),
    "B": (instruction("binary", b_address=NANO.ub_bytes - 7, n_last=8), 0),
    "B's high plane": (
        instruction("binary", b_width=1, b_plane_step=256, a_width=1, n_last=8), 0),
    "B, read with the last access only": (
        instruction("binary", a_width=1, b_address=NANO.ub_bytes, b_plane_step=9, n_last=8), 1),
    "bytes of B have no high plane": (
        instruction("binary", a_width=1, b_plane_step=65535, n_last=8), -1),
    "A, read with the last access only": (
        instruction("binary", b_width=1, a_address=NANO.ub_bytes, n_last=8), 1),
    "table": (instruction("table", table_address=NANO.ub_bytes - 100, n_last=8), 12),
    "last knot": (
        instruction("table", table_width=1, table_address=NANO.ub_bytes - 513, n_last=8), 64),
    "table to the last byte": (
        instruction("table", table_width=1, table_address=NANO.ub_bytes - 514, n_last=8), -1),
    "parameters of a mean": (
        instruction("requantize", reduce=2, parameter_count=3, n_last=1,
                    parameter_address=NANO.ub_bytes - 20), 2),
    "last pass": (instruction("fill", width=2, out_plane_step=1, n_last=8,
                              out_address=NANO.ub_bytes - 3 * 64 - 7), 3),
}


@pytest.mark.parametrize("name", FAULTS)
def test_address_check_is_of_the_current_access(name: str) -> None:
    i, faulty = FAULTS[name]
    accesses = list(accesses_of(i, NANO))
    bad = [out_of_range(access, NANO) for access in accesses]
    assert bad.index(True) == faulty if faulty >= 0 else not any(bad)
    dut = VectorEngine(NANO)

    async def bench(ctx):  # type: ignore[no-untyped-def]
        ctx.set(dut.engine.start, 1)
        ctx.set(dut.engine.word, int.from_bytes(encode(i), "little"))
        await ctx.tick()
        ctx.set(dut.engine.start, 0)
        ctx.set(dut.engine.active, 1)
        ports = {"a": dut.ub_a, "b": dut.ub_b, "accumulators": dut.accumulators}
        before: Access | None = None
        for access, fault in zip(accesses, bad, strict=True):
            for port in ports.values():
                ctx.set(port.grant, 1)
            # The lanes take an access every S cycles; the check goes on meanwhile.
            for _ in range(40):
                assert ctx.get(dut.engine.address_fault) == fault
                if fault or ctx.get(dut.engine.performed):
                    break
                await ctx.tick()
            assert ctx.get(dut.engine.performed) == (not fault)
            for key, port in ports.items():
                # An access that faults is not presented, so that it claims no bank.
                assert ctx.get(port.request) == (key in access.reads and not fault)
            if fault:
                # The check comes while the access before still occupies the lanes.
                held_up = before is not None and not before.prologue
                assert ctx.get(dut.engine.state) == STATE["busy" if held_up else "wait_bank"]
                return
            before = access
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
