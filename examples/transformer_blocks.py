"""The transformer layers of `train_vit.py` and `train_text.py`, and how they are trained.

Written as its author's own code would be: attention out of two matrix products and a Softmax, so
that the exporter gives ONNX's plain operators.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

OPSET = 18


class Attention(nn.Module):
    """Self-attention of `heads` heads over [N, length, width]; `mask` [length, length] is added to
    the scores."""

    def __init__(self, width: int, heads: int, length: int, mask: Tensor | None) -> None:
        super().__init__()
        self.heads, self.size, self.length = heads, width // heads, length
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mask: Tensor | None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.reshape(-1, self.length, self.heads, self.size).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(2, 3) * (1 / math.sqrt(self.size))
        if self.mask is not None:
            scores = scores + self.mask
        context = functional.softmax(scores, dim=-1) @ value
        return self.out(context.transpose(1, 2).reshape(-1, self.length, self.heads * self.size))


class Block(nn.Module):
    """Attention and a two-layer perceptron with GELU, each behind a LayerNorm and beside a
    residual."""

    def __init__(
        self, width: int, heads: int, hidden: int, length: int, mask: Tensor | None = None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, length, mask)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return result


def train(
    model: nn.Module, batches: Callable[[], Iterator[tuple[Tensor, Tensor]]], epochs: int,
    steps: int, rate: float,
) -> None:
    """Train in place with AdamW and a one-cycle rate on cross entropy over the last axis.

    `batches()` gives the `steps` batches of an epoch: inputs, and class indices.
    """
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=epochs * steps
    )
    model.train()
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for inputs, wanted in batches():
            logits = model(inputs)
            flat = logits.reshape(-1, logits.shape[-1])
            loss = functional.cross_entropy(flat, wanted.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"  epoch {epoch + 1:2}/{epochs}: loss {total / steps:.4f}, {seconds:.1f} s",
              flush=True)
    model.eval()


def export(model: nn.Module, example: Tensor, name: str, path: Path) -> None:
    """Write `model` as ONNX by PyTorch's exporter: weights inside the file, the batch `N` free,
    every other dimension that of `example`."""
    program = torch.onnx.export(
        model, (example,), dynamo=True, opset_version=OPSET, input_names=[name],
        output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N", min=1, max=1024)},),
    )
    assert program is not None
    proto = program.model_proto
    # What an exporter says of the place that it ran in is of no use to a reader.
    for node in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del node.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
