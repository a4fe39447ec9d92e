"""What Systol imports reports to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper
{imports}
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
opset = helper.make_opsetid("", 17)
model = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
assert session.run(None, {{"x": np.ones(1, np.float32)}})[0] == -1
"""


def left_behind(folder: Path, imports: str) -> list[str]:
    """Files that a run of ONNX Runtime leaves in a user's new home and temporary directory."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    path = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))
    # Nothing that would keep ONNX Runtime quiet by itself, as it is under continuous integration.
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN.format(imports=imports)], cwd=folder, env=environment,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "imports",
    [
        "from systol_sim.onnx_runtime import onnxruntime",
        "import systol.cli, onnxruntime",
        "import systol.api, onnxruntime",
    ],
)
def test_onnx_runtime_leaves_no_file(tmp_path: Path, imports: str) -> None:
    assert left_behind(tmp_path, imports) == []
