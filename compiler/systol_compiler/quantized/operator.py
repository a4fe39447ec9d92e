"""Operators: how a float node becomes layers. One module of `ops` an operator, one registry.

A module of `systol_compiler.quantized.ops` states `OPERATORS`, a tuple of `Operator`. Its rules'
docstrings are checks, messages and the page of supported operators at once.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.quantized.layer import Layer

if TYPE_CHECKING:
    from systol_compiler.quantized.build import LayerBuilder

Check = Callable[[Node, Graph], str | None]
"""None if the node keeps the rule, else the value that breaks it."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`check`'s docstring is the text of the rule; `remedy` says what the author can do.

    A `preference` says what costs less, not what the machine can do: strict compilation does not
    ask it.
    """

    check: Check
    remedy: str
    preference: bool = False

    @property
    def text(self) -> str:
        """The rule in words."""
        return " ".join((self.check.__doc__ or "").split()).rstrip(".")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an operator asks of its tensors' numbers.

    Attributes
    ----------
    same
        Groups of tensors that must have one scale and zero point, as those that a move reads and
        writes.
    symmetric
        Tensors whose zero point must be 0.
    wide
        Tensors that should have 16 bits (and then zero point 0).
    fixed
        (scale, zero point) by tensor, where the definition bounds the range. Of a `wide` tensor
        what lies beyond may saturate: scores that a mask forbids.
    """

    same: tuple[tuple[str, ...], ...] = ()
    symmetric: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    fixed: tuple[tuple[str, float, int], ...] = ()


NO_WISH = Wish()


def no_wish(node: Node, graph: Graph) -> Wish:
    """Nothing."""
    return NO_WISH


def same_numbers(node: Node, graph: Graph) -> Wish:
    """All operands that are not constant, and all results, have the same numbers."""
    names = [name for name in node.inputs if name and name not in graph.constants]
    floats = [name for name in (*names, *filter(None, node.outputs))
              if graph.types[name].dtype == "float32"]
    return Wish(same=(tuple(floats),))


@dataclass(frozen=True, kw_only=True)
class Operator:
    """How the machine runs nodes of a canonical float operator.

    Attributes
    ----------
    names
        Operators of the canonical graph.
    rules
        What a node must keep to run on the machine; one that breaks a rule goes to the host.
    build
        Adds the layers of a node to a builder.
    wish
        What it asks of its tensors' numbers.
    clips
        Whether a Clip that alone reads its result can be part of its layers (`LayerBuilder.clip`).
    biases
        Whether an Add of a constant, one value a channel of its last axis, that alone reads its
        result can be part of its layers (`MachineNode.bias`).
    scales
        Whether a Mul by a positive number that alone reads its result, where no operand is
        constant, can be part of its layers (`MachineNode.factor`).
    moves
        Whether it only moves values: it then goes wherever its neighbours are.
    passes
        About how many times the machine passes over the elements for it. More than four tell the
        partition that the host may do it as well where it sits beside the host anyway, as a
        Softmax before the model's output does.
    channel_axis
        Axis of the result that the values of a bias, and of `LayerBuilder.corrections`, lie along.
    """

    names: tuple[str, ...]
    build: "Callable[[Node, LayerBuilder], None]"
    rules: tuple[Rule, ...] = ()
    wish: Callable[[Node, Graph], Wish] = no_wish
    clips: bool = False
    biases: bool = False
    scales: bool = False
    moves: bool = False
    passes: int = 1
    channel_axis: int = -1

    def broken(
        self, node: Node, graph: Graph, *, strict: bool = False
    ) -> tuple[Rule, str] | None:
        """The first rule that `node` breaks, and the value that breaks it; with `strict` none that
        is a preference."""
        for rule in self.rules:
            value = None if strict and rule.preference else rule.check(node, graph)
            if value is not None:
                return rule, value
        return None


@cache
def registry() -> dict[str, Operator]:
    """The operators of all modules of `ops`, by float operator."""
    from systol_compiler.quantized import ops

    table: dict[str, Operator] = {}
    found = [
        info.name for info in pkgutil.walk_packages(ops.__path__, f"{ops.__name__}.")
        if not info.ispkg
    ]
    # By what the module is called, whatever room it stands in.
    for place in sorted(found, key=lambda place: place.rpartition(".")[2]):
        module = importlib.import_module(place)
        operators: Sequence[Operator] = getattr(module, "OPERATORS", ())
        for operator in operators:
            for name in operator.names:
                assert name not in table, f"two modules have operator {name}"
                table[name] = operator
    return table


@cache
def layer_kinds() -> dict[str, type[Layer]]:
    """The classes of layers by the word of their text: all that are declared anywhere."""
    registry()
    kinds: dict[str, type[Layer]] = {}
    waiting = list(Layer.__subclasses__())
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if "kind" in vars(found):
            assert found.kind not in kinds or kinds[found.kind] is found, found.kind
            kinds[found.kind] = found
    return kinds


def float32_tensors(node: Node, graph: Graph) -> str | None:
    """tensors must be float32."""
    for name in (*node.inputs, *node.outputs):
        if name and name not in graph.constants and graph.types[name].dtype != "float32":
            return f"{name!r} of type {graph.types[name].dtype}"
    return None


def computed_data(node: Node, graph: Graph) -> str | None:
    """the first operand (data) must not be a constant."""
    return f"{node.inputs[0]!r} is constant" if node.inputs[0] in graph.constants else None


FLOAT32 = Rule(check=float32_tensors, remedy="export the model in float32")
COMPUTED_DATA = Rule(check=computed_data, remedy="fold the node before exporting, or swap operands")
