"""LOAD and STORE against sections 3.2, 6.1 and 6.2 of the timing contract."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
from amaranth.sim import Simulator

from run_beats import run_beats
from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, encode, instruction
from systol_hw.rtl.transfer.engines import LoadEngine, StoreEngine, load_user_layout

NANO = PRESETS["nano"]
BUSY, WAIT_PORT, WAIT_BANK, WAIT_BUFFER = 1, 10, 11, 12


def with_ports(host: int, weight: int, **fields: Any) -> Arch:
    def port(width: int) -> Any:
        return replace(NANO.host_port, width_bytes=width, bytes_per_cycle=Fraction(width))

    return replace(NANO, ub_bytes=4096, host_port=port(host), weight_port=port(weight), **fields)


MACHINES = {
    "1 and 1": with_ports(1, 1),
    "4 and 4": with_ports(4, 4, store_buffer_beats=1),
    "8 and 2": with_ports(8, 2, store_buffer_beats=3, burst_bytes=8),
    "1 and 8": with_ports(1, 8, burst_bytes=16),
    "4 and 32": with_ports(4, 32, rows=32),
    "64 and 16": with_ports(64, 16, columns=64, burst_bytes=128, ub_banks=2),
}
WEIGHT_BYTES = 3000
WINDOW_BYTES = [0, 700, 4096, 1 << 31, 1, 2048, 0, 0, 0, 2048, 3000, 900, 0, 1 << 31, 0, 0]
"""The alternate set's windows differ from those of the same number in the primary one."""
LOADS = ("read_host", "read_weight_memory", "read_host_alternate")
STORES = ("write_host", "write_weight_memory", "write_host_alternate")


def window_of(transfer: Instruction) -> int:
    """The window among all, of a transfer with the host."""
    window: int = transfer["window"]
    return window + (8 if transfer.operation.name.endswith("_alternate") else 0)


@dataclass(frozen=True)
class Beat:
    """One access: its place in memory and in the unified buffer, both of its live bytes."""

    memory: int
    ub: int
    live: int
    burst_last: bool
    last: bool


def beats_of(arch: Arch, transfer: Instruction, width: int) -> Iterator[Beat]:
    """3.2 and the instruction's definition."""
    runs = [
        (
            (transfer["memory_address"] + i * transfer["memory_stride1"]
             + j * transfer["memory_stride0"]) % (1 << 32),
            (transfer["ub_address"] + i * transfer["ub_stride1"]
             + j * transfer["ub_stride0"]) % (1 << 32),
        )
        for i in range(transfer["count1"])
        for j in range(transfer["count0"])
    ]
    for number, (memory, ub) in enumerate(runs):
        beats = run_beats(
            memory, transfer["run_bytes"], width_bytes=width, burst_bytes=arch.burst_bytes
        )
        for beat in beats:
            yield Beat(
                memory=beat.address % (1 << 32),
                ub=(ub + beat.address - memory) % (1 << 32),
                live=beat.live,
                burst_last=beat.burst_last,
                last=beat.run_last and number == len(runs) - 1,
            )


def out_of_range(arch: Arch, beat: Beat, size: int) -> bool:
    return beat.memory + beat.live > size or beat.ub + beat.live > arch.ub_bytes


def random_transfer(rng: random.Random, arch: Arch, name: str, *, legal: bool) -> Instruction:
    """A transfer of at most some hundred beats; a `legal` one stays in range."""
    on_host = "host" in name
    while True:
        fields = {
            "memory_address": rng.randrange(WEIGHT_BYTES + 50),
            "ub_address": rng.randrange(arch.ub_bytes),
            "run_bytes": rng.choice([1, 2, rng.randint(1, 40), rng.randint(1, 200)]),
            "count0": rng.choice([1, 2, rng.randint(1, 5)]),
            "count1": rng.choice([1, 2, rng.randint(1, 4)]),
            **{
                f"{place}_stride{loop}": rng.choice([0, rng.randint(-300, 300)])
                for place in ("memory", "ub")
                for loop in range(2)
            },
        }
        if on_host:
            fields["window"] = rng.choice([1, 2, 3, 5])
        if not legal and rng.random() < 0.5:
            place = rng.choice(["memory_address", "ub_address"])
            fields[place] = rng.choice([(1 << 32) - 3, 1 << 31, arch.ub_bytes - 20, 690, 2040])
        transfer = instruction(name, **fields)
        width = (arch.host_port if on_host else arch.weight_port).width_bytes
        beats = list(beats_of(arch, transfer, width))
        size = WINDOW_BYTES[window_of(transfer)] if on_host else WEIGHT_BYTES
        if len(beats) < 300 and legal != any(out_of_range(arch, b, size) for b in beats):
            return transfer


