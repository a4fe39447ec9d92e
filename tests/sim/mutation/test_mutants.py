"""Mutants are made the same each time, are wrong programs that parse, and are found."""

import ast
import dataclasses
import itertools
import json
import sys
from pathlib import Path

import pytest

from systol_hw.errors import InputError
from systol_sim.mutation import campaign as mutants
from systol_sim.mutation import survivors
from systol_sim.mutation.campaign import campaign, format_summary
from systol_sim.mutation.changes import (
    CHECKER,
    FIRST_TEST,
    KILLED,
    PASSED,
    RTL,
    SAME,
    SIM,
    Mutant,
    modules,
    mutants_of,
    select,
)
from systol_sim.mutation.workshop import Trial, Workshop

ROOT = Path(__file__).parents[3]

HARDWARE = '''
"""A module with 1 number in its text."""

__all__ = ["x"]

class Unit(Component):
    """Has 2 ports."""

    port: In(3)

    def elaborate(self, platform: int = 4) -> Module:
        assert 5 < self.size, f"{6}"
        m.d.comb += [
            a.eq(b & c),
            d.eq(e),
        ]
        with m.If(g < 7):
            m.d.sync += h.eq(Mux(i, j, ~k))
        if 8 == 9:
            raise ValueError(10 + 11)
        s = Signal(name="é" + 12)
        return max(n, o)
'''


def _changes(source: str, target: str) -> set[tuple[str, str]]:
    return {(m.operator, m.change) for m in mutants_of("hw/unit.py", target, source)}


def test_every_kind_of_change() -> None:
    found = _changes(HARDWARE, RTL)
    assert found == {
        ("statement dropped", "a.eq(b & c), -> "),
        ("statement dropped", "d.eq(e), -> "),
        ("logic swapped", "b & c -> b | c"),
        ("low bit dropped", "b & c -> (b & c) & ~1"),
        ("low bit dropped", "e -> (e) & ~1"),
        ("condition negated", "g < 7 -> (g < 7) == 0"),
        ("comparison swapped", "g < 7 -> g <= 7"),
        ("constant off by one", "7 -> 8"),
        ("constant off by one", "7 -> 6"),
        ("statement dropped", "m.d.sync += h.eq(Mux(i, j, ~k)) -> pass"),
        ("low bit dropped", "Mux(i, j, ~k) -> (Mux(i, j, ~k)) & ~1"),
        ("choice swapped", "Mux(i, j, ~k) -> Mux(i, ~k, j)"),
        ("negation lost", "~k -> k"),
        ("condition negated", "8 == 9 -> not (8 == 9)"),
        ("comparison swapped", "8 == 9 -> 8 != 9"),
        ("constant off by one", "8 -> 9"),
        ("constant off by one", "8 -> 7"),
        ("constant off by one", "9 -> 10"),
        ("constant off by one", "9 -> 8"),
        ("limit lost", "max(n, o) -> (n)"),
    }


def test_what_simulators_have_of_their_own() -> None:
    source = "RING = 5\nC_A, C_B = 1, 2\nw[X] += a\ncoverage[C_A] += 1\nb = c and d\ne[f] = g - h\n"
    assert _changes(source, SIM) == {
        ("statement dropped", "w[X] += a -> pass"),
        ("logic swapped", "c and d -> c or d"),
        ("statement dropped", "e[f] = g - h -> pass"),
        ("sign swapped", "g - h -> g + h"),
    }


def test_what_the_checker_has_of_its_own() -> None:
    source = "def f():\n    'Text.'\n    found.append(a)\n    yield b\n    c(d)[e] = g()\n"
    assert _changes(source, CHECKER) == {
        ("statement dropped", "found.append(a) -> pass"),
        ("statement dropped", "yield b -> pass"),
        ("statement dropped", "c(d)[e] = g() -> pass"),
    }
    assert _changes(source, SIM) == {("statement dropped", "c(d)[e] = g() -> pass")}


def test_the_checker_and_the_simulator_share_no_module() -> None:
    names = {target: set(modules(ROOT, target)) for target in (SIM, CHECKER)}
    assert len(names[CHECKER]) == 5 and not names[SIM] & names[CHECKER]


