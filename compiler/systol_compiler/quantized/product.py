"""What layers with constant weights have in common: weights, bias and requantization."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.arithmetic import (
    INT8_REACH,
    INT16_REACH,
    prove_no_overflow,
    requantize,
    weight_sums,
)
from systol_compiler.numbers.limits import (
    MULTIPLIER_MAX,
    MULTIPLIER_MIN,
    SHIFT_MAX,
    Array,
    Float32Array,
    Int8Array,
    Int32Array,
)
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.build import LayerBuilder
from systol_compiler.quantized.export import QdqExporter
from systol_compiler.quantized.layer import Layer, Tensors
from systol_compiler.quantized.operator import Rule
from systol_compiler.quantized.weights import QuantizedWeights, quantize_weights
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Product(Layer):
    """`requantize(bias + sum((x - zero point) * weight))` by output channel.

    Attributes
    ----------
    weights
        int8; its first axis is the output channels unless the layer says otherwise.
    scales
        float32 [O]: what a weight of 1 stands for.
    bias
        int32 [O], of scale `input scale * scale`; the input's zero point is not folded in.
    source_scale
        Scale of the input.
    multipliers, shifts
        int32 [O]: requantization (docs/numerics.md, 4).
    lo, hi
        Clip of the results' codes.
    """

    weights: Int8Array
    scales: Float32Array
    bias: Int32Array
    source_scale: float
    multipliers: Int32Array
    shifts: Int32Array
    lo: int
    hi: int

    def __post_init__(self) -> None:
        for name in ("weights", "scales", "bias", "multipliers", "shifts"):
            getattr(self, name).setflags(write=False)

    @property
    def outputs_first(self) -> Int8Array:
        """The weights with the output channels as the first axis."""
        return self.weights

    @cached_property
    def weight_totals(self) -> Array:
        """Sum of each output channel's weights: int64 [O]."""
        positive, negative = weight_sums(self.outputs_first)
        return positive - negative

    def folded_bias(self, source: QTensor) -> Array:
        """The bias for activations as they are stored: less `zero_point * sum(weights)`, int64."""
        wide = self.bias.astype(np.int64)
        return wide - source.zero_point * self.weight_totals if source.zero_point else wide

    def finish(self, total: Array, target: QTensor) -> Array:
        """Results of sums, bias included, whose last axis is the output channels."""
        return requantize(
            total, self.multipliers, self.shifts, target.zero_point, self.lo, self.hi, target.width
        )

    def export_bias(self, exporter: QdqExporter) -> str:
        """The float32 value [O] of the bias."""
        scales = (np.float64(self.source_scale) * self.scales).astype(np.float32)
        return exporter.weights(f"{self.name}.bias", self.bias, scales, 0)

    def require(self, condition: bool, rule: str, value: object) -> None:
        """Raise `InputError` naming the layer, the rule and the value."""
        if not condition:
            raise InputError(f"layer {self.name!r}: {rule}, but is {value}")

    def verify_numbers(self, tensors: Tensors, outputs: int) -> None:
        """Check what does not depend on the kind of product."""
        source, target = tensors[self.inputs[0]], tensors[self.outputs[0]]
        for name in ("scales", "bias", "multipliers", "shifts"):
            shape = getattr(self, name).shape
            self.require(shape == (outputs,), f"{name} must have {outputs} entries", shape)
        self.require(bool((self.scales > 0).all()), "scales must be positive", self.scales.min())
        self.require(
            self.source_scale == source.scale, f"the input's scale must be {source.scale}",
            self.source_scale,
        )
        low, high = int(self.multipliers.min()), int(self.multipliers.max())
        self.require(
            low >= MULTIPLIER_MIN and high <= MULTIPLIER_MAX,
            f"multipliers must lie in {MULTIPLIER_MIN}..{MULTIPLIER_MAX}", f"{low}..{high}",
        )
        low, high = int(self.shifts.min()), int(self.shifts.max())
        self.require(
            low >= 0 and high <= SHIFT_MAX, f"shifts must lie in 0..{SHIFT_MAX}", f"{low}..{high}"
        )
        least, greatest = target.bounds
        self.require(
            least <= self.lo <= self.hi <= greatest,
            f"the clip must lie in {least}..{greatest}", f"{self.lo}..{self.hi}",
        )
        reach = INT8_REACH if source.width == 8 else INT16_REACH
        prove_no_overflow(
            self.outputs_first, self.folded_bias(source), f"layer {self.name!r}", reach
        )


def magnitude(source: QTensor, *, centred: bool = False) -> int:
    """A bound on a tensor's codes; `centred`: of their distances from the zero point."""
    if source.width == 16:
        return 1 << 15
    return 256 if centred else 128


def build_weights(
    builder: LayerBuilder, weights: Array, bias: Array | None, source: QTensor, target: QTensor
) -> QuantizedWeights:
    """The numbers of float weights [O, K] and biases [O], with the current node's bias
    correction."""
    total = corrected_bias(builder, bias, weights.shape[0], target)
    return quantize_weights(weights, total, source, target)


def corrected_bias(
    builder: LayerBuilder, bias: Array | None, outputs: int, target: QTensor
) -> npt.NDArray[np.float64]:
    """Biases [O] (None: zeros) with the current node's bias correction."""
    total = np.zeros(outputs, np.float64)
    if bias is not None:
        total = total + bias.astype(np.float64)
    correction = builder.corrections.get(target.name)
    if correction is not None:
        # Of several matrices every one has it.
        total = total + np.resize(correction, total.shape)
    return total


def finite_constant(name: str, graph: Graph) -> str | None:
    """None if `name` is a constant without infinities and NaN, else what it is."""
    if name not in graph.constants:
        return f"{name!r} is computed"
    value = graph.constants[name]
    if value.size and not (np.isfinite(value.min()) and np.isfinite(value.max())):
        return f"{name!r} holds NaN or infinite values"
    return None


def constant_weights(node: Node, graph: Graph) -> str | None:
    """weights and bias must be constants with finite values."""
    for name in filter(None, node.inputs[1:3]):
        found = finite_constant(name, graph)
        if found is not None:
            return found
    return None


CONSTANT_WEIGHTS = Rule(
    check=constant_weights, remedy="store the weights in the file as finite initializers"
)
