"""The front half of the compiler in one call: ONNX model in, quantized graph out."""

from collections.abc import Mapping
from dataclasses import dataclass

from systol_compiler.calibration import CalibrationData
from systol_compiler.graph.float_graph import Graph
from systol_compiler.graph.importer import ModelSource, import_onnx
from systol_compiler.graph.passes import Observer, run_pipeline
from systol_compiler.old_quantized import QuantizedGraph
from systol_compiler.quantizer import QuantizationOptions, quantize_graph


@dataclass(frozen=True, kw_only=True, eq=False)
class FrontendResult:
    """Every level of the front half, for `--emit` and for the error report."""

    imported: Graph
    canonical: Graph
    quantized: QuantizedGraph


def quantize_model(
    source: ModelSource,
    *,
    calibration: CalibrationData | None,
    shapes: Mapping[str, int] | None = None,
    options: QuantizationOptions | None = None,
    observer: Observer | None = None,
) -> FrontendResult:
    """Import, canonicalize and quantize a float ONNX model.

    Parameters
    ----------
    source, shapes
        As for `importer.import_onnx`.
    calibration, options
        As for `quantizer.quantize_graph`.
    observer
        Sees the graph after every pass of `passes.CANONICAL_PIPELINE`.

    Raises
    ------
    InputError, UnsupportedModelError
        As for those functions; the message names the node, the rule, the value and the remedy.
    """
    imported = import_onnx(source, shapes)
    canonical = run_pipeline(imported, observer=observer)
    quantized = quantize_graph(canonical, calibration, options)
    return FrontendResult(imported=imported, canonical=canonical, quantized=quantized)
