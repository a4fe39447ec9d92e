"""`Arch`: presets, TOML and JSON forms, and refusals."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, Arch, MemoryPort, dump_arch, load_arch
from systol_hw.errors import ConfigurationError


@pytest.mark.parametrize("name", PRESETS)
def test_toml_round_trip(name: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(dump_arch(PRESETS[name]))
    assert load_arch(path) == PRESETS[name] == load_arch(name)


def test_presets_are_those_of_the_paper_and_the_readme() -> None:
    tpu = PRESETS["tpu-v1"]
    # Ref: ISCA 2017, section 2: 256x256 MACs at 700 MHz, 92 TOPS, 4 MiB of accumulators.
    assert 2 * tpu.macs_per_cycle * tpu.clock_hz == pytest.approx(92e12, rel=0.01)
    assert tpu.accumulator_rows * tpu.columns * 4 == 4 << 20
    rate = tpu.weight_port.bytes_per_cycle
    assert float(rate) * tpu.clock_hz == pytest.approx(34e9)
    # A 64 KiB tile then takes 1349 cycles.
    assert 256 * 256 / rate == pytest.approx(1349, abs=1)


def test_fingerprint_follows_the_machine_not_its_name() -> None:
    values = PRESETS["nano"].to_dict()
    renamed = Arch.from_dict(values | {"name": "other", "clock_hz": 1})
    assert renamed.fingerprint() == PRESETS["nano"].fingerprint()
    changed = Arch.from_dict(values | {"queue_depth": 5})
    assert changed.fingerprint() != PRESETS["nano"].fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": 7}, "columns must be even"),
        ({"rows": 3}, "rows must lie in 4..256"),
        ({"vector_lanes": 3}, "vector_lanes must divide"),
        ({"ub_bytes": 3000}, "must be a power of two"),
        ({"accumulator_rows": 100}, "accumulator_rows must be a power of two"),
        ({"burst_bytes": 48}, "burst_bytes must be a power of two"),
        ({"name": "a b"}, "name must be made of letters"),
        ({"rows": "8"}, "rows must be int, not '8'"),
        ({"bogus": 1}, "unknown key 'bogus'"),
        ({"token_limit": 0}, "token_limit must lie in 1..255"),
    ],
)
def test_refusals_say_the_rule(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Arch.from_dict(PRESETS["nano"].to_dict() | change)


def test_missing_key() -> None:
    values = PRESETS["nano"].to_dict()
    del values["rows"]
    with pytest.raises(ConfigurationError, match="missing key 'rows'"):
        Arch.from_dict(values)


@pytest.mark.parametrize("rate", ["1e999999999", "inf", "nan", "4/0", "-3", 2.5, None, "1/2/3", ""])
def test_hostile_bandwidth_is_refused_at_once(rate: object) -> None:
    values = PRESETS["nano"].to_dict()
    values["host_port"] = values["host_port"] | {"bytes_per_cycle": rate}
    with pytest.raises(ConfigurationError, match="bytes_per_cycle must be"):
        Arch.from_dict(values)


def test_unknown_preset_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no preset is called 'edge'; presets are nano"):
        load_arch("edge")
    with pytest.raises(ConfigurationError, match="No such file"):
        load_arch(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("rows = ")
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        load_arch(tmp_path / "bad.toml")
    (tmp_path / "short.toml").write_text('name = "short"')
    with pytest.raises(ConfigurationError, match=r"short\.toml: arch: missing key 'rows'"):
        load_arch(tmp_path / "short.toml")


@given(
    width=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    numerator=st.integers(1, 4095),
    denominator=st.integers(1, 4095),
)
def test_credits_state_the_bandwidth(width: int, numerator: int, denominator: int) -> None:
    rate = Fraction(numerator, denominator)
    if rate > width:
        with pytest.raises(ConfigurationError):
            MemoryPort(width_bytes=width, bytes_per_cycle=rate, latency_cycles=8)
        return
    port = MemoryPort(width_bytes=width, bytes_per_cycle=rate, latency_cycles=8)
    assert Fraction(port.credit_income * width, port.beat_cost) == rate
