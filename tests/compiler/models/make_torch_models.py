"""Exports the PyTorch models of this folder: `python make_torch_models.py`, with PyTorch.

The models' weights come from a seed, so that exporting again with the same PyTorch writes the
same files. PyTorch is no dependency of Systol: the files are committed.
"""
# mypy: disable-error-code="misc, no-untyped-call, no-untyped-def, attr-defined, import-not-found"

import io
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "shared"))
from corpus_files import save, update_index

IMAGE = (1, 3, 8, 8)
BATCH = (2, 4, 8, 8)
TOKENS = (2, 6, 16)


@dataclass(frozen=True)
class Export:
    """One model: who exports it, at which operator set, and what it shows."""

    make: Callable[[], Any]
    inputs: Sequence[Any]
    dynamo: bool = True
    opset: int = 18
    covers: Sequence[str] = ()
    shapes: Mapping[str, int] = field(default_factory=dict)
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    ranges: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Lambda(nn.Module):
    """A function as a module, with its parts as submodules."""

    def __init__(self, function: Callable[..., Any], *parts: Any) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*self.parts, *inputs)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, activation: Any = None, **options: Any):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        activation or nn.ReLU(),
    )


def residual() -> Any:
    return Lambda(
        lambda body, last, x: F.relu(last(body(x)) + x),
        conv_bn(4, 4),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
    )


def residual_projection() -> Any:
    return Lambda(
        lambda body, last, skip, x: F.relu(last(body(x)) + skip(x)),
        conv_bn(4, 6, stride=2),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6)),
    )


def inverted_residual() -> Any:
    return Lambda(
        lambda up, deep, down, x: x + down(deep(up(x))),
        conv_bn(4, 12, 1, nn.ReLU6()),
        conv_bn(12, 12, 3, nn.ReLU6(), groups=12),
        nn.Sequential(nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4)),
    )


def squeeze_excite() -> Any:
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1),
        nn.Hardsigmoid(),
    )  # fmt: skip
    return Lambda(lambda gate, x: x * gate(x), gate)


def dense_block() -> Any:
    def run(first: Any, second: Any, x: Any) -> Any:
        grown = torch.cat([x, first(x)], 1)
        return torch.cat([grown, second(grown)], 1)

    return Lambda(
        run,
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1, bias=False)),
        nn.Sequential(nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 3, 3, padding=1, bias=False)),
    )


def inception() -> Any:
    return Lambda(
        lambda a, b, c, d, x: torch.cat([a(x), b(x), c(x), d(x)], 1),
        conv_bn(4, 2, 1),
        nn.Sequential(conv_bn(4, 2, 1), conv_bn(2, 3, 3)),
        nn.Sequential(conv_bn(4, 2, 1), conv_bn(2, 2, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(4, 2, 1)),
    )


def channel_shuffle(x: Any) -> Any:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_unit() -> Any:
    def run(branch: Any, x: Any) -> Any:
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([left, branch(right)], 1))

    return Lambda(run, nn.Sequential(conv_bn(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1, groups=2)))


