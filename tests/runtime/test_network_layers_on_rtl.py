"""Layers of large networks, drawn anew each time: simulator and RTL agree in every counter."""

import os
import random

import numpy as np
import pytest

from light_models import seeded_light_model
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.compile import CompileOptions, compile_quantized, import_graph
from systol_compiler.graph.float_graph import Graph, Node, onnx_node, wrap_nodes
from systol_compiler.quantized.placement.node_cost import node_macs
from systol_hw.arch import PRESETS
from systol_sim import simulator
from systol_sim.comparison import differences
from systol_sim.hardware import verilated

NETWORKS = ("resnet50", "densenet121", "inception_v1", "squeezenet", "shufflenet")
MOST_MACS = 3_000_000
"""Of the drawn layers together: the RTL of edge32 runs some ten thousand cycles a second."""
MOST_ELEMENTS = 120_000


def drawn_layers(graph: Graph, chance: random.Random) -> list[Node]:
    """One to three neighbours that the RTL can run in seconds, one of them a product."""
    runs = [
        [*graph.nodes[first : first + count]]
        for first in range(len(graph.nodes)) for count in (1, 2, 3)
    ]

    def elements(node: Node) -> int:
        names = [*node.outputs, *(n for n in node.inputs if n and n not in graph.constants)]
        return max(int(np.prod(graph.types[name].shape)) for name in names if name)

    good = [
        run for run in runs
        if any(node.op in ("Conv", "Gemm") for node in run)
        and sum(node_macs(node, graph) for node in run) <= MOST_MACS
        and all(elements(node) <= MOST_ELEMENTS and node.op != "Softmax" for node in run)
    ]
    return chance.choice(good)


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("machine", ["edge16", "edge32"])
def test_drawn_layers_agree(machine: str) -> None:
    seed = int(os.environ.get("SYSTOL_LAYERS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"SYSTOL_LAYERS_SEED={seed}")
    chance, rng = random.Random(seed), np.random.default_rng(seed)
    graph = import_graph(seeded_light_model(chance.choice(NETWORKS)))
    for _ in range(4):
        nodes = drawn_layers(graph, chance)
        written = {name for node in nodes for name in node.outputs}
        read = dict.fromkeys(name for node in nodes for name in node.inputs if name)
        given = [n for n in read if n not in written and n not in graph.constants]
        model = wrap_nodes(
            name="layers", opset=graph.opset, nodes=[onnx_node(node) for node in nodes],
            inputs={name: graph.types[name] for name in given},
            outputs={name: graph.types[name] for name in nodes[-1].outputs},
            constants=graph.constants,
        )
        samples = {n: rng.normal(size=graph.types[n].shape).astype(np.float32) for n in given}
        found = quantize(
            import_graph(model), samples, QuantizationOptions(bias_correction=False)
        )
        compiled = compile_quantized(
            found.quantized, arch=PRESETS[machine], options=CompileOptions(effort="fast")
        )
        for segment in compiled.machine_segments:
            program = segment.program
            contents = {
                window.name: rng.integers(0, 256, window.size_bytes, np.uint8)
                for window in program.windows
            }
            simulated = simulator.run(program, contents)
            rtl = verilated.run(program, contents)
            names = [node.name for node in nodes]
            assert differences(program, simulated, rtl) == [], (seed, names)
