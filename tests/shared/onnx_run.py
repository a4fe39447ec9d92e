"""Runs ONNX models as their author meant them: the witness that graphs are compared with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from systol_sim.onnx_runtime import onnxruntime

Array: TypeAlias = npt.NDArray[Any]


def run_model(model: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs of `model`: by ONNX Runtime, or by ONNX's evaluator where that has no kernel."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Node by node: its rewriting of whole graphs has faults of its own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are private
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        return [
            np.asarray(value)
            for value in ReferenceEvaluator(source if isinstance(model, Path) else model).run(
                None, dict(feeds)
            )
        ]
    return list(session.run(None, dict(feeds)))
