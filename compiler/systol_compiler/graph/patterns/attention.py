"""Passes over what stands around the products of attention: factors and masks."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from systol_compiler.graph.editor import GraphEditor, merged_sources
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.matching import Matcher

MASKED: Final = -1e30
"""Stands for minus infinity in masks: no sum with it is infinite, and its exponential is 0."""


@dataclass(frozen=True, kw_only=True)
class HoistFactors:
    """Move numbers that scale the operands of a MatMul of two activations behind the product.

    Exporters scale queries and keys alike by the root of the factor; one Mul of the product can
    become part of its rounding. Moves of the operands in between do not matter.
    """

    name: str = "hoist-factors"

    def run(self, graph: Graph) -> Graph:
        match = Matcher(graph)
        factors: dict[str, float] = {}
        scaling: dict[str, list[Node]] = {}
        dropped: set[str] = set()
        for node in graph.nodes:
            if node.op != "MatMul" or any(name in graph.constants for name in node.inputs):
                continue
            found = [_scaling(name, match) for name in dict.fromkeys(node.inputs)]
            muls = [mul for mul in found if mul is not None]
            if len(set(node.inputs)) < 2 or not muls:
                continue
            scaling[node.name] = muls
            dropped.update(mul.name for mul in muls)
            numbers = [match.scalar(mul.inputs[1]) for mul in muls]
            factors[node.name] = float(
                np.prod([number for number in numbers if number is not None])
            )
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.name in dropped:
                editor.rename(node.outputs[0], node.inputs[0])
            elif node.name not in factors:
                editor.append(node)
            else:
                factor = np.array(factors[node.name], dtype=np.float32)
                shape = graph.types[node.outputs[0]].shape
                product = editor.insert(node, "MatMul", node.inputs, shape)
                editor.append(
                    node,
                    op="Mul",
                    inputs=(product, editor.constant(f"{node.name}.factor", factor)),
                    sources=merged_sources(*scaling[node.name], node),
                )
        return editor.freeze()


def _scaling(name: str, match: Matcher) -> Node | None:
    """The Mul by a number behind which `name` is only moved, if nothing else reads it."""
    for _ in range(8):
        node = match.graph.producers.get(name)
        if node is None or match.single.get(name) is None:
            return None
        if node.op == "Mul" and match.scalar(node.inputs[1]) is not None:
            same = match.shape(node.inputs[0]) == match.shape(node.outputs[0])
            return node if same else None
        if node.op not in ("Transpose", "Reshape", "Flatten"):
            return None
        name = node.inputs[0]
    return None


@dataclass(frozen=True, kw_only=True)
class AddAttentionMasks:
    """Write Where(mask, x, very little) before a Softmax as an Add of a constant; without infinity.

    The mask is constant, and leaves something in every row.
    """

    name: str = "add-attention-masks"

    def run(self, graph: Graph) -> Graph:
        editor, match = GraphEditor(graph), Matcher(graph)
        for node in graph.nodes:
            follower = match.single.get(node.outputs[0]) if node.outputs else None
            if follower is None or follower.op != "Softmax" or not _add_mask(node, graph, editor):
                editor.append(node)
        return editor.freeze()


def _add_mask(node: Node, graph: Graph, editor: GraphEditor) -> bool:
    shape = graph.types[node.outputs[0]].shape
    if node.op == "Add" and len(node.inputs) == 2:
        added = graph.constants.get(node.inputs[1])
        if added is None or not (added < MASKED).any():
            return False
        source = node.inputs[0]
        masked, wanted = np.isneginf(added), np.maximum(added, MASKED)
    elif node.op == "Where":
        mask, yes, no = (graph.constants.get(name) for name in node.inputs)
        little, source = (yes, node.inputs[2]) if yes is not None else (no, node.inputs[1])
        if mask is None or little is None or (yes is not None and no is not None):
            return False
        if little.size != 1 or float(little.reshape(-1)[0]) > -1e4:
            return False
        masked = mask if yes is not None else ~mask
        wanted = np.where(masked, max(float(little.reshape(-1)[0]), MASKED), 0.0)
    else:
        return False
    if graph.types[source].shape != shape or masked.ndim > len(shape) or not masked.ndim:
        return False
    if masked.all(axis=-1).any() or masked.shape[-1] != shape[-1]:
        return False
    name = editor.constant(f"{node.name}.mask", wanted.astype(np.float32))
    editor.append(node, op="Add", inputs=(source, name), attributes={})
    return True
