"""Folds per-channel affine operators into the products before or after them."""

from dataclasses import dataclass

import numpy as np

from systol_compiler.draft import Draft, as_float64, exclusive_consumers
from systol_compiler.graph.float_graph import Array, Graph, Node


@dataclass(frozen=True, kw_only=True)
class Affine:
    """y = x * scale + offset per channel (axis 1); both float64 [channels]."""

    scale: Array
    offset: Array

    def then(self, other: "Affine") -> "Affine":
        """This affine followed by `other`."""
        return Affine(
            scale=self.scale * other.scale, offset=self.offset * other.scale + other.offset
        )


@dataclass(frozen=True, kw_only=True)
class FoldAffine:
    """Fold BatchNormalization, and Add, Sub, Mul, Div by per-channel constants, into Conv and Gemm.

    After a product: always. Before one: into Gemm always, into Conv only when it has no pads,
    since a padded pixel is zero behind the affine and not in front of it. Float64 throughout,
    rounded once to float32.
    """

    name: str = "fold-affine"

    def run(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        single = exclusive_consumers(graph)
        # Chains of affines waiting for the product that reads them, by the tensor they last wrote.
        chains: dict[str, _Chain] = {}
        # Products waiting for the affines that follow, by the tensor they last wrote.
        growing: dict[str, _Product] = {}
        for node in graph.nodes:
            affine = per_channel_affine(node, graph)
            source = variable_input(node, graph)
            follower = single.get(node.outputs[0])
            if affine is not None and source in growing:
                product = growing.pop(source)
                product.follow(affine, node)
                self._settle(product, graph, follower, growing, draft)
            elif affine is not None:
                chain = chains.pop(source, None) or _Chain(source, len(affine.scale))
                chain.extend(affine, node)
                if follower is not None and (
                    _absorbs(follower, node.outputs[0], graph)
                    or per_channel_affine(follower, graph) is not None
                ):
                    chains[node.outputs[0]] = chain
                else:
                    chain.append_to(draft)
            elif _is_product(node, graph):
                product = _Product(node, graph)
                if node.inputs[0] in chains:
                    product.precede(chains.pop(node.inputs[0]))
                self._settle(product, graph, follower, growing, draft)
            else:
                draft.append(node)
        return draft.freeze()

    @staticmethod
    def _settle(
        product: "_Product",
        graph: Graph,
        follower: Node | None,
        growing: dict[str, "_Product"],
        draft: Draft,
    ) -> None:
        """Let the product wait if another affine follows, else append it."""
        output = product.output
        if (
            follower is not None
            and per_channel_affine(follower, graph) is not None
            and variable_input(follower, graph) == output
        ):
            growing[output] = product
        else:
            product.append_to(draft)


class _Chain:
    """Consecutive affines, as one."""

    def __init__(self, source: str, channels: int) -> None:
        self.source = source
        self.affine = Affine(scale=np.ones(channels), offset=np.zeros(channels))
        self.nodes: list[Node] = []

    def extend(self, affine: Affine, node: Node) -> None:
        self.affine = self.affine.then(affine)
        self.nodes.append(node)

    def append_to(self, draft: Draft) -> None:
        """No product takes them: they stay as they were."""
        for node in self.nodes:
            draft.append(node)


class _Product:
    """A Conv or Gemm with weight [O, ...] and bias [O], and the affines around it."""

    def __init__(self, node: Node, graph: Graph) -> None:
        self._node = node
        self._graph = graph
        self._before: _Chain | None = None
        channels = graph.constants[node.inputs[2]].size
        self._after = Affine(scale=np.ones(channels), offset=np.zeros(channels))
        self._followers: list[Node] = []
        self.output = node.outputs[0]

    def precede(self, chain: _Chain) -> None:
        self._before = chain

    def follow(self, affine: Affine, node: Node) -> None:
        self._after = self._after.then(affine)
        self._followers.append(node)
        self.output = node.outputs[0]

    def append_to(self, draft: Draft) -> None:
        node = self._node
        if self._before is None and not self._followers:
            draft.append(node)
            return
        weight, bias = (as_float64(self._graph.constants[name]) for name in node.inputs[1:])
        source, leaders = node.inputs[0], self._before.nodes if self._before else []
        if self._before is not None:
            # Input channels lie on axis 1 of the weight; `_absorbs` admits one group only.
            taps = weight.sum(axis=tuple(range(2, weight.ndim)))
            bias = bias + taps @ self._before.affine.offset
            weight = weight * _along(self._before.affine.scale, 1, weight.ndim)
            source = self._before.source
        weight = weight * _along(self._after.scale, 0, weight.ndim)
        bias = bias * self._after.scale + self._after.offset
        draft.append(
            node,
            inputs=(
                source,
                draft.constant(f"{node.name}.weight", weight.astype(np.float32)),
                draft.constant(f"{node.name}.bias", bias.astype(np.float32)),
            ),
            outputs=(self.output,),
            sources=tuple(
                name for part in (*leaders, node, *self._followers) for name in part.sources
            ),
        )


def _along(values: Array, axis: int, rank: int) -> Array:
    """`values` [n] with `rank` axes, all of size 1 but `axis`."""
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])


