"""What quantization costs in accuracy, beside ONNX Runtime's static quantizer on the same data.

    python benchmarks/accuracy.py [--networks NAME ...] [--images N] [--export] [--json FILE]

For each network: top-1 of the float model and of the quantized one where labels are known, how
often both agree on the class, and the signal to noise of the logits (before any Softmax), next to
the best of ONNX Runtime's six ways (min-max, entropy and percentile, each per tensor and per
channel; QDQ, int8, run in float so that no kernel saturates).

Ours is evaluated in the exact integers that the machine computes. Networks with seeded weights
come with the onnx package; trained ones from packages of public registries, and a network whose
package (or h5py, or PyTorch) is missing says so.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from rich.console import Console
from rich.table import Table

from systol import bundled
from systol_compiler.calibrate.errors.error_report import decibels
from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.qdq_export import export_qdq
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.graph.float_graph import Graph, GraphOutput
from systol_compiler.graph.host_session import HostSession
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx
from systol_compiler.quantized.evaluate import Evaluator

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "shared"))

from light_models import LIGHT_MODELS, seeded_light_model  # noqa: E402
from package_data import NotAvailable  # noqa: E402
from trained_networks import (  # noqa: E402
    cifar10_images,
    cifar10_model,
    imagenet_crops,
    mobilenet_v2,
)

Array = npt.NDArray[Any]

EVERYTHING: Final = 1 << 30
_DATA: Final = ROOT / "runtime" / "systol" / "data"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network with samples: to calibrate with, to measure with, and their classes if known."""

    model: onnx.ModelProto
    calibration: Array
    images: Array
    labels: Array | None


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a quantized network compares with the float one. `top1` is None without labels."""

    decibels: float
    agreement: float
    top1: float | None
    seconds: float
    how: str


def _mnist(name: str) -> Case:
    images, labels = bundled.test_images()
    return Case(
        model=onnx.load(_DATA / f"{name}.onnx"), calibration=bundled.calibration_images()[::8],
        images=images, labels=labels,
    )


def _text() -> Case:
    with np.load(_DATA / "docs_text.npz", allow_pickle=False) as file:
        calibration, tests = (file[part][:, :-1].astype(np.int64) for part in
                              ("calibration", "test"))
    return Case(
        model=onnx.load(_DATA / "docs_text.onnx"), calibration=calibration[:64], images=tests,
        labels=None,
    )


def _cifar10() -> Case:
    train, _ = cifar10_images("train")
    images, labels = cifar10_images("test")
    return Case(
        model=cifar10_model(), calibration=train[:64].astype(np.float32),
        images=images.astype(np.float32), labels=labels,
    )


def _mobilenet() -> Case:
    images, labels = imagenet_crops(20, 7)
    return Case(
        model=mobilenet_v2(), calibration=imagenet_crops(2, 100)[0][:32], images=images,
        labels=labels,
    )


def _light(name: str) -> Case:
    rng = np.random.default_rng(0)
    calibration, images = (
        rng.standard_normal((count, 3, 224, 224), dtype=np.float32) for count in (32, 16)
    )
    return Case(
        model=seeded_light_model(name), calibration=calibration, images=images, labels=None
    )


CASES: Final[Mapping[str, Callable[[], Case]]] = {
    "mnist_cnn": lambda: _mnist("mnist_cnn"),
    "mnist_mlp": lambda: _mnist("mnist_mlp"),
    "mnist_vit": lambda: _mnist("mnist_vit"),
    "docs_text": _text,
    "cifar10": _cifar10,
    "mobilenet_v2": _mobilenet,
    **{name: (lambda name=name: _light(name)) for name in LIGHT_MODELS},  # type: ignore[misc]
}


def canonical(model: onnx.ModelProto) -> Graph:
    """`model` with its dynamic dimensions bound to one."""
    shapes = {
        dim.dim_param: 1
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    return run_pipeline(import_onnx(model, shapes))


def logits(graph: Graph) -> str:
    """The tensor before the Softmax that the first output ends in, if it does."""
    tensor = graph.outputs[0].tensor
    while graph.producers[tensor].op in ("Softmax", "Flatten", "Reshape", "Identity"):
        tensor = graph.producers[tensor].inputs[0]
    return tensor


def score(
    wanted: Array, found: Array, labels: Array | None, seconds: float, how: str
) -> Score:
    """Compare logits [samples, ...]; classes lie along the last axis."""
    error = found.astype(np.float64) - wanted
    classes = found.argmax(axis=-1)
    return Score(
        decibels=decibels(float((wanted.astype(np.float64) ** 2).sum()), float((error**2).sum())),
        agreement=float((classes == wanted.argmax(axis=-1)).mean()),
        top1=None if labels is None else float((classes == labels).mean()),
        seconds=seconds,
        how=how,
    )


def run_all(session: HostSession, output: str, name: str, images: Array) -> Array:
    """The output of every sample, [samples, classes] or [samples, positions, classes]."""
    return np.concatenate([session.run([output], {name: image[None]})[0] for image in images])


def ours(graph: Graph, case: Case, tensor: str, wanted: Array, *, as_export: bool) -> Score:
    """Quantize with default options."""
    start = time.process_time()
    quantized = quantize(graph, case.calibration).quantized
    seconds = time.process_time() - start
    probe = replace(
        quantized, outputs=(GraphOutput(name="probe", tensor=tensor),),
        real={**quantized.real, tensor: graph.types[tensor]},
    )
    name = graph.inputs[0]
    if as_export:
        session = HostSession(export_qdq(probe).SerializeToString(), "the export")
        found = run_all(session, "probe", name, case.images)
    else:
        evaluator = Evaluator(probe)
        found = np.concatenate(
            [evaluator.run({name: image[None]})["probe"] for image in case.images]
        )
    return score(wanted, found, case.labels, seconds, "default options")


def theirs(graph: Graph, case: Case, wanted: Array) -> Iterator[Score]:
    """ONNX Runtime's ways. A model of an old operator set is given in its canonical form."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import (
        quant_pre_process,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = ({graph.inputs[0]: sample[None]} for sample in case.calibration)

        def get_next(self) -> dict[str, Array] | None:
            return next(self._feeds, None)

    model = _for_their_quantizer(graph, case.model)
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, result = (f"{folder}/{name}.onnx" for name in ("a", "b", "c"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        for method in (
            CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile
        ):
            for per_channel in (False, True):
                start = time.process_time()
                quantize_static(
                    prepared, result, Reader(), quant_format=QuantFormat.QDQ,
                    per_channel=per_channel, activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8, calibrate_method=method,
                )
                seconds = time.process_time() - start
                session = HostSession(Path(result).read_bytes(), "ONNX Runtime's quantized model")
                output = model.graph.output[0].name
                found = run_all(session, output, graph.inputs[0], case.images)
                how = f"{method.name}, {'channel' if per_channel else 'tensor'}"
                yield score(wanted, found.reshape(wanted.shape), case.labels, seconds, how)


def _for_their_quantizer(graph: Graph, source: onnx.ModelProto) -> onnx.ModelProto:
    """A model that ends in the logits."""
    versions = [entry.version for entry in source.opset_import if not entry.domain]
    if min(versions) < 13:
        tensor = logits(graph)
        return replace(graph, outputs=(GraphOutput(name=tensor, tensor=tensor),)).to_onnx()
    model = onnx.ModelProto()
    model.CopyFrom(source)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    del model.graph.value_info[:]
    return model


def measure(name: str, images: int, *, as_export: bool) -> dict[str, Any]:
    """One row: the network's scores, or why there are none."""
    try:
        case = CASES[name]()
    except NotAvailable as reason:
        return {"network": name, "skipped": str(reason)}
    order = np.random.default_rng(1).permutation(len(case.images))[:images]
    case = replace(
        case, images=case.images[np.sort(order)],
        labels=None if case.labels is None else case.labels[np.sort(order)],
    )
    graph = canonical(case.model)
    tensor = logits(graph)
    model = FloatModel(graph, [tensor])
    wanted = np.concatenate(
        [model.run({graph.inputs[0]: image[None]})[tensor] for image in case.images]
    )
    own = ours(graph, case, tensor, wanted, as_export=as_export)
    others = list(theirs(graph, case, wanted))
    best = max(others, key=lambda other: other.decibels)
    plain = score(wanted, wanted, case.labels, 0.0, "float")
    return {
        "network": name, "images": len(case.images), "float": asdict(plain), "ours": asdict(own),
        "theirs": asdict(best), "all_theirs": [asdict(other) for other in others],
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Accuracy of int8, default options")
    for head in ("network", "images", "float", "ours", "theirs", "agree", "theirs", "dB", "theirs",
                 "their best way", "s"):
        table.add_column(head, justify="left" if "way" in head or head == "network" else "right")
    for row in rows:
        if "skipped" in row:
            table.add_row(row["network"], "skipped", row["skipped"])
            continue
        plain, own, other = row["float"], row["ours"], row["theirs"]

        def share(value: float | None) -> str:
            return "" if value is None else f"{value:.2%}"

        table.add_row(
            row["network"], str(row["images"]), share(plain["top1"]), share(own["top1"]),
            share(other["top1"]), share(own["agreement"]), share(other["agreement"]),
            f"{own['decibels']:.2f}", f"{other['decibels']:.2f}", other["how"],
            f"{own['seconds']:.1f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--images", type=int, default=EVERYTHING, help="at most so many")
    parser.add_argument(
        "--export", action="store_true",
        help="run our QDQ export in ONNX Runtime: faster, and a step off on rare elements",
    )
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--list", action="store_true", help="name the networks and stop")
    arguments = parser.parse_args()
    console = Console(width=140)
    if arguments.list:
        console.print(*CASES, sep="\n")
        return
    logging.disable(logging.WARNING)
    rows = []
    for name in arguments.networks:
        rows.append(measure(name, arguments.images, as_export=arguments.export))
        console.print(_table(rows[-1:]))
    console.print(_table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
