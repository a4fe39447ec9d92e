"""Where quantization loses precision: signal to noise, mean error and clipping of every tensor."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, log10
from pathlib import Path
from typing import Final

import numpy as np

from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.inputs.samples import CalibrationData, Samples
from systol_compiler.graph.float_graph import Array, Graph
from systol_compiler.numbers.arithmetic import dequantize
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.evaluate import Evaluator
from systol_compiler.quantized.graph import QuantizedGraph
from systol_hw.errors import MissingToolError

_SAMPLES_MOST: Final = 64
_SILENT_DB: Final = 120.0
"""Where a plot draws a tensor without error."""


@dataclass(frozen=True, kw_only=True)
class TensorError:
    """Quantization error of one tensor over all samples, the errors before it included.

    Attributes
    ----------
    tensor
        Name in the float model.
    layer
        The layer that writes it; "" for what the host gives.
    nodes
        Names of that layer's nodes in the source.
    width
        Bits.
    sqnr_db
        10 * log10(sum of squares of the float tensor / sum of squares of the error); infinite
        where there is no error.
    mean_error
        Mean of (quantized - float), real units.
    greatest_error
        Greatest magnitude of the error, real units.
    clipped
        Share of elements at the least or the greatest code.
    """

    tensor: str
    layer: str
    nodes: tuple[str, ...]
    width: int
    sqnr_db: float
    mean_error: float
    greatest_error: float
    clipped: float


class ErrorSums:
    """Running sums of the error of one tensor."""

    def __init__(self) -> None:
        self._signal = self._noise = self._sum = self._greatest = 0.0
        self._clipped = self._count = 0

    def add(self, real: Array, codes: Array, tensor: QTensor) -> None:
        """Compare `codes` of `tensor` with the float model's `real`, of the same shape."""
        wide = real.astype(np.float64)
        error = dequantize(codes, tensor.scale, tensor.zero_point) - wide
        least, greatest = tensor.bounds
        self._signal += float(np.vdot(wide, wide))
        self._noise += float(np.vdot(error, error))
        self._sum += float(error.sum())
        self._greatest = max(self._greatest, float(np.abs(error).max(initial=0.0)))
        self._clipped += int(((codes == least) | (codes == greatest)).sum())
        self._count += codes.size

    def error(self, tensor: QTensor, layer: str, nodes: tuple[str, ...]) -> TensorError:
        """The error of everything added."""
        count = max(self._count, 1)
        return TensorError(
            tensor=tensor.source,
            layer=layer,
            nodes=nodes,
            width=tensor.width,
            sqnr_db=decibels(self._signal, self._noise),
            mean_error=self._sum / count,
            greatest_error=self._greatest,
            clipped=self._clipped / count,
        )


def error_report(
    graph: Graph, quantized: QuantizedGraph, samples: CalibrationData
) -> tuple[TensorError, ...]:
    """Compare every quantized tensor with the same tensor of the float model, in graph order.

    Parameters
    ----------
    graph
        The canonical graph that `quantized` was made from.
    samples
        Inputs as for calibration; at most 64 of them are used, which tell enough.
    """
    tensors = {t.name: t for t in quantized.tensors.values() if t.source}
    sums = {name: ErrorSums() for name in tensors}
    model = FloatModel(graph, [tensor.source for tensor in tensors.values()])
    evaluator = Evaluator(quantized)
    data = Samples(graph, samples, "the error report", _SAMPLES_MOST)
    for feeds, rows in data.runs():
        stored, _ = evaluator.run_layers(feeds)
        real = model.run(feeds)
        batch = graph.types[graph.inputs[0]].shape[:1]
        for name, tensor in tensors.items():
            kept = slice(rows if tensor.shape[:1] == batch else None)
            if name in stored:
                sums[name].add(real[tensor.source][kept], stored[name][kept], tensor)
    writers = {name: la for la in quantized.machine_layers for name in la.outputs}
    return tuple(
        sums[name].error(
            tensor,
            writers[name].name if name in writers else "",
            writers[name].source_nodes if name in writers else (),
        )
        for name, tensor in tensors.items()
    )


def print_report(errors: Iterable[TensorError]) -> str:
    """The report as an aligned table, in graph order."""
    heads = f"{'bits':>4} {'SQNR dB':>8} {'mean error':>11} {'max error':>10} {'at limits':>9}"
    lines = [f"{'tensor':<32} {'layer':<24} {heads}"]
    lines += [
        f"{e.tensor:<32} {e.layer or 'host':<24} {e.width:4} {e.sqnr_db:8.2f} "
        f"{e.mean_error:11.3g} {e.greatest_error:10.4g} {e.clipped:9.2%}"
        for e in errors
    ]
    return "\n".join(lines)


def report_json(errors: Iterable[TensorError]) -> str:
    """The report as JSON, a list of objects; a tensor without error has null for `sqnr_db`."""
    rows = []
    for error in errors:
        row = asdict(error)
        row["sqnr_db"] = error.sqnr_db if isfinite(error.sqnr_db) else None
        rows.append(row)
    return json.dumps(rows, indent=1)


def plot_report(errors: Sequence[TensorError], path: Path) -> None:
    """Draw SQNR over the tensors in graph order, to a file whose suffix says the format.

    Raises
    ------
    MissingToolError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingToolError(
            "plots need matplotlib, which is not installed; pip install 'systol[plot]'"
        ) from error
    figure = Figure(figsize=(min(4 + 0.18 * len(errors), 60), 4.5), layout="constrained")
    axes = figure.subplots()
    heights = [min(error.sqnr_db, _SILENT_DB) for error in errors]
    colours = ["tab:orange" if error.width == 16 else "tab:blue" for error in errors]
    axes.bar(range(len(errors)), heights, color=colours)
    axes.set_ylabel("signal to quantization noise (dB)")
    axes.set_xticks(
        range(len(errors)), [error.tensor[-24:] for error in errors], rotation=90, fontsize=6
    )
    axes.set_title("Error by tensor, in graph order (8 bits blue, 16 bits orange)")
    figure.savefig(path)


def decibels(signal: float, noise: float) -> float:
    """10 * log10(signal / noise) of two sums of squares."""
    if noise == 0.0:
        return inf
    return 10.0 * log10(signal / noise) if signal > 0.0 else -inf
