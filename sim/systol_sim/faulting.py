"""Programs that fault: every cause in every unit that can have it, amid otherwise valid work.

They bypass the static checker, which refuses all of them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES, WINDOWS, Arch
from systol_hw.faults import FaultCause, Unit
from systol_hw.isa import OPERATION_BY_OPCODE, Instruction, decode, encode, instruction
from systol_hw.operations import OPERATIONS
from systol_hw.program import Program, make_program
from systol_sim.generate import Case, generate
from systol_sim.progress import UNITS, find_stuck

FAULT_WATCHDOG_CYCLES = 6000
"""A watchdog limit that no valid generated program reaches, and short enough for tests."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaultCase(Case):
    """A faulting program and the fault to expect; `pc` is None where it depends on timing."""

    kind: str
    cause: FaultCause
    unit: Unit
    pc: int | None


def fault_kinds(arch: Arch) -> tuple[str, ...]:
    """Names of all kinds of faults that `generate_faulting` can make on `arch`."""
    kinds = ["opcode", "end"]
    for operation in OPERATIONS:
        kinds.append(f"reserved {operation.name}")
        if not operation.supported:
            kinds.append(f"unsupported {operation.name}")
        for field in operation.fields:
            low, high = field.bounds(arch)
            least = -(1 << (field.width - 1)) if field.signed else 0
            most = (1 << (field.width - field.signed)) - 1
            if low > least or high < most:
                kinds.append(f"range {operation.name}.{field.name}")
            if field.forbidden_bits:
                kinds.append(f"own {operation.name}.{field.name}")
            if field.supported_maximum is not None and operation.supported:
                kinds.append(f"unsupported {operation.name}.{field.name}")
    kinds += [f"address {name}" for name in _ADDRESS]
    kinds += [f"overflow {unit.name.lower()}" for unit in UNITS]
    kinds += [f"deadlock {name}" for name in _DEADLOCK]
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
    if word == "end":
        code, pc = case.program.code[:-1], len(case.program.code) - 1
    else:
        row = np.frombuffer(_refused(arch, rng, word, rest), np.uint8)
        pc = rng.randrange(len(case.program.code))
        code = np.concatenate((case.program.code[:pc], row[None], case.program.code[pc:]))
    cause = FaultCause.UNSUPPORTED if word == "unsupported" else FaultCause.ILLEGAL_INSTRUCTION
    return _case(case, code, kind, cause, Unit.CONTROL, pc)


