"""The static checker: docs/timing.md section 9, rule by rule, with no execution and no times."""

import dataclasses
from dataclasses import dataclass
from weakref import WeakSet

import numpy as np

from systol_hw.arch import Arch
from systol_hw.errors import InvalidProgramError
from systol_hw.isa import Instruction, decode, decode_fault
from systol_hw.program import Program
from systol_hw.tables.faults import Unit
from systol_sim.validity.footprint import (
    ACCUMULATORS,
    UB,
    WEIGHT,
    WINDOW,
    Footprint,
    Region,
    footprints,
    space_name,
)
from systol_sim.validity.hazards import Conflict, Hazards
from systol_sim.validity.ordering import Clock, Ordering, Tokens
from systol_sim.validity.progress import TileError, TileStream, find_stuck


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken rule.

    Parameters
    ----------
    rule
        Section of docs/timing.md, such as `"9.2"`.
    pc
        The instruction that breaks it.
    message
        What is wrong and how to mend it.
    other_pc
        The instruction that it conflicts with, if there is one.
    space, place
        The memory (see `systol_sim.validity.footprint`) and its first byte or row, if there is one.
    """

    rule: str
    pc: int
    message: str
    other_pc: int | None = None
    space: int | None = None
    place: int | None = None


_VALID: WeakSet[Program] = WeakSet()
"""Programs that were found valid: their arrays are never changed."""


def check(program: Program) -> None:
    """Do nothing if `program` is valid; it is examined once.

    Raises
    ------
    InvalidProgramError
        With the first violation: rule, instruction, conflicting instruction, byte and remedy.
    """
    if program in _VALID:
        return
    violations = find_violations(program)
    if violations:
        raise InvalidProgramError(describe(violations[0], program))
    _VALID.add(program)


def describe(violation: Violation, program: Program) -> str:
    """One violation as a message of a few lines."""
    place = f"rule {violation.rule} of docs/timing.md is broken at pc {violation.pc}"
    lines = [f"{place}: {violation.message}"]
    if violation.space is not None:
        what = "row" if violation.space == ACCUMULATORS else "byte"
        lines.append(f"  where: {space_name(violation.space)}, {what} {violation.place}")
    for pc in (violation.other_pc, violation.pc):
        if pc is not None and pc < len(program.code):
            lines.append(f"  pc {pc}: {_text(program, pc)}")
    return "\n".join(lines)


def _text(program: Program, pc: int) -> str:
    try:
        item = decode(program.code[pc].tobytes())
    except InvalidProgramError:
        return str(program.code[pc].tobytes().hex())
    words = [item.operation.name]
    for name, units in (("wait", item.waits), ("signal", item.signals)):
        if units:
            words.append(f"{name}={'+'.join(unit.name.lower() for unit in units)}")
    words += [
        f"{field.name}={item[field.name]}"
        for field in item.operation.fields
        if field.name not in ("wait", "signal") and item[field.name] != field.default
    ]
    return " ".join(words)


def find_violations(program: Program) -> list[Violation]:
    """All violations, by program order as far as they can be found together.

    A program whose instructions do not decode or leave their memories is not examined further.
    """
    found = _decoding(program)
    if found:
        return found
    instructions = [decode(row.tobytes()) for row in program.code]
    accesses: list[Footprint] = []
    try:
        for item in footprints(instructions, program.arch):
            accesses.append(item)
    except InvalidProgramError as error:
        return [Violation(rule="9.6", pc=len(accesses), message=str(error))]
    examined: dict[Footprint, list[Violation]] = {}
    for pc, item in enumerate(accesses):
        if item not in examined:
            examined[item] = _addresses(program, pc, item)
        found += [dataclasses.replace(violation, pc=pc) for violation in examined[item]]
    if found:
        return found
    found = _order(program, instructions, accesses)
    if not any(v.rule == "9.4" for v in found):
        found += _progress(instructions, program.arch)
    found.sort(key=lambda violation: violation.pc)
    return found


def _decoding(program: Program) -> list[Violation]:
    found = []
    last = len(program.code) - 1
    unique, inverse = np.unique(program.code, axis=0, return_inverse=True)
    reasons = [decode_fault(row.tobytes(), program.arch) for row in unique]
    for pc, kind in enumerate(inverse.reshape(-1)):
        refused = reasons[kind]
        if refused is not None:
            found.append(Violation(rule="9.6", pc=pc, message=refused[1]))
    if found:
        return found
    halts = np.flatnonzero(program.code[:, 0] == 1)
    if last < 0 or last not in halts:
        found.append(
            Violation(rule="9.6", pc=max(last, 0), message="the last instruction must be halt")
        )
    found += [
        Violation(rule="9.6", pc=int(pc), message="halt must stand at the end only")
        for pc in halts
        if pc != last
    ]
    return found


def _addresses(program: Program, pc: int, item: Footprint) -> list[Violation]:
    found = []
    for region in (*item.reads, *item.writes):
        size = _size(program, region.space)
        if region.last >= size:
            outside = region.clip(size, region.last + 1)
            assert outside is not None
            what = "rows" if region.space == ACCUMULATORS else "bytes"
            found.append(
                Violation(
                    rule="9.6",
                    pc=pc,
                    message=f"an access leaves the {space_name(region.space)}, which has {size} "
                    f"{what}; correct the addresses, strides or counts",
                    space=region.space,
                    place=outside.first,
                )
            )
    code = Region(
        space=WEIGHT,
        starts=np.array([program.code_address]),
        ends=np.array([program.code_address + program.code.size]),
    )
    for region in item.writes:
        place = region.overlap(code)
        if place is not None:
            found.append(
                Violation(
                    rule="9.2",
                    pc=pc,
                    message="an instruction writes the code; store elsewhere in weight memory",
                    space=WEIGHT,
                    place=place,
                )
            )
    return found


def _size(program: Program, space: int) -> int:
    if space == UB:
        return program.arch.ub_bytes
    if space == ACCUMULATORS:
        return program.arch.accumulator_rows
    if space == WEIGHT:
        return program.weight_memory_bytes
    number = space - WINDOW
    return program.windows[number].size_bytes if number < len(program.windows) else 0


def _order(
    program: Program, instructions: list[Instruction], all_accesses: list[Footprint]
) -> list[Violation]:
    """Rules 9.2 to 9.5, all but deadlock."""
    found: list[Violation] = []
    ordering, tokens, hazards = Ordering(), Tokens(), Hazards(all_accesses)
    tiles = TileStream(program.arch)
    for pc, (item, accesses) in enumerate(zip(instructions, all_accesses, strict=True)):
        sources, missing = tokens.sources(item, pc)
        for producer in missing:
            found.append(
                Violation(
                    rule="9.3",
                    pc=pc,
                    message=f"waits for a token of {producer.name.lower()} that no earlier "
                    "instruction signals; let one signal it, or do not wait",
                )
            )
        ordering.add(item, sources)
        tokens.signal(item, pc)
        if item.unit is Unit.CONTROL:
            continue
        found += _hazards(hazards, ordering, pc, item, accesses, ordering.start[pc])
        error = None
        if item.unit is Unit.WEIGHTS:
            tiles.append(item, pc)
        elif item.unit is Unit.MATRIX:
            error = tiles.take(item, pc)
        if error is not None:
            found.append(_tile_violation(error))
            break
    else:
        left = tiles.left_over()
        if left is not None:
            found.append(_tile_violation(left))
    return found + _overflows(tokens, ordering, program.arch)


def _hazards(hazards: Hazards, ordering: Ordering, pc: int, item: Instruction,
             accesses: Footprint, start: Clock) -> list[Violation]:
    found = []
    unwritten = hazards.unwritten(accesses.reads)
    if unwritten is not None:
        found.append(
            Violation(
                rule="9.5",
                pc=pc,
                message="reads what no earlier instruction has written; load or fill it first",
                space=unwritten[0],
                place=unwritten[1],
            )
        )
    if item.unit is Unit.VECTOR:
        # Its operands, its table and its parameters alike.
        for region in accesses.reads:
            place = accesses.writes[0].overlap(region)
            if place is not None:
                found.append(
                    Violation(
                        rule="9.2",
                        pc=pc,
                        message="a vector instruction writes a byte that it reads itself; write "
                        "elsewhere",
                        space=UB,
                        place=place,
                    )
                )
    for conflict in hazards.conflicts(item.unit, accesses):
        if not ordering.ends_before(conflict.earlier, start):
            found.append(_unordered(ordering, pc, item, conflict))
    hazards.add(pc, item.unit, accesses)
    return found


def _unordered(
    ordering: Ordering, pc: int, item: Instruction, conflict: Conflict
) -> Violation:
    other = ordering.units[conflict.earlier]
    remedy = (
        "set its drain bit"
        if other is item.unit
        else f"let pc {conflict.earlier} or a later {other.name.lower()} instruction signal "
        f"{item.unit.name.lower()}, and pc {pc} wait for it"
    )
    return Violation(
        rule="9.2",
        pc=pc,
        message=f"{conflict.kind} with pc {conflict.earlier} ({other.name.lower()}) and nothing "
        f"orders its end before this start; {remedy}",
        other_pc=conflict.earlier,
        space=conflict.space,
        place=conflict.place,
    )


def _tile_violation(error: TileError) -> Violation:
    other = error.loader if error.loader != error.pc else None
    return Violation(
        rule="9.4",
        pc=error.pc,
        other_pc=other,
        message=f"{error.message}; tiles loaded and taken must agree in order, number and live "
        "rows, and be loaded earlier in the program",
    )


def _overflows(tokens: Tokens, ordering: Ordering, arch: Arch) -> list[Violation]:
    found = []
    for pair, signals in tokens.signals.items():
        for n, pc in enumerate(signals, start=1):
            count = tokens.greatest_count(ordering, pair, n)
            if count > arch.token_limit:
                found.append(
                    Violation(
                        rule="9.3",
                        pc=pc,
                        message=f"its token for {pair[1].name.lower()} can be number {count} of a "
                        f"counter that holds {arch.token_limit}; signal less often, or order it "
                        f"after a {pair[1].name.lower()} instruction that waits",
                    )
                )
    return found


def _progress(instructions: list[Instruction], arch: Arch) -> list[Violation]:
    stuck = find_stuck(instructions, arch)
    if stuck is None:
        return []
    where = "; ".join(
        f"{unit.name.lower()} at pc {pc} lacks {what}" for unit, pc, what in stuck.blocked
    )
    pc = stuck.blocked[0][1] if stuck.blocked else stuck.next_pc
    return [
        Violation(
            rule="9.4",
            pc=pc,
            message=f"the program sticks before pc {stuck.next_pc}: {where}; load fewer tiles "
            "ahead, or let the matmul that takes them come earlier",
        )
    ]
