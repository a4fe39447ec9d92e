"""The static checker: each rule by a small program, and the orderings against brute force."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memory_peak import with_peak
from ordering_oracle import closure, conflicting_pairs, removals
from systol_hw.arch import PRESETS, Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction, decode, instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.faults import Unit
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.generate import generate
from systol_sim.validity.checker import check, find_violations
from systol_sim.validity.footprint import UB, WINDOW, Footprint, Region
from systol_sim.validity.hazards import Hazards
from systol_sim.validity.ordering import Ordering, Tokens

NANO = PRESETS["nano"]
LOAD, STORE, WEIGHTS, MATRIX, VECTOR = (1 << n for n in range(5))


LW, LV, VW, SL, SW = (
    (WEIGHTS, LOAD), (VECTOR, LOAD), (WEIGHTS, VECTOR), (LOAD, STORE), (WEIGHTS, STORE),
)
"""Masks of a signal and of its wait: from LOAD to WEIGHTS, and so on."""
NANO_FILLED = 130
"""Rows of 8 bytes that give the unified buffer values up to byte 1040."""


def _program(
    *items: Instruction, arch: Arch = NANO, halt: bool = True, windows: int = 1
) -> Program:
    return make_program(
        arch,
        [*items, *([instruction("halt")] if halt else [])],
        weight_image=np.zeros(256, np.uint8),
        spare_weight_bytes=256,
        windows=tuple(Window(name=f"host{n}", size_bytes=1024) for n in range(windows)),
    )


def _rules(program: Program) -> list[tuple[str, int, int | None]]:
    return [(v.rule, v.pc, v.other_pc) for v in find_violations(program)]


# Rule by rule


def test_a_chain_of_tokens_is_valid() -> None:
    check(
        _program(
            instruction("read_host", run_bytes=16, signal=VECTOR),
            instruction("copy", source_ub=1, n_last=8, out_address=100, wait=LOAD, signal=STORE),
            instruction("write_host", ub_address=100, run_bytes=8, wait=VECTOR),
        )
    )


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (instruction("read_host", run_bytes=4),
         instruction("write_host", ub_address=3, memory_address=9), "read after write"),
        (instruction("read_host", run_bytes=4), instruction("fill", out_address=2),
         "write after write"),
        (instruction("read_host", memory_address=5),
         instruction("write_host", ub_address=4, memory_address=5), "write after read"),
    ],
)
def test_conflicts_must_be_ordered(first: Instruction, second: Instruction, kind: str) -> None:
    fill = instruction("fill", n_last=8)
    barrier = instruction("barrier")
    # After the barrier, `first` and `second` conflict and nothing orders them.
    program = _program(fill, barrier, first, second)
    found = [v for v in find_violations(program) if v.rule == "9.2"]
    assert [(v.pc, v.other_pc) for v in found] == [(3, 2)]
    assert kind in found[0].message
    check(_program(fill, barrier, first, barrier, second))


def test_the_message_names_rule_place_and_both_instructions() -> None:
    program = _program(
        instruction("read_host", run_bytes=8), instruction("write_host", ub_address=6, run_bytes=2)
    )
    with pytest.raises(InvalidProgramError) as caught:
        check(program)
    text = str(caught.value)
    for part in ("rule 9.2", "at pc 1", "pc 0: read_host run_bytes=8", "byte 6",
                 "pc 1: write_host ub_address=6", "signal store"):
        assert part in text, text


def test_a_vector_instruction_reads_its_unit_s_writes_only_after_a_drain() -> None:
    write = instruction("fill", n_last=4)
    read = {"source_ub": 1, "out_address": 50, "n_last": 4}
    assert _rules(_program(write, instruction("copy", **read))) == [("9.2", 1, 0)]
    check(_program(write, instruction("copy", **read, drain=1)))
    # Overwriting what it read or wrote before needs nothing.
    check(_program(write, instruction("copy", **read, drain=1), write))


def test_a_vector_instruction_may_not_write_what_it_reads() -> None:
    program = _program(
        instruction("fill", n_last=8),
        instruction("copy", source_ub=1, n_last=4, out_address=3, drain=1),
    )
    (found,) = find_violations(program)
    assert (found.rule, found.pc, found.space, found.place) == ("9.2", 1, UB, 3)


def test_switching_ports_orders_a_unit() -> None:
    # The second load uses the other port: it starts after the first has ended, so its token tells
    # of both.
    program = _program(
        instruction("read_host", run_bytes=4),
        instruction("read_weight_memory", ub_address=4, run_bytes=4),
        instruction("read_host", ub_address=8, run_bytes=4, signal=STORE),
        instruction("write_host", run_bytes=12, wait=LOAD),
    )
    # The last load's own memory read comes before the store's write of the same window.
    check(program)


def test_tokens_must_be_signalled_before_they_are_waited_for() -> None:
    program = _program(
        instruction("fill", n_last=1, wait=LOAD), instruction("read_host", ub_address=9,
                                                             signal=VECTOR)
    )
    assert ("9.3", 0, None) in _rules(program)


def test_counters_must_not_overflow_in_any_timing() -> None:
    signal = instruction("read_host", ub_address=20, signal=VECTOR)
    wait = instruction("fill", n_last=1, wait=LOAD)
    limit = NANO.token_limit
    check(_program(*[signal] * limit, *[wait] * limit))
    found = find_violations(_program(*[signal] * (limit + 1), *[wait] * (limit + 1)))
    assert [(v.rule, v.pc) for v in found] == [("9.3", limit)]
    # The same tokens in turn overflow too (the vector unit may be slow), unless the loads wait.
    turns = _program(*[signal, wait] * (limit + 1))
    assert [v.rule for v in find_violations(turns)] == ["9.3"]
    back = instruction("read_host", ub_address=20, signal=VECTOR, wait=VECTOR)
    reply = instruction("fill", n_last=1, wait=LOAD, signal=LOAD)
    check(_program(signal, reply, *[back, reply] * (2 * limit)))


def test_tiles_must_match_in_number_and_live_rows() -> None:
    def matmul(**fields: int) -> Instruction:
        return instruction("matmul", p_limit=0, **fields)

    load = instruction("read_weights", inner_count=2, k_last=3)
    check(_program(load, matmul(k2_count=2, k_last=3)))
    check(_program(load, load, matmul(k2_count=2, k1_count=2, k_last=3)))
    assert _rules(_program(load, matmul(k2_count=2, k_last=4))) == [("9.4", 1, 0)]
    assert _rules(_program(load, matmul(k_last=8))) == [("9.4", 0, None)]
    assert _rules(_program(matmul(k2_count=2, k_last=3), load))[0][:2] == ("9.4", 0)
    whole = instruction("read_weights", inner_count=6, k_last=8)
    check(_program(whole, matmul(k2_count=2, k_last=8), matmul(k1_count=4, k_last=8)))


def test_a_program_must_not_stick() -> None:
    tiles = NANO.weight_fifo_tiles + 2
    load = instruction("read_weights", inner_count=tiles, k_last=8)
    matmul = instruction("matmul", p_limit=0, k2_count=tiles, k_last=8)
    check(_program(load, matmul))
    (found,) = find_violations(_program(load, instruction("barrier"), matmul))
    assert found.rule == "9.4" and "room in the weight FIFO" in found.message
    # A full queue in front of the matmul that would make room.
    small = instruction("read_weights", k_last=8)
    count = NANO.weight_fifo_tiles + 1 + 1 + NANO.queue_depth
    takes = instruction("matmul", p_limit=0, k2_count=count, k_last=8)
    check(_program(*[small] * count, takes))
    more = instruction("matmul", p_limit=0, k2_count=count + 1, k_last=8)
    assert [v.rule for v in find_violations(_program(*[small] * (count + 1), more))] == ["9.4"]


def test_reads_need_values() -> None:
    program = _program(
        instruction("fill", n_last=4), instruction("write_host", run_bytes=5, wait=VECTOR)
    )
    found = find_violations(program)
    assert ("9.5", 1) in [(v.rule, v.pc) for v in found]
    assert next(v.place for v in found if v.rule == "9.5") == 4
    acc = _program(
        instruction("read_weights"), instruction("matmul", p_limit=0, accumulate=1)
    )
    assert [v.rule for v in find_violations(acc)] == ["9.5"]


def test_addresses_and_code_are_protected() -> None:
    crossing = instruction("read_host", ub_address=NANO.ub_bytes - 1, run_bytes=2)
    assert _rules(_program(crossing)) == [("9.6", 0, None)]
    assert _rules(_program(instruction("read_host", window=1))) == [("9.6", 0, None)]
    fill = instruction("fill", n_last=8, signal=STORE)
    spill = instruction("write_weight_memory", memory_address=511, run_bytes=2, wait=VECTOR)
    (found,) = find_violations(_program(fill, spill))
    assert (found.rule, found.place) == ("9.2", 512)


def test_programs_end_with_their_only_halt() -> None:
    halt = instruction("halt")
    assert _rules(_program(instruction("nop"), halt=False)) == [("9.6", 0, None)]
    assert _rules(_program(halt)) == [("9.6", 0, None)]
    assert _rules(make_program(NANO, [])) == [("9.6", 0, None)]
    assert _rules(_program(instruction("set_config", register=2))) == [("9.6", 0, None)]


def test_hostile_counts_are_refused_at_once() -> None:
    big = {"count0": 65535, "count1": 65535, "run_bytes": 1 << 20}
    far = instruction("read_host", **big, ub_stride0=3 << 20, ub_stride1=5, memory_stride0=-7,
                      memory_stride1=11 << 20)
    assert {v.rule for v in find_violations(_program(far))} == {"9.6"}
    tiles = instruction("read_weights", n_count=4095, outer_count=65535, inner_count=65535,
                        k_last=8)
    takes = instruction("matmul", p_limit=0, n_count=4095, k0_count=255, k1_count=255,
                        k2_count=65535, k_last=8, y_count=65535, y_address_step=1)
    assert find_violations(_program(tiles, takes))
    # As many tiles on both sides: valid, though no machine would live to see its end.
    tiles = instruction("read_weights", n_count=255, outer_count=255, inner_count=65535, k_last=8)
    takes = instruction("matmul", p_limit=0, k0_count=255, k1_count=255, k2_count=65535, k_last=8)
    assert find_violations(_program(tiles, takes)) == []


def test_what_a_hostile_program_makes_the_checker_keep_is_bounded() -> None:
    # Each reads 2**20 single bytes of a window; a thousand of them are a file of 64 KB.
    scattered = [
        instruction("read_host", memory_address=n, count0=1024, count1=1024, memory_stride0=2,
                    memory_stride1=2049)
        for n in range(12)
    ]
    program = make_program(
        NANO, [*scattered, instruction("halt")], windows=(Window(name="w", size_bytes=1 << 24),)
    )
    (found,), peak = with_peak(lambda: find_violations(program))
    # Besides 2**20 intervals, each load has one more, in the unified buffer.
    assert (found.rule, found.pc) == ("9.6", 3)
    assert "follows at most 4194304" in found.message
    assert peak < 160 << 20, peak
    # The same bytes read again are no further pieces.
    assert {v.rule for v in find_violations(_program(*scattered[:1] * 12))} == {"9.6"}


def test_hazards_remember_a_bounded_number_of_places() -> None:
    fine = np.arange(1 << 17) * 4
    halves = [np.array([0, (1 << 18) + n]) for n in range(60)]
    prints = [
        Footprint(reads=(), writes=(Region(space=WINDOW, starts=starts, ends=ends),))
        for starts, ends in [
            (fine, fine + 2), *((half, half + (1 << 18) - 64) for half in halves)
        ]
    ]

    def conflicts() -> list[list[int]]:
        hazards, found = Hazards(prints), []
        for pc, item in enumerate(prints):
            unit = (Unit.LOAD, Unit.STORE)[pc % 2]
            found.append([conflict.earlier for conflict in hazards.conflicts(unit, item)])
            hazards.add(pc, unit, item)
        return found

    found, peak = with_peak(conflicts)
    assert found == [[], *([pc] for pc in range(60))]
    assert peak < 64 << 20, peak


# What each further access conflicts with


@pytest.mark.parametrize(
    ("write", "read", "signal", "wait"),
    [
        # A weights instruction reads the unified buffer, transposed or not.
        (instruction("read_host", ub_address=20), instruction("read_weights_ub", address=20), *LW),
        (instruction("fill", out_address=35, n_last=1),
         instruction("read_weights_ub", address=20, row_pitch=5, k_last=4), *VW),
        (instruction("fill", out_address=22, n_last=1),
         instruction("read_weights_ub", transpose=1, address=20, row_pitch=5, k_last=4), *VW),
        # Operand B, the high plane of each operand, the table and the parameters.
        (instruction("read_host", ub_address=20),
         instruction("binary", b_address=20, out_address=999), *LV),
        (instruction("read_host", ub_address=20 + 192),
         instruction("binary", b_address=20, b_width=1, b_plane_step=3, out_address=999), *LV),
        (instruction("read_host", ub_address=20 + 64),
         instruction("table", a_address=20, a_width=1, a_plane_step=1, out_address=999,
                     table_address=300), *LV),
        (instruction("read_host", ub_address=300 + 513),
         instruction("table", table_address=300, table_width=1, out_address=999), *LV),
        (instruction("read_host", ub_address=20 + 2 * 8 + 7),
         instruction("requantize", source_ub=1, reduce=2, parameter_address=20,
                     parameter_count=3, out_address=999), *LV),
        (instruction("read_host", ub_address=999 + 3 * 64),
         instruction("copy", source_ub=1, width=2, out_address=999, out_plane_step=1), *LV),
        # An alternate window is a space of its own.
        (instruction("write_host_alternate", memory_address=7),
         instruction("read_host_alternate", memory_address=7, ub_address=20), *SL),
        (instruction("write_weight_memory", memory_address=7),
         instruction("read_weights", address=7), *SW),
    ],
)
def test_each_access_conflicts_until_a_token_orders_it(
    write: Instruction, read: Instruction, signal: int, wait: int
) -> None:
    def program(ordered: bool, *, swapped: bool = False) -> Program:
        first, second = (read, write) if swapped else (write, read)
        one, other = (wait, signal) if swapped else (signal, wait)
        pair = [_with(first, signal=one * ordered), _with(second, wait=other * ordered)]
        listing = [instruction("fill", out_address=n * 8, n_last=8) for n in range(NANO_FILLED)]
        listing += [instruction("barrier"), *pair]
        if Unit.WEIGHTS in (write.unit, read.unit):
            listing.append(instruction("matmul", p_limit=0, k_last=read["k_last"]))
        return _program(*listing, windows=16)

    for swapped in (False, True):
        assert [v.rule for v in find_violations(program(False, swapped=swapped))] == ["9.2"]
        check(program(True, swapped=swapped))


def _with(item: Instruction, **values: int) -> Instruction:
    return instruction(item.operation, **{**item.fields, **values})


def test_windows_of_the_two_sets_do_not_conflict() -> None:
    fill = instruction("fill", n_last=8)
    store = instruction("write_host", window=1, memory_address=3, ub_address=0)
    load = instruction("read_host_alternate", window=1, memory_address=3, ub_address=100)
    check(_program(fill, instruction("barrier"), store, load, windows=16))
    same = instruction("read_host", window=1, memory_address=3, ub_address=100)
    assert _rules(_program(fill, instruction("barrier"), store, same, windows=16)) == [
        ("9.2", 3, 2)
    ]


@pytest.mark.parametrize(
    "item",
    [
        instruction("binary", a_address=50, b_address=20, out_address=20),
        instruction("binary", a_address=50, b_address=20, b_width=1, b_plane_step=1,
                    out_address=84),
        instruction("table", table_address=300, out_address=555, a_address=20),
        instruction("table", table_address=300, table_width=1, out_address=813, a_address=20),
        instruction("requantize", source_ub=1, a_address=20, parameter_address=300,
                    parameter_count=4, reduce=2, out_address=331),
        instruction("copy", source_ub=1, a_address=20 + 3 * 128, width=2, out_address=20,
                    out_plane_step=2),
    ],
)
def test_a_vector_instruction_may_not_write_any_operand(item: Instruction) -> None:
    filled = [instruction("fill", out_address=n * 8, n_last=8) for n in range(NANO_FILLED)]
    barrier = instruction("barrier")
    found = find_violations(_program(*filled, barrier, item))
    assert [(v.rule, v.pc, v.space) for v in found] == [("9.2", NANO_FILLED + 1, UB)]
    check(_program(*filled, barrier, _with(item, out_address=1400)))


def test_synchronizing_with_the_host_orders_everything() -> None:
    fill, store = instruction("fill", n_last=8), instruction("write_host")
    assert _rules(_program(fill, store)) == [("9.2", 1, 0)]
    check(_program(fill, instruction("sync_host"), store))


def test_switching_the_source_orders_weights() -> None:
    # The weights' last instruction reads the other memory, so it starts after the first has ended,
    # and its token tells of both.
    fill = instruction("fill", n_last=8)
    first = instruction("read_weights_ub", address=0)
    last = instruction("read_weights", signal=LOAD)
    load = instruction("read_host", ub_address=0, wait=WEIGHTS)
    matmul = instruction("matmul", p_limit=0, k2_count=1)
    check(_program(fill, instruction("barrier"), first, last, load, matmul, matmul))
    same = [first, _with(first, address=4, signal=LOAD)]
    check(_program(fill, instruction("barrier"), *same, load, matmul, matmul))


# Orderings against brute force


def _unordered(items: Sequence[Instruction], arch: Arch) -> bool:
    """Whether two conflicting instructions are not ordered, by looking at every pair."""
    reach = closure(items).ends_before_start
    return any(not reach[i, j] for i, j in conflicting_pairs(items, arch))


def _mutate(items: list[Instruction], rng: random.Random) -> list[Instruction] | None:
    """Without one matched pair of wait and signal, one drain bit, or one barrier."""
    choices = removals(items)
    return rng.choice(choices).items if choices else None


def _with_code(program: Program, items: list[Instruction]) -> Program:
    code = make_program(program.arch, items).code
    return Program(
        arch=program.arch,
        code=code,
        weight_image=program.weight_image,
        weight_memory_bytes=program.weight_memory_bytes,
        code_address=program.code_address,
        windows=program.windows,
    )


def _decoded(program: Program) -> list[Instruction]:
    return [decode(row.tobytes()) for row in program.code]


@hypothesis_settings(max_examples=60)
@given(st.integers(0, 1 << 30), st.sampled_from(FUZZ_MACHINES))
def test_without_a_token_the_order_must_still_follow(seed: int, arch: Arch) -> None:
    program = generate(arch, seed, instructions=25).program
    items = _decoded(program)
    assert not _unordered(items, arch), "brute force must accept what the checker accepts"
    rng = random.Random(seed)
    for _ in range(3):
        changed = _mutate(items, rng)
        if changed is None:
            return
        found = find_violations(_with_code(program, changed))
        assert any(v.rule == "9.2" for v in found) == _unordered(changed, arch)


@hypothesis_settings(max_examples=30)
@given(st.integers(0, 1 << 30), st.sampled_from(FUZZ_MACHINES))
def test_clocks_say_all_that_brute_force_does(seed: int, arch: Arch) -> None:
    """Of any two instructions, also where no conflict asks for their order."""
    items = _decoded(generate(arch, seed, instructions=25).program)
    ordering, tokens = Ordering(), Tokens()
    for pc, item in enumerate(items):
        ordering.add(item, tokens.sources(item, pc)[0])
        tokens.signal(item, pc)
    edge = closure(items).edge
    units = [pc for pc, item in enumerate(items) if item.unit is not Unit.CONTROL]
    for j in units:
        start, end = ordering.start[j], ordering.end[j]
        assert start[Unit.CONTROL] == end[Unit.CONTROL] == 0
        for i in units:
            assert ordering.ends_before(i, start) == edge[2 * i + 1, 2 * j], (i, j)
            # By its own end an instruction has ended.
            assert ordering.ends_before(i, end) == (edge[2 * i + 1, 2 * j + 1] or i == j), (i, j)


def test_most_tokens_are_necessary() -> None:
    # Otherwise the property above would say little.
    refused = tried = 0
    for seed in range(20):
        program = generate(FUZZ_MACHINES[seed % len(FUZZ_MACHINES)], seed).program
        changed = _mutate(_decoded(program), random.Random(seed))
        if changed is not None:
            tried += 1
            refused += bool(find_violations(_with_code(program, changed)))
    assert tried >= 18 and refused >= tried // 2, (refused, tried)


