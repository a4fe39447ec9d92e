"""Counters that no micro-program pins: small programs, with figures derived from docs/timing.md.

The machine and its fetch are those of docs/microprograms.md: the queue holds instruction i from
cycle 8i + 19 on, and a program of n keeps WEIGHTS off the weight port through cycle 8n - 1.
Programs are not valid ones where that is shorter (they read what nothing wrote, and leave tiles in
the FIFO): time does not depend on it.
"""

import dataclasses

import numpy as np
import pytest

from systol_hw.arch import Arch, MemoryPort
from systol_hw.isa.assembly import assemble
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.counters import AMOUNTS, SCALARS, UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_sim.results import RunResult
from systol_sim.simulator import run, run_timing

PORT = MemoryPort(width_bytes=8, bytes_per_cycle=8, latency_cycles=10)  # type: ignore[arg-type]
MACHINE = Arch(
    name="pins", rows=4, columns=4, ub_bytes=1024, accumulator_rows=16, weight_port=PORT,
    host_port=PORT, vector_lanes=4,
)  # fmt: skip

# Eight beats in 20..27, active through 27; ends in 27 + 10 = 37.
LOAD = "read_host run_bytes=64"
# Eight reads in 20..27, issued two cycles later; the last, in 29, is visible in 39.
STORE = "write_host run_bytes=64"
# Two tiles of four beats; in a program of three in 24..31: ends in 41.
WEIGHTS = "read_weights row_pitch=8 inner_count=2 inner_stride=32 k_last=4 n_last=4"
# Eight taps in 20..27, the last written in 27 + 9 = 36.
VECTOR = "fill x_count=8 n_last=4 out_x_step=4"
# In a program of n, the tile's beats are issued from t = 8n on and delivered in t + 13; it shifts
# from t + 14 and is full from t + 18 on: a row is issued in t + 18 and ends in t + 33.
TILE = "read_weights row_pitch=8 k_last=4 n_last=4"
MATRIX = "matmul k_last=4 p_limit=4"


def _program(text: str, arch: Arch = MACHINE, window_bytes: int = 1024) -> Program:
    return make_program(
        arch,
        assemble(text),
        weight_image=np.zeros(1024, np.uint8),
        windows=(Window(name="w", size_bytes=window_bytes),),
    )


def _counter(result: RunResult, name: str) -> int:
    assert result.counters is not None
    unit_name, dot, counter = name.partition(".")
    if not dot:
        index = next(s.index for s in SCALARS if s.name == name)
        return int(result.counters.scalars[index])
    unit = Unit[unit_name.upper()]
    if any(state.name == counter for state in UNIT_STATES[unit]):
        return result.counters.state(unit, counter)
    assert any(a.unit is unit and a.name == counter for a in AMOUNTS), name
    return result.counters.amount(unit, counter)


def _holds(name: str, text: str, value: int, arch: Arch = MACHINE) -> None:
    program = _program(f"{text}\nhalt", arch)
    for skip in (True, False):
        result = run_timing(program, skip=skip)
        assert result.fault is None
        assert (name, _counter(result, name)) == (name, value)


CONSUMERS = {"load": LOAD, "store": STORE, "weights": TILE, "matrix": MATRIX, "vector": VECTOR}


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "value"),
    [
        # The consumer is in its queue from 27 on and sees the token in the cycle after the end.
        ("store.wait_load", 11),
        ("weights.wait_load", 11),
        ("vector.wait_load", 11),
        ("load.wait_store", 13),
        ("weights.wait_store", 13),
        ("vector.wait_store", 13),
        ("load.wait_weights", 15),
        ("store.wait_weights", 15),
        ("vector.wait_weights", 15),
        ("load.wait_vector", 10),
        ("store.wait_vector", 10),
        ("weights.wait_vector", 10),
        # Behind a tile the consumer is the third of four, in its queue from 35 on; matmul ends in
        # 65.
        ("load.wait_matrix", 31),
        ("store.wait_matrix", 31),
        ("vector.wait_matrix", 31),
        # The first tile's last beat is issued in 35, so that WEIGHTS looks at its queue from 36 on.
        ("weights.wait_matrix", 30),
    ],
)
def test_waits_for_a_token(name: str, value: int) -> None:
    consumer, wait = name.split(".")
    producer = wait.removeprefix("wait_")
    first = {"load": LOAD, "store": STORE, "weights": WEIGHTS, "vector": VECTOR}.get(
        producer, f"{TILE}\n{MATRIX}"
    )
    _holds(name, f"{first} signal={consumer}\n{CONSUMERS[consumer]} wait={producer}", value)


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "value"),
    [
        # `matmul` is the third instruction, behind a tile, in its queue from 35 on.
        ("matrix.wait_load", 3),
        ("matrix.wait_store", 5),
        ("matrix.wait_vector", 2),
    ],
)
def test_matrix_waits_for_a_token(name: str, value: int) -> None:
    producer = name.removeprefix("matrix.wait_")
    _holds(name, f"{CONSUMERS[producer]} signal=matrix\n{TILE}\n{MATRIX} wait={producer}", value)


