"""Costs by layer: exact, and together those of the run."""

import dataclasses

import numpy as np
import pytest

from hand_made import copies, quantized
from systol_compiler.binary.network import LayerRange, MachineSegment
from systol_compiler.layer_figures import bound_together, layer_figures
from systol_hw.arch import PRESETS
from systol_hw.isa import Instruction, decode, encode_program, instruction
from systol_hw.tables.counter_categories import CATEGORIES
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Unit
from systol_sim.random_programs.generate import generate
from systol_sim.simulator import run_timing


def random_segment(seed: int, length: int, ranges_of: int) -> MachineSegment:
    """A random program whose instructions belong to layers that take turns, three at a time."""
    program = generate(PRESETS["edge16"], seed, instructions=length).program
    items = [decode(row.tobytes()) for row in program.code]
    out: list[Instruction] = []
    ranges = []
    for place in range(0, len(items) - 1, 3):
        part = [instruction("tag", tag=place % 16), *items[place : min(place + 3, len(items) - 1)]]
        ranges.append(
            LayerRange(
                layer=f"layer{place // 3 % ranges_of}", first=len(out), count=len(part), tag=1,
                source_nodes=(),
            )
        )
        out += part
    code = encode_program([*out, items[-1]])
    longer = dataclasses.replace(
        program, code=code, weight_memory_bytes=program.code_address + code.size
    )
    return MachineSegment(
        name="machine", program=longer, inputs=(), outputs=(), layers=tuple(ranges)
    )


@pytest.mark.parametrize(("seed", "length", "layers"), [(1, 40, 3), (2, 150, 37), (3, 90, 30)])
def test_everything_is_charged_once(seed: int, length: int, layers: int) -> None:
    segment = random_segment(seed, length, layers)
    rows = layer_figures(segment)
    assert len(rows) == layers + 1 and rows[-1].layer == ""
    counters = run_timing(segment.program).counters
    assert counters is not None
    assert sum(row.cycles for row in rows) == counters.cycles
    assert sum(sum(row.array.values()) for row in rows) == counters.cycles
    for category in CATEGORIES:
        expected = sum(counters.state(Unit.MATRIX, state) for state in category.states)
        assert sum(row.array[category.name] for row in rows) == expected
    for unit in Unit:
        found = sum(row.busy[unit.name.lower()] for row in rows)
        assert found == counters.state(unit, "busy")
    amounts = {"bytes": 0, "useful_macs": 0, "padding_macs": 0, "elements": 0}
    for amount in AMOUNTS:
        name = "bytes" if amount.measure == "bytes" and amount.name != "ub_bytes" else amount.name
        if name in amounts:
            amounts[name] += counters.amount(amount.unit, amount.name)
    assert sum(sum(row.bytes.values()) for row in rows) == amounts["bytes"]
    for name in ("useful_macs", "padding_macs", "elements"):
        assert sum(getattr(row, name) for row in rows) == amounts[name]


def test_no_schedule_is_faster_than_the_bound_of_all_layers() -> None:
    segment = random_segment(3, 90, 30)
    rows = layer_figures(segment)
    bound, by = bound_together(rows, segment.program.arch)
    assert by and max(row.bound_cycles for row in rows) <= bound
    assert bound <= sum(row.bound_cycles for row in rows)
    assert bound <= sum(row.cycles for row in rows)


def test_two_copies_by_hand() -> None:
    x, y = quantized("x", (8, 16)), quantized("y", (8, 16))
    a, b = quantized("a", (4, 4)), quantized("b", (4, 4))
    first, second, rest = layer_figures(copies("m", [(x, y), (a, b)]))
    assert (first.layer, second.layer, rest.layer) == ("m.copy0", "m.copy1", "")
    assert first.source_nodes == ("copy0",)
    assert first.bytes["host_read"] == first.bytes["host_written"] == 128
    assert second.bytes["host_read"] == 16
    # nano's host port moves a byte a cycle.
    assert (first.bound_cycles, first.bound_by) == (256, "host port")
    # Its instructions take longer than its bytes, and come through the weight port.
    assert (second.bound_cycles, second.bound_by) == (second.bytes["instructions"], "weight port")
    assert first.busy["load"] == 128 and first.busy["matrix"] == 0
    assert first.cycles == first.last_cycle + 1 > 256
    assert second.cycles == second.last_cycle - first.last_cycle
    assert rest.bound_by in ("", "weight port") and rest.first_cycle == -1


def test_layers_without_tags_of_their_own_are_charged_to_the_one_before() -> None:
    segment = copies("m", [(quantized("x", (8, 16)), quantized("y", (8, 16)))])
    ranges = (
        LayerRange(layer="first", first=0, count=2, tag=1, source_nodes=()),
        LayerRange(layer="second", first=2, count=1, tag=1, source_nodes=()),
    )
    first, second, _ = layer_figures(dataclasses.replace(segment, layers=ranges))
    assert first.bytes["host_written"] == 128 and second.bytes["host_written"] == 0
    assert second.cycles > 0


def test_a_tag_may_stand_directly_before_its_range() -> None:
    segment = copies("m", [(quantized("x", (4,)), quantized("y", (4,)))] * 1)
    moved = tuple(
        dataclasses.replace(item, first=item.first + 1, count=item.count - 1)
        for item in segment.layers
    )
    (row, _) = layer_figures(dataclasses.replace(segment, layers=moved))
    assert row.bytes["host_read"] == 4


def test_json_holds_every_figure() -> None:
    row = layer_figures(copies("m", [(quantized("x", (4,)), quantized("y", (4,)))]))[0]
    values = row.to_json()
    assert set(values) == {field.name for field in dataclasses.fields(row)}
    assert all(not isinstance(value, np.integer) for value in values["bytes"].values())
