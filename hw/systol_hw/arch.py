"""The parameters of one Systol machine, its presets, and their TOML form.

`Arch` is everything that decides cycle counts and results. Two machines with equal `Arch` run a
program in the same number of cycles, whichever executor runs it.
"""

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from systol_hw.errors import ConfigurationError
from systol_hw.shown import shown

INSTRUCTION_BYTES = 64
"""Bytes of one encoded instruction."""
MEMORY_LIMIT_BYTES = 1 << 31
"""Greatest size of weight memory and of a host window: addresses never wrap inside one."""
TAGS = 16
"""Debug tags, and so sets of per-tag counters."""
WINDOWS = 8
"""Host windows of one set."""
ALL_WINDOWS = 2 * WINDOWS
"""Host windows that one program can be given: the primary set and, from 8 on, the alternate one."""
MOST_IN_FLIGHT = 8
"""The greatest `Arch.inflight_instructions`."""
VECTOR_PIPELINE_CYCLES = 8
"""Cycles from the last beat of a row entering the vector lanes to its write request."""
MATRIX_PIPELINE_CYCLES = 6
"""Cycles that the matrix path adds to the `rows + columns` of the wavefront."""
PARAMETER_BYTES = 8
"""Bytes of one channel's requantization parameters in the unified buffer."""


