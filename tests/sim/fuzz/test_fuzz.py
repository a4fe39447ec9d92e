"""The fuzzer agrees with itself, and finds, shrinks and keeps what is planted."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from systol_hw.errors import InputError
from systol_hw.isa import decode
from systol_hw.program import Program
from systol_hw.tables.counters import AMOUNTS, UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_sim.comparison import differences
from systol_sim.fuzz.campaign import (
    DEFAULT_EXECUTORS,
    compare_executors,
    fuzz,
    make_case,
    refer,
    simulate,
    step,
)
from systol_sim.fuzz.coverage import Coverage, goals
from systol_sim.fuzz.covering import covering_machines
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.fuzz.report import BEGIN, END, Report, write_markdown
from systol_sim.fuzz.shrink import read_reproducer, shrink, write_reproducer
from systol_sim.random_programs.generate import generate
from systol_sim.results import Counters, RunResult
from systol_sim.validity.checker import check
from systol_sim.validity.footprint import UB, footprint


@pytest.mark.parametrize(
    ("machine", "seed"), [("fuzz-square16", 9_039_575), ("fuzz-one-lane", 9_057_632)]
)
def test_long_tiles_over_a_slow_port_meet_no_watchdog(machine: str, seed: int) -> None:
    (arch,) = [arch for arch in FUZZ_MACHINES if arch.name == machine]
    lines, result = compare_executors(make_case(arch, seed, None), DEFAULT_EXECUTORS)
    assert lines == []
    assert result is not None and result.counters is not None and result.counters.cycles > 18_000


def test_executors_agree_on_random_programs() -> None:
    report = fuzz(48, 0)
    assert not report.mismatches, report.format(coverage=False)
    assert report.programs == 48 and report.faulting > 0


def test_two_processes_find_the_same() -> None:
    one, two = fuzz(6, 300), fuzz(6, 300, processes=2)
    assert one.coverage.counts == two.coverage.counts
    assert (one.cycles, one.faulting) == (two.cycles, two.faulting)


@pytest.mark.slow
def test_random_programs_reach_everything() -> None:
    report = fuzz(3000, 10_000, covering_machines(), faulting=0.5)
    assert not report.mismatches, report.format(coverage=False)
    assert not report.coverage.missing(), report.coverage.format()


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    state = tmp_path / "state.json"

    def interrupt(done: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fuzz(8, 70, state=state, progress=interrupt)
    half = json.loads(state.read_text())["report"]["programs"]
    assert 3 <= half < 8
    seen: list[int] = []
    whole, resumed = fuzz(8, 70), fuzz(8, 70, state=state, progress=seen.append)
    assert seen[0] > half and seen[-1] == 8
    assert resumed.coverage.counts == whole.coverage.counts
    assert (resumed.programs, resumed.faulting, resumed.cycles) == (
        whole.programs, whole.faulting, whole.cycles
    )
    # A longer run contains the shorter one; another seed or other machines do not.
    assert fuzz(9, 70, state=state).programs == 9
    with pytest.raises(InputError, match="had other seed"):
        fuzz(9, 71, state=state)
    with pytest.raises(InputError, match="had other machines"):
        fuzz(9, 70, FUZZ_MACHINES[:2], state=state)
    state.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        fuzz(9, 70, state=state)


def test_reports_survive_json_and_replace_their_part_of_a_page(tmp_path: Path) -> None:
    report = fuzz(6, 40, executors={"sim": step, "late": _late}, faulting=0.0)
    assert report.mismatches
    back = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert back == report
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    write_markdown(page, report.markdown("Head"))
    text = page.read_text()
    assert text.startswith(f"# Page\n\n{BEGIN}\nHead\n\n**6 programs, 6 valid and 0 faulting; ")
    assert "old" not in text and text.endswith(f"{END}\n\nafter\n")
    halts = report.coverage.counts["operation halt"]
    assert f"| operation halt | {halts} |" in text
    for text in ("first\n", "second\n"):
        write_markdown(tmp_path / "new.md", text)
        assert (tmp_path / "new.md").read_text() == f"{BEGIN}\n{text}{END}\n"
    other = tmp_path / "other.md"
    for content in (b"# Something else\n", END.encode() + BEGIN.encode(), b"\xff\xfe"):
        other.write_bytes(content)
        with pytest.raises(InputError, match=r"other\.md"):
            write_markdown(other, "text\n")
        assert other.read_bytes() == content


def test_broken_sums_and_products_are_found() -> None:
    """Every executor agrees with itself; only the program says what a counter must be."""

    def wrong(change: Callable[[Counters], None]) -> list[str]:
        def run(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
            result = step(program, contents)
            assert result.counters is not None
            change(result.counters)
            return result

        return compare_executors(generate(FUZZ_MACHINES[1], 3), {"wrong": run})[0]

    def amount(unit: Unit, name: str) -> int:
        return next(i for i, a in enumerate(AMOUNTS) if a.unit is unit and a.name == name)

    def add(row: int) -> Callable[[Counters], None]:
        def change(counters: Counters) -> None:
            counters.amounts[row, 3] += 1

        return change

    def lose_a_cycle(counters: Counters) -> None:
        code = next(s.code for s in UNIT_STATES[Unit.MATRIX] if s.name == "idle")
        counters.states[Unit.MATRIX, 0, code] -= 1

    assert wrong(lambda counters: None) == []
    lines = wrong(lose_a_cycle)
    assert len(lines) == 2 and "states of matrix sum to" in lines[0]
    assert "the array's categories sum to" in lines[1]
    for unit, name in ((Unit.MATRIX, "useful_macs"), (Unit.VECTOR, "elements"),
                       (Unit.WEIGHTS, "ub_bytes"), (Unit.STORE, "host_bytes"),
                       (Unit.LOAD, "weight_bytes")):
        (line,) = wrong(add(amount(unit, name)))
        assert f"{unit.name.lower()}.{name} tag 3" in line
    (line,) = wrong(add(amount(Unit.CONTROL, "fetch_bytes")))
    assert "control.fetch_bytes" in line


def test_programs_of_a_run_have_timings_of_their_own() -> None:
    arch = FUZZ_MACHINES[1]
    ports = {
        (case.program.arch.weight_port, case.program.arch.host_port)
        for case in (make_case(arch, seed, None) for seed in range(12))
    }
    assert len(ports) >= 10


def _wrong_copy(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The reference, but every `copy` to an odd address is off by one in its first byte."""
    result = refer(program, contents)
    for row in program.code:
        item = decode(row.tobytes())
        if item.operation.name == "copy" and item["out_address"] % 2:
            result.memories["ub"][item["out_address"]] ^= 1
    return result


