"""Cycles of whole networks over their roof, and where the difference goes.

    python benchmarks/schedule.py NAME ... [--arch edge32] [--effort normal] [--layers N] [--json F]

The roof of a network is the sum over its convolutions and linear layers of
max(tiles * max(rows, R), weight bytes / bandwidth), with R x C the array, rows the output positions
and tiles = groups * kernel rows * ceil(kernel columns * channels / R) * ceil(outputs / C), channels
and outputs those of one group. Rows that enter the array for anything else, pools, normalizations
and activations are no part of it.

`lost` is the array's time that the roof does not have, by category of the TPU paper's Table 3 and
by cause; a layer's part says by how many cycles it ends later than everything before it. Networks
are those that come with the onnx package, with seeded weights and random images: time does not
depend on values.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from math import ceil, prod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from systol_compiler.calibrate.options import QuantizationOptions
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.compile import CompileOptions, compile_quantized, import_graph
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.reading.importer import import_onnx
from systol_hw.arch import PRESETS, Arch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "shared"))
from light_models import LIGHT_MODELS, seeded_light_model

_QUICK = QuantizationOptions(
    method="minmax", bias_correction=False, equalize=False, most_samples=2
)


def product_roof(graph: Graph, node: Node, arch: Arch) -> int:
    """Cycles of one convolution or linear layer; 0 for other nodes."""
    if len(node.inputs) < 2 or node.inputs[1] not in graph.constants:
        return 0
    weights, out = graph.types[node.inputs[1]].shape, graph.types[node.outputs[0]].shape
    if node.op == "Conv":
        groups = node.attributes.get("group", 1)
        outputs, channels, *kernel = weights
        kernel = [1, *kernel][-2:]
        rows, outputs = out[0] * prod(out[2:]), outputs // groups
    elif node.op in ("Gemm", "MatMul"):
        turned = node.attributes.get("transB", 0)
        channels, outputs = reversed(weights[-2:]) if turned else weights[-2:]
        groups, kernel, rows = prod(weights[:-2]), [1, 1], prod(out[:-1])
    else:
        return 0
    tiles = kernel[0] * ceil(kernel[1] * channels / arch.rows) * ceil(outputs / arch.columns)
    loading = Fraction(prod(weights)) / arch.weight_port.bytes_per_cycle
    return max(groups * tiles * max(rows, arch.rows), ceil(loading))


def measure(name: str, arch: Arch, effort: str) -> dict[str, Any]:
    """One network's figures, and its compile report's layers."""
    source = seeded_light_model(name)
    written = import_onnx(source)
    roof = {node.name: product_roof(written, node, arch) for node in written.nodes}
    quantized = quantize(import_graph(source), "random", _QUICK).quantized
    began = time.process_time()
    model = compile_quantized(quantized, arch=arch, options=CompileOptions(effort=effort))
    seconds = time.process_time() - began
    report = model.report
    cycles, total = report["summary"]["cycles"], sum(roof.values())
    layers = [
        {**row, "roof_cycles": sum(roof.get(source, 0) for source in row["source_nodes"])}
        for row in report["layers"]
    ]
    return {
        "network": name, "arch": arch.name, "effort": effort, "cycles": cycles,
        "roof_cycles": total, "ratio": round(cycles / total, 4), "schedule_seconds": seconds,
        "array": _summed(layers, "array"), "causes": _summed(layers, "causes"), "layers": layers,
    }


def _summed(layers: list[dict[str, Any]], key: str) -> dict[str, int]:
    return {name: sum(row[key][name] for row in layers) for name in layers[0][key]}


def _lost(row: dict[str, Any]) -> Iterator[tuple[str, int]]:
    yield "rows beyond the roof", row["array"]["active"] - row["roof_cycles"]
    yield from ((name, count) for name, count in row["causes"].items() if count)


def show(console: Console, found: dict[str, Any], most: int) -> None:
    """The figures, and the layers that lose most."""
    console.print(
        f"{found['network']} on {found['arch']}: {found['cycles']:,} cycles over a roof of "
        f"{found['roof_cycles']:,} = {found['ratio']:.3f} ({found['schedule_seconds']:.1f} s)"
    )
    console.print("  lost: " + ", ".join(f"{name} {n:,}" for name, n in _lost(found) if n))
    if most:
        table = Table("layer", "cycles", "roof", "bound", "by", "lost to", box=None)
        rows = sorted(found["layers"], key=lambda row: row["roof_cycles"] - row["cycles"])
        for row in rows[:most]:
            table.add_row(
                row["layer"] or "(none)", f"{row['cycles']:,}", f"{row['roof_cycles']:,}",
                f"{row['bound_cycles']:,}", row["bound_by"],
                ", ".join(f"{name} {count:,}" for name, count in _lost(row) if count),
            )
        console.print(table)


def main() -> None:
    """Measure the networks named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[*LIGHT_MODELS, []], metavar="NAME",
                        help=f"of {', '.join(LIGHT_MODELS)} (all)")  # fmt: skip
    parser.add_argument("--arch", choices=sorted(PRESETS), default="edge32")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--layers", type=int, default=0, metavar="N",
                        help="show the N layers that lose most")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, all layers too")
    options = parser.parse_args()
    console = Console(width=160)
    results = []
    for name in options.networks or LIGHT_MODELS:
        results.append(measure(name, PRESETS[options.arch], options.effort))
        show(console, results[-1], options.layers)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), "utf-8")


if __name__ == "__main__":
    main()
