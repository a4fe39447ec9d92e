"""Time of simulating timing alone: cycles, milliseconds, and the ratio to stepping every cycle.

    python benchmarks/timing_only.py [--quick]

Layers and bundled models are compiled by the project's own compiler; figures are of one run, each the
best of several, in processor time. `prepare` is the decoding of the program, which is done once for
a program; `check` is the static checker, which a caller that knows the program to be valid leaves out
(`checked=True`).
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import systol
from systol import bundled
from systol_compiler.driver import CompileOptions
from systol_compiler.importer import ModelSource
from systol_compiler.model import MachineSegment
from systol_hw.program import Program
from systol_sim import simulator
from systol_sim.checker import check
from systol_sim.instruction_table import build_table

REPEATS = 5


def _model(node: onnx.NodeProto, shape: list[int], weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node], "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9)


def _product(size: int) -> tuple[onnx.ModelProto, np.ndarray]:
    random = np.random.default_rng(0)
    weights = random.standard_normal((size, size)) / np.sqrt(size)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model(node, [size, size], weights), random.standard_normal((size, size))


def _convolution(side: int, channels: int) -> tuple[onnx.ModelProto, np.ndarray]:
    random = np.random.default_rng(0)
    weights = random.standard_normal((channels, channels, 3, 3)) / np.sqrt(9 * channels)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    shape = [1, channels, side, side]
    return _model(node, shape, weights), random.standard_normal(shape)


def _compiled(
    model: ModelSource, data: np.ndarray, arch: str, *, search: bool = True
) -> Program:
    compiled = systol.compile(
        model, arch=arch, calibration=data.astype(np.float32), options=CompileOptions(search=search)
    )
    (program,) = [s.program for s in compiled.segments if isinstance(s, MachineSegment)]
    return program


def programs(quick: bool) -> Iterator[tuple[str, Program]]:
    """What is measured, by name."""
    yield "3x3 convolution 56x56x64 -> 64, edge32", _compiled(*_convolution(56, 64), "edge32")
    size = 512 if quick else 2048
    yield f"product {size}^3, edge32", _compiled(*_product(size), "edge32", search=False)
    images = bundled.calibration_images()
    for name in bundled.MODEL_NAMES:
        for arch in ("nano", "edge16", "edge32", "tpu-v1"):
            yield f"{name}, {arch}", _compiled(bundled.model_path(name), images, arch)


def _milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a product of 512^3 instead of 2048^3")
    options = parser.parse_args()
    table = Table("program", "cycles", "ms", "stepping, ms", "ratio", "prepare, ms", "check, ms")
    for name, program in programs(options.quick):
        prepared = build_table(program)
        skipped = simulator.step(program, prepared)
        assert skipped.counters is not None
        fast = _milliseconds(lambda p=program, t=prepared: simulator.step(p, t))  # type: ignore[misc]
        slow = _milliseconds(
            lambda p=program, t=prepared: simulator.step(p, t, skip=False), 2  # type: ignore[misc]
        )
        prepare = _milliseconds(lambda p=program: build_table(p), 2)  # type: ignore[misc]
        checking = _milliseconds(lambda p=program: check(p), 1)  # type: ignore[misc]
        table.add_row(
            name, str(skipped.counters.cycles), f"{fast:.3f}", f"{slow:.1f}", f"{slow / fast:.0f}",
            f"{prepare:.1f}", f"{checking:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
