"""The formal proofs hold, and each is able to fail: its mutants are refuted."""

from pathlib import Path

import pytest

from systol_hw.errors import MissingToolError
from systol_hw.formal import proof as proof_module
from systol_hw.formal.__main__ import main
from systol_hw.formal.proof import Mutant, Proof, mutated_source, prove, require_tools
from systol_hw.formal.proofs import PROOFS

QUICK = ("head-queue-3", "block-queue", "tokens-1", "buffer-ranks-nano", "dispatch", "fetch")
"""Proofs of a second or two; the others are slow tests, as are all mutants."""
ROOT = Path(__file__).parents[2]
BY_NAME = {proof.name: proof for proof in PROOFS}


def sometimes_slow(proof: Proof) -> object:
    marks = [] if proof.name in QUICK else [pytest.mark.slow]
    return pytest.param(proof, id=proof.name, marks=marks)


@pytest.mark.formal
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proof", [sometimes_slow(proof) for proof in PROOFS])
def test_the_properties_are_proved(proof: Proof, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert prove(proof, log=log) == "proved", log.read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.formal
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("proof", "mutant"),
    [
        pytest.param(proof, mutant, id=f"{proof.name}-{number}")
        for proof in PROOFS
        for number, mutant in enumerate(proof.mutants)
    ],
)
def test_mutants_are_refuted(proof: Proof, mutant: Mutant) -> None:
    assert prove(proof, mutant=mutant) == "refuted"


def test_every_proof_has_a_mutant_that_still_fits_its_source() -> None:
    assert len(BY_NAME) == len(PROOFS)
    for proof in PROOFS:
        assert proof.mutants, f"{proof.name} has none"
        for mutant in proof.mutants:
            mutated_source(proof.source, mutant)


def test_the_page_lists_every_proof_with_its_method() -> None:
    page = (ROOT / "docs" / "verification.md").read_text("utf-8")
    for proof in PROOFS:
        method = f"{proof.depth} cycles" if proof.bounded else "induction"
        rows = [line for line in page.splitlines() if line.startswith(f"| `{proof.name}` |")]
        assert len(rows) == 1 and f"| {method} |" in rows[0], proof.name


@pytest.mark.formal
def test_the_command_reports_outcomes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["head-queue-1", "--mutants"]) == 0
    out = capsys.readouterr().out
    assert "proved" in out and "refuted" in out and "all as they must be" in out
    with pytest.raises(SystemExit):
        main(["no-such-proof"])
    assert "no proof is called 'no-such-proof'" in capsys.readouterr().err


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_module, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match=r"pip install 'systol\[formal\]'"):
        require_tools()
