"""The vector engine against docs/timing.md section 7 and the instruction table, every cycle."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest
from amaranth.sim import Simulator

from systol_hw.arch import PRESETS, Arch
from systol_hw.counters import UNIT_STATES
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.vector import VectorEngine

STATE = {state.name: state.code for state in UNIT_STATES[Unit.VECTOR]}
NANO = PRESETS["nano"]
MACHINES = {
    "nano": NANO,
    "4x8, a lane a column": replace(NANO, name="m4x8", rows=4, vector_lanes=8),
    "8x4, few rows": replace(NANO, name="m8x4", columns=4, vector_lanes=2, vector_write_rows=2),
    "16x12": replace(NANO, name="m16x12", rows=16, columns=12, vector_lanes=3,
                     vector_write_rows=5),
    "one row": replace(NANO, name="one", columns=4, vector_lanes=4, vector_write_rows=1),
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """A parameter read or a tap."""

    channels: int
    port: str
    """"b", "a", "accumulators", or "" for a tap without an access."""
    address: int = 0
    length: int = 0
    first: bool = False
    last_tap: bool = False
    out_address: int = 0
    last: bool = False
    group: int = 0


def accesses_of(i: Instruction, arch: Arch) -> Iterator[Access]:
    """Every access of an instruction in order, by the table's formulas."""
    operation, columns, width = i.operation.name, arch.columns, arch.ub_width_bytes
    for n in range(i["n_count"]):
        channels = i["n_last"] if n == i["n_count"] - 1 else columns
        if operation == "requantize":
            for begin in range(0, 8 * channels, width):
                yield Access(
                    channels=channels,
                    port="b",
                    address=(i["parameter_address"] + 8 * columns * n + begin) & 0xFFFFFFFF,
                    length=min(width, 8 * channels - begin),
                    group=n,
                )
        for y, x, ky, kx in np.ndindex(i["y_count"], i["x_count"], i["ky_count"], i["kx_count"]):
            line = i["y_start"] + y * i["y_step"] + ky * i["ky_step"]
            column = i["x_start"] + x * i["x_step"] + kx * i["kx_step"]
            inside = 0 <= line < i["y_limit"] and 0 <= column < i["x_limit"]
            port = "a" if i["source_ub"] else "accumulators"
            address = (
                i["a_address"] + n * i["a_n_step"] + y * i["a_y_step"] + x * i["a_x_step"]
                + ky * i["a_ky_step"] + kx * i["a_kx_step"]
            )
            out = i["out_address"] + n * i["out_n_step"] + y * i["out_y_step"]
            last_tap = (ky, kx) == (i["ky_count"] - 1, i["kx_count"] - 1)
            yield Access(
                channels=channels,
                port=port if inside and operation != "fill" else "",
                address=address & 0xFFFFFFFF,
                length=channels,
                first=(ky, kx) == (0, 0),
                last_tap=last_tap,
                out_address=(out + x * i["out_x_step"]) & 0xFFFFFFFF,
                last=last_tap and (n, y, x) == (
                    i["n_count"] - 1, i["y_count"] - 1, i["x_count"] - 1),
                group=n,
            )


def out_of_range(access: Access, arch: Arch) -> bool:
    if access.port == "accumulators" and access.address >= arch.accumulator_rows:
        return True
    if access.port in ("a", "b") and access.address + access.length > arch.ub_bytes:
        return True
    return access.last_tap and access.out_address + access.channels > arch.ub_bytes


