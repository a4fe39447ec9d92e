"""Programs that fault: every cause in every unit that can have it, amid otherwise valid work.

They bypass the static checker, which refuses all of them.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES, Arch
from systol_hw.isa import OPERATION_BY_OPCODE, Instruction, decode, encode, instruction
from systol_hw.isa.operations import OPERATIONS
from systol_hw.program import Program, make_program
from systol_hw.tables.faults import FaultCause, Unit
from systol_sim.comparison import TIMED_FAULTS
from systol_sim.random_programs.faulting_addresses import BUILDERS
from systol_sim.random_programs.faulting_ties import Item, make_tie, small, tie_names
from systol_sim.random_programs.generate import LONG_CYCLES, Case, generate
from systol_sim.results import RunResult
from systol_sim.simulator import run_timing
from systol_sim.validity.progress import UNITS, find_stuck

FAULT_WATCHDOG_CYCLES = LONG_CYCLES
"""A watchdog limit that no valid generated program reaches, and short enough for tests."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultCase(Case):
    """A faulting program and the fault to expect; `pc` is None where it depends on timing.

    `tie` names the two faults that are found in its last cycle, where there are two.
    """

    kind: str
    cause: FaultCause
    unit: Unit
    pc: int | None
    tie: str | None = None

    @property
    def timed(self) -> bool:
        """Whether only executors with cycles can find its fault."""
        return self.tie is not None or self.cause in TIMED_FAULTS


_UNKNOWN = np.zeros(INSTRUCTION_BYTES, np.uint8)
"""An instruction whose opcode means nothing."""
_UNKNOWN[0] = next(code for code in range(256) if code not in OPERATION_BY_OPCODE)
_ALL_BITS = (1 << 8 * INSTRUCTION_BYTES) - 1
UNIT_KINDS = ("address", "overflow", "deadlock", "watchdog", "tie")
"""First words of the kinds that are found while units work, not by the decoder."""


def fault_kinds(arch: Arch) -> tuple[str, ...]:
    """Names of all kinds of faults that `generate_faulting` can make on `arch`."""
    kinds = ["opcode", "end"]
    for operation in OPERATIONS:
        if operation.used_bits != _ALL_BITS:
            kinds.append(f"reserved {operation.name}")
        for field in operation.fields:
            low, high = field.bounds(arch)
            least = -(1 << (field.width - 1)) if field.signed else 0
            most = (1 << (field.width - field.signed)) - 1
            if low > least or high < most:
                kinds.append(f"range {operation.name}.{field.name}")
            if field.forbidden_bits:
                kinds.append(f"own {operation.name}.{field.name}")
    kinds += [f"address {name}" for name in BUILDERS]
    kinds += [f"overflow {unit.name.lower()}" for unit in UNITS]
    kinds += [f"deadlock {name}" for name in _DEADLOCK]
    kinds += [f"watchdog {name}" for name in ("in sync_host", "of set_config")]
    kinds += [f"tie {name}" for name in tie_names()]
    return tuple(kinds)


def generate_faulting(arch: Arch, seed: int, kind: str) -> FaultCase:
    """A program with one fault of `kind` (of `fault_kinds`); equal arguments, equal program."""
    rng = random.Random(f"{kind}/{seed}")
    case = generate(arch, seed, instructions=rng.randint(12, 30))
    word, _, rest = kind.partition(" ")
    if word == "address":
        return _address(case, rng, kind, rest)
    if word == "overflow":
        return _overflow(case, rng, kind, Unit[rest.upper()])
    if word == "deadlock":
        return _deadlock(case, rng, kind, rest)
    if word == "watchdog":
        return _short_limit(case, rng, kind, rest)
    if word == "tie":
        return _tie(case, rng, kind, rest)
    if word == "end":
        code, pc = case.program.code[:-1], len(case.program.code) - 1
    else:
        row = np.frombuffer(_refused(arch, rng, word, rest), np.uint8)
        pc = rng.randrange(len(case.program.code))
        code = np.concatenate((case.program.code[:pc], row[None], case.program.code[pc:]))
    return _case(case, code, kind, FaultCause.ILLEGAL_INSTRUCTION, Unit.CONTROL, pc)


def _case(
    case: Case, code: np.ndarray, kind: str, cause: FaultCause, unit: Unit, pc: int | None
) -> FaultCase:
    return FaultCase(
        program=_program(case, code), contents=case.contents, kind=kind, cause=cause, unit=unit,
        pc=pc,
    )