PORT_LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"width_bytes": (1, 64), "latency_cycles": (8, 511)}
)
"""The least and the greatest value of each integer of a `MemoryPort`; further rules bind some."""
ARCH_LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "rows": (4, 256),
        "columns": (4, 256),
        "ub_bytes": (32, 1 << 30),
        "ub_banks": (1, 16),
        "accumulator_rows": (4, 1 << 15),
        "weight_fifo_tiles": (1, 16),
        "burst_bytes": (1, 4096),
        "vector_lanes": (1, 256),
        "queue_depth": (1, 16),
        "fetch_buffer_instructions": (1, 16),
        "inflight_instructions": (1, MOST_IN_FLIGHT),
        "token_limit": (1, 255),
        "vector_write_rows": (1, 64),
        "store_buffer_beats": (1, 64),
        "clock_hz": (1, 10**12),
    }
)
"""The same of an `Arch`."""
LARGEST_RATE_TERM = 4095
"""The greatest numerator and denominator of a port's bandwidth: the pacer counts in 12 bits."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RATE = re.compile(r"([0-9]{1,9})(?:/([0-9]{1,9}))?")
"""Digits alone: `Fraction` would also take "1e999999999" and never come back."""
_LARGEST_FILE_BYTES = 1 << 16


def _is_power_of_two(value: int) -> bool:
    return value & (value - 1) == 0


def _require_integers(place: str, values: object, limits: Mapping[str, tuple[int, int]]) -> None:
    """Check type and range of every integer: truth values are none."""
    for name, (least, greatest) in limits.items():
        value = getattr(values, name)
        if type(value) is not int:
            raise ConfigurationError(f"{place}{name} must be an integer, not {shown(value)}")
        if not least <= value <= greatest:
            raise ConfigurationError(
                f"{place}{name} must lie in {least}..{greatest}, not {shown(value)}"
            )


@dataclass(frozen=True, kw_only=True)
class MemoryPort:
    """One external memory port: its data path, and the timing that the pacer holds it to.

    Parameters
    ----------
    width_bytes
        Bytes of one beat; a power of two. A beat is an aligned word.
    bytes_per_cycle
        Sustained bandwidth, a fraction of at most `width_bytes`, numerator and denominator in
        1..4095.
    latency_cycles
        Cycles from the issue of a beat to the delivery of its data, or to the visibility of its
        write.
    """

    width_bytes: int
    bytes_per_cycle: Fraction
    latency_cycles: int

    def __post_init__(self) -> None:
        _require_integers("", self, PORT_LIMITS)
        if not _is_power_of_two(self.width_bytes):
            raise ConfigurationError(f"width_bytes must be a power of two, not {self.width_bytes}")
        rate: object = self.bytes_per_cycle
        if type(rate) is int:
            object.__setattr__(self, "bytes_per_cycle", Fraction(rate))
        elif type(rate) is not Fraction:
            raise ConfigurationError(
                f"bytes_per_cycle must be a whole number or a Fraction, not {shown(rate)}"
            )
        if not 0 < self.bytes_per_cycle <= self.width_bytes:
            raise ConfigurationError(
                f"bytes_per_cycle must lie in (0, width_bytes = {self.width_bytes}], "
                f"not {shown(rate)}"
            )
        terms = self.bytes_per_cycle.numerator, self.bytes_per_cycle.denominator
        if max(terms) > LARGEST_RATE_TERM:
            raise ConfigurationError(
                f"bytes_per_cycle {shown(rate)} needs a numerator and a denominator of at most "
                f"{LARGEST_RATE_TERM}: the pacer counts in 12-bit registers"
            )

    @property
    def beat_cost(self) -> int:
        """Credits that one beat takes: `width_bytes * denominator`."""
        return self.width_bytes * self.bytes_per_cycle.denominator

    @property
    def credit_income(self) -> int:
        """Credits earned in a cycle: the numerator of `bytes_per_cycle`."""
        return self.bytes_per_cycle.numerator

    @property
    def credit_cap(self) -> int:
        """The most credits that can be held."""
        return self.beat_cost + self.credit_income

    @property
    def beat_cycles(self) -> int:
        """Cycles that the pacer takes for each beat of many, rounded up."""
        return -(-self.beat_cost // self.credit_income)


@dataclass(frozen=True, kw_only=True, repr=False)
class Arch:
    """One machine. All fields are checked at construction; see docs/architecture.md.

    Integers lie within `ARCH_LIMITS`.

    Parameters
    ----------
    name
        Identifier: 1 to 64 letters (a to z, A to Z), digits, `-` and `_`.
    rows, columns
        Processing elements of the array: rows take the reduction (K), columns the output
        channels (N); columns even.
    ub_bytes, ub_banks
        Unified buffer. Each bank has a power-of-two number of bytes, and at least four times W:
        W is the bytes of one access, the power of two that holds `rows`, `columns` and 8
        (`ub_width_bytes`).
    accumulator_rows
        Rows of `columns` 32-bit accumulators; a power of two; two banks by the highest bit.
    weight_fifo_tiles
        Tiles of `rows x columns` bytes that the weight FIFO holds.
    weight_port, host_port
        The external memories. Instructions come through the weight port. No port is wider than W.
    burst_bytes
        Aligned block within which a port keeps its grant; a power of two, at least the width of
        the wider port.
    vector_lanes
        Lanes of the vector unit; divides `columns`.
    queue_depth
        Instructions that each unit's queue holds.
    fetch_buffer_instructions
        Instructions that may be fetched ahead of dispatch.
    inflight_instructions
        Instructions of one unit that may be started and not ended.
    token_limit
        The greatest value of a token counter.
    vector_write_rows
        Output rows that the vector unit may hold between its lanes and the unified buffer.
    store_buffer_beats
        Beats that the store unit may hold between the unified buffer and a port.
    clock_hz
        Nominal clock, for turning cycles into seconds.
    """

    name: str
    rows: int
    columns: int
    ub_bytes: int
    ub_banks: int = 4
    accumulator_rows: int
    weight_fifo_tiles: int = 4
    weight_port: MemoryPort
    host_port: MemoryPort
    burst_bytes: int = 64
    vector_lanes: int
    queue_depth: int = 4
    fetch_buffer_instructions: int = 4
    inflight_instructions: int = 4
    token_limit: int = 15
    vector_write_rows: int = 8
    store_buffer_beats: int = 4
    clock_hz: int = 50_000_000

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                "arch: name must be made of letters, digits, '-' and '_', 1 to 64 of them, "
                f"not {shown(self.name)}"
            )
        _require_integers(f"arch {self.name!r}: ", self, ARCH_LIMITS)

        def require(condition: bool, rule: str, value: object) -> None:
            if not condition:
                raise ConfigurationError(f"arch {self.name!r}: {rule}, not {value}")

        for port in ("weight_port", "host_port"):
            value = getattr(self, port)
            require(type(value) is MemoryPort, f"{port} must be a MemoryPort", shown(value))
        require(self.columns % 2 == 0, "columns must be even", self.columns)
        require(
            self.ub_bytes % self.ub_banks == 0 and _is_power_of_two(self.ub_bytes // self.ub_banks),
            "ub_bytes / ub_banks must be a power of two",
            f"{self.ub_bytes} / {self.ub_banks}",
        )
        require(
            self.bank_bytes >= 4 * self.ub_width_bytes,
            f"a bank must hold at least four rows of {self.ub_width_bytes} bytes",
            f"{self.bank_bytes} bytes",
        )
        require(
            _is_power_of_two(self.accumulator_rows),
            "accumulator_rows must be a power of two",
            self.accumulator_rows,
        )
        widest = max(self.weight_port.width_bytes, self.host_port.width_bytes)
        require(
            widest <= self.ub_width_bytes,
            f"a port's width_bytes must not pass the unified buffer's {self.ub_width_bytes}",
            widest,
        )
        require(
            _is_power_of_two(self.burst_bytes) and widest <= self.burst_bytes,
            f"burst_bytes must be a power of two, at least the wider port's width, {widest}",
            self.burst_bytes,
        )
        require(
            self.columns % self.vector_lanes == 0,
            f"vector_lanes must divide the {self.columns} columns",
            self.vector_lanes,
        )

    def __repr__(self) -> str:
        return (
            f"Arch({self.name!r}, {self.rows}x{self.columns}, {self.ub_bytes} bytes of unified "
            f"buffer, {self.clock_hz / 1e6:g} MHz)"
        )

    @property
    def ub_width_bytes(self) -> int:
        """Bytes of one unified-buffer row: the power of two that holds rows, columns and 8."""
        return 1 << (max(self.rows, self.columns, 8) - 1).bit_length()

    @property
    def bank_bytes(self) -> int:
        """Bytes of one unified-buffer bank."""
        return self.ub_bytes // self.ub_banks

    @property
    def accumulator_bank_rows(self) -> int:
        """Rows of one of the two accumulator banks."""
        return self.accumulator_rows // 2

    @property
    def matrix_latency_cycles(self) -> int:
        """Cycles from a row's issue to its accumulator access."""
        return self.rows + self.columns + MATRIX_PIPELINE_CYCLES

    @property
    def vector_slot_cycles(self) -> int:
        """Cycles that one row of up to `columns` elements occupies the vector lanes."""
        return self.columns // self.vector_lanes

    @property
    def vector_latency_cycles(self) -> int:
        """Cycles from the grant of an output row's last tap to its first write request."""
        return self.vector_slot_cycles + VECTOR_PIPELINE_CYCLES

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of the array in one cycle."""
        return self.rows * self.columns

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or TOML; fractions as `"340/7"`."""
        result = dataclasses.asdict(self)
        for port in ("weight_port", "host_port"):
            result[port]["bytes_per_cycle"] = str(result[port]["bytes_per_cycle"])
        return result

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Arch":
        """The inverse of `to_dict`; raises `ConfigurationError` for what does not fit."""
        _check_keys("arch", cls, values)
        ports = {
            port: _port_from_dict(port, values[port])
            for port in ("weight_port", "host_port")
            if not isinstance(values[port], MemoryPort)
        }
        return cls(**{**values, **ports})

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of every field but the name and the clock."""
        values = self.to_dict()
        del values["name"], values["clock_hz"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_keys(place: str, cls: type, values: object) -> None:
    """Check that `values` is a dictionary of the fields of `cls`, those with defaults or not."""
    if not isinstance(values, dict):
        raise ConfigurationError(f"{place} must be a table of keys, not {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigurationError(
                f"{place}: unknown key {shown(key)}; known keys are {', '.join(fields)}"
            )
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ConfigurationError(f"{place}: missing key {name!r}")


def _port_from_dict(place: str, values: object) -> MemoryPort:
    _check_keys(place, MemoryPort, values)
    assert isinstance(values, dict)
    rate = values["bytes_per_cycle"]
    if type(rate) is not Fraction:
        # A bool would pass for a text of no digits, and is refused as one.
        match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
        good = type(rate) is int or (match is not None and int(match[2] or 1) > 0)
        if not good:
            raise ConfigurationError(
                f"{place}: bytes_per_cycle must be a whole number or a fraction such as "
                f"\"340/7\", not {shown(rate)}"
            )
        rate = Fraction(int(match[1]), int(match[2] or 1)) if match else Fraction(rate)
    try:
        return MemoryPort(**{**values, "bytes_per_cycle": rate})
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error


def load_arch(name_or_path: str | Path) -> Arch:
    """A preset by name, or an `Arch` read from a TOML file.

    Raises
    ------
    ConfigurationError
        If there is no such preset or file, or the file is not a valid `Arch`.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise ConfigurationError(
            f"no preset is called {shown(str(name_or_path))}{_nearest(str(name_or_path))}; presets "
            f"are {', '.join(PRESETS)}; a file must end in .toml"
        )
    try:
        with path.open("rb") as stream:
            text = stream.read(_LARGEST_FILE_BYTES + 1)
        if len(text) > _LARGEST_FILE_BYTES:
            raise ConfigurationError(
                f"{path}: a machine's file has at most {_LARGEST_FILE_BYTES} bytes"
            )
        values = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        # Besides its own error, tomllib lets through Python's, of integers of thousands of digits
        # and of dates and bytes that are none.
        raise ConfigurationError(f"{path}: not a TOML file: {error}") from error
    try:
        return Arch.from_dict(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name[:64], PRESETS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def dump_arch(arch: Arch) -> str:
    """The TOML text of `arch`; `load_arch` of it gives an equal `Arch`."""
    lines, tables = [], []
    for key, value in arch.to_dict().items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]"] + [f"{k} = {json.dumps(v)}" for k, v in value.items()]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines + tables) + "\n"


