"""The untimed run against a machine that takes one possible step after another, at random."""

import random
from collections import deque
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from systol_hw.arch import Arch
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, decode, instruction
from systol_sim.faulting import generate_faulting
from systol_sim.generate import generate
from systol_sim.machines import FUZZ_MACHINES
from systol_sim.progress import UNITS, find_stuck, tile_count


def _random_run(program: Sequence[Instruction], arch: Arch, rng: random.Random) -> int | None:
    """Where the program sticks (the next pc to dispatch) if steps are taken at random; or None."""
    queues: dict[Unit, deque[int]] = {unit: deque() for unit in UNITS}
    active: dict[Unit, int] = {}
    left: dict[Unit, int] = {}
    tokens: dict[tuple[Unit, Unit], int] = {}
    next_pc = fifo = shadow = 0
    while True:
        steps: list[tuple[str, Unit]] = []
        item = program[next_pc]
        quiet = not active and not any(queues.values())
        if item.unit is Unit.CONTROL:
            if quiet or item.operation.name not in ("barrier", "sync_host", "halt"):
                if item.operation.name == "halt":
                    return None
                steps.append(("dispatch", item.unit))
        elif len(queues[item.unit]) < arch.queue_depth:
            steps.append(("dispatch", item.unit))
        if fifo and not shadow:
            steps.append(("shift", Unit.MATRIX))
        unit: Unit
        for unit in UNITS:
            if unit in active:
                if not left[unit]:
                    steps.append(("end", unit))
                elif unit is Unit.WEIGHTS and fifo < arch.weight_fifo_tiles:
                    steps.append(("tile", unit))
                elif unit is Unit.MATRIX and shadow:
                    steps.append(("tile", unit))
            elif queues[unit]:
                head = program[queues[unit][0]]
                if all(tokens.get((p, unit), 0) for p in head.waits):
                    steps.append(("start", unit))
        if not steps:
            return next_pc
        step, unit = rng.choice(steps)
        if step == "dispatch":
            if unit is not Unit.CONTROL:
                queues[unit].append(next_pc)
            next_pc += 1
        elif step == "shift":
            fifo, shadow = fifo - 1, 1
        elif step == "tile":
            left[unit] -= 1
            fifo, shadow = (fifo + 1, shadow) if unit is Unit.WEIGHTS else (fifo, 0)
        elif step == "start":
            active[unit] = queues[unit].popleft()
            head = program[active[unit]]
            tiled = unit in (Unit.WEIGHTS, Unit.MATRIX)
            left[unit] = tile_count(head) if tiled else 0
            for producer in head.waits:
                tokens[producer, unit] -= 1
        else:
            for consumer in program[active.pop(unit)].signals:
                tokens[unit, consumer] = tokens.get((unit, consumer), 0) + 1


_MACHINES = st.sampled_from(FUZZ_MACHINES)


@given(st.integers(0, 1 << 30), _MACHINES, st.booleans())
def test_random_schedules_end_where_the_greedy_one_does(
    seed: int, arch: Arch, changed: bool
) -> None:
    items = [decode(row.tobytes()) for row in generate(arch, seed, instructions=20).program.code]
    rng = random.Random(seed)
    if changed:
        # Without one instruction tiles or tokens are missing, or too many; some such programs
        # stick, some do not.
        del items[rng.randrange(len(items) - 1)]
    stuck = find_stuck(items, arch)
    expected = None if stuck is None else stuck.next_pc
    assert changed or expected is None
    for _ in range(3):
        assert _random_run(items, arch, rng) == expected


@given(st.integers(0, 1000), _MACHINES, st.sampled_from(("token", "tile", "fifo", "quiet")))
def test_deadlocks_stick_in_every_schedule(seed: int, arch: Arch, name: str) -> None:
    case = generate_faulting(arch, seed, f"deadlock {name}")
    items = [decode(row.tobytes()) for row in case.program.code]
    stuck = _random_run(items, arch, random.Random(seed))
    # A limit of the program's own may end it earlier.
    assert stuck is not None and case.pc in (None, stuck)


def test_what_is_missing_is_named() -> None:
    arch = FUZZ_MACHINES[0]
    stuck = find_stuck([instruction("fill", wait=1), instruction("halt")], arch)
    assert stuck is not None
    assert stuck.next_pc == 1
    assert stuck.blocked == ((Unit.VECTOR, 0, "a token of load"),)