@pytest.mark.pins("matrix.wait_weights")
def test_matrix_waits_for_weights() -> None:
    # In the queue from 27 on; the tile's instruction ends in 37, when its last beat is delivered.
    _holds("matrix.wait_weights", f"{TILE} signal=matrix\n{MATRIX} wait=weights", 11)


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        # Not active from 28 on, and in flight through the first one's end.
        ("load.wait_drain", f"{LOAD}\n{LOAD} drain=1", 10),
        ("store.wait_drain", f"{STORE}\n{STORE} drain=1", 12),
        ("weights.wait_drain", f"{WEIGHTS}\n{TILE} drain=1", 10),
        # The row is issued in 32 + 18, and matmul ends 15 cycles later.
        ("matrix.wait_drain", f"{WEIGHTS}\n{MATRIX}\n{MATRIX} drain=1", 15),
        # Unlike ports: one waits for the other without a drain bit.
        ("load.wait_drain", f"{LOAD}\nread_weight_memory run_bytes=8", 10),
        ("store.wait_drain", f"{STORE}\nwrite_weight_memory run_bytes=8", 12),
        # Unlike sources of weights.
        ("weights.wait_drain", f"{WEIGHTS}\nread_weights_ub k_last=4 n_last=4", 10),
    ],
)
def test_waits_for_its_own_unit(name: str, text: str, value: int) -> None:
    _holds(name, text, value)


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("load.wait_inflight", f"{LOAD}\n{LOAD}", 10),
        ("store.wait_inflight", f"{STORE}\n{STORE}", 12),
        ("weights.wait_inflight", f"{WEIGHTS}\n{TILE}", 10),
        ("matrix.wait_inflight", f"{WEIGHTS}\n{MATRIX}\n{MATRIX}", 15),
        # The limit goes before the lanes, which would be empty from 36 on.
        ("vector.wait_inflight", f"{VECTOR}\n{VECTOR}", 9),
    ],
)
def test_one_instruction_in_flight(name: str, text: str, value: int) -> None:
    _holds(name, text, value, dataclasses.replace(MACHINE, inflight_instructions=1))


LONG_LOAD = "read_host run_bytes=256"  # beats in 20..51: the next one starts in 52
LONG_STORE = "write_host run_bytes=256"
# Three tiles whose rows straddle two beats: in a program of four 24 beats in 32..55. With one tile
# more, and one in the plane, the FIFO's four slots suffice.
LONG_WEIGHTS = (
    "read_weights address=6 row_pitch=16 inner_count=3 inner_stride=64 k_last=4 n_last=4"
)
LONG_MATRIX = "matmul x_count=16 k_last=4 p_limit=4"  # behind a tile of n = 5: rows in 58..73
# Sixteen taps: 20..27, and, once the first held row is written in 29, 30..37. The lanes are empty
# from 37 + 9 on.
LONG_VECTOR = "fill x_count=16 n_last=4 out_x_step=4"
THREE_TILES = "read_weights row_pitch=8 inner_count=3 inner_stride=32 k_last=4 n_last=4"


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        # With a queue of one, the third is refused from when it is seen, in 34, through the start
        # of the second.
        ("control.full_load", f"{LONG_LOAD}\n{LOAD}\n{LOAD}", 52 - 34 + 1),
        ("control.full_store", f"{LONG_STORE}\n{STORE}\n{STORE}", 52 - 34 + 1),
        ("control.full_weights", f"{LONG_WEIGHTS}\n{TILE}\n{TILE}", 56 - 34 + 1),
        ("control.full_vector", f"{LONG_VECTOR}\n{VECTOR}\n{VECTOR}", 46 - 34 + 1),
        # Behind tiles the fourth is seen in 42, and the third starts in 74.
        ("control.full_matrix", f"{THREE_TILES}\n{LONG_MATRIX}\n{MATRIX}\n{MATRIX}", 74 - 42 + 1),
    ],
)
def test_a_queue_of_one_is_full(name: str, text: str, value: int) -> None:
    _holds(name, text, value, dataclasses.replace(MACHINE, queue_depth=1))


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        # The second, third and fourth are in the queue from 27, 35 and 43 on.
        ("peak_queue_load", f"{LONG_LOAD}\n{LOAD}\n{LOAD}\n{LOAD}", 3),
        ("peak_queue_store", f"{LONG_STORE}\n{STORE}\n{STORE}\n{STORE}", 3),
        ("peak_queue_weights", f"{LONG_WEIGHTS}\n{TILE}\n{TILE}", 2),
        ("peak_queue_matrix", f"{THREE_TILES}\n{LONG_MATRIX}\n{MATRIX}\n{MATRIX}", 2),
        ("peak_queue_vector", f"{LONG_VECTOR}\n{VECTOR}\n{VECTOR}\n{VECTOR}", 3),
    ],
)
def test_peaks_of_the_queues(name: str, text: str, value: int) -> None:
    _holds(name, text, value)


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "value"),
    [
        # The tile: started in 19, beats in 24..27, delivered in 37. Halt is executed in 58.
        ("weights.idle", 19 + (58 - 38 + 1)),
        ("weights.start", 1),
        ("weights.flight", 37 - 28 + 1),
        # The row: started in 27, issued in 42, ended in 57.
        ("matrix.idle", 27 + 1),
        ("matrix.start", 1),
        ("matrix.flight", 57 - 43 + 1),
    ],
)
def test_a_tile_and_a_row(name: str, value: int) -> None:
    _holds(name, f"{TILE}\n{MATRIX}", value)


