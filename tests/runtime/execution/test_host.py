"""Host graphs run in bounded memory, without code of others, and stop at an interrupt."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from hand_made import f32, host_segment, on_host, onnx_model
from systol.execution.host import HostRunner
from systol_hw.errors import InputError


def test_outputs_by_name() -> None:
    runner = HostRunner(
        on_host(
            "host", [helper.make_node("Split", ["x"], ["a", "b"], axis=1)],
            {"x": f32(2, 4)}, {"a": f32(2, 2), "b": f32(2, 2)},
        )
    )  # fmt: skip
    given = runner.run({"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    assert given["a"].tolist() == [[0, 1], [4, 5]] and given["b"].tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (helper.make_node("Expand", ["x", "shape"], ["big"]), {"shape": [60_000, 60_000]}),
        (helper.make_node("Tile", ["x", "shape"], ["big"]), {"shape": [60_000, 60_000]}),
        (
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            {"shape": [60_000, 60_000]},
        ),
    ],
    ids=["Expand", "Tile", "ConstantOfShape"],
)
def test_memory_ends_somewhere(node: object, constants: dict[str, list[int]]) -> None:
    model = onnx_model(
        [node, helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0)],  # type: ignore[list-item]
        {"x": f32(1, 1)}, {"y": f32()}, {k: np.array(v) for k, v in constants.items()},
    )  # fmt: skip
    runner = HostRunner(host_segment("host", model))
    with pytest.raises(InputError, match=r"'host' failed: .*(Available memory|more than)"):
        runner.run({"x": np.ones((1, 1), np.float32)})


def test_nothing_runs_before_it_is_asked_to() -> None:
    """Constants are not folded at load: there nothing could bound or stop them."""
    model = onnx_model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["none"], keepdims=0),
            helper.make_node("Add", ["x", "none"], ["y"]),
        ],
        {"x": f32(1)}, {"y": f32(1)}, {"shape": np.array([60_000, 60_000])},
    )  # fmt: skip
    HostRunner(host_segment("host", model))


def test_what_onnx_runtime_does_not_know_is_an_error_with_a_remedy() -> None:
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {"x": f32(1)}, {"y": f32(1)})
    model.ir_version = 99
    with pytest.raises(InputError, match=r"cannot run here.*compile the model again"):
        HostRunner(host_segment("host", model))


def test_an_interrupt_ends_a_long_graph(tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text(textwrap.dedent("""
        import sys
        import numpy as np
        from onnx import helper
        from hand_made import f32, on_host
        from systol.execution.host import HostRunner
        nodes = [helper.make_node("MatMul", ["x", "x"], ["a0"])]
        nodes += [helper.make_node("MatMul", [f"a{n}", "x"], [f"a{n + 1}"]) for n in range(3000)]
        runner = HostRunner(on_host("h", nodes, {"x": f32(900, 900)}, {"a3000": f32(900, 900)}))
        print("ready", flush=True)
        status = 0
        try:
            runner.run({"x": np.zeros((900, 900), np.float32)})
        except KeyboardInterrupt:
            status = 130
        sys.exit(status)
    """))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # A shell's background jobs ignore interrupts, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - began < 10
