"""Endings of programs in which two faults are found in the same cycle (docs/timing.md, 5.5, 5.6).

Each fault alone is asked for its cycle: the other one's instruction is there, but waits for a token
that nobody gives. Which of two is reported follows from the rules, not from a run.
"""

import bisect
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from systol_hw.arch import Arch
from systol_hw.isa import Instruction, instruction
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim.results import RunResult
from systol_sim.validity.progress import UNITS

Item = Instruction | None
"""An instruction, or None for one that the decoder refuses."""
Run = Callable[[Sequence[Item]], RunResult]
"""Runs a valid program, a barrier, the ending given and `halt`. Times are counted from the ending's
first instruction."""

_OUTSIDE = 1 << 30
_LONG_FLIGHTS = (Unit.LOAD, Unit.STORE, Unit.MATRIX)
_CUES = (Unit.VECTOR, Unit.LOAD, Unit.STORE)
_TRIES = 24
_MOST_NOPS = 8
_LONGEST_CUE = 255
_MOST_ACCESSES = 600


@dataclass(frozen=True, kw_only=True)
class Tie:
    """An ending with two faults in one cycle, and the one that is reported.

    `place` counts the ending's instructions from 0.
    """

    items: tuple[Item, ...]
    cause: FaultCause
    unit: Unit
    place: int


def tie_names() -> tuple[str, ...]:
    """What can meet: the addresses of two units, a unit's address and what the decoder refuses, the
    watchdog and either, and a unit's address and its own token overflow.

    WEIGHTS and VECTOR have no overflow here: their next instruction starts when the one before is
    as good as ended.
    """
    pairs = [f"{a.name.lower()} {b.name.lower()}" for a, b in itertools.combinations(UNITS, 2)]
    for word, units in (("illegal", UNITS), ("watchdog", UNITS), ("overflow", _LONG_FLIGHTS)):
        pairs += [f"{word} {unit.name.lower()}" for unit in units]
    return (*pairs, "illegal watchdog")


def make_tie(arch: Arch, rng: random.Random, name: str, run: Run) -> Tie | None:
    """An ending with the tie `name`; None if none was found, as not every machine has each."""
    first, second = name.split()
    if name == "illegal watchdog":
        return _illegal_and_watchdog(run)
    unit = Unit[second.upper()]
    if first == "illegal":
        return _illegal_and_address(rng, unit, run)
    if first == "watchdog":
        return _watchdog_and_address(arch, rng, unit, run)
    if first == "overflow":
        return _overflow_and_address(arch, rng, unit, run)
    return _two_addresses(rng, Unit[first.upper()], unit)


def small(unit: Unit, **fields: int) -> Instruction:
    """A short instruction of `unit`; without more fields than tokens it cannot fault on any machine
    with a host window."""
    names = {
        Unit.LOAD: "read_host", Unit.STORE: "write_host", Unit.WEIGHTS: "read_weights",
        Unit.MATRIX: "matmul", Unit.VECTOR: "fill",
    }
    return instruction(names[unit], **fields)


def _bit(unit: Unit) -> int:
    return 1 << (unit - 1)


def _never(unit: Unit) -> int:
    """Waits that keep an instruction of `unit` from starting: for a token of everybody else."""
    return sum(_bit(other) for other in UNITS if other is not unit)


def _outside(unit: Unit, wait: int) -> Instruction:
    """An instruction whose first access faults, two cycles after the token came (5.4, 5.5)."""
    if unit is Unit.MATRIX:
        return small(unit, wait=wait, ub_address=_OUTSIDE, p_limit=1, y_limit=1)
    field = {Unit.WEIGHTS: "address", Unit.VECTOR: "out_address"}.get(unit, "ub_address")
    return small(unit, wait=wait, **{field: _OUTSIDE})


def _outside_later(arch: Arch, unit: Unit, inside: int) -> Instruction:
    """An instruction that leaves the unified buffer after `inside` accesses of a byte each."""
    first, count = arch.ub_bytes - inside, inside + 1
    if unit is Unit.WEIGHTS:
        return instruction("read_weights_ub", address=first, row_pitch=1, k_last=count)
    if unit is Unit.MATRIX:
        return small(unit, ub_address=first, y_address_step=1, y_count=count, p_limit=1,
                     y_limit=count)
    if unit is Unit.VECTOR:
        return small(unit, out_address=first, out_x_step=1, x_count=count)
    return small(unit, ub_address=first, ub_stride0=1, count0=count)


def _most_inside(arch: Arch, unit: Unit) -> int:
    limit = {Unit.WEIGHTS: arch.rows - 1, Unit.MATRIX: arch.accumulator_rows - 1}
    return min(arch.ub_bytes, limit.get(unit, _MOST_ACCESSES))


def _tile_for(unit: Unit) -> list[Item]:
    """What must be there before an instruction of `unit` presents its first access."""
    return [small(Unit.WEIGHTS), instruction("barrier")] if unit is Unit.MATRIX else []


def _cue(unit: Unit, signal: int, length: int) -> Instruction:
    """An instruction of `unit` that takes the longer, the greater `length` is."""
    return small(unit, signal=signal, **{"x_count" if unit is Unit.VECTOR else "count0": length})


