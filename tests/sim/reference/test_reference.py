"""The reference executor against the exact oracle, element by element, and its faults."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from systol_hw.arch import PRESETS
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim import reference
from systol_sim.random_programs.generate import overflow_program
from systol_sim.reference.machine import AMOUNT
from systol_sim.results import RunResult

_run = partial(reference.run, checked=True)
NANO = PRESETS["nano"]
_BYTES = st.integers(-128, 127)
_BIASES = st.one_of(
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(-1000, 1000),
    st.sampled_from((-(1 << 31), (1 << 31) - 1)),
)
_MULTIPLIERS = st.one_of(
    st.integers(-(1 << 17), (1 << 17) - 1), st.sampled_from((-(1 << 17), 1 << 16, 0))
)


def _program(*items: Instruction, image: np.ndarray | None = None) -> Program:
    windows = (Window(name="in", size_bytes=4096), Window(name="out", size_bytes=64))
    return make_program(
        NANO, [*items, instruction("halt")], weight_image=image, windows=windows
    )


def _amount(result: RunResult, unit: Unit, name: str) -> int:
    index = next(i for i, a in enumerate(AMOUNTS) if (a.unit, a.name) == (unit, name))
    return int(result.coverage["amounts"][index].sum())


@given(
    st.lists(st.tuples(_BYTES, _BIASES, _MULTIPLIERS, st.integers(0, 63)), min_size=1, max_size=8),
    _BYTES,
    _BYTES,
    _BYTES,
)
def test_requantize_is_the_oracle(
    channels: list[tuple[int, int, int, int]], zero_point: int, low: int, high: int
) -> None:
    content = bytearray(64)
    for c, (value, bias, multiplier, shift) in enumerate(channels):
        content[8 * c : 8 * c + 4] = bias.to_bytes(4, "little", signed=True)
        # Bits outside the fields are set: they must not matter.
        content[8 * c + 4 : 8 * c + 7] = (multiplier & 0x3FFFF | 0x2C << 18).to_bytes(3, "little")
        content[8 * c + 7] = shift | 0x80
        content += value.to_bytes(1, "little", signed=True)
    live = len(channels)
    program = _program(
        instruction("read_host", run_bytes=64 + live),
        instruction(
            "requantize", source_ub=1, a_address=64, n_last=live, parameter_address=0,
            out_address=100, zero_point=zero_point, low=low, high=high,
        ),
        instruction("write_host", window=1, ub_address=100, run_bytes=live),
    )
    result = _run(program, {"in": np.frombuffer(bytes(content), np.uint8)})
    expected = [
        oracle.requantize(value, bias=bias, multiplier=multiplier, shift=shift,
                          zero_point=zero_point, low=low, high=high)
        for value, bias, multiplier, shift in channels
    ]
    assert result.windows[1][:live].view(np.int8).tolist() == [e.value for e in expected]
    assert _amount(result, Unit.VECTOR, "saturations") == sum(e.saturated for e in expected)
    assert _amount(result, Unit.VECTOR, "overflows") == sum(e.overflowed for e in expected)


@given(
    st.lists(_BYTES, min_size=16, max_size=16),
    st.lists(_BYTES, min_size=48, max_size=48),
    st.integers(1, 8),
    st.integers(1, 3),
)
def test_matmul_is_the_oracle(
    activations: list[int], weights: list[int], live: int, columns: int
) -> None:
    image = np.array(weights, np.int8).view(np.uint8)
    program = _program(
        instruction("read_host", run_bytes=16),
        instruction("read_weights", inner_count=2, inner_stride=24, row_pitch=3, k_last=live,
                    n_last=columns),
        instruction("matmul", k2_count=2, k2_step=8, p_limit=16, k_last=live, acc_address=5),
        image=image,
    )
    result = _run(program, {"in": np.array(activations, np.int8)})
    row = result.memories["accumulators"][5]
    for c in range(columns):
        first = oracle.dot(activations[:8], weights[c:24:3])
        second = oracle.dot(activations[8 : 8 + live], weights[24 + c : 24 + 3 * live : 3])
        assert row[c] == oracle.accumulate(first, second).value
    assert not row[columns:].any()
    assert _amount(result, Unit.MATRIX, "useful_macs") == (8 + live) * columns


def test_accumulators_wrap_and_count() -> None:
    case = overflow_program(NANO)
    result = _run(case.program, case.contents)
    total = ((1 << 31) // (8 << 14) + 3) * (8 << 14)
    assert (result.memories["accumulators"][0] == oracle.wrap32(total).value).all()
    assert _amount(result, Unit.MATRIX, "overflows") == NANO.columns


def test_padding_supplies_the_pad_value() -> None:
    program = _program(
        instruction("fill", out_address=0, zero_point=1, n_last=8),
        instruction("read_weights", k_last=4, n_last=1, row_pitch=1),
        # Positions -1..2 of a line of two bytes: the outer two are padding.
        instruction("matmul", ub_address=-1, p_start=-1, p_limit=2, k_last=4, pad_value=-7),
        image=np.array([1, 10, 100, 3], np.uint8),
    )
    result = _run(program)
    assert result.memories["accumulators"][0, 0] == -7 + 10 + 100 - 21
    assert _amount(result, Unit.MATRIX, "padding_macs") == 2


def test_a_window_without_taps_is_the_least_number() -> None:
    program = _program(
        instruction("copy", source_ub=1, x_start=-1, n_last=2, out_address=8, low=-100),
    )
    assert _run(program).memories["ub"][8:10].view(np.int8).tolist() == [-100, -100]


def test_tags_divide_the_amounts() -> None:
    program = _program(
        instruction("tag", tag=3),
        instruction("fill", n_last=5),
        instruction("tag", tag=0),
        instruction("fill", n_last=2),
        instruction("interrupt", value=77),
    )
    result = _run(program)
    elements = result.coverage["amounts"][AMOUNT[Unit.VECTOR, "elements"]]
    assert (elements[3], elements[0], elements.sum()) == (5, 2, 7)
    assert result.interrupts == [77]


def test_the_host_is_told_of_synchronizations_and_status() -> None:
    program = _program(
        instruction("set_config", register=1, value=5),
        instruction("sync_host", value=3),
        instruction("interrupt", value=4),
        instruction("set_config", register=1, value=(1 << 32) - 1),
        instruction("set_config", register=0, value=9),
    )
    result = _run(program)
    assert (result.interrupts, result.status) == ([3, 4], (1 << 32) - 1)


@pytest.mark.parametrize(
    ("item", "cause", "unit"),
    [
        (instruction("read_host", window=5), FaultCause.ADDRESS, Unit.LOAD),
        (instruction("write_weight_memory", memory_address=1 << 20), FaultCause.ADDRESS,
         Unit.STORE),
        (instruction("read_weights", address=(1 << 32) - 1), FaultCause.ADDRESS, Unit.WEIGHTS),
        (instruction("read_host_alternate"), FaultCause.ADDRESS, Unit.LOAD),
        (instruction("read_weights_ub", address=NANO.ub_bytes), FaultCause.ADDRESS, Unit.WEIGHTS),
        (instruction("copy", a_address=(1 << 32) - 1), FaultCause.ADDRESS, Unit.VECTOR),
        (instruction("binary", b_address=NANO.ub_bytes), FaultCause.ADDRESS, Unit.VECTOR),
        (instruction("table", table_address=NANO.ub_bytes - 255), FaultCause.ADDRESS,
         Unit.VECTOR),
        (instruction("set_config", register=2), FaultCause.ILLEGAL_INSTRUCTION, Unit.CONTROL),
        (instruction("fill", n_last=9), FaultCause.ILLEGAL_INSTRUCTION, Unit.CONTROL),
    ],
)
def test_faults_name_cause_unit_and_pc(item: Instruction, cause: FaultCause, unit: Unit) -> None:
    fault = _run(_program(instruction("nop"), item)).fault
    assert fault is not None
    assert (fault.cause, fault.unit, fault.pc, fault.cycle) == (cause, unit, 1, -1)


def test_code_must_halt() -> None:
    fault = _run(make_program(NANO, [instruction("nop")])).fault
    assert fault is not None
    assert (fault.cause, fault.pc) == (FaultCause.ILLEGAL_INSTRUCTION, 1)


def test_a_missing_tile_is_refused() -> None:
    with pytest.raises(InvalidProgramError, match=r"pc 0: matmul needs a weight tile"):
        _run(_program(instruction("matmul", p_limit=0)))


def test_invalid_programs_are_refused_unless_asked_for() -> None:
    program = _program(instruction("write_host"))
    with pytest.raises(InvalidProgramError, match=r"rule 9\.5"):
        reference.run(program)
    assert _run(program).fault is None
