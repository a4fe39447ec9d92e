"""Passes that bring transposes together, so that those of channels-last exports cancel.

Exporters of channels-last frameworks put a Transpose before and behind every convolution, and the
elementwise operators in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from systol_compiler.graph.editor import GraphEditor, exclusive_consumers, merged_sources
from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.graph.forms.layout import (
    MANY,
    REORDERED,
    UNARY,
    before_transpose,
    fits,
    inverse,
    ordered,
)


@dataclass(frozen=True, kw_only=True)
class SinkTransposes:
    """Move transposes behind elementwise operators, concatenations, slices, pads and reductions.

    Each such operator works on the data before the transpose, which then follows it; what nobody
    reads any more is dropped later. Several operands must be transposed alike, or be constant.
    """

    name: str = "sink-transposes"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        # What each tensor is the transpose of, and how; and which transposes are at hand.
        known: dict[str, tuple[str, list[int]]] = {}
        made: dict[tuple[str, tuple[int, ...]], str] = {}
        for node in graph.nodes:
            if node.op == "Transpose":
                perm = list(node.attributes["perm"])
                known[node.outputs[0]] = (node.inputs[0], perm)
                made.setdefault((node.inputs[0], tuple(perm)), node.outputs[0])
                editor.append(node)
            elif not fits(node) or not self._sink(node, graph, editor, known, made):
                editor.append(node)
        return editor.freeze()

    def _sink(
        self,
        node: Node,
        graph: Graph,
        editor: GraphEditor,
        known: dict[str, tuple[str, list[int]]],
        made: dict[tuple[str, tuple[int, ...]], str],
    ) -> bool:
        variable = [name for name in node.inputs if name and name not in graph.constants]
        perms = [known[name][1] for name in variable if name in known]
        if not perms:
            return False
        perm = perms[0]
        sources: dict[str, str] = {}
        for name in variable:
            source = self._source(name, perm, graph, known, made)
            if source is None:
                return False
            sources[name] = source
        changed = before_transpose(node, perm, graph, editor)
        if changed is None:
            return False
        inputs, attributes = changed
        outputs = []
        for name in node.outputs:
            kind = graph.types[name]
            shape = ordered(kind.shape, inverse(perm))
            inner = editor.tensor(f"{name}.inner", type(kind)(dtype=kind.dtype, shape=shape))
            outputs.append(inner)
        editor.append(
            node,
            inputs=[sources.get(name, name) for name in inputs],
            outputs=outputs,
            attributes=attributes,
        )
        for name, inner in zip(node.outputs, outputs, strict=True):
            editor.insert(
                node,
                "Transpose",
                (inner,),
                graph.types[name].shape,
                attributes={"perm": perm},
                output=name,
            )
            known[name] = (inner, perm)
            made[inner, tuple(perm)] = name
        return True

    def _source(
        self,
        name: str,
        perm: Sequence[int],
        graph: Graph,
        known: dict[str, tuple[str, list[int]]],
        made: dict[tuple[str, tuple[int, ...]], str],
    ) -> str | None:
        """What gives `name` when transposed by `perm`, if that is at hand."""
        if name in known:
            if known[name][1] != list(perm):
                return None
            readers = graph.consumers.get(name, [])
            fine = all(reader.op == "Transpose" or fits(reader) for reader in readers)
            return known[name][0] if fine else None
        if len(graph.types[name].shape) != len(perm):
            return name if not graph.types[name].shape else None
        return made.get((name, tuple(inverse(perm))))


@dataclass(frozen=True, kw_only=True)
class LiftTransposes:
    """Move transposes up to the model's input, above pads and what is done to each element of it.

    Then the first convolution stands directly behind the normalization of its input.
    """

    name: str = "lift-transposes"

    def run(self, graph: Graph) -> Graph:
        single = exclusive_consumers(graph)
        lifted: dict[str, list[int]] = {}
        dropped: set[str] = set()
        for node in graph.nodes:
            if node.op == "Transpose":
                chain = _chain_from_input(node, graph, single)
                for link in chain:
                    lifted[link.name] = inverse(node.attributes["perm"])
                if chain:
                    dropped.add(node.name)
        editor = GraphEditor(graph)
        for node in graph.nodes:
            if node.name in dropped:
                # Its source is in this order already.
                editor.rename(node.outputs[0], f"{node.inputs[0]}")
            elif node.name not in lifted:
                editor.append(node)
            else:
                _append_lifted(node, lifted[node.name], graph, editor)
        return editor.freeze()


def _chain_from_input(transpose: Node, graph: Graph, single: dict[str, Node]) -> list[Node]:
    """The elementwise nodes and pads from an input of the graph to `transpose`, in order."""
    chain: list[Node] = []
    name = transpose.inputs[0]
    while name in single and name in graph.producers:
        node = graph.producers[name]
        variable = [used for used in node.inputs if used and used not in graph.constants]
        if node.op not in UNARY | MANY | REORDERED or len(variable) != 1:
            return []
        same = graph.types[variable[0]].shape == graph.types[name].shape
        if not same and node.op not in REORDERED:
            return []
        chain.insert(0, node)
        name = variable[0]
    return chain if name in graph.inputs and name in single else []


def _append_lifted(node: Node, back: list[int], graph: Graph, editor: GraphEditor) -> None:
    """Append `node` for data that is transposed already; `back` undoes that."""
    changed = before_transpose(node, back, graph, editor)
    assert changed is not None, "such operators work in any order of axes"
    inputs, attributes = changed
    perm = inverse(back)
    for position, name in enumerate(inputs):
        if name in graph.inputs:
            kind = graph.types[name]
            inputs[position] = editor.insert(
                node,
                "Transpose",
                (name,),
                ordered(kind.shape, perm),
                attributes={"perm": perm},
                dtype=kind.dtype,
            )
    kind = graph.types[node.outputs[0]]
    shape = ordered(kind.shape, perm)
    moved = editor.tensor(f"{node.outputs[0]}.moved", type(kind)(dtype=kind.dtype, shape=shape))
    editor.append(node, inputs=inputs, outputs=(moved,), attributes=attributes)
    editor.rename(node.outputs[0], moved)


@dataclass(frozen=True, kw_only=True)
class AbsorbTransposes:
    """Take a transpose before Flatten and Gemm into the order of the weight's columns."""

    name: str = "absorb-transposes"

    def run(self, graph: Graph) -> Graph:
        editor, single = GraphEditor(graph), exclusive_consumers(graph)
        for node in graph.nodes:
            flatten = graph.producers.get(node.inputs[0]) if node.inputs else None
            turn = graph.producers.get(flatten.inputs[0]) if flatten is not None else None
            weight = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if (
                node.op != "Gemm"
                or flatten is None
                or flatten.op != "Flatten"
                or flatten.outputs[0] not in single
                or turn is None
                or turn.op != "Transpose"
                or turn.attributes["perm"][0] != 0
                or weight is None
            ):
                editor.append(node)
                continue
            perm = list(turn.attributes["perm"])
            shape = graph.types[turn.outputs[0]].shape
            moved = weight.reshape(-1, *shape[1:]).transpose(inverse(perm))
            flat = editor.insert(
                node,
                "Flatten",
                (turn.inputs[0],),
                graph.types[flatten.outputs[0]].shape,
                attributes={"axis": 1},
                sources=merged_sources(turn, flatten),
            )
            name = editor.constant(
                f"{node.name}.weight", np.ascontiguousarray(moved).reshape(weight.shape)
            )
            editor.append(node, inputs=(flat, name, *node.inputs[2:]))
        return editor.freeze()