@pytest.mark.pins("store.wait_bank")
def test_a_store_loses_its_bank_only_to_a_fault() -> None:
    # Store ranks first: what it cannot read does not exist. The first access is checked in 20.
    result = run_timing(_program("write_host ub_address=1024\nhalt"))
    assert result.fault is not None and result.fault.cycle == 20
    assert _counter(result, "store.wait_bank") == 1


@pytest.mark.pins("weights.wait_bank")
def test_weights_lose_their_bank_to_store() -> None:
    # Store reads bank 0 (256 bytes) in 20..51. The tile's instruction starts in 27, and its lines
    # lie in bank 0 too: its first read is granted in 52.
    text = f"{LONG_STORE}\nread_weights_ub row_pitch=4 k_last=4 n_last=4"
    _holds("weights.wait_bank", text, 52 - 28)


@pytest.mark.pins
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("load.weight_bytes",
         "read_weight_memory run_bytes=5 count0=3 count1=2 memory_stride0=7 ub_stride0=9", 30),
        ("store.weight_bytes",
         "write_weight_memory run_bytes=5 count0=3 count1=2 memory_stride0=7 ub_stride0=9", 30),
        # Two column tiles of 4 and 3 live columns, two steps of 4 and 2 live rows each.
        ("weights.ub_bytes",
         "read_weights_ub row_pitch=8 n_count=2 inner_count=2 k_last=2 n_last=3", 6 * 4 + 6 * 3),
    ],
)
def test_bytes_are_the_product_of_the_counts(name: str, text: str, value: int) -> None:
    _holds(name, text, value)


@pytest.mark.pins("control.wait_host")
def test_sync_host_waits_for_the_host_ports_latency() -> None:
    # Seen, and the machine quiet, in 18; executed in 18 + 10.
    _holds("control.wait_host", "sync_host value=3", 10)
    result = run_timing(_program("sync_host value=3\nhalt"))
    assert result.interrupts == [3]
    assert result.times is not None and result.times[0].tolist() == [18, 28]


def _values(text: str, window: np.ndarray) -> RunResult:
    return run(_program(f"{text}\nhalt", window_bytes=window.size), {"w": window}, checked=True)


@pytest.mark.pins("vector.saturations", "vector.overflows")
def test_saturations_and_overflows_of_the_vector_unit() -> None:
    # Eight bytes of 100; parameters of 4 channels: three double it, the fourth's bias overflows.
    parameters = [0, 0, 0, 0, 2, 0, 0, 0] * 3 + [255, 255, 255, 127, 1, 0, 0, 0]
    window = np.array([100] * 8 + parameters, np.uint8)
    result = _values(
        "read_host run_bytes=40 signal=vector\n"
        "requantize wait=load source_ub=1 x_count=2 a_x_step=4 n_last=4 parameter_address=8 "
        "out_address=512 out_x_step=4",
        window,
    )
    # 200 saturates; 100 + 2**31 - 1 wraps to a large negative number, which saturates too.
    assert _counter(result, "vector.saturations") == 8
    assert _counter(result, "vector.overflows") == 2
    assert result.memories["ub"][512:520].view(np.int8).tolist() == [127, 127, 127, -128] * 2


@pytest.mark.pins("matrix.overflows")
def test_overflows_of_the_accumulators() -> None:
    # A sum of 4 * 127 * 127 counts 2**16 times and leaves 32 bits in each of 4 columns; the second
    # row's, 4 * 127, does not.
    window = np.array([127] * 4 + [1] * 4, np.uint8)
    program = make_program(
        MACHINE,
        assemble(
            "read_host run_bytes=8 signal=matrix\n"
            "read_weights row_pitch=4 k_last=4 n_last=4\n"
            "matmul wait=load accumulate_shift=2 x_count=2 x_step=4 p_limit=8 k_last=4\n"
            "halt"
        ),
        weight_image=np.full(16, 127, np.uint8),
        windows=(Window(name="w", size_bytes=8),),
    )
    result = run(program, {"w": window})
    assert _counter(result, "matrix.overflows") == 4
    sums = [(4 * 127 * 127 << 16) % (1 << 32) - (1 << 32), 4 * 127 << 16]
    assert result.memories["accumulators"][:2].tolist() == [[s] * 4 for s in sums]
