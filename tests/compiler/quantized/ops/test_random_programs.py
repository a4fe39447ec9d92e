"""Moves and elementwise layers as whole programs: the simulator gives what layers define."""

from dataclasses import replace

import numpy as np
import pytest

from quantized_cases import evaluate, random_inputs
from random_operators import RandomGraph
from systol_compiler.nests.building import movement
from systol_compiler.nests.building.builder import byte_planes, from_byte_planes
from systol_compiler.program.backend import Choice, build
from systol_compiler.quantized.graph import MachinePart
from systol_compiler.quantized.lowering import lower
from systol_hw.arch import PRESETS
from systol_sim import simulator
from systol_sim.validity.checker import check


@pytest.mark.parametrize("seed", range(18))
def test_the_machine_gives_what_layers_define(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:
        # Products cost nothing: wherever one can move data, it does.
        monkeypatch.setattr(movement, "_MATRIX_CYCLES", -(10**9))
    graph = RandomGraph(seed)
    while not graph.nodes:
        graph.grow(7)
    quantized = graph.quantized((8, 16) if seed % 3 == 0 else (8,), most_outputs=5)
    (part,) = quantized.parts
    assert isinstance(part, MachinePart)
    arch = PRESETS[("nano", "edge16", "edge32")[seed % 3]]
    values = random_inputs(quantized, seed)
    known = evaluate(quantized, values)
    result = build(
        lambda images: replace(lower(quantized, part, arch), images=1), 1, arch, Choice()
    )
    program = result.emitted.program
    check(program)
    contents = {}
    for binding in result.emitted.inputs:
        width = quantized.tensors[binding.tensor].width
        codes = values[binding.tensor].transpose(binding.order)
        contents[binding.window] = byte_planes(codes, width)
    outcome = simulator.run(program, contents, values=True, checked=True)
    assert outcome.fault is None
    windows = {w.name: data for w, data in zip(program.windows, outcome.windows, strict=True)}
    for binding in result.emitted.outputs:
        tensor = quantized.tensors[binding.tensor]
        stored = tuple(tensor.shape[axis] for axis in binding.order)
        flat = from_byte_planes(windows[binding.window], int(np.prod(stored)), tensor.width)
        got = flat.reshape(stored).transpose(np.argsort(binding.order))
        np.testing.assert_array_equal(got, known[binding.tensor], err_msg=binding.tensor)
