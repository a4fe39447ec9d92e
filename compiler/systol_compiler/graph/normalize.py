"""Passes that bring each operator into its one canonical form."""

from dataclasses import dataclass
from math import prod

import numpy as np

from systol_compiler.draft import Draft
from systol_compiler.graph.float_graph import Array, Graph, Node


@dataclass(frozen=True, kw_only=True)
class RemoveDeadNodes:
    """Drop nodes whose results reach no output."""

    name: str = "remove-dead-nodes"

    def run(self, graph: Graph) -> Graph:
        live = {result.tensor for result in graph.outputs}
        kept: set[str] = set()
        for node in reversed(graph.nodes):
            if live.intersection(node.outputs):
                kept.add(node.name)
                live.update(node.inputs)
        draft = Draft(graph)
        for node in graph.nodes:
            if node.name in kept:
                draft.append(node)
        return draft.freeze()


@dataclass(frozen=True, kw_only=True)
class RemoveNoOps:
    """Drop Identity, Dropout at inference, and reshapes that keep the shape."""

    name: str = "remove-no-ops"

    def run(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        mask_read = set(graph.consumers) | {result.tensor for result in graph.outputs}
        for node in graph.nodes:
            if _is_no_op(node, graph, mask_read):
                draft.rename(node.outputs[0], node.inputs[0])
            else:
                draft.append(node)
        return draft.freeze()


def _is_no_op(node: Node, graph: Graph, read: set[str]) -> bool:
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else ""
        inference = not training or not graph.constants.get(training, np.array(True)).any()
        return inference and not (len(node.outputs) > 1 and node.outputs[1] in read)
    if node.op in _RESHAPES or node.op == "Expand":
        return graph.types[node.inputs[0]].shape == graph.types[node.outputs[0]].shape
    return False


_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, kw_only=True)
class NormalizeFlatten:
    """Write every reshape from [N, ...] to [N, rest] as Flatten(axis=1), and chains as one."""

    name: str = "normalize-flatten"

    def run(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        flattened: dict[str, tuple[str, tuple[str, ...]]] = {}
        for node in graph.nodes:
            if node.op not in _RESHAPES:
                draft.append(node)
                continue
            source, sources = flattened.get(node.inputs[0], (node.inputs[0], ()))
            before, after = graph.types[source].shape, graph.types[node.outputs[0]].shape
            flat = len(before) > 1 and after == (before[0], prod(before[1:]))
            # A reshape of a reshape sees the first one's input, whatever came between.
            flattened[node.outputs[0]] = (source, (*sources, *node.sources))
            if flat and after == before:
                draft.rename(node.outputs[0], source)
            elif flat:
                draft.append(
                    node,
                    op="Flatten",
                    inputs=(source,),
                    attributes={"axis": 1},
                    sources=(*sources, *node.sources),
                )
            else:
                draft.append(node)
        return draft.freeze()


@dataclass(frozen=True, kw_only=True)
class NormalizeWindows:
    """Make pads, strides, dilations, group and kernel of 2-D Conv and MaxPool explicit.

    GlobalMaxPool becomes a MaxPool over the whole image.
    """

    name: str = "normalize-windows"

    def run(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        for node in graph.nodes:
            if node.op == "GlobalMaxPool" and len(graph.types[node.inputs[0]].shape) == 4:
                attributes: dict[str, object] = {
                    "kernel_shape": list(graph.types[node.inputs[0]].shape[2:]),
                    "strides": [1, 1],
                    "dilations": [1, 1],
                    "pads": [0, 0, 0, 0],
                }
                draft.append(node, op="MaxPool", attributes=attributes)
            elif node.op in ("Conv", "MaxPool") and len(graph.types[node.inputs[0]].shape) == 4:
                attributes, inputs = dict(node.attributes), node.inputs
                if node.op == "Conv":
                    attributes.setdefault("group", 1)
                    kernel = graph.types[node.inputs[1]].shape[2:]
                    attributes.setdefault("kernel_shape", list(kernel))
                    if len(inputs) < 3 or not inputs[2]:
                        channels = graph.types[node.inputs[1]].shape[0]
                        zeros = np.zeros(channels, dtype=np.float32)
                        inputs = (*inputs[:2], draft.constant(f"{node.name}.bias", zeros))
                attributes.setdefault("strides", [1, 1])
                attributes.setdefault("dilations", [1, 1])
                attributes["pads"] = _explicit_pads(attributes, graph.types[node.inputs[0]].shape)
                attributes.pop("auto_pad", None)
                draft.append(node, inputs=inputs, attributes=attributes)
            else:
                draft.append(node)
        return draft.freeze()


def _explicit_pads(attributes: dict[str, object], shape: tuple[int, ...]) -> list[int]:
    """Pads [top, left, bottom, right]; auto_pad as ONNX Conv (version 11) defines it."""
    mode = attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        given = attributes.get("pads", [0, 0, 0, 0])
        assert isinstance(given, list)
        return given
    if mode == "VALID":
        return [0, 0, 0, 0]
    before, after = [], []
    for axis in (0, 1):
        kernel, stride, dilation = (
            _integers(attributes[key])[axis] for key in ("kernel_shape", "strides", "dilations")
        )
        size = shape[2 + axis]
        steps = -(-size // stride)
        total = max((steps - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(large if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else large)
    return [*before, *after]


def _integers(value: object) -> list[int]:
    assert isinstance(value, list)
    return [int(item) for item in value]


@dataclass(frozen=True, kw_only=True)
class NormalizeProducts:
    """Write MatMul and Gemm by a constant as Gemm with weight [O, I], bias [O], transB=1."""

    name: str = "normalize-products"

    def run(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        for node in graph.nodes:
            parts = _product_parts(node, graph)
            if parts is None:
                draft.append(node)
                continue
            weight, bias = parts
            draft.append(
                node,
                op="Gemm",
                inputs=(
                    node.inputs[0],
                    draft.constant(f"{node.name}.weight", np.ascontiguousarray(weight)),
                    draft.constant(f"{node.name}.bias", bias),
                ),
                attributes={"transB": 1},
            )
        return draft.freeze()


def _product_parts(node: Node, graph: Graph) -> tuple[Array, Array] | None:
    """Weight [O, I] and bias [O] of a product by a float32 constant; None if it is not one."""
    if node.op not in ("MatMul", "Gemm") or node.attributes.get("transA", 0):
        return None
    stored = graph.constants.get(node.inputs[1])
    if (
        stored is None
        or stored.ndim != 2
        or stored.dtype != np.float32
        or len(graph.types[node.inputs[0]].shape) != 2
    ):
        return None
    weight = stored if node.attributes.get("transB", 0) else stored.T
    weight = (weight * np.float32(node.attributes.get("alpha", 1.0))).astype(np.float32)
    bias = np.zeros(weight.shape[0], dtype=np.float32)
    if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2]:
        given = graph.constants.get(node.inputs[2])
        if given is None or given.dtype != np.float32 or not _per_column(given.shape, bias.size):
            return None
        bias = (bias + given.reshape(-1) * np.float32(node.attributes.get("beta", 1.0))).astype(
            np.float32
        )
    return weight, bias


def _per_column(shape: tuple[int, ...], columns: int) -> bool:
    """Whether a bias of `shape` adds one value per output column."""
    return prod(shape[:-1]) == 1 and (shape[-1:] in ((1,), (columns,)) or shape == ())