def _late(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
    """The simulator, but every matmul ends a cycle late."""
    result = step(program, contents)
    assert result.times is not None
    for pc, row in enumerate(program.code):
        if decode(row.tobytes()).unit is Unit.MATRIX:
            result.times[pc, 1] += 1
    return result


def test_planted_value_errors_are_found_and_shrunk(tmp_path: Path) -> None:
    executors = {"sim": simulate, "wrong": _wrong_copy}
    report = fuzz(6, 40, executors=executors, faulting=0.0, directory=tmp_path)
    assert report.mismatches
    for found in report.mismatches:
        assert any(line.startswith("sim / wrong: ub: ") for line in found.lines)
        # A copy needs its operand written, perhaps by a matmul on loaded bytes, and no more.
        assert found.instructions <= 8, found
        assert found.reproducer is not None
        case = read_reproducer(found.reproducer)
        check(case.program)
        assert compare_executors(case, executors)[0], "the reproducer shows the difference"
        assert not compare_executors(case, DEFAULT_EXECUTORS)[0]
    assert found.machine in report.format()


def test_planted_timing_errors_are_found() -> None:
    lines, _ = compare_executors(generate(FUZZ_MACHINES[1], 3), {"sim": step, "late": _late})
    assert lines and all("end" in line for line in lines)


def test_raising_executors_are_mismatches() -> None:
    def broken(program: Program, contents: Mapping[str, np.ndarray]) -> RunResult:
        raise ZeroDivisionError("planted")

    lines, base = compare_executors(generate(FUZZ_MACHINES[1], 3), {"a": step, "b": broken})
    assert lines == ["b raised ZeroDivisionError: planted"] and base is not None


def test_shrinking_keeps_tokens_consistent() -> None:
    case = generate(FUZZ_MACHINES[1], 11)

    def stores(other: object) -> bool:
        assert isinstance(other, type(case))
        check(other.program)
        names = [decode(row.tobytes()).operation.name for row in other.program.code]
        return "requantize" in names and "write_host" in names

    assert stores(case)
    short = shrink(case, stores)
    assert len(short.program.code) < 12
    assert stores(short)


def test_reproducers_round_trip(tmp_path: Path) -> None:
    case = generate(FUZZ_MACHINES[4], 2)
    path = write_reproducer(tmp_path, "case", case, ["first; second", "third\nfourth"])
    back = read_reproducer(path)
    assert np.array_equal(back.program.code, case.program.code)
    assert np.array_equal(back.program.weight_image, case.program.weight_image)
    assert back.program.arch == case.program.arch
    assert back.program.windows == case.program.windows
    assert {k: v.tobytes() for k, v in back.contents.items()} == {
        k: v.tobytes() for k, v in case.contents.items()
    }


def test_every_kind_of_difference_is_reported() -> None:
    case = generate(FUZZ_MACHINES[1], 1)
    a = simulate(case.program, case.contents)

    def changed(**values: object) -> list[str]:
        other = simulate(case.program, case.contents)
        return differences(case.program, a, dataclasses.replace(other, **values))  # type: ignore[arg-type]

    assert changed() == []
    assert a.counters is not None and a.times is not None
    windows = [window.copy() for window in a.windows]
    windows[0][7] ^= 1
    assert changed(windows=windows)[0].startswith("w0: 1 differ, the first at [7]")
    times = a.times.copy()
    times[4, 0] += 1
    assert changed(times=times)[0].startswith("time of pc 4: start")
    states = a.counters.states.copy()
    states[Unit.LOAD, 0, 0] += 1
    assert "load.idle tag 0" in changed(counters=dataclasses.replace(a.counters, states=states))[0]
    assert changed(interrupts=[*a.interrupts, 1])[0].startswith("interrupts: ")
    untouched = a.memories["ub"].copy()
    mask = np.ones(untouched.size, bool)
    for row in case.program.code:
        for region in footprint(decode(row.tobytes()), case.program.arch).writes:
            if region.space == UB:
                mask[region.index()] = False
    untouched[mask] ^= 0xFF
    assert mask.any() and changed(memories={**a.memories, "ub": untouched}) == []


def test_coverage_names_what_was_not_reached() -> None:
    coverage = Coverage()
    assert set(coverage.missing()) == set(goals())
    case = generate(FUZZ_MACHINES[1], 1)
    coverage.add(case.program, simulate(case.program, case.contents))
    missing = coverage.missing()
    assert "operation halt" not in missing and "fault watchdog in control" in missing
    assert "never: fault watchdog in control" in coverage.format()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("programs",), "'programs' is missing"),
        (("programs", True), "'programs' must be int, not True"),
        (("programs", -1), "'programs' must lie in 0"),
        (("cycles", 10**4000), "'cycles' must lie in 0"),
        (("seconds", "5"), "'seconds' must be float or int"),
        (("mismatches", {}), "'mismatches' must be list"),
        (("mismatches", [5]), "'reproducer' is missing"),
        (("mismatches", [{"reproducer": None, "lines": [1]}]), "lines must be texts"),
        (("coverage", []), "'coverage' must be dict"),
        (("coverage", {"x": [1]}), "'x' must be int"),
    ],
)
def test_a_damaged_state_is_refused(change: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    fuzz(2, 5, state=state)
    content = json.loads(state.read_text())
    if len(change) == 1:
        del content["report"][change[0]]
    else:
        content["report"][change[0]] = change[1]
    state.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"not the state of a fuzz run: {message}"):
        fuzz(4, 5, state=state)


@pytest.mark.parametrize("text", ["[]", "5", '{"report": 5}', "[" * 9999, '{"report": {}}', ""])
def test_what_is_no_state_is_refused(text: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text(text)
    with pytest.raises(InputError, match=r"state\.json"):
        fuzz(4, 5, state=state)
