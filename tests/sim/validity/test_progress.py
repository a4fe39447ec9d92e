"""The untimed run against a machine that takes one possible step after another, at random."""

import random
from collections import deque
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from systol_hw.arch import PRESETS, Arch
from systol_hw.isa import Instruction, decode, instruction
from systol_hw.tables.faults import Unit
from systol_sim.fuzz.machines import FUZZ_MACHINES
from systol_sim.random_programs.faulting import generate_faulting
from systol_sim.random_programs.generate import generate
from systol_sim.validity.progress import UNITS, TileStream, find_stuck, tile_count

NANO = PRESETS["nano"]


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


def _live_rows(item: Instruction, rows: int) -> list[int]:
    """Live rows of each tile that `item` loads or takes."""
    period = item["inner_count" if item.unit is Unit.WEIGHTS else "k2_count"]
    last = item["k_last"]
    return [rows if i % period < period - 1 else last for i in range(tile_count(item))]


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(1, 3), st.integers(1, 3), st.sampled_from([3, NANO.rows])
        ),
        max_size=8,
    )
)
# Tiles of 8, 8 and 3 rows, which are not taken as they were loaded.
@example([(True, 3, 2, 3), (False, 1, 2, 8), (False, 1, 1, 3), (False, 3, 1, 3)])
@example([(True, 3, 1, 3), (True, 3, 1, 3), (False, 1, 1, 8), (False, 2, 1, 3), (False, 3, 1, 3)])
def test_tiles_that_pass_are_those_of_plain_lists(
    parts: list[tuple[bool, int, int, int]]
) -> None:
    stream = TileStream(NANO)
    waiting: deque[tuple[int, int]] = deque()  # live rows, and who loads them
    for pc, (loads, period, turns, last) in enumerate(parts):
        if loads:
            item = instruction("read_weights", inner_count=period, n_count=turns, k_last=last)
            stream.append(item, pc)
            waiting.extend((rows, pc) for rows in _live_rows(item, NANO.rows))
            continue
        item = instruction("matmul", k2_count=period, k1_count=turns, k_last=last)
        expected: tuple[int | None, str] | None = None
        wanted = _live_rows(item, NANO.rows)
        for number, rows in enumerate(wanted):
            if not waiting:
                left = len(wanted) - number
                expected = (None, f"takes {left} tiles more than are loaded")
                break
            if waiting[0][0] != rows:
                found = waiting[0]
                expected = (
                    found[1], f"expects a tile of {rows} live rows and finds {found[0]}"
                )
                break
            waiting.popleft()
        error = stream.take(item, pc)
        assert (error and (error.loader, error.message)) == expected
        if error:
            return
    over = stream.left_over()
    assert (over and over.pc) == (waiting[0][1] if waiting else None)
    if over:
        assert f"({len(waiting)} are left over)" in over.message
