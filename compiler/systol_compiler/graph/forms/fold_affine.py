"""Folds per-channel affine operators into the products before or after them."""

from dataclasses import dataclass, field

import numpy as np

from systol_compiler.graph.editor import GraphEditor, exclusive_consumers, merged_sources
from systol_compiler.graph.float_graph import Array, Graph, Node
from systol_compiler.graph.forms.affine import (
    Affine,
    along,
    as_float64,
    per_channel_affine,
    variable_input,
)


@dataclass(frozen=True, kw_only=True)
class FoldAffine:
    """Fold BatchNormalization, and arithmetic with per-channel constants, into products.

    Behind a product (Conv, ConvTranspose, Gemm; MatMul along its columns): always. Before one:
    into Gemm always, into Conv where it has no pads, or where nothing is added, since a padded
    pixel is zero behind the affine and not in front of it. A chain that no product takes becomes
    a Conv of its own, 1x1 with one channel in each group, if it normalizes or has two steps; or
    one Mul and one Add where the data are no images. Float64 throughout, rounded once to float32.
    """

    name: str = "fold-affine"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        single = exclusive_consumers(graph)
        # Chains of affines waiting for the product that reads them, by the tensor they last wrote.
        chains: dict[str, _Chain] = {}
        # Products waiting for the affines that follow, by the tensor they last wrote.
        growing: dict[str, _Product] = {}
        for node in graph.nodes:
            source = variable_input(node, graph)
            if source in growing:
                product = growing.pop(source)
                affine = per_channel_affine(node, graph, product.axis)
                assert affine is not None
                product.follow(affine, node)
                self._settle(product, graph, single, growing, editor)
                continue
            affine = per_channel_affine(node, graph)
            if affine is not None:
                chain = chains.pop(source, None) or _Chain(source, len(affine.scale))
                chain.extend(affine, node)
                follower = single.get(node.outputs[0])
                if follower is not None and (
                    _absorbs(follower, node.outputs[0], chain, graph)
                    or per_channel_affine(follower, graph) is not None
                ):
                    chains[node.outputs[0]] = chain
                else:
                    chain.append_to(editor, graph)
            elif _is_product(node, graph):
                product = _Product(node, graph)
                if node.inputs[0] in chains:
                    product.before = chains.pop(node.inputs[0])
                self._settle(product, graph, single, growing, editor)
            else:
                editor.append(node)
        return editor.freeze()

    @staticmethod
    def _settle(
        product: "_Product",
        graph: Graph,
        single: dict[str, Node],
        growing: dict[str, "_Product"],
        editor: GraphEditor,
    ) -> None:
        """Let the product wait if another affine follows, else append it."""
        follower = single.get(product.output)
        if (
            follower is not None
            and variable_input(follower, graph) == product.output
            and per_channel_affine(follower, graph, product.axis) is not None
        ):
            growing[product.output] = product
        else:
            product.append_to(editor)


class _Chain:
    """Consecutive affines, as one."""

    def __init__(self, source: str, channels: int) -> None:
        self.source = source
        self.affine = Affine.identity(channels)
        self.nodes: list[Node] = []

    def extend(self, affine: Affine, node: Node) -> None:
        self.affine = self.affine.then(affine)
        self.nodes.append(node)

    def append_to(self, editor: GraphEditor, graph: Graph) -> None:
        """No product takes them: one Conv or two steps, or a single one as it was."""
        node, shape = self.nodes[-1], graph.types[self.source].shape
        scale, offset = (
            values.astype(np.float32) for values in (self.affine.scale, self.affine.offset)
        )
        sources = merged_sources(*self.nodes)
        normalizes = any(item.op == "BatchNormalization" for item in self.nodes)
        if len(self.nodes) == 1 and not normalizes:
            editor.append(node)
            return
        uniform = all((values == values[0]).all() for values in (scale, offset))
        if 3 <= len(shape) <= 5 and not uniform:
            self._append_conv(editor, scale, offset, shape, sources)
            return
        if uniform and not normalizes:
            scale, offset = scale[:1].reshape(()), offset[:1].reshape(())
        else:
            scale, offset = (along(values, 1, len(shape)) for values in (scale, offset))
        steps = [("Mul", scale)] if (scale != 1).any() else []
        steps += [("Add", offset)] if offset.any() or not steps else []
        tensor = self.source
        for index, (op, values) in enumerate(steps):
            inputs = (tensor, editor.constant(f"{node.name}.{op.lower()}", values))
            if index == len(steps) - 1:
                editor.append(node, op=op, inputs=inputs, attributes={}, sources=sources)
            else:
                tensor = editor.insert(node, op, inputs, shape, sources=sources)

    def _append_conv(
        self,
        editor: GraphEditor,
        scale: Array,
        offset: Array,
        shape: tuple[int, ...],
        sources: tuple[str, ...],
    ) -> None:
        node, axes = self.nodes[-1], len(shape) - 2
        ones = [1] * axes
        editor.append(
            node,
            op="Conv",
            inputs=(
                self.source,
                editor.constant(f"{node.name}.weight", scale.reshape(-1, *([1] * (axes + 1)))),
                editor.constant(f"{node.name}.bias", offset),
            ),
            attributes={
                "group": shape[1],
                "kernel_shape": ones,
                "strides": ones,
                "dilations": ones,
                "pads": [0] * (2 * axes),
            },
            sources=sources,
        )


