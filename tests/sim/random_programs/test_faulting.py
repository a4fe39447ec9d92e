"""Faulting programs give the faults they state, and the checker refuses each of them."""

from collections import Counter

import pytest

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import instruction
from systol_hw.isa.operations import OPERATIONS
from systol_hw.program import Window, make_program
from systol_hw.tables.faults import Fault, FaultCause, Unit
from systol_sim.fuzz.campaign import refer, step
from systol_sim.fuzz.coverage import possible_faults
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.faulting import empty_program, fault_kinds, generate_faulting
from systol_sim.random_programs.faulting_ties import tie_names
from systol_sim.validity.checker import find_violations


@pytest.mark.parametrize("arch", [FUZZ_MACHINES[1], FUZZ_MACHINES[3]], ids=lambda a: a.name)
def test_every_kind_faults_as_stated(arch: Arch) -> None:
    for kind in fault_kinds(arch):
        case = generate_faulting(arch, 7, kind)
        # A limit of time is nothing that the checker knows of.
        invalid = not kind.startswith("watchdog")
        assert bool(find_violations(case.program)) is invalid, kind
        fault = step(case.program, case.contents).fault
        assert fault is not None, kind
        assert (fault.cause, fault.unit) == (case.cause, case.unit), kind
        assert case.pc is None or fault.pc == case.pc, kind
        if not case.timed:
            untimed = refer(case.program, case.contents).fault
            assert untimed is not None, kind
            assert (untimed.cause, untimed.unit, untimed.pc) == (case.cause, case.unit, case.pc)


def test_kinds_cover_every_cause_in_every_unit() -> None:
    arch = FUZZ_MACHINES[0]
    cases = [generate_faulting(arch, 1, kind) for kind in fault_kinds(arch)]
    reached = {(case.cause, case.unit) for case in cases}
    units = set(Unit) - {Unit.CONTROL}
    assert reached == {
        (FaultCause.ILLEGAL_INSTRUCTION, Unit.CONTROL),
        (FaultCause.WATCHDOG, Unit.CONTROL),
        *((FaultCause.ADDRESS, unit) for unit in units),
        *((FaultCause.TOKEN_OVERFLOW, unit) for unit in units),
    }
    assert reached == set(possible_faults())


def test_every_tie_is_made_on_most_machines() -> None:
    made = Counter[str]()
    for arch in FUZZ_MACHINES:
        for name in tie_names():
            case = generate_faulting(arch, 3, f"tie {name}")
            assert case.tie in (None, name)
            made[name] += case.tie is not None
            fault = step(case.program, case.contents).fault
            assert fault is not None
            assert (fault.cause, fault.unit, fault.pc) == (case.cause, case.unit, case.pc), name
    assert all(made[name] > len(FUZZ_MACHINES) // 2 for name in tie_names()), made


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_units_faults_the_lower_numbers_is_reported(swapped: bool) -> None:
    """Each alone, the other one waiting for ever, is found in the same cycle (5.6)."""
    load, vector, store, never = (
        1 << (unit - 1) for unit in (Unit.LOAD, Unit.VECTOR, Unit.STORE, Unit.MATRIX)
    )

    def fault(load_waits: int, vector_waits: int) -> Fault:
        both = [
            instruction("read_host", wait=load_waits, ub_address=1 << 20),
            instruction("fill", wait=vector_waits, out_address=1 << 20),
        ]
        cue = instruction("write_host", signal=load | vector)
        listing = [*(both[::-1] if swapped else both), cue, instruction("halt")]
        program = make_program(
            PRESETS["nano"], listing, windows=(Window(name="w", size_bytes=64),)
        )
        found = step(program, {}).fault
        assert found is not None
        return found

    alone = fault(store, store | never), fault(store | never, store)
    assert [found.unit for found in alone] == [Unit.LOAD, Unit.VECTOR]
    assert alone[0].cycle == alone[1].cycle
    assert fault(store, store) == alone[0]


def test_address_faults_reach_every_access_of_every_unit() -> None:
    names = {kind.removeprefix("address ") for kind in fault_kinds(FUZZ_MACHINES[0])}
    for operation in OPERATIONS:
        if operation.unit is not Unit.CONTROL:
            assert any(name.startswith(operation.name) for name in names), operation.name
    assert {"requantize mean parameter", "vector plane", "binary b", "table knots", "table bytes",
            "copy output of 4 planes", "read_host_alternate window"} <= names


def test_a_program_without_instructions_faults_at_once() -> None:
    case = empty_program(FUZZ_MACHINES[0])
    fault = step(case.program, {}).fault
    assert fault is not None
    assert (fault.cause, fault.unit, fault.pc) == (case.cause, case.unit, 0)
