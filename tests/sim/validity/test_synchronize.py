"""Tokens made for programs without any."""

import random

from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import Arch
from systol_hw.isa import decode, instruction
from systol_hw.program import make_program
from systol_hw.tables.faults import Unit
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.generate import generate
from systol_sim.validity.checker import find_violations
from systol_sim.validity.synchronize import strip, synchronize


@given(
    st.integers(0, 1 << 30), st.sampled_from(FUZZ_MACHINES), st.sampled_from((None, 0.0, 0.7))
)
def test_stripped_programs_are_ordered_again(
    seed: int, arch: Arch, redundancy: float | None
) -> None:
    program = generate(arch, seed, instructions=25).program
    bare = strip(decode(row.tobytes()) for row in program.code)
    assert not any(item.get("wait") or item.get("signal") or item.get("drain") for item in bare)
    rng = None if redundancy is None else random.Random(seed)
    again = synchronize(arch, bare, rng=rng, redundancy=redundancy or 0.0)
    ordered = make_program(
        arch,
        again,
        weight_image=program.weight_image,
        spare_weight_bytes=program.code_address - program.weight_image.size,
        windows=program.windows,
    )
    # Making tokens does not look at the FIFO, so a barrier may stand where it blocks.
    assert [v for v in find_violations(ordered) if v.rule != "9.4"] == []


def test_one_token_serves_all_that_it_can() -> None:
    arch = FUZZ_MACHINES[0]
    items = [
        instruction("read_host", run_bytes=4),
        instruction("read_host", ub_address=4, run_bytes=4),
        instruction("copy", source_ub=1, n_last=8, out_address=100),
        instruction("copy", source_ub=1, n_last=4, out_address=200),
        instruction("copy", source_ub=1, a_address=100, n_last=4, out_address=300),
        instruction("halt"),
    ]
    ordered = synchronize(arch, items)
    assert [item.signals for item in ordered[:2]] == [(), (Unit.VECTOR,)]
    assert [item.waits for item in ordered[2:5]] == [(Unit.LOAD,), (), ()]
    assert [item["drain"] for item in ordered[2:5]] == [0, 0, 1]


def test_a_barrier_stands_in_where_the_counter_is_too_small() -> None:
    (arch,) = (a for a in FUZZ_MACHINES if a.token_limit == 1)
    items = []
    for n in range(3):
        items.append(instruction("read_host", ub_address=8 * n, run_bytes=1))
        items.append(instruction("copy", source_ub=1, a_address=8 * n, out_address=100 + n))
    names = [item.operation.name for item in synchronize(arch, items)]
    assert names == ["read_host", "copy", "read_host", "barrier", "copy", "read_host", "copy"]
