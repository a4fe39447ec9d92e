"""How long the simulator takes to compute values, beside the matrix library's own time.

    PYTHONPATH=hw:compiler:sim:runtime python benchmarks/values.py [--threads N] [--repeats N]

One run measures everything with one number of threads: numpy's float32 product of the layer (for a
convolution that of its unfolded matrices), ONNX Runtime's float32 and 8-bit layer, and the
simulator with values and exact cycles. The best of the repeats counts; the simulator's first run,
which also checks the program and steps its cycles, is given apart. Memory is the peak of what
Python and numpy hold beyond the program and the windows' contents.
"""

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable
from typing import Any


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="time of the simulator's values, by layer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


ARGUMENTS = _arguments()
# The matrix library reads its number of threads when numpy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = str(ARGUMENTS.threads)

import numpy as np  # noqa: E402
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

from systol_compiler.binary.model import MachineSegment  # noqa: E402
from systol_compiler.compile import CompileOptions, compile_model  # noqa: E402
from systol_hw.arch import PRESETS  # noqa: E402
from systol_hw.program import Program  # noqa: E402
from systol_sim import simulator  # noqa: E402
from systol_sim.onnx_runtime import onnxruntime  # noqa: E402

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def best_of(run: Callable[[], object]) -> float:
    """Seconds of the fastest repeat."""
    times = []
    for _ in range(ARGUMENTS.repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def model(node: NodeProto, x: tuple[int, ...], y: tuple[int, ...], kind: int,
          constants: dict[str, Array]) -> ModelProto:
    """A model of one node from `x` to `y`."""
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, y)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class Layer:
    """One layer: its float model, its 8-bit model, and the matrices of its product.

    Parameters
    ----------
    x, y, weights
        Shapes; the first axis of `weights` of a convolution is its outputs.
    matrices
        (M, K, N) of the product.
    attributes
        Of a Conv; None for a Gemm.
    """

    def __init__(self, name: str, x: tuple[int, ...], y: tuple[int, ...],
                 weights: tuple[int, ...], matrices: tuple[int, int, int],
                 attributes: dict[str, Any] | None) -> None:
        self.name, self.shape, self.matrices = name, x, matrices
        convolution = attributes is not None
        w = (0.05 * RNG.standard_normal(weights)).astype(np.float32)
        node = helper.make_node(
            "Conv" if convolution else "Gemm", ["x", "w", "b"], ["y"], **(attributes or {})
        )
        bias = np.zeros(matrices[2], np.float32)
        self.float_model = model(node, x, y, TensorProto.FLOAT, {"w": w, "b": bias})
        scales = {
            "xs": np.float32(0.03), "xz": np.uint8(128), "ws": np.float32(0.002),
            "wz": np.int8(0), "ys": np.float32(0.1), "yz": np.uint8(128),
        }
        node = helper.make_node(
            "QLinearConv" if convolution else "QLinearMatMul",
            ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"], **(attributes or {}),
        )
        constants: dict[str, Array] = {key: np.array(value) for key, value in scales.items()}
        constants["w"] = RNG.integers(-127, 128, weights).astype(np.int8)
        self.byte_model = model(node, x, y, TensorProto.UINT8, constants)

    def numpy_seconds(self) -> float:
        """Of the float32 product."""
        m, k, n = self.matrices
        a = RNG.standard_normal((m, k)).astype(np.float32)
        b = RNG.standard_normal((k, n)).astype(np.float32)
        return best_of(lambda: a @ b)

    def runtime_seconds(self, proto: ModelProto, kind: type) -> float:
        """Of ONNX Runtime on one of the models."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = ARGUMENTS.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        x = RNG.integers(0, 256, self.shape).astype(kind)
        return best_of(lambda: session.run(None, {"x": x}))

    def program(self, machine: str) -> Program:
        """The layer compiled for `machine`."""
        samples = {"x": RNG.standard_normal(self.shape).astype(np.float32)}
        compiled = compile_model(
            self.float_model, arch=PRESETS[machine], calibration=samples,
            options=CompileOptions(effort="fast"),
        )
        (segment,) = (s for s in compiled.segments if isinstance(s, MachineSegment))
        return segment.program


CONVOLUTION = Layer(
    "conv 3x3, 56x56x64 -> 64", (1, 64, 56, 56), (1, 64, 56, 56), (64, 64, 3, 3),
    (56 * 56, 9 * 64, 64), {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]},
)
PRODUCT = Layer(
    "product 2048^3", (2048, 2048), (2048, 2048), (2048, 2048), (2048, 2048, 2048), None
)
CASES = (
    (CONVOLUTION, "edge32"), (CONVOLUTION, "tpu-v1"), (PRODUCT, "edge32"), (PRODUCT, "tpu-v1"),
)


def simulate(program: Program) -> tuple[float, float, float, int]:
    """Seconds of the first run and of the best later one with values, and of the best without; and
    the peak bytes of one run beyond its operands."""
    content = {
        window.name: RNG.integers(0, 256, window.size_bytes, np.uint8)
        for window in program.windows[:1]
    }
    start = time.perf_counter()
    simulator.run(program, content)
    first = time.perf_counter() - start
    valued = best_of(lambda: simulator.run(program, content))
    timed = best_of(lambda: simulator.run(program, content, values=False))
    operands = program.weight_memory_bytes + sum(w.size_bytes for w in program.windows)
    tracemalloc.start()
    simulator.run(program, content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return first, valued, timed, peak - operands


def main() -> None:
    """Print the table."""
    print(f"threads: {ARGUMENTS.threads}; best of {ARGUMENTS.repeats}; milliseconds")
    print(f"{'layer':26}{'machine':8}{'numpy f32':>10}{'ORT f32':>9}{'ORT 8 bit':>10}"
          f"{'sim':>8}{'sim first':>10}{'no values':>10}{'sim/numpy':>10}{'peak MB':>9}")
    # The compiled loops are loaded, or made, on a program that is not measured.
    small = Layer("warm", (4, 40), (4, 40), (40, 40), (4, 40, 40), None)
    simulator.run(small.program("nano"))
    for layer, machine in CASES:
        program = layer.program(machine)
        numpy_ms = 1e3 * layer.numpy_seconds()
        runtime = [
            1e3 * layer.runtime_seconds(proto, kind)
            for proto, kind in ((layer.float_model, np.float32), (layer.byte_model, np.uint8))
        ]
        first, valued, timed, peak = simulate(program)
        print(f"{layer.name:26}{machine:8}{numpy_ms:10.2f}{runtime[0]:9.2f}{runtime[1]:10.2f}"
              f"{1e3 * valued:8.1f}{1e3 * first:10.1f}{1e3 * timed:10.2f}"
              f"{1e3 * valued / numpy_ms:10.2f}{peak / 1e6:9.1f}", flush=True)


if __name__ == "__main__":
    main()
