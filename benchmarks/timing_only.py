"""Time of simulating timing alone: cycles, milliseconds, and the ratio to stepping every cycle.

    python benchmarks/timing_only.py [--quick]

Layers and bundled models are compiled by the project's own compiler; figures are of one run, each
the best of several, in processor time. `prepare` is the decoding of the program, which is done once
for a program; `check` is the static checker, which a caller that knows the program to be valid
leaves out (`checked=True`).
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import systol
from systol import bundled
from systol_compiler.binary.model import MachineSegment
from systol_compiler.graph.reading.importer import ModelSource
from systol_hw.arch import PRESETS
from systol_hw.isa import instruction
from systol_hw.program import Program, Window, make_program
from systol_sim import simulator
from systol_sim.timing.state.instruction_table import build_table
from systol_sim.validity.checker import check

REPEATS = 5


def _model(node: onnx.NodeProto, shape: list[int], weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node], "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
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
        model, arch=arch, calibration=data.astype(np.float32),
        effort="normal" if search else "fast",
    )
    (program,) = [s.program for s in compiled.segments if isinstance(s, MachineSegment)]
    return program


def programs(quick: bool) -> Iterator[tuple[str, Program]]:
    """What is measured, by name."""
    yield "3x3 convolution 56x56x64 -> 64, edge32", _compiled(*_convolution(56, 64), "edge32")
    yield "product 2048^3 by hand, edge32", hand_made_product()
    size = 512 if quick else 2048
    yield f"product {size}^3, edge32", _compiled(*_product(size), "edge32", search=False)
    images = bundled.calibration_images()
    for name in bundled.MODEL_NAMES:
        for arch in ("nano", "edge16", "edge32", "tpu-v1"):
            yield f"{name}, {arch}", _compiled(bundled.model_path(name), images, arch)


def hand_made_product() -> Program:
    """2,048 x 2,048 x 2,048 on `edge32` as a person would write it: 256 rows at a time, two column
    tiles an instruction, results requantized from one half of the accumulators while the other is
    filled, stores behind them. Activations lie in banks 0 and 1, results and parameters in bank 3.
    """
    arch, size, rows, pair = PRESETS["edge32"], 2048, 256, 64
    load, store, matrix, vector = (1 << (unit - 1) for unit in (1, 2, 4, 5))
    parameters, results = 3 * arch.bank_bytes + 2 * rows * pair, 3 * arch.bank_bytes
    program = [instruction("read_host", window=2, run_bytes=8 * size, ub_address=parameters,
                           signal=vector)]
    first = True
    for chunk in range(size // rows):
        program.append(instruction(
            "read_host", run_bytes=rows * size, memory_address=chunk * rows * size, signal=matrix,
            wait=0 if chunk == 0 else matrix,
        ))
        for step in range(size // pair):
            last = step == size // pair - 1
            half, number = step % 2, chunk * (size // pair) + step
            program.append(instruction(
                "read_weights", address=step * pair * size, row_pitch=32, n_count=2,
                n_stride=32 * size, inner_count=64, inner_stride=1024, k_last=32, n_last=32,
            ))
            program.append(instruction(
                "matmul", x_count=rows, x_step=size, k2_count=64, k2_step=32, n_count=2,
                acc_n_step=rows, acc_address=512 * half, p_limit=rows * size, k_last=32,
                wait=(load if step == 0 else 0) | (vector if number >= 2 else 0),
                signal=vector | (load if last and chunk < size // rows - 1 else 0),
            ))
            program.append(instruction(
                "requantize", x_count=rows, n_count=2, a_n_step=rows, a_x_step=1, x_step=1,
                x_limit=rows, a_address=512 * half, n_last=32, out_n_step=32, out_x_step=pair,
                out_address=results + half * rows * pair,
                parameter_address=parameters + 8 * pair * step,
                wait=matrix | (load if first else 0) | (store if number >= 2 else 0),
                signal=store | (matrix if number < size // rows * (size // pair) - 2 else 0),
            ))
            program.append(instruction(
                "write_host", window=1, ub_address=results + half * rows * pair, run_bytes=pair,
                count0=rows, ub_stride0=pair, memory_stride0=size,
                memory_address=chunk * rows * size + step * pair, wait=vector,
                signal=vector if number < size // rows * (size // pair) - 2 else 0,
            ))
            first = False
    program.append(instruction("halt"))
    windows = (Window(name="a", size_bytes=size * size), Window(name="c", size_bytes=size * size),
               Window(name="parameters", size_bytes=8 * size))
    return make_program(
        arch, program, weight_image=np.zeros(size * size, np.uint8), windows=windows
    )


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
        skipped = simulator.step(program, prepared, streams=True)
        assert skipped.counters is not None
        fast = _milliseconds(
            lambda p=program, t=prepared: simulator.step(p, t, streams=True)  # type: ignore[misc]
        )
        slow = _milliseconds(
            lambda p=program, t=prepared: simulator.step(p, t, skip=False), 2  # type: ignore[misc]
        )
        prepare = _milliseconds(lambda p=program: build_table(p), 2)  # type: ignore[misc]
        # The checker remembers what it has accepted: a copy is new to it.
        copy = dataclasses.replace(program)
        checking = _milliseconds(lambda p=copy: check(p), 1)  # type: ignore[misc]
        table.add_row(
            name, str(skipped.counters.cycles), f"{fast:.3f}", f"{slow:.1f}", f"{slow / fast:.0f}",
            f"{prepare:.1f}", f"{checking:.1f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
