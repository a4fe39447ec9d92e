"""Scheduling: tokens, pacing, hoisted loads, and weights for many chunks in one instruction."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from systol.bundled import calibration_images, model_path
from systol_compiler.frontend import quantize_model
from systol_compiler.old_quantized import QuantizedGraph
from systol_compiler.schedule import Schedule, ScheduledItem, ScheduleOptions
from systol_compiler.search import Choice, build
from systol_compiler.tokens import BARRIER, SerialOrderNeededError, synchronize
from systol_hw.arch import PRESETS, Arch
from systol_hw.faults import Unit
from systol_hw.isa import Instruction, instruction
from systol_hw.program import Window, make_program
from systol_sim.checker import check

NANO = PRESETS["nano"]


@pytest.fixture(scope="module")
def cnn() -> QuantizedGraph:
    return quantize_model(
        model_path("mnist_cnn"), calibration=calibration_images()[:20], shapes={"N": 2}
    ).quantized


def _load(address: int) -> Instruction:
    return instruction("read_host", memory_address=address, ub_address=address, run_bytes=8)


def _store(address: int) -> Instruction:
    return instruction("write_host", memory_address=address, ub_address=address, run_bytes=8,
                       window=1)


def _copy(source: int, target: int) -> Instruction:
    return instruction("copy", source_ub=1, a_address=source, out_address=target, n_last=8)


def _check(items: list[Instruction], arch: Arch = NANO) -> None:
    windows = (Window(name="a", size_bytes=4096), Window(name="b", size_bytes=4096))
    check(make_program(arch, [*items, instruction("halt")], windows=windows))


def test_only_conflicts_get_tokens() -> None:
    items, origins = synchronize(NANO, [_load(0), _load(64), _store(64), _store(0)])
    assert origins == [0, 1, 2, 3]
    # The store of the second load's bytes also orders the other one.
    assert [i.signals for i in items] == [(), (Unit.STORE,), (), ()]
    assert [i.waits for i in items] == [(), (), (Unit.LOAD,), ()]
    _check(items)


def test_vector_reading_its_own_result_drains() -> None:
    items, _ = synchronize(NANO, [_load(0), _copy(0, 64), _copy(64, 128)])
    assert [i.get("drain") for i in items] == [0, 0, 1]
    _check(items)


def test_extra_orders_become_tokens() -> None:
    items, _ = synchronize(NANO, [_load(0), _load(64), _store(0)], [(1, 2)])
    assert items[1].signals == (Unit.STORE,)


@pytest.mark.parametrize("limit", [1, 3, 15])
def test_no_counter_passes_its_limit(limit: int) -> None:
    arch = dataclasses.replace(NANO, token_limit=limit)
    program = [make(64 * i) for i in range(40) for make in (_load, _store)]
    items, origins = synchronize(arch, program)
    _check(items, arch)
    # Producers are paced by tokens wherever program order lets them be.
    assert BARRIER not in origins


def test_barrier_stands_where_pacing_cannot() -> None:
    arch = dataclasses.replace(NANO, token_limit=1)
    program = [_load(64 * i) for i in range(3)] + [_store(64 * i) for i in range(3)]
    items, origins = synchronize(arch, program)
    _check(items, arch)
    assert BARRIER in origins


def test_barrier_between_weights_and_matmul_is_refused() -> None:
    arch = dataclasses.replace(NANO, token_limit=1)
    matmul = instruction("matmul", p_limit=8, k_last=8)
    other = instruction("matmul", p_limit=8, k_last=8, ub_address=64)
    weights = instruction("read_weights", n_count=2, k_last=8, n_last=8)
    program = [weights, _load(0), _load(64), matmul, other]
    with pytest.raises(SerialOrderNeededError):
        synchronize(arch, program)


def test_weights_of_all_chunks_come_by_one_instruction(cnn: QuantizedGraph) -> None:
    result = build(cnn, PRESETS["edge16"], Choice())
    weights = [x for x in result.order.items if x.instruction.unit is Unit.WEIGHTS]
    matmuls = [x for x in result.order.items if x.instruction.unit is Unit.MATRIX]
    first = [x.instruction for x in weights if x.work == 0]
    assert len(first) == 1 and first[0]["n_stride"] == 0
    assert first[0]["n_count"] == len([x for x in matmuls if x.work == 0]) > 1


def test_serial_order_has_nothing_between_weights_and_matmul(cnn: QuantizedGraph) -> None:
    choice = Choice(scheduling=ScheduleOptions(serial=True))
    items = build(cnn, NANO, choice).order.items
    units = [item.instruction.unit for item in items]
    behind = [b for a, b in pairwise(units) if a is Unit.WEIGHTS]
    assert behind and set(behind) == {Unit.MATRIX}


def test_lookahead_hoists_the_second_image_over_work_on_the_first(cnn: QuantizedGraph) -> None:
    def before_second_load(lookahead: int) -> int:
        options = ScheduleOptions(lookahead=lookahead)
        items = build(cnn, PRESETS["edge16"], Choice(scheduling=options)).order.items
        names = [item.instruction.operation.name for item in items]
        last = max(i for i, name in enumerate(names) if name == "read_host")
        return names[:last].count("matmul")

    assert before_second_load(0) - before_second_load(2) == 2


def test_parameters_lie_apart_from_what_the_matrix_unit_reads(cnn: QuantizedGraph) -> None:
    arch = PRESETS["edge32"]
    plan = build(cnn, arch, Choice()).plan
    bank = plan.parameter_address(0, "", 0) // arch.bank_bytes
    assert all(plan.address(0, name) // arch.bank_bytes != bank for name in plan.groups[0].buffers)


def test_verifier_counts_tiles() -> None:
    matmul = ScheduledItem(instruction=instruction("matmul"), work=0)
    with pytest.raises(AssertionError, match="before its weights"):
        Schedule(items=(matmul,), works=()).verify()
    weights = ScheduledItem(instruction=instruction("read_weights", n_count=2), work=0)
    with pytest.raises(AssertionError, match="left over"):
        Schedule(items=(weights, matmul), works=()).verify()


def test_schedule_prints_layers_and_units(cnn: QuantizedGraph) -> None:
    text = str(build(cnn, NANO, Choice()).order)
    assert text.startswith("scheduled {") and "# conv1" in text and "vector  requantize" in text
    assert np.unique([line.count("{") for line in text.splitlines()[1:]]).tolist() == [0]
