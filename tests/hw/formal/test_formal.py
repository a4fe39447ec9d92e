"""The formal proofs hold, and each is able to fail: its mutants are refuted."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest

from systol_hw.arch import PRESETS, Arch, MemoryPort
from systol_hw.errors import MissingToolError
from systol_hw.formal import proof as proof_module
from systol_hw.formal.__main__ import main
from systol_hw.formal.proof import Mutant, Proof, mutated_source, prove, require_tools
from systol_hw.formal.proofs import PROOFS
from systol_hw.formal.properties.memory_port import COST_BITS
from systol_hw.formal.properties.port_deliveries import LATENCIES, RATES

QUICK = (
    "head-queue-3",
    "block-queue",
    "tokens-1",
    "buffer-ranks-nano",
    "dispatch",
    "fetch",
    "host-sync",
    "write-buffer-3",
)
"""Proofs of a second or two; the others are slow tests, as are all mutants."""
ROOT = Path(__file__).parents[3]
BY_NAME = {proof.name: proof for proof in PROOFS}


def sometimes_slow(proof: Proof) -> object:
    marks = [] if proof.name in QUICK else [pytest.mark.slow]
    return pytest.param(proof, id=proof.name, marks=marks)


@pytest.mark.formal
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("proof", [sometimes_slow(proof) for proof in PROOFS])
def test_the_properties_are_proved(proof: Proof, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert prove(proof, log=log) == "proved", log.read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.formal
@pytest.mark.timeout(1800)
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


def burst_credits(arch: Arch, port: MemoryPort) -> int:
    return arch.burst_bytes // port.width_bytes * port.beat_cost


def test_bounded_waiting_is_proved_for_every_preset_and_for_the_costliest_burst() -> None:
    for arch in PRESETS.values():
        for port in (arch.weight_port, arch.host_port):
            assert burst_credits(arch, port) < 1 << COST_BITS, arch.name
    slowest = MemoryPort(width_bytes=64, bytes_per_cycle=Fraction(4094, 4095), latency_cycles=8)
    costliest = dataclasses.replace(PRESETS["tpu-v1"], burst_bytes=4096, weight_port=slowest)
    assert burst_credits(costliest, slowest) == 4096 * 4095 < 1 << COST_BITS


def test_deliveries_are_proved_at_every_rate_of_a_preset_and_at_legal_latencies() -> None:
    # Credits scale: a common factor of cost and income changes nothing.
    proved = {Fraction(income, cost) for cost, income in RATES}
    for arch in PRESETS.values():
        for port in (arch.weight_port, arch.host_port):
            assert Fraction(port.credit_income, port.beat_cost) in proved, arch.name
    for latency in LATENCIES:
        MemoryPort(width_bytes=1, bytes_per_cycle=Fraction(1), latency_cycles=latency)


def test_the_page_names_the_presets_whose_latencies_no_proof_reaches() -> None:
    beyond = [
        name
        for name, arch in PRESETS.items()
        if not {arch.weight_port.latency_cycles, arch.host_port.latency_cycles} <= {*LATENCIES}
    ]
    page = (ROOT / "docs" / "verification.md").read_text("utf-8")
    (left,) = [part for part in page.split("\n\n") if part.startswith("What these leave to tests")]
    assert [name for name in PRESETS if f"`{name}`" in left] == beyond


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