def _case(
    case: Case, code: np.ndarray, kind: str, cause: FaultCause, unit: Unit, pc: int | None
) -> FaultCase:
    old = case.program
    program = Program(
        arch=old.arch,
        code=code,
        weight_image=old.weight_image,
        weight_memory_bytes=old.code_address + max(INSTRUCTION_BYTES, code.size),
        code_address=old.code_address,
        windows=old.windows,
    )
    return FaultCase(
        program=program, contents=case.contents, kind=kind, cause=cause, unit=unit, pc=pc
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
    if not field_name:
        return encode(item)
    field = item.operation.field(field_name)
    low, high = field.bounds(arch)
    least = -(1 << (field.width - 1)) if field.signed else 0
    most = (1 << (field.width - field.signed)) - 1
    if word == "own":
        value = field.forbidden_bits | rng.getrandbits(field.width)
    elif word == "unsupported":
        assert field.supported_maximum is not None
        value = rng.randint(field.supported_maximum + 1, high)
    else:
        outside = [*([low - 1, least] if low > least else []),
                   *([high + 1, most] if high < most else [])]
        value = rng.choice(outside)
    return encode(instruction(name, **{field_name: value}))


# Addresses


def _past(rng: random.Random, size: int, length: int) -> int:
    """An address from which `length` places do not all fit in `size`."""
    return rng.choice(
        (size - rng.randint(0, length - 1), size, size + rng.randint(1, 99), 1 << 31,
         (1 << 32) - 1, (1 << 32) - length)
    )


def _signed(address: int) -> int:
    return address - (1 << 32) if address >= 1 << 31 else address


def _transfer(program: Program, rng: random.Random, name: str, side: str) -> list[Instruction]:
    fields = {"run_bytes": rng.randint(1, 20)}
    if name.endswith("host"):
        fields["window"] = rng.randrange(len(program.windows))
        size = program.windows[fields["window"]].size_bytes
    else:
        size = program.weight_memory_bytes
    if side == "window":
        if len(program.windows) < WINDOWS:
            fields["window"] = rng.randint(len(program.windows), WINDOWS - 1)
        return [instruction(name, **fields)]
    if side == "ub":
        size = program.arch.ub_bytes
    prefix = "memory" if side == "memory" else "ub"
    if name == "write_weight_memory" and side == "memory":
        # What still fits must not overwrite the code, which stands last.
        address = size + rng.randint(0, 50)
        if rng.random() < 0.5:
            return [instruction(name, **fields, count0=2, memory_stride0=address)]
        return [instruction(name, **fields, memory_address=address)]
    if rng.random() < 0.3:
        # The first run is inside, a later one is not.
        step = rng.choice((-1, 1)) * (size // 2 + 1)
        first = {f"{prefix}_address": size // 2 - fields["run_bytes"]}
        return [
            instruction(name, **fields, **first, **{f"{prefix}_stride0": step}, count0=3)
        ]
    address = _past(rng, size, fields["run_bytes"])
    return [instruction(name, **fields, **{f"{prefix}_address": address})]


def _weights(program: Program, rng: random.Random) -> list[Instruction]:
    size, arch = program.weight_memory_bytes, program.arch
    if rng.random() < 0.4:
        rows = arch.rows
        return [instruction("read_weights", k_last=rows, row_pitch=size // (rows - 1) + 1)]
    n_last = rng.randint(1, arch.columns)
    return [instruction("read_weights", n_last=n_last, address=_past(rng, size, n_last))]


def _tile_and(program: Program, item: Instruction) -> list[Instruction]:
    return [instruction("read_weights", k_last=item["k_last"]), item]


def _matrix_ub(program: Program, rng: random.Random) -> list[Instruction]:
    arch, size = program.arch, program.arch.ub_bytes
    live = rng.randint(1, arch.rows)
    inside = {"p_limit": 1 << 16, "y_limit": 99, "k_last": live}
    if rng.random() < 0.4:
        step = rng.choice((-1, 1)) * (size // 3 + 1)
        inside |= {"y_count": 4, "y_address_step": step, "ub_address": size // 2}
    else:
        inside["ub_address"] = _signed(_past(rng, size, live))
    return _tile_and(program, instruction("matmul", **inside))


def _matrix_accumulators(program: Program, rng: random.Random) -> list[Instruction]:
    rows = program.arch.accumulator_rows
    y_count = rng.randint(1, min(3, rows))
    first = rng.choice((rows - y_count + 1, rows, min(0xFFFF, rows + 99)))
    return _tile_and(
        program, instruction("matmul", p_limit=0, y_count=y_count, acc_address=first)
    )


def _vector(program: Program, rng: random.Random, what: str) -> list[Instruction]:
    arch, size = program.arch, program.arch.ub_bytes
    n_last = rng.randint(1, arch.columns)
    fields = {"n_last": n_last, "source_ub": int(what == "tap"), "x_count": rng.randint(1, 3)}
    name = rng.choice(("copy", "requantize"))
    if what == "parameter":
        name = "requantize"
        fields["parameter_address"] = _past(rng, size, 8 * n_last)
    elif what == "tap":
        fields["a_address"] = _signed(_past(rng, size, n_last))
    elif what == "accumulator":
        rows = arch.accumulator_rows
        fields["a_address"] = rng.choice((rows, rows + 1, -1, 1 << 30))
    else:
        fields["out_address"] = _past(rng, size, n_last)
        if what == "fill":
            name = "fill"
        elif rng.random() < 0.5:
            fields |= {"out_address": 0, "out_x_step": -1, "x_count": 2}
    return [instruction(name, x_limit=9, y_limit=9, **fields)]


_TRANSFERS = tuple(
    (name, side)
    for name in ("read_host", "read_weight_memory", "write_host", "write_weight_memory")
    for side in ("memory", "ub", "window")
    if side != "window" or name.endswith("host")
)
_ADDRESS: dict[str, Callable[[Program, random.Random], list[Instruction]]] = {
    **{
        f"{name} {side}": partial(_transfer, name=name, side=side)
        for name, side in _TRANSFERS
    },
    "read_weights": _weights,
    "matmul ub": _matrix_ub,
    "matmul accumulators": _matrix_accumulators,
    **{
        f"vector {what}": partial(_vector, what=what)
        for what in ("parameter", "tap", "accumulator", "output", "fill")
    },
}


def _address(case: Case, rng: random.Random, kind: str, name: str) -> FaultCase:
    listing = _listing(case)
    # Both depend on the size of weight memory, which the insertion changes.
    sized = 2 if name.startswith("matmul") else 1
    program = _case(
        case, np.concatenate((case.program.code, case.program.code[:sized])), kind,
        FaultCause.ADDRESS, Unit.CONTROL, None,
    ).program
    extra = _ADDRESS[name](program, rng)
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


def _small(unit: Unit, signal: int = 0, wait: int = 0) -> Instruction:
    """A short instruction of `unit` that cannot fault on any machine with a host window."""
    names = {
        Unit.LOAD: "read_host", Unit.STORE: "write_host", Unit.WEIGHTS: "read_weights",
        Unit.MATRIX: "matmul", Unit.VECTOR: "fill",
    }
    return instruction(names[unit], signal=signal, wait=wait)


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
            listing.append(_small(Unit.WEIGHTS))
        listing.append(_small(unit, signal=signal))
        pc = len(listing) - 1
        if unit is Unit.WEIGHTS:
            listing.append(_small(Unit.MATRIX))
    listing.append(instruction("halt"))
    return _case(
        case, _encoded(listing), kind, FaultCause.TOKEN_OVERFLOW, unit, pc if settled else None
    )


def _missing_token(arch: Arch, rng: random.Random) -> list[Instruction]:
    unit = rng.choice((Unit.LOAD, Unit.STORE, Unit.VECTOR))
    return [_small(unit, wait=1 << (_other(rng, unit) - 1))]


def _missing_tile(arch: Arch, rng: random.Random) -> list[Instruction]:
    return [_small(Unit.MATRIX)]


def _full_fifo(arch: Arch, rng: random.Random) -> list[Instruction]:
    tiles = arch.weight_fifo_tiles + 2
    last = [instruction("barrier")] if rng.random() < 0.5 else []
    return [instruction("read_weights", inner_count=tiles, k_last=arch.rows), *last]


def _late_signal(arch: Arch, rng: random.Random) -> list[Instruction]:
    unit = rng.choice((Unit.LOAD, Unit.STORE))
    return [
        _small(unit, wait=1 << (Unit.VECTOR - 1)),
        instruction("barrier"),
        _small(Unit.VECTOR, signal=1 << (unit - 1)),
    ]


_DEADLOCK: dict[str, Callable[[Arch, random.Random], list[Instruction]]] = {
    "token": _missing_token,
    "tile": _missing_tile,
    "fifo": _full_fifo,
    "quiet": _late_signal,
}


def _deadlock(case: Case, rng: random.Random, kind: str, name: str) -> FaultCase:
    arch, listing = case.program.arch, _listing(case)
    extra = _DEADLOCK[name](arch, rng)
    # A stray wait takes a later instruction's token, a stray tile a later matmul's: either way
    # something sticks. A late signal is only late if no other token can stand in for it.
    place = len(listing) - 1 if name in ("quiet", "fifo") else rng.randrange(len(listing))
    changed = [*listing[:place], *extra, *listing[place:]]
    stuck = find_stuck(changed, arch)
    assert stuck is not None, kind
    return _case(
        case, _encoded(changed), kind, FaultCause.WATCHDOG, Unit.CONTROL, stuck.next_pc
    )


def empty_program(arch: Arch) -> FaultCase:
    """The program without instructions: it faults in its first cycles."""
    program = make_program(arch, [])
    return FaultCase(
        program=program, contents={}, kind="empty", cause=FaultCause.ILLEGAL_INSTRUCTION,
        unit=Unit.CONTROL, pc=0,
    )