class Attention(nn.Module):
    """Multi-head self-attention written out, [N, T, 16]."""

    def __init__(self, heads: int = 2, causal: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.fused = heads, causal, fused
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Any) -> Any:
        n, t, width = x.shape
        q, k, v = (
            part.view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
            if self.causal:
                mask = torch.ones(t, t, dtype=torch.bool).tril()
                scores = scores.masked_fill(~mask, float("-inf"))
            mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    """A pre-norm transformer block of width 16."""

    def __init__(self, causal: bool = False, fused: bool = False, activation: Any = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = Attention(causal=causal, fused=fused)
        self.mlp = nn.Sequential(nn.Linear(16, 32), activation or nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TextTransformer(nn.Module):
    """Token ids [N, T] to logits [N, T, 11]."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 16)
        self.position = nn.Embedding(8, 16)
        self.blocks = nn.Sequential(Block(True, fused), Block(True, fused))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 11, bias=False)

    def forward(self, tokens: Any) -> Any:
        places = torch.arange(tokens.shape[1])
        x = self.token(tokens) + self.position(places)
        return self.head(self.norm(self.blocks(x)))


class VisionTransformer(nn.Module):
    """Image [N, 3, 8, 8] to logits [N, 5], with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
        self.place = nn.Parameter(torch.randn(1, 5, 16) * 0.1)
        self.blocks = nn.Sequential(Block(fused=True), Block(fused=True))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


class ConvNext(nn.Module):
    """Depthwise 7x7, channels-last LayerNorm and MLP, layer scale, skip."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(4, 4, 7, padding=3, groups=4)
        self.norm = nn.LayerNorm(4, eps=1e-6)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        self.gamma = nn.Parameter(torch.full((4,), 0.3))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """An MLP-mixer block [N, T=6, C=16]: products over tokens, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.channels = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

    def forward(self, x: Any) -> Any:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class UNet(nn.Module):
    """One step down, one up, joined by a concatenation."""

    def __init__(self, transposed: bool = True) -> None:
        super().__init__()
        self.one, self.two = conv_bn(3, 4), conv_bn(4, 6)
        self.up: Any = (
            nn.ConvTranspose2d(6, 4, 2, stride=2)
            if transposed
            else nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(6, 4, 1),
            )
        )
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        skip = self.one(x)
        return self.last(torch.cat([skip, self.up(self.two(F.max_pool2d(skip, 2)))], 1))


class Cnn(nn.Module):
    """The ordinary small classifier; `view` flattens it by a computed shape."""

    def __init__(self, view: bool = True) -> None:
        super().__init__()
        self.view = view
        self.body = nn.Sequential(conv_bn(3, 4), nn.MaxPool2d(2), conv_bn(4, 6), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5))

    def forward(self, x: Any) -> Any:
        x = self.body(x)
        return self.head(x.view(x.size(0), -1) if self.view else x.flatten(1))


class ImageNormalizer(nn.Module):
    """uint8 image in, scaled and normalized before the first convolution."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.last = channels_last
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        if self.last:
            x = x.permute(0, 3, 1, 2)
        return self.conv((x.float() / 255.0 - self.mean) / self.std)


def randn(*shape: int) -> Any:
    return torch.randn(*shape)


def activations(*names: str) -> dict[str, Export]:
    """One convolution and an activation each."""
    table: dict[str, Export] = {}
    for name in names:
        layer = getattr(nn, name)
        table[f"act_{name.lower()}_dynamo"] = Export(
            lambda layer=layer: nn.Sequential(nn.Conv2d(3, 4, 3), layer()),
            [randn(*IMAGE)],
            covers=[name],
        )
    return table


def over(name: str, function: Any, *parts: Any, shape: Sequence[int] = BATCH, **rest: Any) -> Any:
    """A function behind a convolution (images) or on its own."""
    return {
        name: Export(lambda: Lambda(function, *(part() for part in parts)), [randn(*shape)], **rest)
    }


def newer() -> dict[str, Export]:
    """The models of the exporter that torch.export feeds."""
    image, batch, tokens = [randn(*IMAGE)], [randn(*BATCH)], [randn(*TOKENS)]
    N = {"x": {0: "N"}}
    table: dict[str, Export] = {
        "conv1d_dynamo": Export(
            lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)),
            [randn(2, 3, 16)], covers=["Conv 1-D", "MaxPool 1-D"]),
        "conv1d_dilated_grouped_dynamo": Export(
            lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
            [randn(1, 4, 15)], covers=["Conv 1-D", "groups"]),
        "conv2d_dynamo": Export(lambda: nn.Conv2d(3, 4, 3), image, covers=["Conv"],
                                dynamic=N, shapes={"N": 2}),
        "conv2d_dilated_dynamo": Export(
            lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2), image, covers=["Conv dilated"]),
        "conv2d_grouped_dynamo": Export(
            lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), batch, covers=["Conv grouped"]),
        "conv2d_depthwise_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, padding=1, stride=2), nn.ReLU6(),
                                  nn.Conv2d(8, 4, 1)), batch, covers=["Conv depthwise", "Clip"]),
        "conv2d_pad_same_dynamo": Export(
            lambda: nn.Conv2d(3, 4, (2, 5), padding="same"), image, covers=["Conv pads"]),
        "conv_transpose1d_dynamo": Export(
            lambda: nn.ConvTranspose1d(3, 4, 3, stride=2), [randn(1, 3, 7)],
            covers=["ConvTranspose 1-D"]),
        "conv_transpose2d_dynamo": Export(
            lambda: nn.Sequential(
                nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1, bias=False),
                nn.BatchNorm2d(4), nn.ReLU()),
            image, covers=["ConvTranspose", "output_padding"]),
        "conv_transpose2d_grouped_dilated_dynamo": Export(
            lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), batch,
            covers=["ConvTranspose grouped dilated"]),
        "residual_dynamo": Export(residual, batch, covers=["Add"], dynamic=N, shapes={"N": 2}),
        "inverted_residual_dynamo": Export(inverted_residual, batch, covers=["Add", "Clip"]),
        "squeeze_excite_dynamo": Export(
            squeeze_excite, batch, covers=["Mul broadcast", "GlobalAveragePool", "HardSigmoid"]),
        "dense_block_dynamo": Export(
            dense_block, batch, covers=["Concat", "BatchNormalization first"]),
        "inception_dynamo": Export(inception, batch, covers=["Concat", "MaxPool padded"]),
        "shuffle_unit_dynamo": Export(
            shuffle_unit, batch, covers=["Split", "channel shuffle", "Concat"]),
        "avgpool_ceil_dynamo": Export(
            lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), batch,
            covers=["AveragePool ceil"]),
        "avgpool_count_pad_dynamo": Export(
            lambda: nn.AvgPool2d((3, 2), (2, 1), (1, 0), count_include_pad=True), batch,
            covers=["AveragePool count_include_pad"]),
        "maxpool_ceil_dynamo": Export(
            lambda: nn.MaxPool2d(3, 2, ceil_mode=True), batch, covers=["MaxPool ceil"]),
        "maxpool_dilated_dynamo": Export(
            lambda: nn.MaxPool2d(2, 1, dilation=3), batch, covers=["MaxPool dilated"]),
        "adaptive_pools_dynamo": Export(
            lambda: Lambda(lambda x: F.adaptive_avg_pool2d(x, (2, 4))), batch,
            covers=["AveragePool"]),
        "upsample_nearest_dynamo": Export(
            lambda: nn.Upsample(scale_factor=2, mode="nearest"), batch, covers=["Resize nearest"]),
        "upsample_bilinear_dynamo": Export(
            lambda: nn.Upsample(size=(12, 16), mode="bilinear"), batch,
            covers=["Resize linear half_pixel"]),
        "upsample_bilinear_corners_dynamo": Export(
            lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), batch,
            covers=["Resize linear align_corners"]),
        "unet_dynamo": Export(UNet, image, covers=["ConvTranspose", "Concat"]),
        "pixel_shuffle_dynamo": Export(
            lambda: nn.PixelShuffle(2), batch, covers=["DepthToSpace CRD"]),
        "pixel_unshuffle_dynamo": Export(
            lambda: nn.PixelUnshuffle(2), batch, covers=["SpaceToDepth"]),
        "act_gelu_tanh_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(approximate="tanh")), image,
            covers=["Gelu tanh"]),
        "act_prelu_channels_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4)), image, covers=["PRelu"]),
        "instance_norm_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)), image,
            covers=["InstanceNormalization"]),
        "group_norm_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()), image,
            covers=["GroupNormalization", "Swish"]),
        "layer_norm_dynamo": Export(
            lambda: nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)), tokens,
            covers=["LayerNormalization", "MatMul rank 3"]),
        "layer_norm_2axes_dynamo": Export(
            lambda: nn.LayerNorm((6, 16), eps=1e-3), tokens, covers=["LayerNormalization axis -2"]),
        "rms_norm_dynamo": Export(
            lambda: nn.Sequential(nn.Linear(16, 16), nn.RMSNorm(16, eps=1e-5)), tokens,
            covers=["RMSNormalization"]),
        "local_response_norm_dynamo": Export(
            lambda: nn.LocalResponseNorm(3, alpha=0.1, beta=0.75, k=2.0), batch, covers=["LRN"]),
        "batch_norm1d_dynamo": Export(
            lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
            [randn(2, 6)], covers=["BatchNormalization 1-D", "Gemm"]),
        "attention_dynamo": Export(
            Attention, tokens, covers=["MatMul two activations", "Softmax"]),
        "attention_fused_dynamo": Export(
            lambda: Attention(fused=True), tokens, covers=["MatMul two activations"]),
        "attention_causal_dynamo": Export(
            lambda: Attention(causal=True, fused=True), tokens, covers=["attention mask"]),
        "attention_multihead_dynamo": Export(
            lambda: Lambda(lambda a, x: a(x, x, x, need_weights=False)[0],
                           nn.MultiheadAttention(16, 4, batch_first=True)), tokens,
            covers=["MatMul two activations"]),
        "transformer_encoder_dynamo": Export(
            lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="relu"),
            tokens, covers=["post-norm transformer"]),
        "transformer_block_dynamo": Export(lambda: Block(fused=True), tokens,
                                           covers=["LayerNormalization", "Gelu", "Softmax"]),
        "transformer_block_opset23_dynamo": Export(
            lambda: Block(fused=True), tokens, opset=23, covers=["Attention"]),
        "transformer_text_dynamo": Export(
            TextTransformer, [torch.randint(0, 11, (1, 8))], covers=["Gather embedding"],
            ranges={"tokens": {"below": 11}}),
        "transformer_vision_dynamo": Export(
            VisionTransformer, image, covers=["Expand", "Gather", "Concat"],
            dynamic=N, shapes={"N": 2}),
        "convnext_block_dynamo": Export(
            ConvNext, batch, covers=["LayerNormalization", "Transpose", "Conv depthwise"]),
        "mixer_block_dynamo": Export(Mixer, tokens, covers=["MatMul", "Transpose"]),
        "cnn_view_dynamo": Export(Cnn, image, covers=["Reshape"], dynamic=N, shapes={"N": 2}),
        "image_uint8_dynamo": Export(
            lambda: ImageNormalizer(False),
            [torch.randint(0, 256, IMAGE, dtype=torch.uint8)], covers=["Cast uint8"],
            ranges={"x": {"below": 256}}),
        "image_uint8_nhwc_dynamo": Export(
            lambda: ImageNormalizer(True),
            [torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)],
            covers=["Cast uint8", "Transpose"], ranges={"x": {"below": 256}}),
        "two_inputs_two_outputs_dynamo": Export(
            lambda: Lambda(lambda a, b, x, y: (F.relu(a(x) + b(y)), a(x) - b(y)),
                           nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)),
            [randn(*IMAGE), randn(1, 4, 8, 8)], covers=["several inputs and outputs", "Sub"]),
        "where_mask_dynamo": Export(
            lambda: Lambda(lambda x: torch.where(torch.arange(8) % 3 == 0, x, x * 0.5)), batch,
            covers=["Where constant"]),
        "linear_rank4_dynamo": Export(
            lambda: nn.Linear(8, 5), batch, covers=["MatMul rank 4"]),
        "embedding_bag_mean_dynamo": Export(
            lambda: Lambda(lambda e, head, t: head(e(t).mean(1)),
                           nn.Embedding(11, 8), nn.Linear(8, 4)),
            [torch.randint(0, 11, (2, 6))], covers=["Gather embedding", "ReduceMean"],
            ranges={"t": {"below": 11}}),
        "lstm_dynamo": Export(
            lambda: Lambda(lambda m, x: m(x)[0], nn.LSTM(8, 6, batch_first=True)),
            [randn(1, 5, 8)], covers=["LSTM"]),
        "einsum_dynamo": Export(
            lambda: Lambda(lambda x: torch.einsum("nqd,nkd->nqk", x, x)), tokens,
            covers=["Einsum"]),
        "half_precision_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).half(), [image[0].half()],
            covers=["float16"]),
        "double_precision_dynamo": Export(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double(), [image[0].double()],
            covers=["float64"]),
    }  # fmt: skip
    table |= activations("GELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "Softplus", "ELU")
    table |= activations("SELU", "LeakyReLU", "Sigmoid", "Tanh", "ReLU6", "CELU", "Softsign")
    table |= over(
        "math_unary_dynamo",
        lambda x: torch.sqrt(x.abs() + 1) + torch.exp(-x.abs()),
        covers=["Sqrt", "Exp", "Abs", "Neg"],
    )
    table |= over(
        "reciprocal_rsqrt_dynamo",
        lambda x: torch.rsqrt(x * x + 0.5) + torch.reciprocal(2 + x.abs()),
        covers=["Reciprocal", "Sqrt"],
    )
    table |= over(
        "erf_pow_dynamo", lambda x: torch.erf(x) + (x.abs() + 0.1) ** 1.5, covers=["Erf", "Pow"]
    )
    table |= over(
        "reduce_dynamo",
        lambda x: x.mean((2, 3)) + x.sum(3).amax(2) + x.amin((2, 3)),
        covers=["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"],
    )
    table |= over(
        "l2_normalize_dynamo", lambda x: F.normalize(x, dim=1), covers=["ReduceL2", "Div", "Clip"]
    )
    table |= over("argmax_dynamo", lambda x: x.argmax(1), covers=["ArgMax"])
    table |= over("log_softmax_dynamo", lambda x: F.log_softmax(x, 1), covers=["LogSoftmax"])
    table |= over("softmax_channels_dynamo", lambda x: F.softmax(x, 1), covers=["Softmax axis 1"])
    table |= over(
        "pad_reflect_dynamo",
        lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
        covers=["Pad reflect"],
    )
    table |= over(
        "pad_replicate_dynamo",
        lambda x: F.pad(x, (1, 2, 0, 2), mode="replicate"),
        covers=["Pad edge"],
    )
    table |= over(
        "pad_constant_dynamo", lambda x: F.pad(x, (1, 0, 2, 1), value=0.7), covers=["Pad constant"]
    )
    table |= over(
        "split_slice_concat_dynamo",
        lambda x: torch.cat(
            [
                x[:, 2:],
                x[:, :2, 1:7, ::2]
                .repeat(1, 1, 1, 2)[:, :, :, :8]
                .mean(2, keepdim=True)
                .expand(-1, -1, 8, -1),
            ],
            1,
        ),
        covers=["Slice", "Concat", "Tile", "Expand"],
    )
    table |= over("index_select_dynamo", lambda x: x[:, [2, 0, 3]], covers=["Gather constant"])
    table |= over(
        "roll_shift_dynamo", lambda x: torch.roll(x, (2, 1), (2, 3)), covers=["Slice", "Concat"]
    )
    table |= over("glu_dynamo", lambda x: F.glu(x, 1), covers=["Split", "Sigmoid", "Mul"])
    table |= over(
        "min_max_elementwise_dynamo",
        lambda x: torch.maximum(x, 0.5 * x) + torch.minimum(x, x.mean(1, keepdim=True)),
        covers=["Max", "Min"],
    )
    table |= over("clamp_dynamo", lambda x: x.clamp(-0.5, 1.25), covers=["Clip"])
    table |= over(
        "squeeze_unsqueeze_dynamo",
        lambda x: x.unsqueeze(2).transpose(1, 2).squeeze(1).permute(0, 2, 3, 1),
        covers=["Squeeze", "Unsqueeze", "Transpose"],
    )
    return table


def older() -> dict[str, Export]:
    """The models of the exporter that traces to TorchScript."""
    image, batch, tokens = [randn(*IMAGE)], [randn(*BATCH)], [randn(*TOKENS)]
    N = {"x": {0: "N"}}

    def old(make: Any, inputs: Any, opset: int, *covers: str, **rest: Any) -> Export:
        return Export(make, inputs, dynamo=False, opset=opset, covers=covers, **rest)

    return {
        "conv2d_opset7_torchscript": old(lambda: nn.Conv2d(3, 4, 3), image, 7, "Conv"),
        "cnn_view_opset9_torchscript": old(
            Cnn, image, 9, "Reshape computed", dynamic=N, shapes={"N": 2}),
        "cnn_view_opset11_torchscript": old(
            Cnn, image, 11, "Reshape computed", dynamic=N, shapes={"N": 2}),
        "cnn_view_opset17_torchscript": old(
            Cnn, image, 17, "Reshape computed", dynamic=N, shapes={"N": 2}),
        "inverted_residual_opset9_torchscript": old(inverted_residual, batch, 9, "Clip"),
        "residual_projection_opset13_torchscript": old(
            residual_projection, batch, 13, "Add", dynamic=N, shapes={"N": 2}),
        "squeeze_excite_opset12_torchscript": old(
            squeeze_excite, batch, 12, "Mul broadcast", "HardSigmoid"),
        "hardswish_opset11_torchscript": old(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish()), image, 11, "HardSwish"),
        "hardswish_opset14_torchscript": old(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish()), image, 14, "HardSwish"),
        "silu_mish_opset13_torchscript": old(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.Mish()),
            image, 13, "Swish", "Mish"),
        "gelu_layer_norm_opset12_torchscript": old(
            lambda: nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.LayerNorm(8)), tokens, 12,
            "Gelu", "LayerNormalization"),
        "gelu_tanh_opset14_torchscript": old(
            lambda: nn.Sequential(nn.Linear(16, 8), nn.GELU(approximate="tanh")), tokens, 14,
            "Gelu tanh"),
        "transformer_block_opset14_torchscript": old(
            Block, tokens, 14, "LayerNormalization", "Gelu", "Softmax"),
        "transformer_block_opset17_torchscript": old(
            lambda: Block(fused=True), tokens, 17, "LayerNormalization", "Gelu", "Softmax"),
        "transformer_text_opset14_torchscript": old(
            lambda: TextTransformer(False), [torch.randint(0, 11, (1, 8))], 14,
            "Gather embedding", ranges={"tokens": {"below": 11}}),
        "transformer_vision_opset14_torchscript": old(
            VisionTransformer, image, 14, "Expand", "Gather", dynamic=N, shapes={"N": 2}),
        "group_norm_opset11_torchscript": old(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), image, 11,
            "GroupNormalization"),
        "instance_norm_opset11_torchscript": old(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)), image, 11,
            "InstanceNormalization"),
        "upsample_nearest_opset9_torchscript": old(
            lambda: nn.Upsample(scale_factor=2), batch, 9, "Upsample"),
        "upsample_bilinear_opset11_torchscript": old(
            lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), batch, 11,
            "Resize linear"),
        "pixel_shuffle_opset11_torchscript": old(
            lambda: nn.PixelShuffle(2), batch, 11, "DepthToSpace CRD"),
        "shuffle_unit_opset10_torchscript": old(
            shuffle_unit, batch, 10, "channel shuffle", "Split"),
        "dense_block_opset9_torchscript": old(dense_block, batch, 9, "Concat"),
        "pad_reflect_opset9_torchscript": old(
            lambda: nn.ReflectionPad2d((1, 2, 3, 0)), batch, 9, "Pad reflect"),
        "pad_constant_opset11_torchscript": old(
            lambda: nn.ConstantPad2d((1, 0, 2, 1), 0.7), batch, 11, "Pad constant"),
        "avgpool_count_pad_opset9_torchscript": old(
            lambda: nn.AvgPool2d(3, 2, 1), batch, 9, "AveragePool count_include_pad"),
        "softmax_opset11_torchscript": old(
            lambda: Lambda(lambda x: F.softmax(x, 1)), batch, 11, "Softmax old"),
        "reduce_opset11_torchscript": old(
            lambda: Lambda(lambda x: x.mean((2, 3)) + x.sum(3).amax(2)), batch, 11,
            "ReduceMean", "ReduceSum", "ReduceMax"),
        "slice_opset9_torchscript": old(
            lambda: Lambda(lambda x: x[:, 1:3, ::2, -5:]), batch, 10, "Slice"),
        "lstm_opset14_torchscript": old(
            lambda: Lambda(lambda m, x: m(x)[0], nn.LSTM(8, 6, batch_first=True)),
            [randn(1, 5, 8)], 14, "LSTM"),
        "half_precision_opset13_torchscript": old(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).half(), [image[0].half()], 13,
            "float16"),
    }  # fmt: skip


def export(entry: Export) -> onnx.ModelProto:
    """The model as PyTorch's exporter gives it, with plausible statistics and weights."""
    torch.manual_seed(5)
    module = entry.make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            part.weight.data.uniform_(0.6, 1.4)
            part.bias.data.normal_(0, 0.2)
    buffer = io.BytesIO()
    names = list(entry.dynamic) or list(entry.ranges) or None
    if entry.dynamo:
        dynamic = None
        if entry.dynamic:
            # Exporting for a batch of one would fix it.
            inputs = [torch.cat([value] * 2) if value.shape[0] == 1 else value
                      for value in entry.inputs]  # fmt: skip
            dims = {0: torch.export.Dim("N", min=1, max=64)}
            dynamic = (
                {"inputs": tuple(dims for _ in inputs)} if isinstance(module, Lambda)
                else tuple(dims for _ in inputs)
            )  # fmt: skip
        else:
            inputs = list(entry.inputs)
        program = torch.onnx.export(
            module, tuple(inputs), dynamo=True, opset_version=entry.opset, verbose=False,
            input_names=names, dynamic_shapes=dynamic,
        )  # fmt: skip
        proto: onnx.ModelProto = program.model_proto
        return proto
    torch.onnx.export(
        module, tuple(entry.inputs), buffer, dynamo=False, opset_version=entry.opset,
        input_names=names, dynamic_axes={key: dict(value) for key, value in entry.dynamic.items()},
    )  # fmt: skip
    return onnx.load_model_from_string(buffer.getvalue())


def main() -> None:
    warnings.simplefilter("ignore")
    rows, wanted = [], set(sys.argv[1:])
    torch.manual_seed(1)
    for exporter, table in (("dynamo", newer()), ("torchscript", older())):
        for name, entry in table.items():
            if wanted and name not in wanted:
                continue
            try:
                model = export(entry)
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
                continue
            rows.append(
                save(
                    model,
                    name,
                    exporter=exporter,
                    covers=entry.covers,
                    shapes=entry.shapes,
                    ranges=entry.ranges,
                )
            )
    if not wanted:
        update_index(rows, {"dynamo", "torchscript"})


if __name__ == "__main__":
    main()
