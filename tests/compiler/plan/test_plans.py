"""Plans of random networks: tiles cover every output once, stages fit, pieces come in time."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from onnx import helper, numpy_helper, parser

from random_nests import RandomNetwork
from systol_compiler.calibrate.quantizer import quantize_graph
from systol_compiler.compile import import_graph
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.vector import VectorNest
from systol_compiler.plan.choices import Choices, StageChoice
from systol_compiler.plan.cost import choose_bands, stage_cycles
from systol_compiler.plan.fitting import Fitter, GroupPlan, plan_group
from systol_compiler.plan.memory_plan import plan_memory
from systol_compiler.plan.stages import form_stages
from systol_compiler.plan.tasks import Residency
from systol_compiler.plan.tiling import Cut, Tile, cuts, verify_tiles
from systol_compiler.quantized.graph import MachinePart
from systol_compiler.quantized.lowering import lower
from systol_hw.arch import PRESETS, Arch
from systol_hw.errors import UnsupportedModelError

SMALL = dataclasses.replace(PRESETS["nano"], name="small", ub_bytes=8192)
MACHINES = (PRESETS["nano"], PRESETS["edge16"], PRESETS["edge32"])


def network_of(seed: int, arch: Arch) -> RandomNetwork:
    return RandomNetwork(seed, arch, layers=3 + seed % 9, size=8 + seed % 24)


def tiles_by_nest(plan: GroupPlan) -> dict[int, list[Tile]]:
    found: dict[int, list[Tile]] = {}
    for tiled in plan.stages:
        for place, number in tiled.order:
            found.setdefault(tiled.stage.nests[place], []).append(tiled.tiles[place][number])
    return found


@pytest.mark.parametrize("seed", range(20))
def test_tiles_compute_every_output_once(seed: int) -> None:
    arch = MACHINES[seed % 3]
    network = network_of(seed, arch).lower(2)
    for default in (Cut(), Cut(bands=3, exact=True), Cut(bands=1, columns=2, exact=True)):
        choices = Choices(default=StageChoice(cut=default))
        plan = plan_group(network, arch, {}, choices, Residency())
        found = tiles_by_nest(plan)
        assert sorted(found) == list(range(len(network.nests)))
        for place, tiles in found.items():
            verify_tiles(network.nests[place], tiles, arch)


@pytest.mark.parametrize("seed", range(12))
def test_no_stage_has_more_alive_than_there_is_room(seed: int) -> None:
    network = network_of(seed + 50, SMALL).lower(1)
    fitter = Fitter(network, SMALL, Choices())
    fitter.room = 6000
    try:
        plan = fitter.fit()
    except UnsupportedModelError as error:
        assert "smallest tiles" in str(error)
        return
    for time in range(len(plan.stages)):
        assert plan.pressure(time) <= 6000


@pytest.mark.parametrize("seed", range(8))
def test_plans_repeat(seed: int) -> None:
    network = network_of(seed, SMALL)
    texts = {
        str(plan_memory(network.lower, SMALL, batch=2)) for _ in range(2)
    }
    assert len(texts) == 1


def test_what_streams_is_loaded_before_it_is_read() -> None:
    """Every slot of a streamed operand holds the box that its task reads."""
    streamed = 0
    for seed in range(12):
        network = network_of(seed + 50, SMALL)
        plan = plan_memory(network.lower, SMALL, batch=1).groups[0]
        held: dict[str, object] = {}
        for tasks in plan.tasks:
            for task in tasks:
                for move in task.loads:
                    if move.place.slot is not None:
                        held[move.place.key] = move.box
                for operand, place in zip(task.nest.reads, task.reads, strict=True):
                    if place.slot is None or ".band." in place.key:
                        continue
                    streamed += 1
                    assert held[place.key] == place.slot, (task.nest.name, operand.buffer)
    assert streamed > 20


def test_followers_share_the_stage_of_what_they_read() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(200):
        network = network_of(seed, PRESETS["edge16"]).lower(1)
        for stage in form_stages(network):
            for place in stage.nests[1:]:
                nest = network.nests[place]
                before = {network.nests[p].output.buffer for p in stage.nests if p < place}
                read = before & {operand.buffer for operand in nest.reads}
                if isinstance(nest, VectorNest):
                    assert read
                elif read:
                    lead = network.nests[stage.nests[0]]
                    assert isinstance(nest, MatrixNest) and nest.taps[0] == 1
                    assert nest.output.lines == nest.input.lines == lead.output.lines > 1
                kinds[type(nest).__name__] += 1
    assert kinds["VectorNest"] > 100 and kinds["MatrixNest"] > 0


def test_bands_are_as_many_as_hide_most() -> None:
    arch = PRESETS["edge16"]
    for seed in range(20):
        network = network_of(seed, arch).lower(1)
        for stage in form_stages(network):
            nests = [network.nests[place] for place in stage.nests]
            if not isinstance(nests[0], MatrixNest) or nests[0].output.lines == 1:
                continue
            chosen = choose_bands(nests, arch, Cut(bands=1)).bands
            least = min(
                stage_cycles(nests, arch, len(cuts(nests[0].output.lines, rows)))
                for rows in range(1, nests[0].output.lines + 1)
            )
            assert stage_cycles(nests, arch, chosen) == least


POOLED = """pooled (float[1, 16, {lines}, 20] x) => (float[1, 24, {out}, {wide}] y) {{
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    b = Relu (a)
    y = AveragePool <kernel_shape = {window}, strides = {window}> (b)
}}"""


@pytest.mark.parametrize(("lines", "window"), [(24, [2, 2]), (30, [3, 2]), (40, [4, 5])])
def test_windows_that_share_no_row_read_bands_that_roll(lines: int, window: list[int]) -> None:
    """No band cuts a window, and two bands are enough of what lies between."""
    graph = parser.parse_graph(
        POOLED.format(lines=lines, out=lines // window[0], wide=20 // window[1], window=window)
    )
    weights = np.random.default_rng(0).normal(size=(24, 16, 3, 3)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    quantized = quantize_graph(import_graph(model), "random")
    (part,) = quantized.parts
    assert isinstance(part, MachinePart)
    network = lower(quantized, part, PRESETS["edge16"], 1)
    plan = plan_group(network, PRESETS["edge16"], {}, Choices(), Residency())
    (tiled,) = plan.stages
    product, pool = (network.nests[place] for place in tiled.stage.nests)
    assert tiled.banded == {product.output.buffer}
    bands = [tile.unit.lines for tile in tiled.tiles[0]]
    assert len(set(bands)) > 2
    assert all(pool.needs(tile.unit)[0].lines in bands for tile in tiled.tiles[1])
