"""Passes that drop what does nothing, and evaluate what is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import defs, helper

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.folding import ConstantFolder
from systol_compiler.graph.inference import schema_version


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
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.name in kept:
                editor.append(node)
        return editor.freeze()


@dataclass(frozen=True, kw_only=True)
class RemoveNoOps:
    """Drop what changes neither values nor shape.

    Identity, Dropout at inference, casts to the same type, reshapes and expansions to the same
    shape, transposes that keep the order, whole slices, pads of nothing, sums and concatenations
    of one, products with one, and choices by a mask of one value.
    """

    name: str = "remove-no-ops"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        read = set(graph.consumers) | {result.tensor for result in graph.outputs}
        for node in graph.nodes:
            source = _kept_input(node, graph, read)
            if source is None:
                editor.append(node)
            else:
                editor.rename(node.outputs[0], source)
        return editor.freeze()


def _kept_input(node: Node, graph: Graph, read: set[str]) -> str | None:
    """The input that `node` only hands on; None if it does something."""
    if not node.inputs or not node.inputs[0]:
        return None
    if any(name in read for name in node.outputs[1:]):
        return None
    if node.op == "Identity":
        return node.inputs[0]
    same = graph.types[node.inputs[0]] == graph.types[node.outputs[0]]
    if node.op in ("Add", "Mul", "Div", "Sub", "Pow") and len(node.inputs) == 2:
        return _neutral(node, graph)
    if node.op == "Where":
        return _chosen(node, graph)
    if not same:
        return None
    if node.op in _KEEP_ORDER:
        return node.inputs[0]
    if node.op in ("Sum", "Mean", "Max", "Min") and len(node.inputs) == 1:
        return node.inputs[0]
    if node.op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else ""
        inference = not training or not graph.constants.get(training, np.array(True)).any()
        return node.inputs[0] if inference else None
    if node.op == "Transpose":
        perm = list(node.attributes.get("perm", ()))
        shape = graph.types[node.inputs[0]].shape
        moved = [axis for axis in perm if shape[axis] != 1]
        return node.inputs[0] if perm and moved == sorted(moved) else None
    if node.op == "Pad":
        pads = graph.constants.get(node.inputs[1])
        return node.inputs[0] if pads is not None and not pads.any() else None
    if node.op == "Slice":
        steps = graph.constants.get(node.inputs[4]) if len(node.inputs) > 4 else np.array([1])
        return node.inputs[0] if steps is not None and (steps > 0).all() else None
    return None


_KEEP_ORDER: Final = frozenset(
    "Cast Concat Expand Flatten Reshape Split Squeeze Tile Unsqueeze".split()
)
"""Operators that change no value where the shape and type stay the same."""


def _neutral(node: Node, graph: Graph) -> str | None:
    """The variable operand of an operation whose other operand changes nothing."""
    if graph.types[node.outputs[0]].dtype != "float32":
        return None
    neutral = 0.0 if node.op in ("Add", "Sub") else 1.0
    positions = (1, 0) if node.op in ("Add", "Mul") else (1,)
    for position in positions:
        value = graph.constants.get(node.inputs[position])
        other = node.inputs[1 - position]
        if (
            value is not None
            and value.size <= 4096
            and (value == neutral).all()
            and other not in graph.constants
            and graph.types[other] == graph.types[node.outputs[0]]
        ):
            return other
    return None


def _chosen(node: Node, graph: Graph) -> str | None:
    """The operand that a Where with a mask of one value always takes."""
    mask = graph.constants.get(node.inputs[0])
    if mask is None or not mask.size or (mask != mask.reshape(-1)[0]).any():
        return None
    name = node.inputs[1] if mask.reshape(-1)[0] else node.inputs[2]
    return name if graph.types[name] == graph.types[node.outputs[0]] else None


@dataclass(frozen=True, kw_only=True)
class FoldConstants:
    """Evaluate nodes whose operands other passes made constant."""

    name: str = "fold-constants"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        size = sum(value.nbytes for value in graph.constants.values())
        folder = ConstantFolder(size)
        for node in graph.nodes:
            inputs = [editor.constants.get(name) if name else None for name in node.inputs]
            known = all(
                value is not None or not name
                for name, value in zip(node.inputs, inputs, strict=True)
            )
            results = None
            if known:
                results = folder.evaluate(
                    node.place,
                    node.op,
                    inputs,
                    [graph.types.get(name) for name in node.outputs],
                    node.attributes,
                )
            if results is None:
                editor.append(node)
                continue
            for name, value in zip(node.outputs, results, strict=True):
                if name:
                    editor.constants[name] = value
        return editor.freeze()


@dataclass(frozen=True, kw_only=True)
class StateAttributes:
    """Write attributes that were left to their defaults, of operators where they matter."""

    name: str = "state-attributes"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.op not in _STATED:
                editor.append(node)
                continue
            attributes = dict(_defaults(node.op)) | dict(node.attributes)
            if node.op == "Transpose" and "perm" not in attributes:
                rank = len(graph.types[node.inputs[0]].shape)
                attributes["perm"] = list(reversed(range(rank)))
            for key in ("axis",):
                if node.op not in _FROM_THE_END and isinstance(attributes.get(key), int):
                    attributes[key] %= max(len(graph.types[node.inputs[0]].shape), 1)
            editor.append(node, attributes=attributes)
        return editor.freeze()


_FROM_THE_END: Final = frozenset({"LayerNormalization", "RMSNormalization"})

_STATED: Final = frozenset(
    "ArgMax ArgMin Celu Concat DepthToSpace Elu Flatten Gather Gelu GroupNormalization HardSigmoid "
    "InstanceNormalization LRN LayerNormalization LeakyRelu LogSoftmax LpNormalization Pad "
    "RMSNormalization Selu Shrink Softmax SpaceToDepth Split Swish ThresholdedRelu "
    "Transpose".split()
)


def _defaults(op: str) -> Mapping[str, Any]:
    """Attributes of `op` that have defaults, but for how sums are stored."""
    schema = defs.get_schema(op, schema_version(op), "")
    found = {}
    for key, item in schema.attributes.items():
        if item.default_value.name and key != "stash_type":
            value = helper.get_attribute_value(item.default_value)
            found[key] = value.decode() if isinstance(value, bytes) else value
    return found