@pytest.mark.parametrize(
    "path", ["hw/systol_hw/rtl/control/fetch.py", "sim/systol_sim/values/vector_kernels.py"]
)
def test_mutants_parse_and_differ(path: str) -> None:
    source = (ROOT / path).read_text("utf-8")
    whole = ast.dump(ast.parse(source))
    found = mutants_of(path, RTL if path.startswith("hw") else SIM, source)
    assert len(found) >= 90
    for mutant in found:
        changed = mutant.apply(source)
        assert ast.dump(ast.parse(changed)) != whole, mutant
        assert source.count("\n", 0, mutant.offset) == mutant.line - 1


@pytest.mark.parametrize("target", [RTL, SIM, CHECKER])
def test_selection_is_deterministic_and_spread(target: str) -> None:
    turn = max(24, len(modules(ROOT, target)))
    first = list(itertools.islice(select(ROOT, target, 1), turn))
    assert first == list(itertools.islice(select(ROOT, target, 1), turn))
    assert first != list(itertools.islice(select(ROOT, target, 2), turn))
    assert len(set(first)) == turn
    # No module has a second turn before all have had their first.
    assert {m.path for m in first} == set(modules(ROOT, target))
    assert len({m.operator for m in first}) >= 6


def _mutant(path: str, before: str, after: str, target: str = SIM) -> Mutant:
    """The mutant that changes a text, where it first stands."""
    offset = (ROOT / path).read_text("utf-8").index(before)
    return Mutant(
        target=target, path=path, line=1, operator="by hand", before=before, after=after,
        offset=offset,
    )


WALKERS = "sim/systol_sim/timing/cycle/loops.py"


def test_trials_survive_json(tmp_path: Path) -> None:
    mutant = next(select(ROOT, SIM, 1))
    trials = [
        Trial(mutant=mutant, outcome=outcome, check="check", by="by", seconds=1.5)
        for outcome in (KILLED, PASSED, SAME)
    ]
    again = [Trial.from_record(json.loads(json.dumps(t.as_record()))) for t in trials]
    assert again == trials
    assert [t.killed for t in trials] == [True, False, False]
    summary = format_summary(trials, {})
    assert "sim: 1 of 2 mutants killed; 1 same hardware" in summary
    assert f"survives: {mutant.path}:{mutant.line}: " in summary


class _NoWorkshop(Workshop):
    """Trials without running anything."""

    def __init__(self) -> None:
        self.base = ROOT
        self.tried: list[Mutant] = []

    def check_base(self, target: str) -> float:
        return 0.0

    def try_mutant(self, mutant: Mutant) -> Trial:
        self.tried.append(mutant)
        outcome = SAME if len(self.tried) % 2 else KILLED
        return Trial(mutant=mutant, outcome=outcome, check="", by="", seconds=0.0)


def test_campaign_replaces_what_does_not_count_and_resumes() -> None:
    workshop = _NoWorkshop()
    trials = list(campaign(workshop, {RTL: 3, SIM: 1}, 1))
    assert [t.counts for t in trials] == [False, True] * 4
    assert [t.mutant.target for t in trials] == [RTL] * 6 + [SIM] * 2
    again = _NoWorkshop()
    known = {t.mutant: t for t in trials[:5]}
    list(campaign(again, {RTL: 3}, 1, known=known))
    assert trials[5].mutant == again.tried[0] and not set(known) & set(again.tried)


def test_trials_side_by_side_are_those_of_one_after_the_other() -> None:
    alone = list(campaign(_NoWorkshop(), {RTL: 5}, 7))
    together = list(campaign(_NoWorkshop(), {RTL: 5}, 7, processes=3))
    # Which of them count alternates in the order of trying, which may differ; the mutants may not.
    assert [t.mutant for t in together][:5] == [t.mutant for t in alone][:5]
    assert sum(t.counts for t in together) == 5