def _program(case: Case, code: np.ndarray) -> Program:
    """The program of `case` with other instructions."""
    old = case.program
    return Program(
        arch=old.arch,
        code=code,
        weight_image=old.weight_image,
        weight_memory_bytes=old.code_address + max(INSTRUCTION_BYTES, code.size),
        code_address=old.code_address,
        windows=old.windows,
    )


def _listing(case: Case) -> list[Instruction]:
    return [decode(row.tobytes()) for row in case.program.code]


def _encoded(items: Sequence[Instruction]) -> np.ndarray:
    return np.frombuffer(b"".join(encode(item) for item in items), np.uint8).reshape(
        -1, INSTRUCTION_BYTES
    )


# What the decoder refuses


def _refused(arch: Arch, rng: random.Random, word: str, rest: str) -> bytes:
    if word == "opcode":
        unknown = [code for code in range(256) if code not in OPERATION_BY_OPCODE]
        return bytes([rng.choice(unknown)]) + rng.randbytes(INSTRUCTION_BYTES - 1)
    name, _, field_name = rest.partition(".")
    item = instruction(name)
    if word == "reserved":
        used = item.operation.used_bits
        bit = rng.choice([bit for bit in range(8 * INSTRUCTION_BYTES) if not used >> bit & 1])
        word_ = int.from_bytes(encode(item), "little") | 1 << bit
        return word_.to_bytes(INSTRUCTION_BYTES, "little")
    field = item.operation.field(field_name)
    low, high = field.bounds(arch)
    least = -(1 << (field.width - 1)) if field.signed else 0
    most = (1 << (field.width - field.signed)) - 1
    if word == "own":
        value = field.forbidden_bits | rng.getrandbits(field.width)
    else:
        outside = [*([low - 1, least] if low > least else []),
                   *([high + 1, most] if high < most else [])]
        value = rng.choice(outside)
    return encode(instruction(name, **{field_name: value}))


# Addresses


def _address(case: Case, rng: random.Random, kind: str, name: str) -> FaultCase:
    listing = _listing(case)
    # Both depend on the size of weight memory, which the insertion changes.
    sized = 2 if name.startswith("matmul") else 1
    program = _program(case, np.concatenate((case.program.code, case.program.code[:sized])))
    extra = BUILDERS[name](program, rng)
    places = list(range(len(listing)))
    rng.shuffle(places)
    for place in places:
        changed = [*listing[:place], *extra, *listing[place:]]
        # The tiles that the instruction takes or leaves must not stop it before its fault.
        if find_stuck(changed, case.program.arch) is None:
            break
    pc = place + len(extra) - 1
    return _case(case, _encoded(changed), kind, FaultCause.ADDRESS, extra[-1].unit, pc)


# Tokens and deadlocks


def _other(rng: random.Random, unit: Unit) -> Unit:
    return rng.choice([other for other in UNITS if other is not unit])


def _overflow(case: Case, rng: random.Random, kind: str, unit: Unit) -> FaultCase:
    arch, listing = case.program.arch, _listing(case)[:-1]
    consumer = _other(rng, unit)
    settled = rng.random() < 0.5
    if settled:
        # Behind a barrier every token of the program before has been consumed.
        listing.append(instruction("barrier"))
    signal = 1 << (consumer - 1)
    pc = None
    for _ in range(arch.token_limit + 1):
        if unit is Unit.MATRIX:
            listing.append(small(Unit.WEIGHTS))
        listing.append(small(unit, signal=signal))
        pc = len(listing) - 1
        if unit is Unit.WEIGHTS:
            listing.append(small(Unit.MATRIX))
    listing.append(instruction("halt"))
    return _case(
        case, _encoded(listing), kind, FaultCause.TOKEN_OVERFLOW, unit, pc if settled else None
    )


def _missing_token(arch: Arch, rng: random.Random) -> list[Instruction]:
    unit = rng.choice((Unit.LOAD, Unit.STORE, Unit.VECTOR))
    return [small(unit, wait=1 << (_other(rng, unit) - 1))]


def _missing_tile(arch: Arch, rng: random.Random) -> list[Instruction]:
    return [small(Unit.MATRIX)]


