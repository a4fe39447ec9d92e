"""What the pages say in figures is what the code does."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, MemoryPort
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Program, Window, make_program
from systol_sim import reference, simulator
from systol_sim.validity.checker import check

NANO = PRESETS["nano"]


@given(
    width=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    n=st.integers(1, 4095), d=st.integers(1, 4095),
)  # fmt: skip
def test_the_pace_of_a_port(width: int, n: int, d: int) -> None:
    """timing.md, 3.3: of n / d in lowest terms."""
    rate = Fraction(n, d)
    if rate > width:
        return
    port = MemoryPort(width_bytes=width, bytes_per_cycle=rate, latency_cycles=8)
    n, d = rate.numerator, rate.denominator
    assert (port.credit_income, port.beat_cost, port.credit_cap) == (n, width * d, width * d + n)
    # Beats of a long run: the cycle of the k-th is the first with enough credits.
    credits, cycles = port.beat_cost, []
    for cycle in range(200):
        issued = credits >= port.beat_cost
        cycles += [cycle] if issued else []
        credits = min(credits - port.beat_cost * issued + port.credit_income, port.credit_cap)
    for k, cycle in enumerate(cycles):
        assert cycle == -(-k * port.beat_cost // port.credit_income)


@given(rows=st.integers(4, 256), half=st.integers(2, 128))
def test_the_width_of_an_access(rows: int, half: int) -> None:
    """timing.md, W: the least power of two that is at least max(R, C, 8)."""
    arch = dataclasses.replace(
        PRESETS["tpu-v1"], rows=rows, columns=2 * half, vector_lanes=1,
        weight_port=NANO.weight_port, host_port=NANO.host_port,
    )  # fmt: skip
    wanted = max(rows, 2 * half, 8)
    assert min(2**k for k in range(20) if 2**k >= wanted) == arch.ub_width_bytes


def _run(*items: Instruction, windows: tuple[Window, ...] = ()) -> tuple[np.ndarray, Program]:
    """The unified buffer behind a program, which is the same on both executors."""
    program = make_program(NANO, [*items, instruction("halt")], windows=windows)
    ub = simulator.run(program).memories["ub"]
    np.testing.assert_array_equal(ub, reference.run(program).memories["ub"])
    return ub, program


def test_the_sign_of_a_fill() -> None:
    """isa.md: 32 bits have it in all bytes, of 16 the low plane holds the value."""
    for width, expected in ((0, [0xF9]), (1, [0xF9, 0]), (2, [0xF9, 0xFF, 0xFF, 0xFF])):
        ub, _ = _run(instruction("fill", zero_point=-7, width=width, n_last=1, out_plane_step=1))
        assert [int(ub[64 * plane]) for plane in range(len(expected))] == expected


def test_the_last_of_overlapping_writes_remains() -> None:
    """timing.md, 9.2: in the order of the loops."""
    window = Window(name="w", size_bytes=64)
    program = make_program(
        NANO,
        [
            instruction("read_host", run_bytes=4, count0=3, memory_stride0=4, ub_stride0=1),
            instruction("halt"),
        ],
        windows=(window,),
    )
    contents = {"w": np.arange(1, 65, dtype=np.uint8)}
    for run in (simulator.run, reference.run):
        assert run(program, contents).memories["ub"][:6].tolist() == [1, 5, 9, 10, 11, 12]
    ub, _ = _run(
        instruction("fill", zero_point=1, n_last=4, out_address=0),
        instruction("fill", zero_point=2, n_last=4, out_address=2),  # no drain
    )
    assert ub[:6].tolist() == [1, 1, 2, 2, 2, 2]
    # Planes of a row in ascending order: plane 1 of one channel over plane 0 of none.
    ub, _ = _run(instruction("fill", zero_point=-1, width=1, n_last=8, out_plane_step=0))
    assert ub[:8].tolist() == [0] * 8


def test_the_clip_of_16_bits_is_that_of_bytes_by_default() -> None:
    """isa.md, `low` and `high`."""
    copy = {"source_ub": 1, "a_width": 1, "a_plane_step": 1, "width": 1, "out_plane_step": 1,
            "n_last": 1, "out_address": 32, "drain": 1}  # fmt: skip
    for limits, expected in (({}, 127), ({"low": -32639, "high": 32639}, 5 * 256 + 5)):
        fills = [instruction("fill", zero_point=5, n_last=1, out_address=a) for a in (0, 64)]
        ub, _ = _run(*fills, instruction("copy", **copy, **limits))
        low, high = (int(ub[a].view(np.int8)) for a in (32, 96))
        assert low + 256 * high == expected


def test_a_copy_takes_no_mean() -> None:
    with pytest.raises(InvalidProgramError):
        check(make_program(NANO, [instruction("copy", reduce=2), instruction("halt")]))


def test_what_waits_for_a_quiet_machine_orders() -> None:
    """timing.md, 9.1: sync_host as well as barrier."""
    window = (Window(name="w", size_bytes=8),)
    for between, valid in (("barrier", True), ("sync_host", True), ("nop", False)):
        program = make_program(
            NANO,
            [instruction("fill", n_last=8), instruction(between),
             instruction("write_host", run_bytes=8), instruction("halt")],
            windows=window,
        )  # fmt: skip
        if valid:
            check(program)
        else:
            with pytest.raises(InvalidProgramError):
                check(program)


def test_an_accumulating_product_needs_no_drain() -> None:
    """timing.md, 9.2."""
    to_matrix = 1 << 3
    program = make_program(
        NANO,
        [
            instruction("fill", n_last=8, zero_point=3, signal=to_matrix),
            instruction("read_weights", outer_count=2, k_last=8, n_last=8, row_pitch=8),
            instruction("matmul", wait=1 << 4, p_limit=8, k_last=8),
            instruction("matmul", p_limit=8, k_last=8, accumulate=1),
            instruction("halt"),
        ],
        weight_image=np.ones(64, np.uint8),
    )
    check(program)
    for run in (simulator.run, reference.run):
        assert (run(program).memories["accumulators"][0] == 2 * 8 * 3).all()
