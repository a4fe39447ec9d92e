"""How long the RTL takes to build, and how fast it runs, by the size of its array.

    python benchmarks/rtl_size.py                 # 16, 32, 64, 128 and 256, as users get them
    python benchmarks/rtl_size.py 16 32 64 --as flat
    python benchmarks/rtl_size.py 16 32 64 --as blocks

Each model is built into a cache of its own, so that nothing is found there. Seconds are given as a
clock on the wall has them, and as the processors worked (those of all processes); the former
depend on what else the computer does. The speed is that of one matrix product, without what a run
takes before and after.
"""

import argparse
import dataclasses
import os
import resource
import tempfile
import time
from fractions import Fraction

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from systol.console.terminal import print_table
from systol_compiler.compile import compile_model
from systol_hw.arch import PRESETS, Arch
from systol_hw.isa.assembly import assemble
from systol_hw.program import Program, make_program
from systol_sim.hardware.verilated import build, run

PRESET_OF_SIZE = {16: "edge16", 32: "edge32", 256: "tpu-v1"}
ROWS_OF_SIZE = {16: 2048, 32: 1024, 64: 512, 128: 512, 256: 512}
"""Rows of the product that is run, by the array's size."""
FEATURES = 256
"""Inputs and outputs of the product."""


def machine(size: int) -> Arch:
    """The preset of that size, or the largest one scaled down."""
    if size in PRESET_OF_SIZE:
        return PRESETS[PRESET_OF_SIZE[size]]
    large = PRESETS["tpu-v1"]
    port = dataclasses.replace(large.weight_port, bytes_per_cycle=Fraction(size, 4))
    return dataclasses.replace(
        large, name=f"square{size}", rows=size, columns=size, vector_lanes=size, weight_port=port
    )


def product(arch: Arch, rows: int) -> Program:
    """A fully connected layer on so many rows."""
    rng = np.random.default_rng(1)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, FEATURES))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (rows, FEATURES))],
        [numpy_helper.from_array(rng.normal(size=(FEATURES, FEATURES)).astype(np.float32), "w")],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    samples = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    compiled = compile_model(model, arch=arch, calibration={"x": samples})
    return compiled.machine_segments[0].program


def processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed_run(program: Program) -> tuple[int, float]:
    """Cycles of a run, and the seconds it took the processor."""
    start = processor_seconds()
    result = run(program, checked=True, memories=False)
    assert result.counters is not None and result.fault is None
    return result.counters.cycles, processor_seconds() - start


def measure(size: int) -> tuple[str, ...]:
    """One line of the table."""
    arch = machine(size)
    wall, worked = time.perf_counter(), processor_seconds()
    library = build.model_library(arch, packed=True)
    wall, worked = time.perf_counter() - wall, processor_seconds() - worked
    few, short = timed_run(make_program(arch, assemble("halt")))
    many, long = timed_run(product(arch, ROWS_OF_SIZE[size]))
    return (
        f"{size}x{size}",
        "blocks" if arch.macs_per_cycle > build.LARGEST_FLAT_MACS else "flat",
        f"{wall:,.0f}",
        f"{worked:,.0f}",
        f"{library.stat().st_size / 1e6:.1f}",
        f"{many:,}",
        f"{(many - few) / (long - short):,.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="build and speed of the RTL, by array size")
    parser.add_argument("sizes", type=int, nargs="*", metavar="SIZE", help="rows and columns")
    parser.add_argument("--as", dest="form", choices=("flat", "blocks"), help="for every size")
    options = parser.parse_args()
    for size in options.sizes:
        if size not in ROWS_OF_SIZE:
            parser.error(f"a size is one of {', '.join(map(str, ROWS_OF_SIZE))}, not {size}")
    if options.form:
        build.LARGEST_FLAT_MACS = 0 if options.form == "blocks" else 1 << 20
    headings = (
        "array", "built", "seconds to build", "processor seconds", "MB", "cycles run",
        "cycles a second",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        rows = []
        for size in options.sizes or ROWS_OF_SIZE:
            rows.append(measure(size))
            print(*rows[-1], sep="  ", flush=True)
    print()
    print_table(headings, rows)


if __name__ == "__main__":
    main()
