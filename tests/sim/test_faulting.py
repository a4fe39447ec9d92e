"""Faulting programs give the faults they state, and the checker refuses each of them."""

import pytest

from systol_hw.arch import Arch
from systol_hw.faults import FaultCause, Unit
from systol_hw.operations import OPERATIONS
from systol_sim.checker import find_violations
from systol_sim.comparison import TIMED_FAULTS
from systol_sim.coverage import possible_faults
from systol_sim.faulting import empty_program, fault_kinds, generate_faulting
from systol_sim.fuzz import refer, step
from systol_sim.machines import FUZZ_MACHINES


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
        if case.cause not in TIMED_FAULTS:
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
