"""A pass that computes nothing twice."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from systol_compiler.graph.editor import GraphEditor
from systol_compiler.graph.float_graph import Array, Graph

LARGE: Final = 256
"""Constants of more elements are alike only if they are the same one."""


@dataclass(frozen=True, kw_only=True)
class MergeDuplicates:
    """Let the first of several nodes that do the same to the same tensors stand for all."""

    name: str = "merge-duplicates"

    def run(self, graph: Graph) -> Graph:
        editor = GraphEditor(graph)
        constants: dict[Hashable, str] = {}
        alike: dict[str, str] = {}
        for name, value in graph.constants.items():
            if value.size <= LARGE:
                alike[name] = constants.setdefault(_content(value), name)
        made: dict[Hashable, tuple[str, ...]] = {}
        for node in graph.nodes:
            inputs = (editor.resolve(name) for name in node.inputs)
            key = (
                node.op,
                tuple(alike.get(name, name) for name in inputs),
                tuple(bool(name) for name in node.outputs),
                _frozen(node.attributes),
            )
            first = made.setdefault(key, node.outputs)
            if first is node.outputs:
                editor.append(node)
                continue
            for name, other in zip(node.outputs, first, strict=True):
                if name:
                    editor.rename(name, other)
        return editor.freeze()


def _content(value: Array) -> Hashable:
    return (value.dtype.str, value.shape, value.tobytes())


def _frozen(attributes: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((key, repr(value)) for key, value in attributes.items()))
