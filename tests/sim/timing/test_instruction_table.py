"""The instruction table against `isa.decode`, one at a time, and against footprints."""

import dataclasses

import numpy as np
import pytest

from systol_hw.arch import WINDOWS, Arch
from systol_hw.isa import OPERATION_BY_OPCODE, decode, decode_fault
from systol_hw.isa.decode_many import decode_many
from systol_hw.program import Program
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim.fuzz.campaign import refer
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.faulting import empty_program, fault_kinds, generate_faulting
from systol_sim.random_programs.generate import generate
from systol_sim.timing.state.instruction_table import build_table
from systol_sim.timing.state.table_columns import (
    BANKS,
    COLUMNS_OF,
    DRAIN,
    REFUSED,
    SAFE,
    SIGNAL,
    UNIT,
    WAIT,
    WRITES,
)
from systol_sim.validity.footprint import UB, Region, footprint


def scrambled(program: Program, seed: int) -> Program:
    """`program` with bits of some instructions flipped, and some of random bytes."""
    random = np.random.default_rng(seed)
    code = program.code.copy()
    for pc in random.integers(0, len(code), 8):
        code[pc, random.integers(1, 64)] ^= 1 << random.integers(0, 8)
    pc = random.integers(0, len(code))
    code[pc, 1:] = random.integers(0, 256, 63)
    code[random.integers(0, len(code)), 0] = random.integers(0, 256)
    return dataclasses.replace(program, code=code)


@pytest.mark.parametrize("seed", range(24))
def test_fields_and_refusals_are_those_of_decode(seed: int) -> None:
    program = generate(FUZZ_MACHINES[seed % 12], seed).program
    if seed % 2:
        program = scrambled(program, seed)
    table = build_table(program)
    order: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    for pc, row in enumerate(table.rows):
        data = program.code[pc].tobytes()
        refused = decode_fault(data, program.arch)
        if refused is not None:
            assert row[REFUSED] == refused[0] and not np.delete(row, REFUSED).any()
            continue
        decoded = decode(data)
        assert row[REFUSED] == 0 and row[UNIT] == decoded.unit
        if decoded.unit is Unit.CONTROL:
            continue
        order[decoded.unit].append(pc)
        assert [row[WAIT], row[SIGNAL], row[DRAIN]] == [
            decoded["wait"], decoded["signal"], decoded["drain"]
        ]
        for field, column in COLUMNS_OF[decoded.unit]._asdict().items():
            expected = decoded.get(field)
            if field == "window" and decoded.operation.name.endswith("_alternate"):
                expected += WINDOWS
            if decoded.operation.name in ("binary", "table") and field in (
                "source_ub", "ky_count", "kx_count"
            ):
                expected = 1
            assert row[column] == expected, (decoded.operation.name, field)
    for unit, pcs in order.items():
        assert table.order[unit, : len(pcs)].tolist() == pcs


def test_every_field_of_every_operation_is_extracted() -> None:
    random = np.random.default_rng(3)
    code = random.integers(0, 256, (40 * len(OPERATION_BY_OPCODE), 64), np.uint8)
    code[:, 0] = np.resize(list(OPERATION_BY_OPCODE), len(code))
    seen = 0
    for group in decode_many(code):
        for index, pc in enumerate(group.pcs):
            word = int.from_bytes(code[pc].tobytes(), "little")
            for place, field in enumerate(group.operation.fields):
                assert group.values[place, index] == field.extract(word)
            assert group.reserved[index] == bool(word & ~group.operation.used_bits)
            seen += 1
    assert seen == len(code)


def _banks(regions: tuple[Region, ...], arch: Arch) -> int:
    places = [region.places() for region in regions if region.space == UB]
    found = np.unique(np.concatenate([np.zeros(0, np.int64), *places]) // arch.bank_bytes)
    return sum(1 << int(bank) for bank in found)


@pytest.mark.parametrize("arch", FUZZ_MACHINES, ids=lambda arch: arch.name)
def test_bounds_cover_what_is_touched(arch: Arch) -> None:
    program = generate(arch, 50).program
    table = build_table(program)
    safe, units = 0, 0
    for pc, row in enumerate(table.rows):
        decoded = decode(program.code[pc].tobytes())
        units += decoded.unit is not Unit.CONTROL
        if decoded.unit is Unit.CONTROL or not row[SAFE]:
            continue
        safe += 1
        touched = footprint(decoded, arch)
        assert _banks(touched.reads, arch) & ~row[BANKS] == 0
        assert _banks(touched.writes, arch) & ~row[WRITES] == 0
        if decoded.unit in (Unit.LOAD, Unit.STORE) and decoded["count0"] == decoded["count1"] == 1:
            # A single run: no place between its ends is left out.
            assert _banks(touched.reads, arch) == row[BANKS]
            assert _banks(touched.writes, arch) == row[WRITES]
    # Bounds are for speed: little would be left of it if they showed nothing.
    assert safe > 0.7 * units


@pytest.mark.parametrize("arch", FUZZ_MACHINES[:4], ids=lambda arch: arch.name)
def test_what_faults_is_not_called_safe(arch: Arch) -> None:
    kinds = [kind for kind in fault_kinds(arch) if kind.startswith("address ")]
    assert kinds
    for kind in kinds:
        case = generate_faulting(arch, 11, kind)
        fault = refer(case.program, case.contents).fault
        assert fault is not None and fault.cause is FaultCause.ADDRESS
        assert build_table(case.program).rows[fault.pc, SAFE] == 0, kind


def test_a_program_without_instructions_has_no_rows_and_still_a_next_instruction() -> None:
    table = build_table(empty_program(FUZZ_MACHINES[0]).program)
    assert table.rows.shape[0] == 0
    # The stepper looks at each unit's next instruction before it knows that there is none.
    assert table.order.shape == (len(Unit), 1)