def test_report_escapes_what_tables_cannot_hold() -> None:
    mutant = Mutant(
        target=RTL, path="hw/x.py", line=3, operator="logic swapped", before="a\n | b", after="",
        offset=0,
    )
    killed = Trial(mutant=mutant, outcome=KILLED, check="here", by="1 | 2", seconds=1.0)
    text = mutants.markdown([killed, dataclasses.replace(killed, outcome=PASSED)])
    assert "## rtl: 1 of 2 killed" in text
    assert "| x:3 | logic swapped | `a \\| b` becomes nothing | here: 1 \\| 2 |" in text
    assert text.count("**survives**") == 1


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--mutants", "0"]) == 3
    assert "--mutants must be at least 1, not 0" in capsys.readouterr().err
    broken = tmp_path / "trials.json"
    broken.write_text("[{}]")
    assert mutants.main(["--resume", str(broken)]) == 3
    assert "does not hold the trials of an earlier run" in capsys.readouterr().err
    with pytest.raises(InputError, match="need the project's checkout"):
        Workshop(tmp_path, tmp_path)


def _survive(mutant: Mutant) -> Trial:
    return Trial(mutant=mutant, outcome=PASSED, check="", by="", seconds=0.0)


def test_the_command_fails_for_a_survivor_that_nothing_explains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = survivors.explained(ROOT)
    trials = [_survive(mutant) for mutant in known]
    monkeypatch.setattr(mutants, "campaign", lambda *_, **__: iter(trials))
    assert mutants.main([]) == 0
    out, err = capsys.readouterr()
    assert out.count("is explained: ") == len(known) and err == ""
    # The same module and change as an explained one, at another place of its line.
    (near,) = (m for m in known if m.module == "timing/streams/transfers")
    source = (ROOT / near.path).read_text("utf-8")
    other = next(
        m for m in mutants_of(near.path, near.target, source)
        if m.line == near.line and m.change == near.change and m.offset != near.offset
    )
    assert other not in known
    trials += [
        dataclasses.replace(_survive(other), outcome=KILLED), _survive(next(select(ROOT, RTL, 1))),
        dataclasses.replace(_survive(other), outcome=SAME),
    ]
    assert mutants.main([]) == mutants.UNEXPLAINED != 0
    err = capsys.readouterr().err
    assert err.count("nothing finds or explains") == 1
    trials.append(_survive(other))
    assert mutants.main([]) == mutants.UNEXPLAINED
    assert f"nothing finds or explains {other.place}: {other.change}" in capsys.readouterr().err


def test_an_explanation_names_a_line_and_not_its_number(tmp_path: Path) -> None:
    path = "sim/systol_sim/a.py"
    survivor = survivors.Survivor(
        target=SIM, path=path, text="c = a + 1 + 1", before="1", after="2", occurrence=2, why=""
    )
    module = tmp_path / path
    module.parent.mkdir(parents=True)
    module.write_text("d = 1\n\n\nif d:\n    c = a + 1 + 1  \n")
    found = survivor.mutant(tmp_path)
    assert (found.line, found.change) == (5, "1 -> 2")
    assert found.apply(module.read_text()).endswith("    c = a + 1 + 2  \n")
    module.write_text("c = a + 1 - 1\n")
    with pytest.raises(InputError, match=r"a\.py has no second mutant '1' -> '2' in the line"):
        survivor.mutant(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform == "win32", reason="trials end by a timer's signal")
def test_simulator_mutants_are_found(tmp_path: Path) -> None:
    workshop = Workshop(ROOT, tmp_path)
    wrong = _mutant(WALKERS, "w[W_ROW] < w[W_LINES]", "w[W_ROW] <= w[W_LINES]")
    trial = workshop.try_mutant(wrong)
    assert trial.outcome == KILLED, trial
    assert trial.check == FIRST_TEST
    # A step that never ends is found too, by the clock.
    endless = _mutant(WALKERS, "w[T_DONE] += live", "pass")
    assert workshop.try_mutant(endless).killed
    # Nothing is left of either.
    assert {path.name for path in tmp_path.iterdir()} <= {"base", "base-cache"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform == "win32", reason="trials end by a timer's signal")
def test_checker_mutants_are_found(tmp_path: Path) -> None:
    workshop = Workshop(ROOT, tmp_path)
    wrong = _mutant(
        "sim/systol_sim/validity/checker.py", "ordering.ends_before(conflict.earlier, start)",
        "conflict.earlier", CHECKER,
    )
    trial = workshop.try_mutant(wrong)
    assert (trial.outcome, trial.check) == (KILLED, "test_checker"), trial
    assert workshop.check_base(CHECKER) > 0
