"""The covering machines: every pair of parameter classes, few machines, small ones."""

from collections.abc import Callable
from itertools import combinations

from systol_hw.arch import Arch
from systol_sim.fuzz.covering import FACTORS, covering_machines
from systol_sim.fuzz.machines import FUZZ_MACHINES, WIDE_PORTS

_EDGES: dict[str, tuple[Callable[[Arch], bool], ...]] = {
    "rows and columns": (
        lambda a: a.rows == a.columns, lambda a: a.rows < a.columns, lambda a: a.rows > a.columns,
        lambda a: a.rows & (a.rows - 1) > 0 and a.columns & (a.columns - 1) > 0,
    ),
    "unified buffer": (lambda a: a.ub_bytes <= 1024, lambda a: a.ub_bytes > 4096),
    "banks": (lambda a: a.ub_banks == 1, lambda a: a.ub_banks == 4, lambda a: a.ub_banks > 4),
    "lanes": (lambda a: a.vector_lanes == 1, lambda a: a.vector_lanes == a.columns),
    "weight port": tuple(
        lambda a, w=w: a.weight_port.width_bytes == w for w in (1, 2, 4, 8, 16)  # type: ignore[misc]
    ),
    "host port": tuple(
        lambda a, w=w: a.host_port.width_bytes == w for w in (1, 2, 4, 8, 16)  # type: ignore[misc]
    ),
    "queue": (lambda a: a.queue_depth == 1, lambda a: a.queue_depth > 3),
    "fetch": (lambda a: a.fetch_buffer_instructions == 1,
              lambda a: a.fetch_buffer_instructions > 4),
    "flight": (lambda a: a.inflight_instructions == 1, lambda a: a.inflight_instructions > 4),
    "tokens": (lambda a: a.token_limit == 1, lambda a: a.token_limit > 4),
    "write rows": (lambda a: a.vector_write_rows == 1, lambda a: a.vector_write_rows > 3),
    "store buffer": (lambda a: a.store_buffer_beats == 1, lambda a: a.store_buffer_beats > 4),
    "FIFO": (lambda a: a.weight_fifo_tiles == 1, lambda a: a.weight_fifo_tiles > 3),
    "accumulators": (lambda a: a.accumulator_rows <= 8, lambda a: a.accumulator_rows > 32),
    "burst": (lambda a: a.burst_bytes <= 16, lambda a: a.burst_bytes > 64),
}


def test_every_pair_of_edges_is_on_some_machine() -> None:
    machines = covering_machines()
    for (left, lefts), (right, rights) in combinations(_EDGES.items(), 2):
        for a, first in enumerate(lefts):
            for b, second in enumerate(rights):
                assert any(first(arch) and second(arch) for arch in machines), (left, a, right, b)


def test_every_pair_of_classes_is_on_some_machine() -> None:
    machines = covering_machines()
    classes = {
        name: {classify(arch) for arch in machines} for name, classify in FACTORS.items()
    }
    assert all(len(found) >= 3 for found in classes.values())
    for left, right in combinations(FACTORS, 2):
        met = {(FACTORS[left](arch), FACTORS[right](arch)) for arch in machines}
        assert met == {(a, b) for a in classes[left] for b in classes[right]}, (left, right)


def test_there_are_forty_and_few_more_and_they_are_small() -> None:
    machines = covering_machines()
    assert 40 <= len(machines) <= 48
    assert machines[: len(FUZZ_MACHINES)] == FUZZ_MACHINES, "those of every change are among them"
    assert len({arch.fingerprint() for arch in machines}) == len(machines)
    assert len({arch.name for arch in machines}) == len(machines)
    assert machines[-len(WIDE_PORTS) :] == WIDE_PORTS
    widths = {port.width_bytes for arch in machines for port in (arch.weight_port, arch.host_port)}
    assert widths == {1, 2, 4, 8, 16, 32, 64}
    assert all(arch.rows * arch.columns <= 384 for arch in machines)
    added = machines[len(FUZZ_MACHINES) : -len(WIDE_PORTS)]
    assert all(max(arch.rows, arch.columns) <= 12 for arch in added)
