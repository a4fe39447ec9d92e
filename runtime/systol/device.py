"""The executors of programs, behind one protocol and in one registry."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from systol_hw.errors import InputError, MissingToolError
from systol_hw.nearest import did_you_mean
from systol_hw.program import Program
from systol_sim.hardware.waves import WAVE_FORMATS
from systol_sim.results import RunResult


class Executor(Protocol):
    """Something that runs a valid program from start to halt, bit for bit as docs/isa.md says.

    All executors give equal final windows; those that count cycles give equal counters and times.
    """

    def __call__(
        self, program: Program, contents: Mapping[str, np.ndarray], *, values: bool
    ) -> RunResult:
        """Run `program`, its host windows filled from `contents` by name (the rest is zero).

        The program has been checked (`systol_sim.validity.checker`). With `values` false only times
        and counters are wanted, and an executor may leave the rest out.
        """
        ...


class WaveExecutor(Executor, Protocol):
    """An executor that can draw its signals."""

    def __call__(
        self,
        program: Program,
        contents: Mapping[str, np.ndarray],
        *,
        values: bool,
        waves: Path | None = None,
    ) -> RunResult:
        """As `Executor`; draw the run's waveforms into the file `waves`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One registered executor; `open` imports what it needs, or raises `MissingToolError`.

    `waves` are the formats in which it draws waveforms; if any, it is a `WaveExecutor`.
    """

    name: str
    doc: str
    counts_cycles: bool
    open: Callable[[], Executor]
    waves: tuple[str, ...] = ()

    def require_cycles(self) -> None:
        """Raise `InputError` if it counts no cycles."""
        if not self.counts_cycles:
            raise InputError(f"the {self.name} backend counts no cycles; take sim or rtl")

    def require_waves(self) -> None:
        """Raise `InputError` if it draws no waveforms."""
        if not self.waves:
            raise InputError(
                f"the {self.name} backend has no signals to draw; take rtl or amaranth for "
                "waveforms"
            )


def _reference() -> Executor:
    from systol_sim import reference

    def run(
        program: Program, contents: Mapping[str, np.ndarray], *, values: bool = True
    ) -> RunResult:
        return reference.run(program, dict(contents), checked=True)

    return run


def _sim() -> Executor:
    from systol_sim import simulator

    def run(
        program: Program, contents: Mapping[str, np.ndarray], *, values: bool = True
    ) -> RunResult:
        return simulator.run(program, contents, values=values, checked=True)

    return run


def _hardware(module: str) -> WaveExecutor:
    """An executor of the hardware description; its packages are an extra of the installation."""
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise MissingToolError(
            f"this backend needs the package {error.name}, which is not installed; "
            "pip install 'systol[rtl]'"
        ) from error

    def run(
        program: Program,
        contents: Mapping[str, np.ndarray],
        *,
        values: bool = True,
        waves: Path | None = None,
    ) -> RunResult:
        result = imported.run(program, contents, checked=True, memories=False, waves=waves)
        assert isinstance(result, RunResult)
        return result

    return run


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        backend.name: backend
        for backend in (
            Backend(
                name="reference",
                doc="plain numpy, instruction by instruction; counts no cycles",
                counts_cycles=False,
                open=_reference,
            ),
            Backend(
                name="sim",
                doc="the fast simulator: exact values, exact cycles",
                counts_cycles=True,
                open=_sim,
            ),
            Backend(
                name="rtl",
                doc="the hardware description itself, through Verilator",
                counts_cycles=True,
                open=partial(_hardware, "systol_sim.hardware.verilated"),
                waves=WAVE_FORMATS,
            ),
            Backend(
                name="amaranth",
                doc="the same in Amaranth's own simulator: no tools needed, and very slow",
                counts_cycles=True,
                open=partial(_hardware, "systol_sim.hardware.amaranth_sim"),
                waves=("vcd",),
            ),
        )
    }
)
"""Every executor by name."""


def find_backend(name: str) -> Backend:
    """The backend called `name`; raises `InputError` if there is none."""
    if name not in BACKENDS:
        raise InputError(
            f"no backend is called {name!r}{did_you_mean(name, BACKENDS)}; there are "
            f"{', '.join(BACKENDS)}"
        )
    return BACKENDS[name]
