"""What an operator does to each channel, where that is one affine function."""

from dataclasses import dataclass

import numpy as np

from systol_compiler.graph.float_graph import Array, Graph, Node


@dataclass(frozen=True, kw_only=True)
class Affine:
    """y = x * scale + offset per channel; both float64 [channels]."""

    scale: Array
    offset: Array

    def then(self, other: "Affine") -> "Affine":
        """This affine followed by `other`."""
        return Affine(
            scale=self.scale * other.scale, offset=self.offset * other.scale + other.offset
        )

    @classmethod
    def identity(cls, channels: int) -> "Affine":
        """The affine that changes nothing."""
        return cls(scale=np.ones(channels), offset=np.zeros(channels))


def as_float64(value: Array) -> Array:
    """`value` widened, so that folding rounds once, at the end."""
    return value.astype(np.float64)


def along(values: Array, axis: int, rank: int) -> Array:
    """`values` [n] with `rank` axes, all of size 1 but `axis`."""
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])


def variable_input(node: Node, graph: Graph) -> str:
    """The one input of `node` that is no constant; "" if there are several or none."""
    names = [name for name in node.inputs if name and name not in graph.constants]
    return names[0] if len(names) == 1 else ""


def per_channel_affine(node: Node, graph: Graph, axis: int = 1) -> Affine | None:
    """What `node` does to each channel (along `axis`), if that is one affine with constants."""
    source = variable_input(node, graph)
    if not source or not node.outputs or graph.types[source].dtype != "float32":
        return None
    shape = graph.types[source].shape
    if len(shape) < 2 or graph.types[node.outputs[0]].shape != shape:
        return None
    axis %= len(shape)
    if node.op == "BatchNormalization":
        return _batch_normalization(node, graph, shape[1]) if axis == 1 else None
    if node.op == "Neg":
        return Affine(scale=-np.ones(shape[axis]), offset=np.zeros(shape[axis]))
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    constant_first = node.inputs[0] != source
    values = _channel_values(graph.constants[node.inputs[0 if constant_first else 1]], shape, axis)
    if values is None:
        return None
    one, zero = np.ones(shape[axis]), np.zeros(shape[axis])
    if node.op == "Add":
        return Affine(scale=one, offset=values)
    if node.op == "Mul":
        return Affine(scale=values, offset=zero)
    if node.op == "Sub":
        return (
            Affine(scale=-one, offset=values)
            if constant_first
            else Affine(scale=one, offset=-values)
        )
    if constant_first or not values.all():
        return None
    return Affine(scale=1.0 / values, offset=zero)


def _channel_values(constant: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """A constant that broadcasts along `axis` alone, as float64 [channels]; else None."""
    rank = len(shape)
    padded = (1,) * (rank - constant.ndim) + constant.shape
    others = (size for index, size in enumerate(padded) if index != axis)
    if len(padded) != rank or any(size != 1 for size in others):
        return None
    return np.broadcast_to(as_float64(constant).reshape(-1), (shape[axis],)).copy()


def _batch_normalization(node: Node, graph: Graph, channels: int) -> Affine | None:
    """Inference form of ONNX BatchNormalization (version 9 and later)."""
    if len(node.inputs) != 5 or node.attributes.get("training_mode", 0):
        return None
    gamma, beta, mean, variance = (as_float64(graph.constants[n]) for n in node.inputs[1:])
    if any(value.shape != (channels,) for value in (gamma, beta, mean, variance)):
        return None
    scale = gamma / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    return Affine(scale=scale, offset=beta - mean * scale)
