"""The AXI4 master under random backpressure on every channel, against a list of requests."""

import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from random_streams import RandomSink, RandomSource
from systol_hw.rtl.bus.axi import AxiMaster

WIDTH, MEMORIES, OUTSTANDING = 4, 3, 5
BASES = (0x1_2345_6000, 0xFFFF_F000, 0x7000)


def signals(bus: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(bus, name) for name in names}


def draw(rng: random.Random) -> dict[str, int]:
    return {
        "request_write": rng.random() < 0.4,
        "request_window": rng.randrange(MEMORIES),
        "request_address": rng.getrandbits(32) & -WIDTH,
        "request_data": rng.getrandbits(8 * WIDTH),
        "request_strobe": rng.getrandbits(WIDTH),
    }


@pytest.mark.parametrize("request_rate", [0.3, 1.0])
@pytest.mark.parametrize("ready_rate", [0.3, 1.0])
@pytest.mark.parametrize("answer_rate", [0.2, 1.0])
def test_requests_become_transfers_and_answers_come_in_order(
    request_rate: float, ready_rate: float, answer_rate: float
) -> None:
    rng = random.Random(f"{request_rate} {ready_rate} {answer_rate}")
    dut = AxiMaster(width_bytes=WIDTH, memories=MEMORIES, outstanding=OUTSTANDING)
    native, axi = dut.native, dut.axi
    requests = [draw(rng) for _ in range(300)]
    source = RandomSource(
        native.request_valid, native.request_ready, signals(native, *requests[0]), rng,
        request_rate, list(requests),
    )  # fmt: skip
    sinks = {
        channel: RandomSink(
            getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready"),
            signals(axi, *(f"{channel}{name}" for name in names)), rng, ready_rate,
        )
        for channel, names in {
            "aw": ("id", "addr", "len", "size", "burst"),
            "w": ("data", "strb", "last"),
            "ar": ("id", "addr", "len", "size", "burst"),
        }.items()
    }  # fmt: skip
    answers = {
        "b": RandomSource(axi.bvalid, axi.bready, signals(axi, "bresp"), rng, answer_rate),
        "r": RandomSource(axi.rvalid, axi.rready, signals(axi, "rresp", "rdata"), rng, answer_rate),
    }
    transfers: dict[str, list[dict[str, int]]] = {name: [] for name in sinks}
    expected: deque[dict[str, int]] = deque()
    accepted, answered, errors, full = 0, 0, 0, 0

    async def bench(ctx: Any) -> None:
        nonlocal accepted, answered, errors, full
        ctx.set(native.response_ready, 1)
        for index, base in enumerate(BASES):
            # What the low 12 bits say does not count.
            ctx.set(dut.bases[index], base | rng.getrandbits(12))
        owed = 0  # write answers that may be given: both address and data are there
        for _ in range(20_000):
            if answered == len(requests):
                break
            for end in (source, *answers.values()):
                end.drive(ctx)
            for sink in sinks.values():
                sink.drive(ctx)
            taken = source.finish(ctx)
            done = {name: answers[name].finish(ctx) for name in answers}
            if ctx.get(native.response_valid):
                was = expected.popleft()
                channel = "b" if was["request_write"] else "r"
                answer = done[channel]
                assert answer is not None and done["r" if channel == "b" else "b"] is None
                if channel == "r":
                    assert ctx.get(native.response_data) == answer["rdata"]
                assert ctx.get(dut.error) == (answer[f"{channel}resp"] >= 2)
                errors += ctx.get(dut.error)
                answered += 1
            else:
                assert done == {"b": None, "r": None} and not ctx.get(dut.error)
            if taken is not None:
                expected.append(taken)
                accepted += 1
            full += len(expected) == OUTSTANDING
            assert len(expected) <= OUTSTANDING
            for name, sink in sinks.items():
                transfer = sink.finish(ctx)
                if transfer is None:
                    continue
                transfers[name].append(transfer)
                if name == "ar":
                    answers["r"].items.append(
                        {"rresp": rng.choice((0, 0, 0, 2, 3)), "rdata": rng.getrandbits(32)}
                    )
            while owed < min(len(transfers["aw"]), len(transfers["w"])):
                owed += 1
                answers["b"].items.append({"bresp": rng.choice((0, 0, 0, 2, 3))})
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert accepted == answered == len(requests)
    assert errors > 20
    assert full or answer_rate == 1.0 or min(request_rate, ready_rate) < 1.0

    def address(request: dict[str, int], channel: str) -> dict[str, int]:
        place = BASES[request["request_window"]] + request["request_address"]
        values = {"id": 0, "addr": place, "len": 0, "size": 2, "burst": 1}
        return {f"{channel}{name}": value for name, value in values.items()}

    writes = [request for request in requests if request["request_write"]]
    reads = [request for request in requests if not request["request_write"]]
    assert transfers["aw"] == [address(request, "aw") for request in writes]
    assert transfers["ar"] == [address(request, "ar") for request in reads]
    assert transfers["w"] == [
        {"wdata": r["request_data"], "wstrb": r["request_strobe"], "wlast": 1} for r in writes
    ]
