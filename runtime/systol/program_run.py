"""Runs a program of one's own, without a model around it: an assembler text, or a `Program`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from systol.array_files import Array
from systol.device import Backend, WaveExecutor, find_backend
from systol.results import tables
from systol.results.report import report_program
from systol.results.trace import trace_program
from systol_hw.errors import InputError, MachineFaultError
from systol_hw.isa import decode, encode_program
from systol_hw.isa.assembly import format_word
from systol_hw.nearest import did_you_mean
from systol_hw.program import Program
from systol_hw.shown import shown
from systol_hw.tables.counters import UNIT_STATES
from systol_sim.results import RunResult
from systol_sim.validity.checker import check
from systol_sim.validity.synchronize import strip, synchronize


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ProgramResult:
    """What a program left behind.

    Parameters
    ----------
    program
    backend
        Name of the executor.
    windows
        Host windows by name: uint8. Empty where only time was asked for.
    run
        What the executor gave: counters, times, interrupts, memories where it reads them back.
    """

    program: Program
    backend: str
    windows: dict[str, Array]
    run: RunResult

    @property
    def cycles(self) -> int | None:
        """Cycles of the run; None where none were counted."""
        counters = self.run.counters
        return None if counters is None else counters.cycles

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """The performance report: JSON values (docs/counters.md).

        Raises
        ------
        InputError
            The backend counts no cycles.
        """
        return report_program(self.program, self.run, self.backend)

    def trace(self) -> dict[str, Any]:
        """The run for Perfetto; raises as `report`."""
        return trace_program(self.program, self.run, self.backend)

    def tables(self) -> list[tables.Table]:
        """The report's tables: heading row and rows of text; raises as `report`."""
        return tables.sections(self.report)

    def __repr__(self) -> str:
        cycles = "" if self.cycles is None else f", {self.cycles:,} cycles"
        return f"ProgramResult({self.backend}, {len(self.program.code)} instructions{cycles})"


def place_tokens(program: Program) -> Program:
    """`program` with the tokens and drains that its instructions need, whatever it had before.

    The order in which they stand is the wanted one: every two that touch the same bytes, and would
    otherwise race, are ordered by it (docs/timing.md, 9.2). Where a token counter could pass its
    limit, a barrier is added, so that there may be more instructions; barriers that are there stay.

    Raises
    ------
    InvalidProgramError
        An instruction does not decode; or the program is wrong in another way than by its order,
        such as in what its matrix instructions take from the weight FIFO.
    InputError
        Weight memory has no room for the instructions that are added.
    """
    items = [decode(row.tobytes()) for row in program.code]
    code = encode_program(synchronize(program.arch, strip(items)))
    end = program.code_address + code.size
    if end > program.weight_memory_bytes:
        raise InputError(
            f"with its tokens the program has {len(code)} instructions, to byte {end} of weight "
            f"memory, which has {program.weight_memory_bytes} bytes; give it more"
        )
    placed = replace(program, code=code)
    check(placed)
    return placed


def run_program(
    program: Program,
    contents: Mapping[str, ArrayLike] | ArrayLike | None = None,
    *,
    backend: str | Backend = "sim",
    values: bool = True,
    waves: Path | None = None,
) -> ProgramResult:
    """Check `program` and run it once.

    Parameters
    ----------
    contents
        What its host windows hold at the start, by name: arrays of any type, byte for byte, that
        fit their windows; one array for a program of one window. What is not given is zero.
    backend
        A name in `systol.device.BACKENDS`, or one of them.
    values
        Whether to compute what the windows hold, and not cycles and counters alone.
    waves
        Where to draw the waveforms.

    Raises
    ------
    InvalidProgramError
        The static checker refuses the program.
    InputError
        There is no such backend or window, or an array does not fit; or the backend draws no
        waveforms, or counts no cycles and nothing else was wanted.
    MachineFaultError
        The machine stopped with a fault.
    """
    chosen = find_backend(backend) if isinstance(backend, str) else backend
    if waves is not None:
        chosen.require_waves()
    if not values:
        chosen.require_cycles()
    check(program)
    filled = _filled(program, {} if contents is None else contents)
    executor = chosen.open()
    if waves is None:
        result = executor(program, filled, values=values)
    else:
        result = cast(WaveExecutor, executor)(program, filled, values=True, waves=waves)
    fault = result.fault
    if fault is not None:
        text = f"the program stopped: {fault}"
        if fault.pc < len(program.code):
            text += f" ({format_word(program.code[fault.pc].tobytes())})"
        raise MachineFaultError(text)
    names = [window.name for window in program.windows] if values else []
    windows = dict(zip(names, result.windows, strict=values))
    return ProgramResult(program=program, backend=chosen.name, windows=windows, run=result)


def _filled(
    program: Program, contents: Mapping[str, ArrayLike] | ArrayLike
) -> dict[str, Array]:
    sizes = {window.name: window.size_bytes for window in program.windows}
    if not isinstance(contents, Mapping):
        if len(sizes) != 1:
            raise InputError(
                f"the program has {len(sizes)} windows ({', '.join(map(shown, sizes)) or 'none'}); "
                "give their contents by name"
            )
        contents = dict.fromkeys(sizes, contents)
    filled = {}
    for name, value in contents.items():
        if name not in sizes:
            raise InputError(
                f"the program has no window {shown(name)}{did_you_mean(name, sizes)}; its windows "
                f"are {', '.join(map(shown, sizes)) or 'none'}"
            )
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        if data.size > sizes[name]:
            raise InputError(
                f"window {shown(name)} has {sizes[name]} bytes, and its contents {data.size}"
            )
        filled[name] = data
    return filled


def figures(result: ProgramResult) -> dict[str, object]:
    """Cycles, interrupts and each unit's states that occurred, as plain values."""
    counters = result.run.counters
    found: dict[str, object] = {
        "machine": result.program.arch.name,
        "backend": result.backend,
        "instructions": len(result.program.code),
        "interrupts": list(result.run.interrupts),
    }
    if counters is None:
        return found
    units = {
        unit.name.lower(): {
            state.name: count
            for state in states
            if (count := int(counters.state(unit, state.name))) and state.name != "idle"
        }
        for unit, states in UNIT_STATES.items()
    }
    return found | {"cycles": int(counters.cycles), "units": units}