def wrap32(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass(kw_only=True, eq=False)
class Memories:
    ub: np.ndarray
    accumulators: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, arch: Arch) -> "Memories":
        """Accumulators of all magnitudes; bytes whose upper half reads as fair parameters."""
        shape = (arch.accumulator_rows, arch.columns)
        ub = rng.integers(0, 256, arch.ub_bytes)
        parameters = ub[arch.ub_bytes // 2 :]
        parameters[3::8] = rng.choice([0, 0, 255, 127, 128], len(parameters) // 8)
        parameters[7::8] = rng.integers(16, 50, len(parameters) // 8)
        return cls(
            ub=ub,
            accumulators=rng.integers(-(1 << 31), 1 << 31, shape) >> rng.integers(0, 31, shape),
        )

    def tap(self, access: Access) -> list[int]:
        if access.port == "a":
            read = self.ub[access.address : access.address + access.length]
            return [(int(v) ^ 128) - 128 for v in read]
        return [int(v) for v in self.accumulators[access.address]]

    def row(self, i: Instruction, arch: Arch, group: int, taps: list[Access]
            ) -> tuple[bytes, int, int]:
        """Bytes of an output row, and its saturations and overflows."""
        read = [self.tap(tap) for tap in taps if tap.port]
        result, saturations, overflows = [], 0, 0
        for c in range(taps[0].channels):
            v = max([-(1 << 31), *(row[c] for row in read)])
            if i.operation.name == "requantize":
                at = i["parameter_address"] + 8 * (group * arch.columns + c)
                raw = int.from_bytes(self.ub[at : at + 8].astype(np.uint8).tobytes(), "little")
                multiplier = ((raw >> 32 & 0x3FFFF) ^ 0x20000) - 0x20000
                total = v + wrap32(raw)
                overflows += total != wrap32(total)
                exact = Fraction(wrap32(total) * multiplier, 1 << (raw >> 56 & 63))
                q = round(exact) + i["zero_point"]
                v = max(-128, min(127, q))
                saturations += v != q
            result.append(i["zero_point"] if i.operation.name == "fill"
                          else min(max(v, i["low"]), i["high"]))
        return bytes(v & 255 for v in result), saturations, overflows


def random_instruction(rng: np.random.Generator, arch: Arch) -> Instruction:
    """A few dozen accesses, all in range."""

    def small(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    while True:
        operation = str(rng.choice(["requantize", "requantize", "copy", "fill"]))
        source_ub = small(0, 1)
        spread = 20 if source_ub else 3
        fill = operation == "fill"
        low, high = sorted((small(-128, 20), small(-20, 127)))
        i = instruction(
            operation,
            source_ub=source_ub,
            zero_point=small(-128, 127),
            low=low,
            high=high,
            a_address=small(500, 4000) if source_ub else small(0, arch.accumulator_rows - 1),
            a_n_step=small(-spread, spread),
            a_y_step=small(-spread, spread),
            a_x_step=small(-spread, spread),
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
            y_count=small(1, 3),
            x_count=small(1, 4),
            n_count=small(1, 3),
            n_last=small(1, arch.columns),
            out_address=small(500, 4000),
            out_n_step=small(-60, 60),
            out_y_step=small(-60, 60),
            out_x_step=small(-60, 60),
            parameter_address=arch.ub_bytes // 2 + 8 * small(0, 100),
        )
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
        taps: list[Access] = []
        # Rows held: first cycle of the write, address, bytes, whether the instruction ends.
        held: list[tuple[int, int, bytes, bool]] = []
        read: Access | None = None
        entry_free = lanes_empty = t = 0
        # Counted by instruction: [saturations, overflows].
        expected: list[list[int]] = []
        counted: list[list[int]] = []
        while queue or work or held or t <= lanes_empty:
            self._deliver(ctx, dut, rng, memories, read)
            read = None
            active = bool(work)
            start = not active and bool(queue) and t >= lanes_empty and rng.random() >= self.gaps
            ctx.set(dut.engine.start, start)
            ctx.set(dut.engine.word, int.from_bytes(encode(queue[0]), "little") if start else
                    int(rng.integers(0, 1 << 62)))
            ctx.set(dut.engine.active, active)
            assert ctx.get(dut.engine.ready) == (t >= lanes_empty), t
            assert ctx.get(dut.held_rows) == len(held)
            self.peak = max(self.peak, len(held))

            performed, request, state = False, "", ""
            if active:
                access = work[0]
                if t < entry_free:
                    state = "busy"
                elif access.port == "b" and t < lanes_empty:
                    state = "wait_lanes"
                elif access.last_tap and len(held) == arch.vector_write_rows:
                    state = "wait_buffer"
                else:
                    request = access.port
                    performed = not request or rng.random() >= self.refusals
                    state = "busy" if performed else "wait_bank"
                self.seen.add(state)
            for name, port in ports.items():
                assert ctx.get(port.request) == (request == name), (t, name)
                ctx.set(port.grant, request == name and performed)
            if request == "accumulators":
                assert ctx.get(dut.accumulators.row) == access.address
            elif request:
                assert ctx.get(ports[request].address) == access.address
                assert ctx.get(ports[request].length) == access.length
            assert ctx.get(dut.engine.performed) == performed
            if active:
                assert ctx.get(dut.engine.state) == STATE[state], (t, state)
                assert not ctx.get(dut.engine.address_fault)
            if performed:
                assert ctx.get(dut.engine.last) == access.last
            assert ctx.get(dut.engine.amount_elements) == (
                access.channels if performed and access.last_tap else 0)

            presents = bool(held) and t >= held[0][0]
            written = presents and rng.random() >= self.write_refusals
            assert ctx.get(dut.ub_write.request) == presents, t
            ctx.set(dut.ub_write.grant, written)
            if presents:
                _, address, row, _ = held[0]
                assert ctx.get(dut.ub_write.address) == address
                assert ctx.get(dut.ub_write.length) == len(row)
                got = ctx.get(dut.ub_write.data).to_bytes(width, "little")
                assert got[: len(row)] == row, (t, present)
            assert ctx.get(dut.engine.end) == (written and held[0][3])
            amounts = [ctx.get(dut.engine.amount_saturations), ctx.get(dut.engine.amount_overflows)]
            if counted:
                counted[-1] = [a + b for a, b in zip(counted[-1], amounts, strict=True)]
            else:
                assert amounts == [0, 0]

            if written:
                if held.pop(0)[3]:
                    self.ends.append(t)
            if performed:
                assert present is not None
                work.pop(0)
                read = access
                if access.port != "b":
                    entry_free, lanes_empty = t + slots, t + slots + 8
                    taps.append(access)
                    if access.last_tap:
                        row, *counts = memories.row(present, arch, access.group, taps)
                        expected[-1] = [a + b for a, b in zip(expected[-1], counts, strict=True)]
                        held.append((t + slots + 8, access.out_address, row, access.last))
                        taps = []
            if start:
                self.starts.append(t)
                present = queue.pop(0)
                work = list(accesses_of(present, arch))
                expected.append([0, 0])
                counted.append([0, 0])
            await ctx.tick()
            t += 1
        assert counted == expected
        if np.sum(expected):
            self.seen.add("counted")

    def _deliver(self, ctx, dut, rng, memories: Memories, read: Access | None  # type: ignore
                 ) -> None:
        """What was read in the cycle before; all else is noise."""
        for name, port in (("a", dut.ub_a), ("b", dut.ub_b)):
            data = rng.integers(0, 256, self.arch.ub_width_bytes)
            if read is not None and read.port == name:
                data[: read.length] = memories.ub[read.address : read.address + read.length]
            ctx.set(port.data, int.from_bytes(data.astype(np.uint8).tobytes(), "little"))
        row = rng.integers(0, 1 << 32, self.arch.columns)
        if read is not None and read.port == "accumulators":
            row = memories.accumulators[read.address] & 0xFFFFFFFF
        for c in range(self.arch.columns):
            ctx.set(dut.accumulators.data[c], int(row[c]))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("seed", range(3))
def test_random_programs(machine: str, seed: int) -> None:
    arch = MACHINES[machine]
    rng = np.random.default_rng([seed, arch.columns, arch.vector_lanes])
    program = [random_instruction(rng, arch) for _ in range(8)]
    program.append(instruction("requantize", n_count=2, out_n_step=40, x_count=9, out_x_step=1,
                               parameter_address=arch.ub_bytes // 2))
    # Writes that are mostly refused fill the buffer.
    bench = Bench(arch=arch, program=program, seed=seed, write_refusals=0.9 if seed == 1 else 0.2)
    bench.run()
    assert len(bench.ends) == len(program)
    assert {"busy", "wait_bank", "wait_lanes", "counted"} <= bench.seen
    if seed == 1 or arch.vector_write_rows < 3:
        assert "wait_buffer" in bench.seen and bench.peak == arch.vector_write_rows


def test_requantize_by_hand() -> None:
    """nano, S = 4: start in 0, 8 parameter reads in 1..8, taps in 9, 13, .., 9 + 4*4 = 25.

    The last row's write is presented, granted and the end in 25 + 4 + 8 = 37.
    """
    i = instruction("requantize", x_count=5, x_limit=5, x_step=1, a_x_step=1, n_last=8,
                    out_x_step=8, parameter_address=NANO.ub_bytes // 2)
    bench = Bench(arch=NANO, program=[i], seed=0, refusals=0, write_refusals=0, gaps=0)
    bench.run()
    assert bench.starts == [0] and bench.ends == [37] and bench.seen <= {"busy", "counted"}


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
        for access, fault in zip(accesses, bad, strict=True):
            for port in ports.values():
                ctx.set(port.grant, 1)
            # The lanes take a tap every S cycles; the check goes on meanwhile.
            for _ in range(40):
                assert ctx.get(dut.engine.address_fault) == fault
                if fault or ctx.get(dut.engine.performed):
                    break
                await ctx.tick()
            assert ctx.get(dut.engine.performed) == (not fault)
            for key, port in ports.items():
                # An access that faults is not presented, so that it claims no bank.
                assert ctx.get(port.request) == (access.port == key and not fault)
            if fault:
                # The check comes while the tap before still occupies the lanes.
                held_up = access is not accesses[0] and accesses[0].port != "b"
                assert ctx.get(dut.engine.state) == STATE["busy" if held_up else "wait_bank"]
                return
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