def configure(ctx: Any, dut: Any) -> None:
    ctx.set(dut.weight_bytes, WEIGHT_BYTES)
    for window, size in enumerate(WINDOW_BYTES):
        ctx.set(dut.window_bytes[window], size)


def details(transfer: Instruction, dut: Any, arch: Arch) -> tuple[Any, Any, int, int, int]:
    """Its port and the other one, the beat's width, the memory's size, the window."""
    if "host" in transfer.operation.name:
        window = window_of(transfer)
        return dut.host, dut.weight, arch.host_port.width_bytes, WINDOW_BYTES[window], window
    return dut.weight, dut.host, arch.weight_port.width_bytes, WEIGHT_BYTES, 0


def simulate(dut: Any, bench: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def start(ctx: Any, dut: Any, transfer: Instruction) -> None:
    """The start cycle, as the frame makes it."""
    ctx.set(dut.engine.active, 0)
    ctx.set(dut.engine.start, 1)
    ctx.set(dut.engine.word, int.from_bytes(encode(transfer), "little"))
    await ctx.tick()
    ctx.set(dut.engine.start, 0)
    ctx.set(dut.engine.word, 0)
    ctx.set(dut.engine.active, 1)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("readiness", [0.3, 1.0])
def test_load_makes_the_beats_of_the_page(machine: str, readiness: float) -> None:
    arch = MACHINES[machine]
    rng = random.Random(f"{machine} {readiness}")
    dut = LoadEngine(arch)
    layout = load_user_layout(arch)

    async def bench(ctx: Any) -> None:
        configure(ctx, dut)
        for number in range(15):
            name = LOADS[number % 3]
            legal = number < 12
            transfer = random_transfer(rng, arch, name, legal=legal)
            port, other, width, size, window = details(transfer, dut, arch)
            await start(ctx, dut, transfer)
            users: list[tuple[int, Beat]] = []
            beats = list(beats_of(arch, transfer, width))
            for beat in beats:
                if out_of_range(arch, beat, size):
                    # Neither presented nor performed; the run would end here (5.5).
                    ctx.set(port.grant, 0)
                    assert not legal
                    assert ctx.get(dut.engine.address_fault)
                    assert not ctx.get(port.request) and not ctx.get(other.request)
                    assert not ctx.get(dut.engine.performed)
                    assert ctx.get(dut.engine.state) == WAIT_PORT
                    break
                while True:
                    granted = rng.random() < readiness
                    ctx.set(port.grant, granted)
                    assert ctx.get(port.request) and not ctx.get(other.request)
                    assert ctx.get(port.address) == beat.memory // width * width
                    assert ctx.get(port.window) == window
                    assert ctx.get(port.burst_last) == beat.burst_last
                    assert not ctx.get(dut.engine.address_fault)
                    assert ctx.get(dut.engine.performed) == granted
                    assert ctx.get(dut.engine.last) == beat.last
                    assert ctx.get(dut.engine.state) == (BUSY if granted else WAIT_PORT)
                    amounts = [dut.engine.amount_weight_bytes, dut.engine.amount_host_bytes]
                    mine = amounts.pop(port is dut.host)
                    assert ctx.get(mine) == (beat.live if granted else 0)
                    assert ctx.get(amounts[0]) == 0
                    user = ctx.get(port.user)
                    await ctx.tick()
                    if granted:
                        users.append((user, beat))
                        break
            ctx.set(dut.engine.active, 0)
            ctx.set(port.grant, 0)
            if not legal:
                continue
            assert not ctx.get(port.request)
            for user, beat in users:
                word = rng.randbytes(width)
                offset = beat.memory % width
                ctx.set(port.delivered, 1)
                ctx.set(port.delivered_user, user)
                ctx.set(port.read_data, int.from_bytes(word, "little"))
                assert ctx.get(dut.ub.request)
                assert ctx.get(dut.ub.address) == beat.ub
                assert ctx.get(dut.ub.length) == beat.live
                data = ctx.get(dut.ub.data) % (1 << (8 * beat.live))
                live = word[offset : offset + beat.live]
                assert data == int.from_bytes(live, "little")
                assert ctx.get(dut.engine.end) == beat.last
                await ctx.tick()
            ctx.set(port.delivered, 0)
            assert not ctx.get(dut.ub.request) and not ctx.get(dut.engine.end)
        assert layout.size == len(dut.host.user)

    simulate(dut, bench)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("readiness", [0.3, 1.0])
def test_store_buffers_and_presents_as_the_page_says(machine: str, readiness: float) -> None:
    arch = MACHINES[machine]
    rng = random.Random(f"{machine} {readiness}")
    dut = StoreEngine(arch)
    latency = 9
    fullest = 0

    async def run(ctx: Any, transfer: Instruction) -> None:
        nonlocal fullest
        port, other, width, size, window = details(transfer, dut, arch)
        await start(ctx, dut, transfer)
        beats = list(beats_of(arch, transfer, width))
        read = 0  # beats read so far
        issued: list[int] = []  # cycle of each issue
        waiting: deque[tuple[int, Beat, bytes]] = deque()  # cycle of the read, beat, its bytes
        shown: bytes = b""
        cycle = 0
        last_user: deque[tuple[int, int]] = deque()
        while len(issued) < len(beats) or last_user:
            active = read < len(beats)
            buffered = read - len(issued)
            fullest = max(fullest, buffered)
            ctx.set(dut.engine.active, active)
            ctx.set(dut.ub.data, int.from_bytes(shown, "little"))
            assert ctx.get(dut.buffered) == buffered
            may_read = active and buffered < arch.store_buffer_beats
            assert ctx.get(dut.ub.request) == may_read
            ctx.set(dut.ub.grant, may_read)
            assert not ctx.get(other.request)
            presents = bool(waiting) and waiting[0][0] + 2 <= cycle
            assert ctx.get(port.request) == presents, f"cycle {cycle}"
            granted = presents and rng.random() < readiness
            ctx.set(port.grant, granted)
            arrives = bool(last_user) and last_user[0][0] == cycle
            ctx.set(port.delivered, arrives)
            ctx.set(port.delivered_user, last_user[0][1] if arrives else rng.getrandbits(1))
            assert ctx.get(dut.engine.end) == (arrives and len(last_user) == 1
                                               and len(issued) == len(beats))
            if arrives:
                last_user.popleft()
            if active:
                beat = beats[read]
                assert ctx.get(dut.engine.address_fault) == out_of_range(arch, beat, size)
                assert ctx.get(dut.engine.performed) == may_read
                assert ctx.get(dut.engine.last) == beat.last
                assert ctx.get(dut.engine.state) == (BUSY if may_read else WAIT_BUFFER)
                amounts = [dut.engine.amount_weight_bytes, dut.engine.amount_host_bytes]
                mine = amounts.pop(port is dut.host)
                assert ctx.get(mine) == (beat.live if may_read else 0)
                assert ctx.get(amounts[0]) == 0
            if granted:
                _, beat, data = waiting.popleft()
                offset = beat.memory % width
                assert ctx.get(port.address) == beat.memory - offset
                assert ctx.get(port.window) == window
                assert ctx.get(port.burst_last) == beat.burst_last
                assert ctx.get(port.strobe) == ((1 << beat.live) - 1) << offset
                word = ctx.get(port.data).to_bytes(width, "little")
                assert word[offset : offset + beat.live] == data[: beat.live]
                last_user.append((cycle + latency, ctx.get(port.user)))
                issued.append(cycle)
            shown = b""
            if may_read:
                beat = beats[read]
                assert ctx.get(dut.ub.length) == beat.live
                assert ctx.get(dut.ub.address) == beat.ub
                shown = rng.randbytes(arch.ub_width_bytes)
                waiting.append((cycle, beat, shown))
                read += 1
            await ctx.tick()
            cycle += 1
        ctx.set(port.delivered, 0)
        assert not ctx.get(port.request)

    async def bench(ctx: Any) -> None:
        configure(ctx, dut)
        for number in range(9):
            name = STORES[number // 3]
            await run(ctx, random_transfer(rng, arch, name, legal=True))

    simulate(dut, bench)
    # Where every beat is issued as soon as it is presented, no more than two are ever held.
    depth = arch.store_buffer_beats
    assert fullest == (depth if readiness < 1 else min(2, depth))


@pytest.mark.parametrize("name", STORES)
def test_store_checks_addresses_like_load(name: str) -> None:
    arch = MACHINES["8 and 2"]
    rng = random.Random(name)
    dut = StoreEngine(arch)

    async def bench(ctx: Any) -> None:
        configure(ctx, dut)
        for _ in range(6):
            transfer = random_transfer(rng, arch, name, legal=False)
            port, _, width, size, _ = details(transfer, dut, arch)
            await start(ctx, dut, transfer)
            ctx.set(port.grant, 1)  # keeps the buffer empty enough
            ctx.set(dut.ub.grant, 1)
            good = [not out_of_range(arch, b, size) for b in beats_of(arch, transfer, width)]
            performed = 0
            while not ctx.get(dut.engine.address_fault):
                performed += ctx.get(dut.engine.performed)
                await ctx.tick()
            # The run would end here: the access is neither presented nor performed (5.5).
            assert performed == good.index(False)
            ctx.set(dut.ub.grant, 0)
            assert not ctx.get(dut.ub.request)
            full = ctx.get(dut.buffered) == arch.store_buffer_beats
            assert ctx.get(dut.engine.state) == (WAIT_BUFFER if full else WAIT_BANK)
            ctx.set(dut.engine.active, 0)
            for _ in range(4):
                await ctx.tick()

    simulate(dut, bench)
