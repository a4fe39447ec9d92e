"""Trained networks keep their accuracy with default options."""

import numpy as np
import pytest

from package_data import NotAvailable
from systol_compiler.calibrate.float_model import FloatModel
from systol_compiler.calibrate.qdq_export import export_qdq
from systol_compiler.calibrate.quantizer import quantize
from systol_compiler.graph.host_session import HostSession
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx
from systol_compiler.quantized.graph import QuantizedGraph
from trained_networks import cifar10_images, cifar10_model, imagenet_crops, mobilenet_v2


def exported(quantized: QuantizedGraph) -> HostSession:
    """The network as its export runs: a step off the exact integers on rare elements, and fast."""
    return HostSession(export_qdq(quantized).SerializeToString(), "the export")


@pytest.mark.slow
@pytest.mark.data
def test_cifar10_loses_at_most_four_tenths_of_a_point() -> None:
    """On 2,000 of the 10,000 test images; benchmarks/accuracy.py takes all."""
    try:
        model = cifar10_model()
        calibration = cifar10_images("train")[0][:64].astype(np.float32)
        images, labels = (part[:2000] for part in cifar10_images("test"))
    except NotAvailable as reason:
        pytest.skip(str(reason))
    graph = run_pipeline(import_onnx(model))
    session = exported(quantize(graph, calibration).quantized)
    floats = FloatModel(graph, ["relu28"])
    right = {"float": 0, "quantized": 0}
    for image, label in zip(images, labels, strict=True):
        feeds = {"image": image[None].astype(np.float32)}
        right["float"] += int(floats.run(feeds)["relu28"].argmax() == label)
        right["quantized"] += int(session.run(["relu28"], feeds)[0].argmax() == label)
    assert right["float"] > 1550
    assert right["quantized"] >= right["float"] - 8


@pytest.mark.slow
@pytest.mark.data
def test_mobilenet_agrees_with_itself() -> None:
    """On 100 of the 400 crops; benchmarks/accuracy.py takes all."""
    try:
        model = mobilenet_v2()
        calibration, images = imagenet_crops(2, 100)[0][:32], imagenet_crops(5, 7)[0]
    except NotAvailable as reason:
        pytest.skip(str(reason))
    graph = run_pipeline(import_onnx(model))
    tensor = graph.outputs[0].tensor
    quantized = quantize(graph, calibration).quantized
    assert not quantized.host_layers
    floats, session = FloatModel(graph, [tensor]), exported(quantized)
    same = sum(
        int(
            floats.run({"image": image[None]})[tensor].argmax()
            == session.run([graph.outputs[0].name], {"image": image[None]})[0].argmax()
        )
        for image in images
    )
    assert same >= 0.94 * len(images)
