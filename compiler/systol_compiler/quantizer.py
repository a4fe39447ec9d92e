"""Post-training quantization: a canonical float graph and samples in, a quantized graph out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from systol_compiler.calibration import CalibrationData, check_samples, collect_statistics
from systol_compiler.fusion import TO_NHWC, FusedGraph, View, fuse
from systol_compiler.graph.float_graph import Graph
from systol_compiler.host_segment import build_host_segment
from systol_compiler.old_quantized import (
    INT8_MAX,
    INT8_MIN,
    DequantizeOutput,
    HostOutput,
    Layer,
    Output,
    QTensor,
    QuantizedGraph,
    QuantizeInput,
)
from systol_compiler.partition import partition
from systol_compiler.quantized_layers import build_layer, mean_error
from systol_compiler.ranges import (
    METHODS,
    SCALE_MAX,
    SCALE_MIN,
    Method,
    choose_range,
    scale_and_zero_point,
)
from systol_hw.errors import InputError

HISTOGRAM_BINS = 2048


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How ranges are chosen.

    Attributes
    ----------
    method
        "minmax", "percentile", "mse" or "entropy" (`ranges.choose_range`).
    percentile
        For "percentile": how many percent of the values the range must cover, in (50, 100].
    bias_correction
        Add to each bias the mean error that rounding the weights causes on the calibration data.
        Ref: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
        ICCV 2019, section 4.2, with the mean inputs measured instead of derived.
    overrides
        (scale, zero point) by tensor name of the float graph; a pool shares its input's.
    """

    method: Method = "minmax"
    percentile: float = 99.99
    bias_correction: bool = False
    overrides: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"calibration method must be one of {', '.join(METHODS)}, not {self.method!r}"
            )
        if not 50.0 < self.percentile <= 100.0:
            raise InputError(
                f"percentile must lie in (50, 100], but is {self.percentile}; 99.99 is usual"
            )
        for name, (scale, zero_point) in self.overrides.items():
            if not (isfinite(scale) and SCALE_MIN <= scale <= SCALE_MAX):
                raise InputError(
                    f"override of {name!r}: the scale must lie in 2**-40..2**40, but is {scale}"
                )
            if zero_point != int(zero_point) or not INT8_MIN <= zero_point <= INT8_MAX:
                raise InputError(
                    f"override of {name!r}: the zero point must be an integer in -128..127, but is "
                    f"{zero_point}"
                )
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))


def quantize_graph(
    graph: Graph, calibration: CalibrationData | None, options: QuantizationOptions | None = None
) -> QuantizedGraph:
    """Quantize a canonical graph (`passes.CANONICAL_PIPELINE`) to int8.

    Parameters
    ----------
    graph
        Float graph with concrete shapes, batch first.
    calibration
        Real inputs, preprocessed as for the float model: [samples, ...] float32 by input name.
    options
        How ranges are chosen; min-max by default.

    Raises
    ------
    InputError
        Calibration data is missing or does not fit, or an override names no tensor.
    UnsupportedModelError
        The machine cannot run the model; the message names the node and the rule.
    """
    options = options or QuantizationOptions()
    fused = fuse(graph, partition(graph))
    samples = check_samples(graph, calibration, "calibration")
    overrides = _root_overrides(fused, options.overrides)
    statistics = collect_statistics(
        graph,
        samples,
        fused.roots,
        histogram_bins=0 if options.method == "minmax" else HISTOGRAM_BINS,
    )
    numbers = {
        name: overrides.get(name)
        or scale_and_zero_point(
            *choose_range(statistics[name], options.method, options.percentile),
            f"tensor {name!r}",
        )
        for name in fused.roots
    }
    tensors = {
        name: QTensor(
            name=name,
            shape=fused.views[name].shape,
            scale=numbers[root][0],
            zero_point=numbers[root][1],
            source=name,
        )
        for name, root in fused.scale_root.items()
    }
    corrections = _corrections(fused, samples, tensors) if options.bias_correction else {}
    layers: list[Layer] = [
        build_layer(layer, fused, tensors, corrections.get(layer.output)) for layer in fused.layers
    ]
    segment = build_host_segment(fused, tensors)
    if segment is not None:
        layers.append(segment)
    result = QuantizedGraph(
        name=graph.name,
        inputs=tuple(_input(fused, tensors[name]) for name in fused.inputs),
        outputs=_outputs(fused, tensors, {v.name: v for v in segment.outputs} if segment else {}),
        tensors=tensors,
        layers=tuple(layers),
    )
    result.verify()
    return result


def _root_overrides(
    fused: FusedGraph, overrides: Mapping[str, tuple[float, int]]
) -> dict[str, tuple[float, int]]:
    """Overrides by root tensor, with float32 scales."""
    found: dict[str, tuple[float, int]] = {}
    for name, (scale, zero_point) in overrides.items():
        view = fused.views.get(name)
        if view is None:
            raise InputError(
                f"override of {name!r}: no int8 tensor has this name; the graph's tensors are "
                f"{list(fused.scale_root)}"
            )
        root = fused.scale_root[view.tensor]
        value = float(np.float32(scale)), int(zero_point)
        if found.setdefault(root, value) != value:
            raise InputError(
                f"override of {name!r}: it shares scale and zero point with {root!r}, which is "
                f"overridden by {found[root]}; give both the same"
            )
    return found


def _corrections(
    fused: FusedGraph, samples: Mapping[str, npt.NDArray[Any]], tensors: Mapping[str, QTensor]
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean error per output channel that rounded weights cause, by layer output."""
    products = [layer for layer in fused.layers if layer.node.op != "MaxPool"]
    observe = tuple(dict.fromkeys(layer.input for layer in products))
    statistics = collect_statistics(fused.graph, samples, observe, means=True)
    return {
        layer.output: mean_error(layer, fused, tensors, statistics[layer.input].mean)
        for layer in products
    }


def _input(fused: FusedGraph, tensor: QTensor) -> QuantizeInput:
    source_shape = fused.graph.types[tensor.name].shape
    return QuantizeInput(
        name=tensor.name,
        source_shape=source_shape,
        permutation=TO_NHWC if len(source_shape) == 4 else tuple(range(len(source_shape))),
        tensor=tensor.name,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )


def _outputs(
    fused: FusedGraph, tensors: Mapping[str, QTensor], from_host: Mapping[str, HostOutput]
) -> tuple[Output, ...]:
    results: list[Output] = []
    for result in fused.graph.outputs:
        if result.name in from_host:
            results.append(from_host[result.name])
            continue
        view: View | None = fused.views.get(result.tensor)
        if view is None:
            raise InputError(
                f"output {result.name!r}: its value is constant; remove it from the outputs"
            )
        tensor = tensors[view.tensor]
        results.append(
            DequantizeOutput(
                name=result.name,
                source_shape=fused.graph.types[result.tensor].shape,
                permutation=view.permutation,
                tensor=tensor.name,
                scale=tensor.scale,
                zero_point=tensor.zero_point,
            )
        )
    return tuple(results)
