"""The builder that operators add their layers to."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import Array, bounds
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.layer import Layer


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Scale, zero point and width that a float tensor gets."""

    scale: float
    zero_point: int
    width: int = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class MachineNode:
    """A float node with what is fused into its layers.

    Attributes
    ----------
    node
        The operator.
    bias
        A following Add of a constant, fused: the constant's name, or "".
    factor
        Of a following Mul by a positive number, fused; it multiplies the bias as well.
    least, greatest
        The clip behind it; infinite where nothing clips.
    output
        The tensor behind all of it: the first output of the last node.
    sources
        Names of the model's nodes.
    """

    node: Node
    output: str
    sources: tuple[str, ...]
    bias: str = ""
    factor: float = 1.0
    least: float = -inf
    greatest: float = inf


class LayerBuilder:
    """Collects layers, tensors and constants of the quantized graph.

    Attributes
    ----------
    graph
        The canonical float graph: `graph.constants[name]` are its constants.
    current
        The node that is being built, with what is fused into it.
    """

    def __init__(self, graph: Graph, numbers: Mapping[str, Numbers]) -> None:
        self.graph = graph
        self.numbers = numbers
        self.tensors: dict[str, QTensor] = {}
        self.constants: dict[str, Array] = {}
        self.layers: list[Layer] = []
        self.current: MachineNode
        self.corrections: Mapping[str, Array] = {}
        """Bias corrections by output tensor: float64 [channels], real units, to be added."""
        self._names: set[str] = set()
        self._layer_names: set[str] = set()

    def tensor(self, name: str) -> QTensor:
        """The quantized tensor of the float tensor `name`, added at first use."""
        if name not in self.tensors:
            numbers = self.numbers[name]
            self.tensors[name] = QTensor(
                name=name,
                shape=self.graph.types[name].shape,
                scale=numbers.scale,
                zero_point=numbers.zero_point,
                width=numbers.width,
                source=name,
            )
            self._names.add(name)
        return self.tensors[name]

    def operand(self, name: str) -> QTensor:
        """As `tensor`; a constant of the graph becomes one with numbers of its own."""
        if name in self.graph.constants:
            return self.constant(name, self.graph.constants[name])
        return self.tensor(name)

    def output(self) -> QTensor:
        """The tensor behind the current node and what is fused into it."""
        return self.tensor(self.current.output)

    def inner(
        self, shape: tuple[int, ...], scale: float, zero_point: int, width: int = 8
    ) -> QTensor:
        """A new tensor inside the current node's layers; `scale` is rounded to binary32."""
        tensor = QTensor(
            name=self._fresh(f"{self.current.output}.{len(self.layers)}"),
            shape=shape,
            scale=float(np.float32(scale)),
            zero_point=zero_point,
            width=width,
        )
        self.tensors[tensor.name] = tensor
        return tensor

    def constant(self, wish: str, values: Array, *, width: int = 8, symmetric: bool = False,
                 ) -> QTensor:
        """A constant tensor of real `values`, with the finest scale that holds them."""
        real = np.asarray(values, np.float64)
        low, high = min(float(real.min()), 0.0), max(float(real.max()), 0.0)
        least, greatest = bounds(width)
        if symmetric or width == 16:
            scale = max(high / greatest, low / -greatest) or 1.0
            scale, zero_point = float(np.float32(scale)), 0
        else:
            scale = float(np.float32((high - low) / 255 or 1.0))
            zero_point = int(np.clip(np.rint(least - low / scale), least, greatest))
        codes = np.clip(np.rint(real / scale) + zero_point, least, greatest)
        kind = np.int8 if width == 8 else np.int16
        return self.codes(wish, codes.astype(kind), scale, zero_point)

    def codes(self, wish: str, codes: Array, scale: float, zero_point: int) -> QTensor:
        """A constant tensor of the integers `codes` (int8 or int16)."""
        tensor = QTensor(
            name=self._fresh(f"{wish}.constant"), shape=codes.shape, scale=float(np.float32(scale)),
            zero_point=zero_point, width=8 * codes.dtype.itemsize,
        )
        codes.setflags(write=False)
        self.tensors[tensor.name] = tensor
        self.constants[tensor.name] = codes
        return tensor

    def clip(self, output: QTensor) -> tuple[int, int]:
        """Least and greatest code of `output` under the clip fused into the current node."""
        low, high = output.bounds
        codes = []
        for bound, limit in ((self.current.least, low), (self.current.greatest, high)):
            if np.isinf(bound):
                codes.append(limit)
            else:
                code = np.rint(np.float64(bound) / output.scale) + output.zero_point
                codes.append(int(np.clip(code, low, high)))
        return codes[0], codes[1]

    def layer_name(self, suffix: str = "") -> str:
        """A unique name for the next layer of the current node."""
        wish = self.current.node.name + (f".{suffix}" if suffix else "")
        name, count = wish, 1
        while name in self._layer_names:
            count += 1
            name = f"{wish}.{count}"
        self._layer_names.add(name)
        return name

    def add(self, layer: Layer) -> None:
        """Append a layer; its tensors have been made by this builder."""
        self.layers.append(layer)

    def _fresh(self, wish: str) -> str:
        name, count = wish, 1
        while name in self._names or name in self.graph.types:
            count += 1
            name = f"{wish}.{count}"
        self._names.add(name)
        return name
