"""Train the bundled text transformer on this project's own documentation; write `docs_text.onnx`.

It reads 64 characters and gives, at each of them, logits of the character behind it: a causal
language model of two layers, embeddings first. Needs PyTorch (`pip install -e '.[train]'`):

    python examples/train_text.py README.md docs/*.md --output runtime/systol/data

The last tenth of every file is held out. The test windows go to `docs_text.npz`.

Ref: A. Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from transformer_blocks import Block, export, train

SEED = 20180611
BATCH, EPOCHS, STEPS, RATE = 64, 12, 300, 3e-3
SYMBOLS, LENGTH = 128, 64
WIDTH, HEADS, HIDDEN, BLOCKS = 64, 4, 128, 2
FORBIDDEN = -1e4
"""Added to the score of a character that lies ahead."""
WINDOWS = 256
"""Held-out windows that are kept for calibration, and as many others for tests."""


class TextTransformer(nn.Module):
    """[N, 64] token ids (int64, 0..127) to [N, 64, 128] logits of the next token."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.triu(torch.full((LENGTH, LENGTH), FORBIDDEN), diagonal=1)
        self.tokens = nn.Embedding(SYMBOLS, WIDTH)
        self.positions = nn.Parameter(torch.randn(1, LENGTH, WIDTH) * 0.02)
        self.blocks = nn.Sequential(
            *(Block(WIDTH, HEADS, HIDDEN, LENGTH, mask) for _ in range(BLOCKS))
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions
        result: Tensor = self.head(self.norm(self.blocks(x)))
        return result


def token_ids(text: str) -> npt.NDArray[np.uint8]:
    """One token a character: its ASCII code, or 127 where it has none."""
    codes = np.array([min(ord(character), SYMBOLS - 1) for character in text])
    return codes.astype(np.uint8)


def windows(tokens: npt.NDArray[np.uint8], count: int, seed: int) -> npt.NDArray[np.uint8]:
    """`count` windows at random places: uint8 [count, LENGTH + 1]."""
    starts = np.random.default_rng(seed).integers(0, len(tokens) - LENGTH, count)
    return tokens[starts[:, None] + np.arange(LENGTH + 1)]


def accuracy(path: Path, texts: npt.NDArray[np.uint8]) -> float:
    """Share of next characters that the exported file finds under ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"tokens": texts[:, :-1].astype(np.int64)})
    return float((logits.argmax(axis=-1) == texts[:, 1:]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled text transformer.")
    parser.add_argument("texts", type=Path, nargs="+", help="text files")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--threads", type=int, default=1, help="threads that PyTorch may use")
    arguments = parser.parse_args()
    parts = [token_ids(path.read_text(encoding="utf-8")) for path in sorted(arguments.texts)]
    seen = np.concatenate([part[: len(part) * 9 // 10] for part in parts])
    held = np.concatenate([part[len(part) * 9 // 10 :] for part in parts])
    digest = hashlib.sha256(np.concatenate([seen, held]).tobytes()).hexdigest()
    print(f"{len(seen):,} characters, {len(held):,} held out; SHA-256 of the tokens {digest}")

    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    model = TextTransformer()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"docs_text: {count:,} parameters, {EPOCHS} x {STEPS} steps")
    epoch = iter(range(EPOCHS))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        drawn = windows(seen, STEPS * BATCH, SEED + next(epoch)).astype(np.int64)
        for batch in torch.from_numpy(drawn).split(BATCH):
            yield batch[:, :-1], batch[:, 1:]

    train(model, batches, EPOCHS, STEPS, RATE)
    path = arguments.output / "docs_text.onnx"
    export(model, torch.zeros(2, LENGTH, dtype=torch.int64), "tokens", path)
    test = windows(held, WINDOWS, SEED)
    np.savez_compressed(
        arguments.output / "docs_text.npz", calibration=windows(seen, WINDOWS, 0), test=test
    )
    right = accuracy(path, windows(held, 4 * WINDOWS, SEED + 1))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"  {right:.2%} of the held-out next characters; SHA-256 {digest}")


if __name__ == "__main__":
    main()
