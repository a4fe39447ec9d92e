"""Host segments under ONNX Runtime: in bounded memory, and stopped by an interrupt.

A host graph may be a stranger's. What runs is the segment's bytes, which the binary's checks found
to be exactly the graph that they checked, read in no other format than ONNX and not rewritten. It
has no loops, so that its time is bounded by its memory; Ctrl-C ends it between two operators.

Ref: ONNX Runtime, "Memory consumption" (arena configuration) and `RunOptions.terminate`.
"""

import os
from collections.abc import Mapping
from functools import cache
from threading import Event, Thread

import numpy as np

from systol_compiler.binary.network import HostSegment
from systol_compiler.numbers.limits import Array
from systol_hw.errors import InputError
from systol_sim.onnx_runtime import onnxruntime

MAX_MEMORY_BYTES = 2 << 30
"""What all host segments of a process may allocate for tensors together."""
_THREADS = 4
_FATAL = 4
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0
"""What an operator that runs at an interrupt may still take: it goes on beside the interpreter's
end."""


class HostRunner:
    """A host segment, ready to run.

    Raises
    ------
    InputError
        ONNX Runtime cannot run it.
    """

    def __init__(self, segment: HostSegment) -> None:
        self.segment = segment
        _bound_memory()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL  # what goes wrong comes as an exception
        options.intra_op_num_threads = min(_THREADS, os.cpu_count() or 1)
        options.inter_op_num_threads = 1
        # Rewriting would run operators on constants here, before anything could be stopped.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for key, value in (
            ("session.load_model_format", "ONNX"),
            ("session.use_env_allocators", "1"),
            ("session.intra_op.allow_spinning", "0"),
        ):
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(
                segment.model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own classes have no public base
            raise InputError(
                f"host segment {segment.name!r} cannot run here: {_short(error)}; compile the "
                "model again with this installation's ONNX Runtime"
            ) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The segment's outputs by name.

        Raises
        ------
        InputError
            It fails on these values, or needs more than `MAX_MEMORY_BYTES`.
        """
        values: list[Array] = []
        errors: list[Exception] = []
        done = Event()
        options = onnxruntime.RunOptions()
        options.log_severity_level = _FATAL

        def work() -> None:
            try:
                # A tensor without axes may come as a number of numpy's.
                arrays = {name: np.asarray(value) for name, value in feeds.items()}
                values.extend(self._session.run(self.segment.outputs, arrays, options))
            except Exception as error:  # as above; raised in the caller's thread
                errors.append(error)
            finally:
                done.set()

        # In a thread of its own: an interrupt reaches Python's first thread alone, and only
        # between two of its instructions.
        Thread(target=work, name=f"host segment {self.segment.name}", daemon=True).start()
        try:
            while not done.wait(_POLL_SECONDS):
                pass
        except BaseException:
            options.terminate = True
            done.wait(_PATIENCE_SECONDS)
            raise
        if errors:
            raise InputError(
                f"host segment {self.segment.name!r} failed: {_short(errors[0])}"
            ) from errors[0]
        return {
            name: np.asarray(value)
            for name, value in zip(self.segment.outputs, values, strict=True)
        }


@cache
def _bound_memory() -> None:
    """Give sessions that ask for it one arena that ends at `MAX_MEMORY_BYTES`; once a process."""
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    same_as_requested, default = 1, -1
    onnxruntime.create_and_register_allocator(
        info,
        onnxruntime.OrtArenaCfg(
            MAX_MEMORY_BYTES, same_as_requested, default, default
        ),
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
