"""Runs a program of one's own, without a model around it: an assembler text, or a `Program`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from systol.array_files import Array
from systol.device import find_backend
from systol_hw.errors import InputError, MachineFaultError
from systol_hw.isa import decode, encode_program
from systol_hw.isa.assembly import format_word
from systol_hw.program import Program
from systol_hw.shown import shown
from systol_hw.tables.counters import UNIT_STATES
from systol_sim.results import RunResult
from systol_sim.validity.checker import check
from systol_sim.validity.synchronize import strip, synchronize


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgramResult:
    """What a program left behind.

    Parameters
    ----------
    program
    backend
        Name of the executor.
    windows
        Host windows by name: uint8.
    run
        What the executor gave: counters, times, interrupts, memories where it reads them back.
    """

    program: Program
    backend: str
    windows: dict[str, Array]
    run: RunResult

    def __repr__(self) -> str:
        counters = self.run.counters
        cycles = "" if counters is None else f", {counters.cycles:,} cycles"
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
    program: Program, contents: Mapping[str, Array] | None = None, *, backend: str = "sim"
) -> ProgramResult:
    """Check `program` and run it once.

    Parameters
    ----------
    contents
        What its host windows hold at the start, by name: arrays of any type, byte for byte, that
        fit their windows. What is not given is zero.
    backend
        A name in `systol.device.BACKENDS`.

    Raises
    ------
    InvalidProgramError
        The static checker refuses the program.
    InputError
        There is no such backend or window, or an array does not fit.
    MachineFaultError
        The machine stopped with a fault.
    """
    check(program)
    filled = _filled(program, contents or {})
    result = find_backend(backend).open()(program, filled, values=True)
    fault = result.fault
    if fault is not None:
        text = f"the program stopped: {fault}"
        if fault.pc < len(program.code):
            text += f" ({format_word(program.code[fault.pc].tobytes())})"
        raise MachineFaultError(text)
    names = [window.name for window in program.windows]
    windows = dict(zip(names, result.windows, strict=True))
    return ProgramResult(program=program, backend=backend, windows=windows, run=result)


def _filled(program: Program, contents: Mapping[str, Array]) -> dict[str, Array]:
    sizes = {window.name: window.size_bytes for window in program.windows}
    filled = {}
    for name, value in contents.items():
        if name not in sizes:
            raise InputError(
                f"the program has no window {shown(name)}; its windows are "
                f"{', '.join(map(shown, sizes)) or 'none'}"
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