def _full_fifo(arch: Arch, rng: random.Random) -> list[Instruction]:
    tiles = arch.weight_fifo_tiles + 2
    last = [instruction("barrier")] if rng.random() < 0.5 else []
    return [instruction("read_weights", inner_count=tiles, k_last=arch.rows), *last]


def _late_signal(arch: Arch, rng: random.Random) -> list[Instruction]:
    unit = rng.choice((Unit.LOAD, Unit.STORE))
    return [
        small(unit, wait=1 << (Unit.VECTOR - 1)),
        instruction("barrier"),
        small(Unit.VECTOR, signal=1 << (unit - 1)),
    ]


_DEADLOCK: dict[str, Callable[[Arch, random.Random], list[Instruction]]] = {
    "token": _missing_token,
    "tile": _missing_tile,
    "fifo": _full_fifo,
    "quiet": _late_signal,
}
_SHORT_CYCLES = range(300, 3000)


def _deadlock(case: Case, rng: random.Random, kind: str, name: str) -> FaultCase:
    arch, listing = case.program.arch, _listing(case)
    extra = _DEADLOCK[name](arch, rng)
    # A stray wait takes a later instruction's token, a stray tile a later matmul's: either way
    # something sticks. A late signal is only late if no other token can stand in for it.
    place = len(listing) - 1 if name in ("quiet", "fifo") else rng.randrange(len(listing))
    changed = [*listing[:place], *extra, *listing[place:]]
    limit = rng.choice((None, None, LONG_CYCLES, (1 << 32) - 1, rng.choice(_SHORT_CYCLES)))
    if limit is not None:
        changed.insert(0, instruction("set_config", value=limit))
    stuck = find_stuck(changed, arch)
    assert stuck is not None, kind
    # A shorter limit may already be passed by a wait that would have ended.
    pc = None if limit in _SHORT_CYCLES else stuck.next_pc
    return _case(case, _encoded(changed), kind, FaultCause.WATCHDOG, Unit.CONTROL, pc)


def _short_limit(case: Case, rng: random.Random, kind: str, name: str) -> FaultCase:
    """A limit that the host's acknowledgement passes, set just before it or somewhere."""
    listing = _listing(case)
    latency = case.program.arch.host_port.latency_cycles
    limit = instruction("set_config", value=rng.randint(0, latency))
    wait = instruction("sync_host", value=rng.randrange(1 << 16))
    if name == "in sync_host":
        # Behind a barrier nothing else can be waited for.
        listing[-1:] = [instruction("barrier"), limit, wait, listing[-1]]
        pc = len(listing) - 2
    else:
        # No later one may raise the limit again.
        places = [pc for pc, item in enumerate(listing) if item.operation.name == "set_config"]
        first = places[-1] + 1 if places else 0
        listing.insert(len(listing) - 1, wait)
        listing.insert(rng.randrange(first, len(listing) - 1), limit)
        pc = None
    return _case(case, _encoded(listing), kind, FaultCause.WATCHDOG, Unit.CONTROL, pc)


def _tie(case: Case, rng: random.Random, kind: str, name: str) -> FaultCase:
    """Two faults in one cycle, or one of them alone on a machine on which they cannot meet."""
    listing = _listing(case)
    before = [*listing[:-1], instruction("barrier")]

    def ended(items: Sequence[Item]) -> Program:
        rows = [_UNKNOWN if item is None else _encoded([item])[0]
                for item in (*before, *items, listing[-1])]
        return _program(case, np.stack(rows))

    def run(items: Sequence[Item]) -> RunResult:
        result = run_timing(ended(items), watchdog_cycles=FAULT_WATCHDOG_CYCLES)
        assert result.times is not None
        return dataclasses.replace(result, times=result.times[len(before):])

    tie = make_tie(case.program.arch, rng, name, run)
    if tie is None:
        return _address(case, rng, kind, rng.choice(list(BUILDERS)))
    return FaultCase(
        program=ended(tie.items), contents=case.contents, kind=kind, cause=tie.cause,
        unit=tie.unit, pc=len(before) + tie.place, tie=name,
    )


def empty_program(arch: Arch) -> FaultCase:
    """The program without instructions: it faults in its first cycles."""
    program = make_program(arch, [])
    return FaultCase(
        program=program, contents={}, kind="empty", cause=FaultCause.ILLEGAL_INSTRUCTION,
        unit=Unit.CONTROL, pc=0,
    )
