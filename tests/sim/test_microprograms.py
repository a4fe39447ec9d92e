"""docs/microprograms.md holds, on the simulator and on the RTL."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from systol_hw.arch import Arch, MemoryPort
from systol_hw.isa.assembly import assemble
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.counters import AMOUNTS, SCALARS, UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_sim.comparison import differences
from systol_sim.hardware.amaranth_sim import run as run_amaranth
from systol_sim.hardware.verilated import run as run_verilated
from systol_sim.results import RunResult
from systol_sim.simulator import run as simulate
from systol_sim.validity.checker import check

PAGE = Path(__file__).parents[2] / "docs" / "microprograms.md"
PORT = MemoryPort(width_bytes=8, bytes_per_cycle=Fraction(8), latency_cycles=10)
MACHINE = Arch(
    name="micro",
    rows=4,
    columns=4,
    ub_bytes=1024,
    accumulator_rows=16,
    weight_port=PORT,
    host_port=PORT,
    vector_lanes=4,
)


@dataclass(frozen=True, kw_only=True)
class MicroProgram:
    name: str
    program: Program
    expected: list[list[str]]


def _blocks(section: str) -> dict[str, str]:
    return {kind: body for kind, body in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)}


def _machine(changes: str) -> Arch:
    arch = MACHINE
    for line in changes.splitlines():
        name, value = line.split()
        if name == "host_port.bytes_per_cycle":
            port = dataclasses.replace(PORT, bytes_per_cycle=Fraction(value))
            arch = dataclasses.replace(arch, host_port=port)
        else:
            changes_to = {name: int(value)}
            arch = Arch.from_dict(arch.to_dict() | changes_to)
    return arch


def _micro_programs() -> list[MicroProgram]:
    result = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        blocks = _blocks(section)
        windows = [line.split() for line in blocks.get("windows", "").splitlines()]
        program = make_program(
            _machine(blocks.get("machine", "")),
            assemble(blocks["asm"]),
            weight_image=np.arange(int(blocks.get("weights", "0")), dtype=np.uint8),
            windows=tuple(Window(name=name, size_bytes=int(size)) for name, size in windows),
        )
        expected = [line.split() for line in blocks["expect"].splitlines()]
        result.append(
            MicroProgram(name=section.splitlines()[0], program=program, expected=expected)
        )
    return result


MICRO_PROGRAMS = _micro_programs()


def _counter(result: RunResult, name: str) -> int:
    assert result.counters is not None
    match = re.fullmatch(r"(\w+)\.(\w+)(?:\[(\d+)\])?", name)
    if match is None:
        index = next(s.index for s in SCALARS if s.name == name)
        return int(result.counters.scalars[index])
    unit, counter = Unit[match[1].upper()], match[2]
    tag = int(match[3]) if match[3] else None
    if any(state.name == counter for state in UNIT_STATES[unit]):
        return result.counters.state(unit, counter, tag)
    assert any(a.unit is unit and a.name == counter for a in AMOUNTS), name
    return result.counters.amount(unit, counter, tag)


def _assert_expected(micro: MicroProgram, result: RunResult) -> None:
    assert result.fault is None
    assert result.times is not None
    for words in micro.expected:
        if words[0] == "times":
            pc, start, end = (int(word) for word in words[1:])
            assert (pc, *result.times[pc]) == (pc, start, end)
        elif words[0] == "interrupts":
            assert result.interrupts == [int(word) for word in words[1:]]
        elif words[0] == "status":
            assert result.status == int(words[1])
        else:
            assert (words[0], _counter(result, words[0])) == (words[0], int(words[1]))


def test_page_has_a_dozen_and_more() -> None:
    assert len(MICRO_PROGRAMS) >= 12


@pytest.mark.parametrize("micro", MICRO_PROGRAMS, ids=lambda m: m.name)
def test_checker_accepts(micro: MicroProgram) -> None:
    check(micro.program)


def _stepping(program: Program) -> RunResult:
    return simulate(program, skip=False)


@pytest.mark.parametrize("run", [simulate, _stepping], ids=["skipping", "stepping"])
@pytest.mark.parametrize("micro", MICRO_PROGRAMS, ids=lambda m: m.name)
def test_simulator(micro: MicroProgram, run: Callable[[Program], RunResult]) -> None:
    _assert_expected(micro, run(micro.program))


@pytest.mark.verilator
@pytest.mark.parametrize("micro", MICRO_PROGRAMS, ids=lambda m: m.name)
def test_rtl(micro: MicroProgram) -> None:
    _assert_expected(micro, run_verilated(micro.program, {}))


@pytest.mark.parametrize("micro", MICRO_PROGRAMS, ids=lambda m: m.name)
def test_amaranth(micro: MicroProgram) -> None:
    result = run_amaranth(micro.program, {})
    _assert_expected(micro, result)
    assert differences(micro.program, simulate(micro.program), result) == []
