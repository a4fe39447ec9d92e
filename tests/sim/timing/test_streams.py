"""Skipping over steady streams equals stepping, on programs that stream for long."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, Arch, MemoryPort
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Program, Window, make_program
from systol_sim import simulator
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.generate import generate

LOAD, STORE, WEIGHTS, MATRIX, VECTOR = (1 << unit for unit in range(5))
"""Bits of token masks."""
WATCHDOG_CYCLES = 60_000
"""More than any stream here lasts, and few enough for programs that stick."""


def _port(width: int, rate: Fraction | int, latency: int) -> MemoryPort:
    return MemoryPort(width_bytes=width, bytes_per_cycle=Fraction(rate), latency_cycles=latency)


EDGE16 = dataclasses.replace(PRESETS["edge16"], ub_bytes=32 << 10)
MACHINES = (
    EDGE16,
    dataclasses.replace(
        EDGE16, vector_lanes=16, weight_fifo_tiles=1, weight_port=_port(8, Fraction(17, 5), 9),
        host_port=_port(16, 16, 8), vector_write_rows=3,
    ),
    dataclasses.replace(
        EDGE16, rows=8, columns=12, vector_lanes=3, ub_banks=8,
        host_port=_port(8, Fraction(5, 3), 77),
        weight_port=_port(16, Fraction(4095, 256), 301), burst_bytes=256, store_buffer_beats=1,
        queue_depth=1, inflight_instructions=1, fetch_buffer_instructions=1, vector_write_rows=1,
    ),
    dataclasses.replace(
        EDGE16, rows=5, columns=6, vector_lanes=6, ub_banks=2, accumulator_rows=64,
        weight_port=_port(1, Fraction(2, 3), 30), host_port=_port(4, 1, 200), burst_bytes=16,
        weight_fifo_tiles=3, queue_depth=2,
    ),
)


@st.composite
def streaming_programs(draw: st.DrawFn) -> Program:
    """Long streams in all units at once, ordered or not: timing asks for no validity."""
    arch = draw(st.sampled_from(MACHINES))
    bank = arch.bank_bytes
    number = st.integers

    def place(span: int) -> int:
        """An address in any bank from which `span` bytes fit."""
        return draw(number(0, arch.ub_bytes - span))

    rows = draw(number(1, arch.accumulator_rows))
    k_tiles = draw(number(1, 12))
    k_last, n_last = draw(number(1, arch.rows)), draw(number(1, arch.columns))
    pitch = draw(st.sampled_from([arch.columns, 16, 32, 37]))
    tile = pitch * arch.rows
    program: list[Instruction] = []
    for _ in range(draw(number(1, 3))):
        if draw(st.booleans()):
            length = draw(number(1, 600))
            program.append(instruction(
                draw(st.sampled_from(["read_host", "read_weight_memory"])),
                memory_address=draw(number(0, 99)), run_bytes=length, count0=draw(number(1, 5)),
                memory_stride0=draw(number(0, length)), ub_address=place(6 * length),
                ub_stride0=length, signal=draw(st.sampled_from([0, VECTOR])),
            ))
        if draw(st.booleans()):
            length = draw(number(1, 600))
            program.append(instruction(
                "write_host", memory_address=draw(number(0, 99)), run_bytes=length,
                count0=draw(number(1, 5)), memory_stride0=draw(number(0, length)),
                ub_address=place(length),
            ))
        from_buffer = draw(st.booleans()) and (tile * k_tiles <= bank)
        transpose = draw(st.booleans()) and arch.rows == arch.columns
        program.append(instruction(
            "read_weights_ub" if from_buffer else "read_weights",
            address=place(tile * k_tiles + 64) if from_buffer else draw(number(0, 99)),
            row_pitch=pitch, inner_count=k_tiles, inner_stride=tile, k_last=k_last, n_last=n_last,
            transpose=int(transpose),
        ))
        x_count = draw(st.sampled_from([1, rows, max(1, rows // 7)]))
        y_count = rows // x_count
        x_step = draw(number(0, 9))
        line = x_step * (x_count - 1) + arch.rows * k_tiles
        padded = draw(st.booleans())
        program.append(instruction(
            "matmul", signal=draw(st.sampled_from([0, VECTOR])), k2_count=k_tiles,
            k2_step=arch.rows, x_count=x_count, y_count=y_count, x_step=x_step, k_last=k_last,
            p_limit=max(1, line - (5 if padded else 0)), p_start=-3 if padded else 0,
            y_start=-1 if padded else 0, y_limit=max(1, y_count - 1 if padded else y_count),
            y_step=1, y_address_step=draw(number(0, 3)),
            ub_address=place(line + 3 * y_count + 8) + 3,
        ))
        kind = draw(st.sampled_from(["copy", "requantize", "fill", "binary", "pool"]))
        x_out, groups = draw(number(1, rows)), draw(number(1, 3))
        common = {
            "x_count": x_out, "n_count": groups, "n_last": n_last,
            "out_x_step": draw(number(0, 16)), "out_n_step": 16,
            "out_address": place(16 * x_out + 3 * arch.columns + 3 * 64),
            "width": draw(number(0, 1)), "out_plane_step": 1,
        }
        if kind in ("copy", "requantize"):
            common |= {"a_x_step": 1, "x_limit": x_out, "x_step": 1}
        if kind == "requantize":
            common["parameter_address"] = place(8 * groups * arch.columns)
        if kind == "binary":
            wide = draw(number(0, 1))
            common |= {"a_width": wide, "a_plane_step": 2, "a_address": place(4 * x_out + 512),
                       "b_address": place(4 * x_out + 64), "a_x_step": 4, "b_x_step": 4}
        if kind == "pool":
            common |= {"source_ub": 1, "kx_count": 3, "kx_step": 1, "x_step": 2, "a_x_step": 8,
                       "a_kx_step": 4, "x_limit": 2 * x_out, "a_address": place(8 * x_out + 512)}
        if draw(st.booleans()):
            # One column of many lines.
            for name in ("count", "step", "limit"):
                for start in ("", "a_", "b_", "out_"):
                    if f"{start}x_{name}" in common:
                        common[f"{start}y_{name}"] = common.pop(f"{start}x_{name}")
            for name in ("kx_count", "kx_step", "a_kx_step"):
                if name in common:
                    common[name.replace("kx", "ky")] = common.pop(name)
            if "y_limit" in common:
                common["x_limit"] = 1
        waits = 0
        if program[-1]["signal"] and draw(st.booleans()):
            waits = MATRIX
        program.append(instruction("copy" if kind == "pool" else kind, wait=waits, **common))
    program.append(instruction("halt"))
    return make_program(
        arch, program, weight_image=np.zeros(99 + 64 * tile, np.uint8),
        windows=(Window(name="data", size_bytes=4096),),
    )


def _agree(program: Program) -> int:
    """Assert that skipping changes nothing; cycles of streams that were skipped."""
    stepped = simulator.run_timing(program, skip=False, watchdog_cycles=WATCHDOG_CYCLES)
    skipped = simulator.run_timing(program, streams=True, watchdog_cycles=WATCHDOG_CYCLES)
    assert skipped.counters is not None and stepped.counters is not None
    assert skipped.fault == stepped.fault
    assert skipped.counters.differences(stepped.counters) == []
    np.testing.assert_array_equal(skipped.times, stepped.times)
    assert (skipped.interrupts, skipped.status) == (stepped.interrupts, stepped.status)
    assert stepped.coverage["cycles of streams skipped"] == 0
    return int(skipped.coverage["cycles of streams skipped"])


@settings(max_examples=150)
@given(program=streaming_programs())
def test_streams_are_those_of_stepping(program: Program) -> None:
    _agree(program)


def test_random_programs_have_streams_that_are_interrupted() -> None:
    reached = dict.fromkeys(
        ("cycles of streams skipped", "a skip of streams ends within a tile's rows",
         "output rows skipped", "beats of load skipped", "beats of store skipped"), 0
    )
    for number in range(40):
        program = generate(FUZZ_MACHINES[number % 12], number).program
        result = simulator.run_timing(program, streams=True)
        for name in reached:
            reached[name] += result.coverage[name]
    assert all(reached.values()), reached


def _long_product(arch: Arch) -> Program:
    """Three products of 24 tiles, with half the accumulators of rows each, and their copies."""
    rows = arch.accumulator_rows // 2
    k_tiles = 24
    program = [instruction("fill", x_count=64, out_x_step=arch.columns, n_last=arch.columns,
                           signal=MATRIX)]
    for half in (0, 1, 0):
        program += [
            instruction("read_weights", row_pitch=arch.columns, inner_count=k_tiles,
                        k_last=arch.rows, n_last=arch.columns),
            instruction("matmul", wait=0 if len(program) > 1 else VECTOR, signal=VECTOR,
                        k2_count=k_tiles, x_count=rows, p_limit=arch.rows, k_last=arch.rows,
                        acc_address=half * rows),
            instruction("copy", wait=MATRIX, a_address=half * rows, a_x_step=1, x_step=1,
                        x_count=rows, x_limit=rows, n_last=arch.columns,
                        out_address=2 * arch.bank_bytes, out_x_step=arch.columns),
        ]
    program.append(instruction("halt"))
    return make_program(
        arch, program, weight_image=np.zeros(arch.rows * arch.columns, np.uint8)
    )


@pytest.mark.parametrize("arch", [PRESETS["edge32"], PRESETS["tpu-v1"]], ids=lambda a: a.name)
def test_most_of_a_long_product_is_skipped(arch: Arch) -> None:
    program = _long_product(arch)
    streamed = _agree(program)
    cycles = simulator.run_timing(program).counters
    assert cycles is not None and streamed > 0.9 * cycles.cycles


def test_no_jump_is_lost_and_every_event_is_counted() -> None:
    """A jump that is not made changes no result, and what a fuzz report says was reached is no
    result: only this test can tell.

    The figures are those of the present generator: one that draws other programs has others.
    """
    expected = {
        "unified buffer: weights loses to store": 573,
        "unified buffer: matrix loses to store": 1376,
        "unified buffer: matrix loses to weights": 1702,
        "unified buffer: vector A loses to store": 1868,
        "unified buffer: vector A loses to weights": 828,
        "unified buffer: vector A loses to matrix": 907,
        "unified buffer: vector B loses to store": 2553,
        "unified buffer: vector B loses to weights": 915,
        "unified buffer: vector B loses to matrix": 1062,
        "unified buffer: vector B loses to vector A": 4185,
        "unified buffer: one of two operands is granted alone": 4386,
        "unified buffer: vector write loses to load": 2476,
        "accumulators: vector loses to matrix": 14,
        "weight port: weights loses to fetch": 4184,
        "weight port: load loses to fetch": 1519,
        "weight port: load loses to weights": 2412,
        "weight port: store loses to fetch": 1732,
        "weight port: store loses to weights": 2041,
        "weight port: store loses to load": 349,
        "host port: store loses to load": 779,
        "host port: load waits for a store burst": 202,
        "a burst keeps a higher rank waiting": 1228,
        "a burst's owner presents nothing": 909,
        "a beat waits for credits": 26358,
        "an access straddles banks": 698,
        "skips": 7859,
        "cycles skipped": 30844,
        "streams skipped": 5903,
        "cycles of streams skipped": 447230,
        "a skip of streams ends within a tile's rows": 145,
        "tiles skipped": 135,
        "output rows skipped": 10987,
        "beats of load skipped": 12108,
        "beats of store skipped": 6448,
    }
    programs = [
        generate(FUZZ_MACHINES[number % len(FUZZ_MACHINES)], number).program
        for number in range(200)
    ]
    programs += [_long_product(PRESETS[name]) for name in ("edge16", "edge32", "tpu-v1")]
    counted = dict.fromkeys(expected, 0)
    for program in programs:
        for name, value in simulator.run_timing(program, streams=True).coverage.items():
            counted[name] += value
    assert counted == expected
