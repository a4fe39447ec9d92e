"""Runs the float model on calibration data and gathers statistics in bounded memory.

One batch of the model's own size is in flight at a time; of its tensors only running statistics
are kept, whatever the number of samples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from systol_compiler.graph.float_graph import Array, Graph
from systol_hw.errors import InputError, UnsupportedModelError

CalibrationData: TypeAlias = Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any]
"""Samples by input name, each [samples, ...] float32; or one array for a model of one input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorStatistics:
    """What calibration learned of one float tensor.

    `least` and `greatest` always enclose zero. `histogram` counts values in equal bins from
    `least` to `greatest`, or is empty if it was not asked for. `mean` is the mean over samples,
    of the tensor's shape without its batch, or empty.
    """

    least: float
    greatest: float
    histogram: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]


def check_samples(graph: Graph, data: CalibrationData | None, purpose: str) -> dict[str, Array]:
    """`data` as float32 samples by input name.

    Raises
    ------
    InputError
        Data is missing, empty, of another type or shape than the model's inputs, or not finite.
    """
    if data is None:
        raise InputError(
            f"{purpose} of a float model needs sample inputs, but none were given; pass samples "
            f"for {list(graph.inputs)} as arrays [samples, ...]"
        )
    if isinstance(data, np.ndarray):
        if len(graph.inputs) != 1:
            raise InputError(
                f"{purpose}: one array was given, but the model has inputs {list(graph.inputs)}; "
                "pass a mapping from input name to array"
            )
        data = {graph.inputs[0]: data}
    if set(data) != set(graph.inputs):
        raise InputError(
            f"{purpose}: samples are named {sorted(data)}, but the model's inputs are "
            f"{sorted(graph.inputs)}; name every input once"
        )
    samples: dict[str, Array] = {}
    for name in graph.inputs:
        value, shape = np.asarray(data[name]), graph.types[name].shape
        if value.dtype not in (np.float32, np.float64):
            raise InputError(
                f"{purpose}, input {name!r}: samples must be float32, but are {value.dtype}; "
                "preprocess them exactly as for the float model"
            )
        if value.ndim != len(shape) or value.shape[1:] != shape[1:] or value.shape[0] == 0:
            raise InputError(
                f"{purpose}, input {name!r}: samples must be [samples, "
                f"{', '.join(map(str, shape[1:]))}] with at least one, but are "
                f"{list(value.shape)}; reshape them"
            )
        if not np.isfinite(value).all():
            raise InputError(
                f"{purpose}, input {name!r}: samples must be finite, but contain NaN or infinity; "
                "clean the data"
            )
        samples[name] = value
    counts = {name: value.shape[0] for name, value in samples.items()}
    if len(set(counts.values())) != 1:
        raise InputError(
            f"{purpose}: every input needs the same number of samples, but there are {counts}; "
            "pass matching arrays"
        )
    return samples


def batches(graph: Graph, samples: Mapping[str, Array]) -> Iterator[tuple[dict[str, Array], int]]:
    """Batches of the model's size, with the number of rows that count in each.

    A last, partial batch is filled up with samples from the start, whose rows do not count.
    """
    size = graph.types[graph.inputs[0]].shape[0]
    count = next(iter(samples.values())).shape[0]
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        batch = {name: value[rows].astype(np.float32) for name, value in samples.items()}
        yield batch, min(size, count - start)


class FloatModel:
    """The float model under ONNX Runtime, with chosen tensors observed."""

    def __init__(self, graph: Graph, observe: tuple[str, ...]) -> None:
        self._graph = graph
        self._observe = observe
        self._produced = tuple(name for name in observe if name not in graph.inputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            model = graph.to_onnx(self._produced).SerializeToString()
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's classes are private to it
            raise UnsupportedModelError(
                "ONNX Runtime cannot run the float model "
                f"({' '.join(str(error).split())[:300]}); export it for another operator set"
            ) from error

    def run(self, batch: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """The observed tensors of one batch, cut to its first `rows` samples."""
        values = dict(batch)
        if self._produced:
            try:
                results = self._session.run(list(self._produced), dict(batch))
            except Exception as error:  # as above
                raise InputError(
                    "the float model failed on the calibration data "
                    f"({' '.join(str(error).split())[:300]}); check the samples"
                ) from error
            values |= dict(zip(self._produced, results, strict=True))
        return {name: values[name][:rows] for name in self._observe}


def collect_statistics(
    graph: Graph,
    samples: Mapping[str, Array],
    observe: tuple[str, ...],
    *,
    histogram_bins: int = 0,
    means: bool = False,
) -> dict[str, TensorStatistics]:
    """Statistics of the tensors `observe` over all samples.

    Runs the model once, or twice for histograms, whose edges must be known first.

    Raises
    ------
    InputError
        A tensor of the float model overflows or is NaN on these samples.
    """
    model = FloatModel(graph, observe)
    least = dict.fromkeys(observe, 0.0)
    greatest = dict.fromkeys(observe, 0.0)
    sums: dict[str, Array] = {}
    count = 0
    for batch, rows in batches(graph, samples):
        count += rows
        for name, value in model.run(batch, rows).items():
            low, high = float(value.min()), float(value.max())
            if not (isfinite(low) and isfinite(high)):
                raise InputError(
                    f"tensor {name!r}: the float model must stay finite on the calibration data, "
                    "but gives NaN or infinity; check the samples and the model's weights"
                )
            least[name], greatest[name] = min(least[name], low), max(greatest[name], high)
            if means:
                total = value.sum(axis=0, dtype=np.float64)
                sums[name] = sums[name] + total if name in sums else total
    histograms = {name: np.zeros(histogram_bins, dtype=np.int64) for name in observe}
    if histogram_bins:
        for batch, rows in batches(graph, samples):
            for name, value in model.run(batch, rows).items():
                if least[name] < greatest[name]:
                    limits = (least[name], greatest[name])
                    wide = value.astype(np.float64)
                    histograms[name] += np.histogram(wide, bins=histogram_bins, range=limits)[0]
    return {
        name: TensorStatistics(
            least=least[name],
            greatest=greatest[name],
            histogram=histograms[name],
            mean=sums[name] / count if means else np.empty(0),
        )
        for name in observe
    }
