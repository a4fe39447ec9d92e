"""The whole front half: the bundled models' accuracy, operator sets, and hostile models."""

import random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from systol import bundled
from systol_compiler.frontend import quantize_model
from systol_compiler.qdq_export import export_qdq
from systol_compiler.quantized_reference import evaluate
from systol_hw.errors import SystolError


def network(opset: int) -> onnx.ModelProto:
    """A model whose operators exist in every operator set, with a host tail."""
    rng = np.random.default_rng(0)
    graph = parser.parse_graph(
        """g (float[N,3,8,8] x) => (float[N,5] y, float[N,5] s) {
            c = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b)
            n = BatchNormalization(c, b, b, b, v) r = Relu(n)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            d = Dropout(p) f = Flatten(d) h = MatMul(f, m) y = Add(h, k) s = Softmax<axis=1>(y)
        }"""
    )
    for name, value in {
        "w": rng.normal(size=(4, 3, 3, 3)),
        "b": rng.normal(size=4),
        "v": rng.uniform(0.2, 2, size=4),
        "m": rng.normal(size=(16, 5)),
        "k": rng.normal(size=5),
    }.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10
    )


SAMPLES = np.random.default_rng(1).normal(size=(6, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("opset", range(7, 25))
def test_every_operator_set_gives_the_same_network(opset: int) -> None:
    graph = quantize_model(network(opset), shapes={"N": 6}, calibration=SAMPLES).quantized
    model = network(13)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    got = evaluate(graph, {"x": SAMPLES})
    wanted = dict(zip(["y", "s"], session.run(None, {"x": SAMPLES}), strict=True))
    np.testing.assert_allclose(got["y"], wanted["y"], atol=0.03 * np.abs(wanted["y"]).max())
    np.testing.assert_allclose(got["s"], wanted["s"], atol=0.15)
    exported = onnxruntime.InferenceSession(
        export_qdq(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert len(exported.run(None, {"x": SAMPLES})) == 2


@pytest.mark.parametrize("name", bundled.MODEL_NAMES)
def test_bundled_models_lose_at_most_half_a_point(name: str) -> None:
    images, labels = bundled.test_images()
    path = bundled.model_path(name)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"image": images})[0].argmax(axis=1)
    graph = quantize_model(
        path, shapes={"N": 250}, calibration=bundled.calibration_images()
    ).quantized
    logits = [
        evaluate(graph, {"image": images[start : start + 250]})["logits"]
        for start in range(0, len(images), 250)
    ]
    got = np.concatenate(logits).argmax(axis=1)
    assert (got == labels).mean() >= (wanted == labels).mean() - 0.005
    assert (got == wanted).mean() >= 0.99


OPERATORS = (
    "Conv Gemm MatMul Relu Clip Sigmoid Add Mul Div Sub BatchNormalization Flatten Reshape Softmax "
    "Dropout Identity Expand Squeeze MaxPool ConstantOfShape Cast Transpose GlobalMaxPool"
).split()


def mutate(model: onnx.ModelProto, chance: random.Random) -> None:
    """One change of the kind that a careless or hostile exporter makes."""
    graph = model.graph
    node, tensor = chance.choice(graph.node), chance.choice(graph.initializer)
    names = [name for other in graph.node for name in other.output] + ["x", "w", "b", "m", ""]
    kind = chance.randrange(7)
    if kind == 0 and node.attribute:
        attribute = chance.choice(node.attribute)
        value = chance.choice([-(2**62), -1, 0, 1, 3, 100, 2**40])
        if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = value
        else:
            attribute.i = value
    elif kind == 1:
        node.op_type = chance.choice(OPERATORS)
    elif kind == 2:
        node.input[chance.randrange(len(node.input))] = chance.choice(names)
    elif kind == 3:
        node.output[0] = chance.choice(names)
    elif kind == 4:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice([-1, 0, 1, 5, 2**62])
    elif kind == 5:
        tensor.raw_data = bytes(chance.randrange(256) for _ in tensor.raw_data)
    else:
        node.input.append(chance.choice(names))


@pytest.mark.parametrize("seed", range(4))
def test_hostile_models_give_only_our_errors(seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(150):
        model = network(chance.choice((11, 13, 17)))
        for _ in range(chance.choice((1, 1, 2, 4))):
            mutate(model, chance)
        try:
            quantize_model(model, shapes={"N": 2}, calibration=SAMPLES)
        except SystolError as error:
            refused += 1
            assert len(str(error)) > 40
    assert refused > 50


@pytest.mark.timeout(60)
def test_long_chains_take_linear_time() -> None:
    lines = ["c0 = MatMul(x, w)"]
    lines += [f"c{i + 1} = {('Add', 'Mul', 'Sub')[i % 3]}(c{i}, b)" for i in range(3000)]
    graph = parser.parse_graph(
        "g (float[1,4] x) => (float[1,4] y) { " + " ".join(lines) + " y = Relu(c3000) }"
    )
    for name, value in {"w": np.eye(4) * 0.5, "b": np.full(4, 0.999)}.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = quantize_model(model, calibration=np.ones((1, 4), dtype=np.float32))
    assert len(result.quantized.machine_layers) == 1
    assert len(result.quantized.machine_layers[0].source_nodes) == 3002