@dataclass
class _Product:
    """A product in canonical form, and the affines around it.

    `axis` is where its output channels lie in its result: 1, or the last one of a MatMul.
    """

    node: Node
    graph: Graph
    before: _Chain | None = None
    after: Affine | None = None
    followers: list[Node] = field(default_factory=list)

    @property
    def axis(self) -> int:
        return -1 if self.node.op == "MatMul" else 1

    @property
    def output(self) -> str:
        return (self.followers[-1] if self.followers else self.node).outputs[0]

    def follow(self, affine: Affine, node: Node) -> None:
        self.after = affine if self.after is None else self.after.then(affine)
        self.followers.append(node)

    def append_to(self, editor: GraphEditor) -> None:
        node = self.node
        lone = self.after is not None and node.op == "MatMul" and (self.after.scale == 1).all()
        if self.before is None and (self.after is None or (lone and len(self.followers) == 1)):
            editor.append(node)
            for follower in self.followers:
                editor.append(follower)
            return
        weight = self.graph.constants[node.inputs[1]]
        channels = self.graph.types[node.outputs[0]].shape[self.axis]
        factor, bias = np.ones((1,) * weight.ndim), np.zeros(channels)
        if node.op != "MatMul":
            bias = as_float64(self.graph.constants[node.inputs[2]])
        source, leaders = node.inputs[0], self.before.nodes if self.before else []
        if self.before is not None:
            affine, source = self.before.affine, self.before.source
            factor = _per_input(node, affine.scale, weight)
            offsets = _per_input(node, affine.offset, weight)
            taps = weight.sum(axis=tuple(range(2, weight.ndim)), dtype=np.float64)
            bias = bias + (taps * offsets.reshape(offsets.shape[:2])).sum(axis=1)
        if self.after is not None:
            factor = factor * _per_output(node, self.after.scale, weight)
            bias = bias * self.after.scale + self.after.offset
        sources = merged_sources(*leaders, node, *self.followers)
        stored = editor.constant(f"{node.name}.weight", _times(weight, factor))
        offsets = bias.astype(np.float32)
        if node.op != "MatMul":
            inputs = (source, stored, editor.constant(f"{node.name}.bias", offsets))
            editor.append(node, inputs=inputs, outputs=(self.output,), sources=sources)
        elif not offsets.any():
            editor.append(node, inputs=(source, stored), outputs=(self.output,), sources=sources)
        else:
            editor.append(node, inputs=(source, stored), sources=sources)
            added = editor.constant(f"{node.name}.bias", offsets)
            editor.append(
                self.followers[-1],
                op="Add",
                inputs=(node.outputs[0], added),
                attributes={},
                sources=sources,
            )


def _per_input(node: Node, values: Array, weight: Array) -> Array:
    """`values` [input channels] in the shape of the weight of a Conv or Gemm, taps apart."""
    group = int(node.attributes.get("group", 1))
    each = np.repeat(values.reshape(group, -1), weight.shape[0] // group, axis=0)
    return each.reshape(each.shape + (1,) * (weight.ndim - 2))


def _per_output(node: Node, values: Array, weight: Array) -> Array:
    """`values` [output channels] in the shape of a product's weight, as far as they differ."""
    if node.op == "MatMul":
        return values.reshape(1, -1)
    if node.op == "ConvTranspose":
        group = int(node.attributes["group"])
        each = np.repeat(values.reshape(group, -1), weight.shape[0] // group, axis=0)
        return each.reshape(each.shape + (1,) * (weight.ndim - 2))
    return along(values, 0, weight.ndim)


def _times(weight: Array, factor: Array) -> Array:
    """`weight` * `factor` in float64, rounded once to float32; a part at a time, for memory."""
    result = np.empty(weight.shape, dtype=np.float32)
    step = max((1 << 20) * len(weight) // max(weight.size, 1), 1)
    for first in range(0, len(weight), step):
        part = slice(first, first + step)
        result[part] = weight[part].astype(np.float64) * (
            factor[part] if len(factor) > 1 else factor
        )
    return result


def _is_product(node: Node, graph: Graph) -> bool:
    """Whether `node` is a product by constants in canonical form."""
    if node.op == "MatMul":
        weight = graph.constants.get(node.inputs[1])
        return (
            weight is not None
            and weight.ndim == 2
            and weight.dtype == np.float32
            and len(graph.types[node.inputs[0]].shape) > 2
        )
    if node.op not in ("Conv", "ConvTranspose", "Gemm") or len(node.inputs) != 3:
        return False
    if node.op == "Gemm" and dict(node.attributes) != {"transB": 1}:
        return False
    weight, bias = (graph.constants.get(name) for name in node.inputs[1:])
    return (
        weight is not None
        and bias is not None
        and weight.dtype == bias.dtype == np.float32
        and bias.shape == graph.types[node.outputs[0]].shape[1:2]
    )


def _absorbs(node: Node, source: str, chain: _Chain, graph: Graph) -> bool:
    """Whether the product `node` can take the affines that gave `source` into its weights."""
    if not _is_product(node, graph) or node.inputs[0] != source:
        return False
    if node.op == "Gemm":
        return True
    padded = any(node.attributes.get("pads", [1]))
    return node.op == "Conv" and (not padded or not chain.affine.offset.any())
