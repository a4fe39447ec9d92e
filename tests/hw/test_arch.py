"""`Arch`: presets, TOML and JSON forms, and refusals."""

import dataclasses
import json
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import (
    ARCH_LIMITS,
    PORT_LIMITS,
    PRESETS,
    Arch,
    MemoryPort,
    dump_arch,
    load_arch,
)
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
        ({"rows": "8"}, "rows must be an integer, not '8'"),
        ({"bogus": 1}, "unknown key 'bogus'"),
        ({"token_limit": 0}, "token_limit must lie in 1..255"),
        ({"clock_hz": 10**13}, "clock_hz must lie in 1..1000000000000, not 1"),
        ({"rows": 10**5000}, r"rows must lie in 4\.\.256, not an integer of 16610 bits"),
        ({"ub_bytes": -(1 << 99999)}, "ub_bytes must lie in .*not an integer of 100000 bits"),
        ({"name": "x" * 65}, "name must be .*1 to 64 of them, not 'x"),
        ({"name": "é"}, "name must be made of letters"),
        ({"name": "nano\n"}, "name must be made of letters"),
        ({"name": 5}, "name must be made of letters, .* not 5"),
        ({"weight_port": 3}, "weight_port must be a table of keys, not 3"),
        ({"host_port": [1]}, r"host_port must be a table of keys, not \[1\]"),
        ({"vector_lanes": 0}, "vector_lanes must lie in 1"),
        ({"burst_bytes": 0}, "burst_bytes must lie in 1"),
    ],
)
def test_refusals_say_the_rule(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Arch.from_dict(PRESETS["nano"].to_dict() | change)


INTEGERS = [field.name for field in dataclasses.fields(Arch) if field.type is int]
PORT_INTEGERS = ["width_bytes", "latency_cycles"]
NO_INTEGERS = [True, False, 8.0, "8", None, [8], {"a": 8}, Fraction(8), np.int64(8)]


def test_every_integer_has_limits() -> None:
    assert set(INTEGERS) == set(ARCH_LIMITS)
    assert set(PORT_INTEGERS) == set(PORT_LIMITS)


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer_is_refused_by_every_way_in(value: Any) -> None:
    nano = PRESETS["nano"]
    for name in INTEGERS:
        message = f"{name} must be an integer, not "
        with pytest.raises(ConfigurationError, match=message):
            dataclasses.replace(nano, **{name: value})
        with pytest.raises(ConfigurationError, match=message):
            Arch.from_dict(nano.to_dict() | {name: value})
    for name in PORT_INTEGERS:
        message = f"{name} must be an integer, not "
        with pytest.raises(ConfigurationError, match=message):
            dataclasses.replace(nano.host_port, **{name: value})
        values = nano.to_dict()
        values["host_port"][name] = value
        with pytest.raises(ConfigurationError, match=f"host_port: {message}"):
            Arch.from_dict(values)


@pytest.mark.parametrize("value", [{}, [], None, {1: 2, "rows": 3}, {None: 1, 2: 3}], ids=repr)
def test_what_is_no_table_of_keys_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a table|unknown key|missing key"):
        Arch.from_dict(value)


FILES = {
    "a truth value": ("ub_banks = 4", "ub_banks = true", "ub_banks must be an integer, not True"),
    "a rate of nothing": ('"1"', '"3/000"', "bytes_per_cycle must be a whole number or a fraction"),
    "a rate that is true": ('"1"', "true", "bytes_per_cycle must be a whole number"),
    "a rate of zero": ('"1"', '"0"', "bytes_per_cycle must lie in"),
    "a fast clock": ("25000000", "2" * 40, "clock_hz must lie in"),
    "thousands of digits": ("25000000", "9" * 6000, "not a TOML file: Exceeds the limit"),
    "as many of another base": ("25000000", "0x" + "f" * 9000, "clock_hz must lie in"),
    "deep nesting": ("25000000", "[" * 20000, "not a TOML file: "),
    "deep tables": ("25000000", "1\n" + ".".join("a" * 9000) + " = 1", "unknown key 'a'"),
    "no date": ("25000000", "2020-99-99", "not a TOML file: "),
    "a long file": ("25000000", "25000000 #" + "x" * 70000, "has at most 65536 bytes"),
    "a port of two": ("[host_port]", "[[host_port]]", "host_port must be a table of keys"),
}


@pytest.mark.parametrize("case", FILES)
def test_machine_files_that_are_refused(case: str, tmp_path: Path) -> None:
    old, new, message = FILES[case]
    text = dump_arch(PRESETS["nano"])
    assert old in text
    path = tmp_path / "machine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=rf"machine\.toml: .*{message}"):
        load_arch(path)


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zero.toml"
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="has at most 65536 bytes"):
        load_arch(path)


@given(change=st.dictionaries(
    st.sampled_from(list(PRESETS["nano"].to_dict())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=4,
    ),
))  # fmt: skip
def test_what_is_accepted_can_be_written_and_read_again(change: dict[str, Any]) -> None:
    try:
        arch = Arch.from_dict(PRESETS["nano"].to_dict() | change)
    except ConfigurationError:
        return
    assert Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
    assert Arch.from_dict(tomllib.loads(dump_arch(arch))) == arch


@pytest.mark.parametrize("rate", [1.0, "1", True, None, np.int64(1)])
def test_a_ports_rate_is_a_number_without_error(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a whole number or a Fraction"):
        MemoryPort(width_bytes=1, bytes_per_cycle=rate, latency_cycles=8)
    whole = MemoryPort(width_bytes=4, bytes_per_cycle=4, latency_cycles=8)  # type: ignore[arg-type]
    assert whole.credit_income == 4 and type(whole.bytes_per_cycle) is Fraction


def test_missing_key() -> None:
    values = PRESETS["nano"].to_dict()
    del values["rows"]
    with pytest.raises(ConfigurationError, match="missing key 'rows'"):
        Arch.from_dict(values)


@pytest.mark.parametrize(
    "rate",
    [True, [1], "1/00", "0/0", "1e999999999", "inf", "nan", "4/0", "-3", 2.5, None, "1/2/3", ""],
)
def test_hostile_bandwidth_is_refused_at_once(rate: object) -> None:
    values = PRESETS["nano"].to_dict()
    values["host_port"] = values["host_port"] | {"bytes_per_cycle": rate}
    with pytest.raises(ConfigurationError, match="host_port: bytes_per_cycle must be"):
        Arch.from_dict(values)


def test_unknown_preset_and_missing_file(tmp_path: Path) -> None:
    message = r"no preset is called 'edge' \(did you mean edge\d\d\?\); presets are nano"
    with pytest.raises(ConfigurationError, match=message):
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
