"""Whole programs of random nests: the simulator gives what the nests mean."""

import dataclasses

import numpy as np
import pytest

from random_nests import RandomNetwork
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.nests.interpret import interpret
from systol_compiler.plan.choices import Choices, Placement, StageChoice
from systol_compiler.plan.tiling import Cut
from systol_compiler.program.backend import Choice, build, search
from systol_hw.arch import PRESETS, Arch
from systol_sim import simulator
from systol_sim.validity.checker import check


def run_both(network: RandomNetwork, batch: int, arch: Arch, choice: Choice) -> None:
    """Compile, check, simulate, and compare every output with the interpreter's."""
    result = build(network.lower, batch, arch, choice)
    check(result.emitted.program)
    tensors = network.tensors(batch)
    rng = np.random.default_rng(network.seed)
    values: dict[str, np.ndarray] = {}
    contents: dict[str, np.ndarray] = {}
    for binding in result.emitted.inputs:
        codes = rng.integers(-128, 128, tensors[binding.tensor].shape).astype(np.int8)
        values[binding.tensor] = codes
        assert binding.offset_bytes == 0
        contents[binding.window] = byte_planes(codes.transpose(binding.order), 8)
    expected = interpret(network.lower(batch), tensors, values, arch)
    outcome = simulator.run(result.emitted.program, contents, values=True, checked=True)
    assert outcome.fault is None
    windows = {
        window.name: data
        for window, data in zip(result.emitted.program.windows, outcome.windows, strict=True)
    }
    for binding in result.emitted.outputs:
        shape = tensors[binding.tensor].shape
        stored = tuple(shape[axis] for axis in binding.order)
        stored_codes = from_byte_planes(
            windows[binding.window], int(np.prod(stored)), tensors[binding.tensor].width
        )
        got = stored_codes.reshape(stored).transpose(np.argsort(binding.order))
        np.testing.assert_array_equal(got, expected[binding.tensor], err_msg=binding.tensor)


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed: int) -> None:
    arch = PRESETS[("nano", "edge16", "edge32")[seed % 3]]
    network = RandomNetwork(seed, arch, layers=2 + seed % 7, size=8 + seed % 20)
    run_both(network, 1 + seed % 3, arch, Choice())


@pytest.mark.parametrize("seed", range(24))
def test_what_does_not_fit_streams(seed: int) -> None:
    small = dataclasses.replace(PRESETS["nano"], name="small", ub_bytes=8192)
    network = RandomNetwork(seed + 100, small, layers=2 + seed % 7, size=40)
    run_both(network, 1 + seed % 2, small, Choice())


STAGES = (
    StageChoice(), StageChoice(placement=Placement.ENDS), StageChoice(placement=Placement.MIDDLE),
    StageChoice(cut=Cut(bands=1)), StageChoice(cut=Cut(bands=3, exact=True)),
)


@pytest.mark.parametrize("seed", range(16))
def test_stages_with_choices_of_their_own(seed: int) -> None:
    small = dataclasses.replace(PRESETS["nano"], name="small", ub_bytes=8192)
    arch = small if seed % 2 else PRESETS["edge16"]
    network = RandomNetwork(seed + 300, arch, layers=3 + seed % 7, size=30)
    rng = np.random.default_rng(seed)
    stages = tuple(STAGES[k] for k in rng.integers(0, len(STAGES), 12))
    run_both(network, 1 + seed % 2, arch, Choice(stages=Choices(stages=stages)))


@pytest.mark.parametrize("seed", range(6))
def test_a_search_mixes_what_suits_each_stage(seed: int) -> None:
    small = dataclasses.replace(PRESETS["nano"], name="small", ub_bytes=8192)
    network = RandomNetwork(seed + 400, small, layers=6, size=24)
    plain = build(network.lower, 2, small, Choice())
    best = search(network.lower, 2, small)
    assert best.cycles <= plain.cycles
    for result in (plain, best):
        # Stages follow each other; behind the last one the program only halts.
        assert 0 <= result.cycles - sum(result.stage_cycles) < 100
        assert len(result.stage_cycles) == len(result.plan.groups[0].stages)
