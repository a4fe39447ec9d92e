"""Compiles networks drawn at random, runs them, and compares: the campaign, and one network of it.

    python tests/shared/random_networks.py --networks 2000 --seed 1

Of every network the simulator must give what the quantized graph evaluates to, in every element;
and every node must give what its float operator gives on the same (dequantized) operands, but for
rounding.
"""

import argparse
import dataclasses
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))

import systol
from random_models import random_model
from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.compile import CompileOptions, compile_quantized, import_graph
from systol_compiler.graph.float_graph import Graph, Node, onnx_node, wrap_nodes
from systol_compiler.graph.host_session import HostSession
from systol_compiler.numbers.arithmetic import dequantize
from systol_compiler.quantized.build import MachineNode
from systol_compiler.quantized.evaluate import Evaluator
from systol_compiler.quantized.graph import QuantizedGraph
from systol_hw.arch import PRESETS

Array = npt.NDArray[Any]

MACHINES = (
    PRESETS["edge16"],
    PRESETS["edge32"],
    PRESETS["nano"],
    dataclasses.replace(PRESETS["nano"], name="tiny", ub_bytes=8192),
    dataclasses.replace(PRESETS["edge16"], name="narrow", ub_bytes=32768, vector_lanes=4),
)
PLAIN = QuantizationOptions(bias_correction=False)
"""Corrected biases differ from the model's on purpose."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ROUNDED_OFTEN = (
    "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
    "GroupNormalization", "LRN", "ReduceL2", "Div", "Pow", "Exp", "Reciprocal",
)
"""Operators in several steps, each of which rounds."""


class WrongError(Exception):
    """A network gave something else than it must."""


def run_network(seed: int) -> str:
    """Compile and run network `seed`; "compared", or "host alone" where the machine has nothing.

    Raises
    ------
    WrongError
        The simulator or a layer gave something wrong.
    """
    model = random_model(seed)
    graph = import_graph(model)
    rng = np.random.default_rng(seed)
    feeds = {
        name: rng.normal(size=graph.types[name].shape).astype(np.float32) for name in graph.inputs
    }
    shared = len({value.shape[:1] for value in feeds.values()}) == 1
    samples = feeds if shared else {name: value[None] for name, value in feeds.items()}
    found = quantize(graph, samples, PLAIN)
    machine = MACHINES[seed % len(MACHINES)]
    compiled = compile_quantized(
        found.quantized, arch=machine, options=CompileOptions(effort="fast")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = systol.Device("sim").run(compiled, feeds).outputs
    codes, real = Evaluator(found.quantized).run_layers(feeds)
    for output in found.quantized.outputs:
        if not np.array_equal(outputs[output.name], real[output.tensor], equal_nan=True):
            raise WrongError(f"{output.name} on {machine.name} is not what it evaluates to")
    for unit in found.partition.machine:
        check_unit(unit, found.partition.graph, found.quantized, codes, real)
    return "compared" if compiled.machine_segments else "host alone"


def check_unit(
    unit: MachineNode, graph: Graph, quantized: QuantizedGraph, codes: dict[str, Array],
    real: dict[str, Array],
) -> None:
    """Compare a node's result with its float operator's on the same operands."""
    tensor = quantized.by_source.get(unit.output)
    if tensor is None or tensor.name not in codes:
        return
    operands: dict[str, Array] = {}
    for name in unit.node.inputs:
        if name and name not in graph.constants:
            source = quantized.by_source.get(name)
            if source is not None and source.name in codes:
                operands[name] = dequantize(
                    codes[source.name], source.scale, source.zero_point
                )
            elif name in real:
                operands[name] = real[name]
            else:
                return  # it lies within another node's layers
    expected = _run(unit.node, graph, operands)
    if unit.factor != 1:
        expected = expected * unit.factor
    if unit.bias:
        expected = expected + graph.constants[unit.bias] * unit.factor
    expected = np.clip(expected, unit.least, unit.greatest)
    low, high = ((b - tensor.zero_point) * tensor.scale for b in tensor.bounds)
    error = np.abs(
        dequantize(codes[tensor.name], tensor.scale, tensor.zero_point).astype(np.float64)
        - np.clip(expected, low, high)
    )
    steps = {
        name: quantized.by_source[name].scale for name in operands if name in quantized.by_source
    }
    allowed = _allowed(unit, graph, operands, expected, tensor.scale, steps)
    worst = np.unravel_index(int(np.argmax(error - allowed)), error.shape) if error.size else ()
    if error.size and error[worst] > np.broadcast_to(allowed, error.shape)[worst]:
        raise WrongError(
            f"{unit.node.place} is off by {error[worst]:g} at {worst}, which is "
            f"{error[worst] / tensor.scale:.2f} steps"
        )


def _run(node: Node, graph: Graph, operands: dict[str, Array]) -> Array:
    model = wrap_nodes(
        name=node.name, opset=graph.opset, nodes=[onnx_node(node)],
        inputs={name: graph.types[name] for name in operands},
        outputs={node.outputs[0]: graph.types[node.outputs[0]]}, constants=graph.constants,
    )
    session = HostSession(model.SerializeToString(), node.name)
    return session.run([node.outputs[0]], operands)[0]


def _allowed(
    unit: MachineNode, graph: Graph, operands: dict[str, Array], expected: Array, scale: float,
    steps: dict[str, float],
) -> Array:
    """What rounding explains: of the result, of weights (half a step of the channel's largest), of
    biases (half a step of the product), of steps in between, and of float32 in the comparison."""
    largest = max((float(np.abs(value).max(initial=0)) for value in operands.values()), default=0)
    step = np.float64(1.02 * scale + 1e-6 * largest)
    if unit.node.op in _PRODUCTS:
        constants = dict(graph.constants)
        for name in unit.node.inputs:
            value = graph.constants.get(name)
            if value is not None and value.ndim > 1:
                constants[name] = np.full_like(value, np.abs(value).max() / 127)
                step += max(steps.values(), default=0) * np.abs(value).max() / 127
            elif value is not None:
                constants[name] = np.zeros_like(value)
        sizes = {name: np.abs(value) for name, value in operands.items()}
        changed = dataclasses.replace(graph, constants=constants)
        return np.abs(_run(unit.node, changed, sizes)) * abs(unit.factor) + step
    if unit.node.op in _ROUNDED_OFTEN:
        return 4 * step + 0.03 * np.abs(expected)
    return 2 * step + 0.004 * np.abs(expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    for seed in range(given.seed, given.seed + given.networks):
        try:
            counts[run_network(seed)] += 1
        except Exception as error:  # each is a finding, whatever its class
            counts[f"FAILED: {type(error).__name__}"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"network {seed}: {type(error).__name__}: {str(error)[:200]} "
                  f"({Path(where.filename).name}:{where.lineno})", flush=True)
    print(f"{given.networks} networks from seed {given.seed}: {dict(counts)}, "
          f"{time.perf_counter() - began:.0f} s")
    return int(any(key.startswith("FAILED") for key in counts))


if __name__ == "__main__":
    sys.exit(main())
