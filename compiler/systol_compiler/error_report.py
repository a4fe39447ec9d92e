"""Where quantization loses precision: signal-to-quantization-noise ratio per tensor."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, log10

import numpy as np

from systol_compiler.arithmetic import dequantize
from systol_compiler.calibration import CalibrationData, FloatModel, batches, check_samples
from systol_compiler.fusion import fuse
from systol_compiler.graph.float_graph import Graph
from systol_compiler.old_quantized import HostSegment, QuantizedGraph
from systol_compiler.partition import partition
from systol_compiler.quantized_reference import quantize_inputs, run_layers


@dataclass(frozen=True, kw_only=True)
class TensorError:
    """Quantization error of one tensor over all samples.

    `sqnr_db` is 10 * log10(sum of squares of the float tensor / sum of squares of the error);
    infinite where there is no error. `greatest_error` is in real units; `clipped` is the share of
    elements at -128 or 127.
    """

    tensor: str
    layer: str
    sqnr_db: float
    greatest_error: float
    clipped: float


def error_report(
    graph: Graph, quantized: QuantizedGraph, samples: CalibrationData
) -> tuple[TensorError, ...]:
    """Compare every int8 tensor with the same tensor of the float model, errors accumulating.

    Parameters
    ----------
    graph
        The canonical graph that `quantized` was made from.
    samples
        Inputs as for calibration; a few dozen tell enough.
    """
    views = fuse(graph, partition(graph)).views
    names = tuple(quantized.tensors)
    model = FloatModel(graph, names)
    signal, noise, worst, clipped, count = (dict.fromkeys(names, 0.0) for _ in range(5))
    for batch, rows in batches(graph, check_samples(graph, samples, "the error report")):
        stored, _ = run_layers(machine_part(quantized), quantize_inputs(quantized, batch))
        for name, real in model.run(batch, rows).items():
            tensor, view = quantized.tensors[name], views[name]
            image = dequantize(stored[name], tensor.scale, tensor.zero_point)
            difference = (
                image.transpose(view.permutation)[:rows].astype(np.float64).reshape(real.shape)
                - real
            )
            signal[name] += float((real.astype(np.float64) ** 2).sum())
            noise[name] += float((difference**2).sum())
            worst[name] = max(worst[name], float(np.abs(difference).max()))
            raw = stored[name][:rows]
            clipped[name] += float(((raw == -128) | (raw == 127)).sum())
            count[name] += raw.size
    writers = {la.output: la.name for la in quantized.machine_layers}
    return tuple(
        TensorError(
            tensor=name,
            layer=writers.get(name, "input"),
            sqnr_db=_decibels(signal[name], noise[name]),
            greatest_error=worst[name],
            clipped=clipped[name] / count[name],
        )
        for name in names
    )


def machine_part(quantized: QuantizedGraph) -> QuantizedGraph:
    """`quantized` without its host segments and outputs: what gives int8 tensors only."""
    return QuantizedGraph(
        name=quantized.name,
        inputs=quantized.inputs,
        outputs=(),
        tensors=quantized.tensors,
        layers=tuple(la for la in quantized.layers if not isinstance(la, HostSegment)),
    )


def print_report(errors: Iterable[TensorError]) -> str:
    """The report as an aligned table, in graph order."""
    lines = [f"{'tensor':<32} {'layer':<24} {'SQNR dB':>8} {'max error':>10} {'at limits':>9}"]
    lines += [
        f"{e.tensor:<32} {e.layer:<24} {e.sqnr_db:8.2f} {e.greatest_error:10.4g} {e.clipped:9.2%}"
        for e in errors
    ]
    return "\n".join(lines)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return inf
    return 10.0 * log10(signal / noise) if signal > 0.0 else -inf
