"""The networks that come with the onnx package, whose weights are left out, with seeded ones."""

from pathlib import Path
from typing import Any, Final, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

Array: TypeAlias = npt.NDArray[Any]

LIGHT_MODELS: Final = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)

_FOLDER: Final = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def seeded_light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """The network `name` of `LIGHT_MODELS` (float32 images [1, 3, 224, 224]) with random weights.

    Weights of products are normal with variance 2 / inputs, biases small. Statistics of batch
    normalizations are those of one normal image, so that activations keep a scale of
    about one everywhere. The same seed gives the same weights.
    """
    model = onnx.load(_FOLDER / f"light_{name}.onnx")
    graph = model.graph
    listed = {value.name for value in graph.input}
    roles = _roles(graph)
    shapes = {
        item.name: numpy_helper.to_array(item).tolist()
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.INT64
    }
    nodes, fills = [], {}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            fills[node.output[0]] = shapes[node.input[0]]
        else:
            nodes.append(node)
    for item in graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            fills[item.name] = list(item.dims)
    read = {used for node in nodes for used in node.input}
    kept = [item for item in graph.initializer if item.name in read and item.name not in fills]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    for key, shape in fills.items():
        rng = np.random.default_rng([seed, crc32(key.encode())])
        graph.initializer.append(
            numpy_helper.from_array(_values(rng, roles.get(key, ""), shape), key)
        )
        if key not in listed:
            graph.input.append(helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape))
    stored = {item.name for item in graph.initializer}
    real = {value.name for value in graph.input} - stored
    inputs = [
        value
        for value in graph.input
        if value.name in stored or (value.name in real and value.name in read)
    ]
    del graph.input[:]
    graph.input.extend(inputs)
    _set_statistics(model, seed)
    return model


def light_input(model: onnx.ModelProto) -> str:
    """The name of the network's one real input."""
    stored = {item.name for item in model.graph.initializer}
    (name,) = (str(value.name) for value in model.graph.input if value.name not in stored)
    return name


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each constant is for, seen through Unsqueeze: "Conv.1" is a kernel."""
    roles: dict[str, str] = {}
    for node in reversed(graph.node):
        for position, used in enumerate(node.input):
            if node.op_type == "Unsqueeze":
                roles[used] = roles.get(node.output[0], "")
            else:
                roles[used] = f"{node.op_type}.{position}"
    return roles


def _values(rng: np.random.Generator, role: str, shape: list[int]) -> Array:
    match role:
        case "Conv.1" | "Gemm.1":
            deviation = np.float32((2 / max(int(np.prod(shape[1:])), 1)) ** 0.5)
            return rng.standard_normal(shape, dtype=np.float32) * deviation
        case "BatchNormalization.1" | "Mul.1" | "BatchNormalization.4":
            return rng.uniform(0.6, 1.4, shape).astype(np.float32)
        case _:
            return rng.normal(0, 0.1, shape).astype(np.float32)


def _set_statistics(model: onnx.ModelProto, seed: int) -> None:
    """Give every BatchNormalization the mean and variance of what it meets."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if not norms:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    nodes, wanted = [], []
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        mean, square, variance = (f"{result}/{part}" for part in ("mean", "square", "variance"))
        # The values at hand stand in for the stored statistics.
        nodes += [
            helper.make_node("ReduceMean", [source], [mean], axes=[0, 2, 3]),
            helper.make_node("Sub", [source, mean], [f"{result}/middle"]),
            helper.make_node("Mul", [f"{result}/middle"] * 2, [square]),
            helper.make_node("ReduceMean", [square], [variance], axes=[0, 2, 3]),
            helper.make_node("Squeeze", [mean], [f"{mean}/flat"], axes=[0, 2, 3]),
            helper.make_node("Squeeze", [variance], [f"{variance}/flat"], axes=[0, 2, 3]),
        ]
        wanted.append((f"{mean}/flat", node.input[3]))
        wanted.append((f"{variance}/flat", node.input[4]))
        node.input[3], node.input[4] = f"{mean}/flat", f"{variance}/flat"
        nodes.append(node)
    last = nodes.index(next(n for n in reversed(nodes) if n.op_type == "BatchNormalization"))
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes[: last + 1])
    name = light_input(probe)
    graph.output.extend(
        helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None) for result, _ in wanted
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng([seed, 1]).standard_normal((1, 3, 224, 224), dtype=np.float32)
    results = session.run(None, {name: image})
    values = {key: value for (_, key), value in zip(wanted, results, strict=True)}
    for item in model.graph.initializer:
        if item.name in values:
            item.CopyFrom(numpy_helper.from_array(values[item.name], item.name))
