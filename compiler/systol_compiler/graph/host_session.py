"""Sessions of ONNX Runtime, bounded and silent: host layers and calibration run in them.

Ref: ONNX Runtime, "Thread management" (spinning) and "Memory consumption" (arena).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from systol_hw.errors import InputError, UnsupportedModelError
from systol_sim.onnx_runtime import onnxruntime

THREADS_MOST: Final = 4
_FATAL: Final = 4
_TWO_ROUNDINGS: Final = "DoubleQDQPairsRemover"
"""A rewriting that makes one rounding of two with different steps."""
_LARGE_BYTES: Final = 4096
"""Constants from this size on are handed over where they lie, without a copy in the model."""


class HostSession:
    """An ONNX model under ONNX Runtime on this machine's processor.

    It logs nothing, keeps no arena, and uses few threads that do not spin while they wait.

    Parameters
    ----------
    model
        Serialized ModelProto.
    place
        How messages name the model.
    initializers
        Values, by name, of initializers that `model` declares as external data (`declare_large`):
        used where they lie.
    integer_kernels
        Whether ONNX Runtime may replace operators between DequantizeLinear and QuantizeLinear by
        integer kernels of its own; otherwise they run in float32, as the operators are defined.
    rewrite
        Whether ONNX Runtime may rewrite the graph for speed. Host layers run as they are written:
        so does the runtime run them, and rewritten ones round otherwise.

    Raises
    ------
    UnsupportedModelError
        ONNX Runtime cannot run the model.
    """

    def __init__(
        self,
        model: bytes,
        place: str,
        *,
        initializers: Mapping[str, npt.NDArray[Any]] | None = None,
        integer_kernels: bool = False,
        rewrite: bool = True,
    ) -> None:
        self._place = place
        self._kept = {name: np.ascontiguousarray(a) for name, a in (initializers or {}).items()}
        attempts = (True, False) if rewrite else (False,)
        for attempt in attempts:
            try:
                self._session = self._open(model, attempt, integer_kernels)
                return
            except Exception as error:  # ONNX Runtime's classes are private to it
                problem = error
        # As written it fails as well; the first attempt may have failed by the rewriting alone,
        # which drops nodes that others read (ONNX Runtime 1.32).
        raise UnsupportedModelError(
            f"{place}: ONNX Runtime cannot run it ({_short(problem)}); export the model for "
            "another operator set"
        ) from problem

    def _open(
        self, model: bytes, rewrite: bool, integer_kernels: bool
    ) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = min(THREADS_MOST, os.cpu_count() or 1)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not rewrite:
            levels = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        if not integer_kernels:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if self._kept:
            self._hand_over(options)
        return onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[] if integer_kernels else [_TWO_ROUNDINGS],
        )

    def _hand_over(self, options: onnxruntime.SessionOptions) -> None:
        # Prepacked weights would be a second copy. The external ones serve the rewriting of the
        # graph, which reads values; without the other call they would be copied behind it.
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
            for name, value in self._kept.items()
        }
        options.add_external_initializers(list(self._values), list(self._values.values()))
        for name, value in self._values.items():
            options.add_initializer(name, value)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """The values of `outputs`, in order.

        Raises
        ------
        InputError
            The model fails on these values.
        """
        try:
            # A tensor without axes may come as a number of numpy's, which ONNX Runtime refuses.
            arrays = {name: np.asarray(value) for name, value in feeds.items()}
            return list(self._session.run(list(outputs), arrays))
        except Exception as error:  # as above
            raise InputError(
                f"{self._place}: it failed on these values ({_short(error)}); check the inputs"
            ) from error


def declare_large(
    model: onnx.ModelProto, constants: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Declare the large ones of `constants` as external initializers of `model`, add the others.

    Returns those that a session must be given as `initializers`.
    """
    large: dict[str, npt.NDArray[Any]] = {}
    read = {used for node in model.graph.node for used in node.input}
    read |= {value.name for value in model.graph.output}
    for name, value in constants.items():
        if name not in read:
            continue
        if value.nbytes < _LARGE_BYTES or value.dtype == object:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            continue
        entry = model.graph.initializer.add(
            name=name,
            dims=value.shape,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(value.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, text in (("location", name), ("offset", "0"), ("length", str(value.nbytes))):
            entry.external_data.add(key=key, value=text)
        large[name] = value
    return large


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