def _two_addresses(rng: random.Random, a: Unit, b: Unit) -> Tie:
    """Both wait for the same instruction's end."""
    cue = rng.choice([unit for unit in _CUES if unit not in (a, b)])
    last = [_outside(a, _bit(cue)), _outside(b, _bit(cue))]
    before = _tile_for(max(a, b, key=lambda unit: unit is Unit.MATRIX))
    swapped = rng.random() < 0.5
    items = [*before, *(last[::-1] if swapped else last), _cue(cue, _bit(a) | _bit(b), 1)]
    return Tie(items=tuple(items), cause=FaultCause.ADDRESS, unit=min(a, b),
               place=len(before) + swapped)


def _illegal_and_address(rng: random.Random, unit: Unit, run: Run) -> Tie | None:
    """The cue is made as long as it takes to come to what the decoder refuses."""
    cues = [cue for cue in _CUES if cue is not unit]
    rng.shuffle(cues)
    before = _tile_for(unit)

    def ending(cue: Unit, length: int, nops: int, wait: int, *last: Item) -> list[Item]:
        return [*before, _outside(unit, wait), _cue(cue, _bit(unit), length),
                *[instruction("nop")] * nops, *last]

    for cue, nops in itertools.product(cues, range(_MOST_NOPS)):
        illegal = FaultCause.ILLEGAL_INSTRUCTION
        refused = _cycle(run(ending(cue, 1, nops, _never(unit), None)), illegal)

        def addressed(length: int, cue: Unit = cue, nops: int = nops) -> RunResult:
            return run(ending(cue, length, nops, _bit(cue)))

        length = _meeting(addressed, refused, _LONGEST_CUE)
        if length is not None:
            items = ending(cue, length, nops, _bit(cue), None)
            return Tie(items=tuple(items), cause=illegal, unit=Unit.CONTROL, place=len(items) - 1)
    return None


def _overflow_and_address(arch: Arch, rng: random.Random, unit: Unit, run: Run) -> Tie | None:
    """While an instruction that signals too often is in flight, the next one's accesses go on."""
    cue = rng.choice([other for other in _CUES if other is not unit])
    consumer = rng.choice([other for other in UNITS if other not in (unit, cue)])
    if arch.inflight_instructions == 1 or arch.queue_depth == 1:
        return None
    before: list[Item] = []
    for _ in range(arch.token_limit):
        before += [*_tile_for(unit), small(unit, signal=_bit(consumer))]
    before += [*_tile_for(unit), *_tile_for(unit)]

    def ending(signal: int, inside: int | None) -> list[Item]:
        one = small(unit, signal=signal, wait=_bit(cue))
        two = (_outside(unit, _never(unit)) if inside is None
               else _outside_later(arch, unit, inside))
        return [*before, instruction("barrier"), one, two, _cue(cue, _bit(unit), 1)]

    overflow = _cycle(run(ending(_bit(consumer), None)), FaultCause.TOKEN_OVERFLOW)
    inside = _meeting(lambda n: run(ending(0, n)), overflow, _most_inside(arch, unit))
    if inside is None:
        return None
    items = ending(_bit(consumer), inside)
    return Tie(items=tuple(items), cause=FaultCause.ADDRESS, unit=unit, place=len(items) - 2)


def _watchdog_and_address(arch: Arch, rng: random.Random, unit: Unit, run: Run) -> Tie | None:
    """Accesses are no progress: the limit passes while the unit comes to the one that faults."""
    before = _tile_for(unit)
    most = _most_inside(arch, unit)
    for inside in rng.sample(range(1, most), min(_TRIES, most - 1)):

        def ending(limit: int, inside: int = inside) -> list[Item]:
            return [*before, instruction("set_config", value=limit),
                    _outside_later(arch, unit, inside)]

        found = run(ending(0xFFFF))
        address = _cycle(found, FaultCause.ADDRESS)
        assert found.times is not None
        limit = address - int(found.times[len(before) + 1, 0])
        sooner = run(ending(limit - 1)).fault
        assert sooner is not None
        if (sooner.cause, sooner.cycle) == (FaultCause.WATCHDOG, address - 1):
            items = ending(limit)
            return Tie(items=tuple(items), cause=FaultCause.WATCHDOG, unit=Unit.CONTROL,
                       place=len(items))
    return None


def _illegal_and_watchdog(run: Run) -> Tie | None:
    """The limit passes in the cycle in which the next instruction comes to the decoder."""
    found = run([instruction("set_config", value=0xFFFF), None])
    assert found.times is not None
    limit = _cycle(found, FaultCause.ILLEGAL_INSTRUCTION) - int(found.times[0, 1])
    items: tuple[Item, ...] = (instruction("set_config", value=limit), None)
    return Tie(items=items, cause=FaultCause.ILLEGAL_INSTRUCTION, unit=Unit.CONTROL, place=1)


def _cycle(result: RunResult, cause: FaultCause) -> int:
    assert result.fault is not None and result.fault.cause is cause, result.fault
    return result.fault.cycle


def _meeting(run: Callable[[int], RunResult], wanted: int, most: int) -> int | None:
    """The length, 1 .. `most`, whose address fault comes in cycle `wanted`: it comes the later, the
    greater the length."""
    lengths = range(1, most + 1)

    def cycle(length: int) -> int:
        return _cycle(run(length), FaultCause.ADDRESS)

    at = bisect.bisect_left(lengths, wanted, key=cycle)
    return lengths[at] if at < most and cycle(lengths[at]) == wanted else None