def _port(width_bytes: int, bytes_per_cycle: Fraction | int, latency_cycles: int) -> MemoryPort:
    return MemoryPort(
        width_bytes=width_bytes,
        bytes_per_cycle=Fraction(bytes_per_cycle),
        latency_cycles=latency_cycles,
    )


PRESETS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        Arch(
            name="nano",
            rows=8,
            columns=8,
            ub_bytes=16 << 10,
            accumulator_rows=128,
            weight_fifo_tiles=2,
            weight_port=_port(1, 1, 16),
            host_port=_port(1, 1, 16),
            vector_lanes=2,
            clock_hz=25_000_000,
        ),
        Arch(
            name="edge16",
            rows=16,
            columns=16,
            ub_bytes=128 << 10,
            accumulator_rows=512,
            weight_port=_port(4, 4, 40),
            host_port=_port(4, 4, 40),
            vector_lanes=8,
            clock_hz=50_000_000,
        ),
        Arch(
            name="edge32",
            rows=32,
            columns=32,
            ub_bytes=1 << 20,
            accumulator_rows=1024,
            weight_port=_port(16, 16, 100),
            host_port=_port(16, 16, 100),
            vector_lanes=16,
            clock_hz=200_000_000,
        ),
        # Ref: In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017, section 2:
        # 34 GB/s of weight memory and about 14 GB/s of PCIe at 700 MHz.
        Arch(
            name="tpu-v1",
            rows=256,
            columns=256,
            ub_bytes=24 << 20,
            ub_banks=6,
            accumulator_rows=4096,
            weight_port=_port(64, Fraction(340, 7), 100),
            host_port=_port(32, 20, 500),
            burst_bytes=256,
            vector_lanes=256,
            vector_write_rows=16,
            clock_hz=700_000_000,
        ),
    )
}
"""The committed machines, by name."""