def _is_product(node: Node, graph: Graph) -> bool:
    """Whether `node` is a Conv or Gemm in canonical form."""
    if node.op not in ("Conv", "Gemm") or len(node.inputs) != 3:
        return False
    if node.op == "Gemm" and dict(node.attributes) != {"transB": 1}:
        return False
    weight, bias = (graph.constants.get(name) for name in node.inputs[1:])
    return (
        weight is not None
        and bias is not None
        and weight.dtype == bias.dtype == np.float32
        and bias.shape == weight.shape[:1]
    )


def _absorbs(node: Node, source: str, graph: Graph) -> bool:
    """Whether the product `node` can take an affine of `source` into its weights."""
    if not _is_product(node, graph) or node.inputs[0] in graph.constants or not source:
        return False
    return node.op == "Gemm" or (
        node.attributes.get("group", 1) == 1 and not any(node.attributes.get("pads", [1]))
    )


def variable_input(node: Node, graph: Graph) -> str:
    """The one input of `node` that is no constant; "" if there are several or none."""
    names = [name for name in node.inputs if name and name not in graph.constants]
    return names[0] if len(names) == 1 else ""


def per_channel_affine(node: Node, graph: Graph) -> Affine | None:
    """What `node` does to each channel, if that is one affine with constant factors."""
    source = variable_input(node, graph)
    if not source or graph.types[source].dtype != "float32":
        return None
    shape = graph.types[source].shape
    if len(shape) < 2 or graph.types[node.outputs[0]].shape != shape:
        return None
    if node.op == "BatchNormalization":
        return _batch_normalization(node, graph, shape[1])
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    constant_first = node.inputs[0] != source
    values = _channel_values(
        graph.constants[node.inputs[0 if constant_first else 1]], len(shape), shape[1]
    )
    if values is None:
        return None
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
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


def _channel_values(constant: Array, rank: int, channels: int) -> Array | None:
    """A constant that broadcasts along axis 1 alone, as float64 [channels]; else None."""
    padded = (1,) * (rank - constant.ndim) + constant.shape
    others = (size for axis, size in enumerate(padded) if axis != 1)
    if len(padded) != rank or any(size != 1 for size in others):
        return None
    return np.broadcast_to(as_float64(constant).reshape(-1), (channels,)).copy()


def _batch_normalization(node: Node, graph: Graph, channels: int) -> Affine | None:
    """Inference form of ONNX BatchNormalization (version 9 and later)."""
    if len(node.inputs) != 5 or node.attributes.get("training_mode", 0):
        return None
    gamma, beta, mean, variance = (as_float64(graph.constants[n]) for n in node.inputs[1:])
    if any(value.shape != (channels,) for value in (gamma, beta, mean, variance)):
        return None
    scale = gamma / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    return Affine(scale=scale, offset=beta - mean * scale)
