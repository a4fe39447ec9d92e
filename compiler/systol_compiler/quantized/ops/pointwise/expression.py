"""Functions of one variable as short sequences of ONNX operators: evaluated exactly, exported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import erf, pi, sqrt
from types import MappingProxyType
from typing import Any

import numpy as np

from systol_compiler.graph.float_graph import Graph, Node
from systol_compiler.numbers.limits import Array
from systol_compiler.quantized.export import QdqExporter


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator. An `int` among `inputs` names a value: 0 the variable, i the result of step
    i - 1; a `float` is a constant."""

    op: str
    inputs: tuple[int | float, ...] = (0,)
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        operands = ", ".join(f"v{i}" if isinstance(i, int) else f"{i:g}" for i in self.inputs)
        values = "".join(f" {key}={value:g}" for key, value in sorted(self.attributes.items()))
        return f"{self.op}({operands}{values})"


@dataclass(frozen=True)
class Expression:
    """A function from real to real numbers: the result of the last of its steps."""

    steps: tuple[Step, ...]

    def evaluate(self, x: Array) -> Array:
        """Values at `x`, in float64; NaN outside of the domain, infinite at poles."""
        values: list[Array] = [np.asarray(x, np.float64)]
        with np.errstate(all="ignore"):
            for step in self.steps:
                operands = [values[i] if isinstance(i, int) else np.float64(i)
                            for i in step.inputs]
                values.append(np.asarray(PRIMITIVES[step.op](step.attributes, *operands)))
        return values[-1]

    def export(self, exporter: QdqExporter, value: str) -> str:
        """The float value that this function has at `value`, as ONNX nodes."""
        names = [value]
        for step in self.steps:
            operands = [
                names[i] if isinstance(i, int) else exporter.constant(np.array(i, np.float32))
                for i in step.inputs
            ]
            attributes: dict[str, Any] = {k: float(v) for k, v in step.attributes.items()}
            names += exporter.node(step.op, operands, **attributes)
        return names[-1]

    @property
    def continuous(self) -> bool:
        """Whether straight lines between neighbouring values come close to it."""
        return not any(step.op in _STEPPED for step in self.steps)

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps))


Primitive = Callable[..., Array]

_STEPPED = frozenset({"Sign", "Floor", "Ceil", "Round", "ThresholdedRelu", "Shrink", "Tan"})

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)
"""Ref: ONNX operator Selu, version 6: the defaults of alpha and gamma."""


def _plain(function: Callable[..., Any]) -> Primitive:
    return lambda attributes, *x: function(*x)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _shrink(attributes: Mapping[str, Any], x: Array) -> Array:
    bias, limit = attributes.get("bias", 0.0), attributes.get("lambd", 0.5)
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0.0))


def _celu(attributes: Mapping[str, Any], x: Array) -> Array:
    alpha = attributes.get("alpha", 1.0)
    return np.asarray(
        np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))
    )


def _selu(attributes: Mapping[str, Any], x: Array) -> Array:
    alpha, gamma = (attributes.get(key, default) for key, default in
                    zip(("alpha", "gamma"), _SELU, strict=True))
    return np.asarray(gamma * _elu(x, alpha))


PRIMITIVES: Mapping[str, Primitive] = MappingProxyType({
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _plain(np.divide),
    "Pow": _plain(np.power),
    "Min": _plain(np.minimum),
    "Max": _plain(np.maximum),
    "Neg": _plain(np.negative),
    "Abs": _plain(np.abs),
    "Exp": _plain(np.exp),
    "Log": _plain(np.log),
    "Sqrt": _plain(np.sqrt),
    "Reciprocal": _plain(np.reciprocal),
    "Sigmoid": _plain(lambda x: 0.5 * (1 + np.tanh(0.5 * x))),
    "Tanh": _plain(np.tanh),
    "Erf": _plain(np.vectorize(erf, otypes=[np.float64])),
    "Softplus": _plain(lambda x: np.logaddexp(0.0, x)),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Sin": _plain(np.sin),
    "Cos": _plain(np.cos),
    "Tan": _plain(np.tan),
    "Asin": _plain(np.arcsin),
    "Acos": _plain(np.arccos),
    "Atan": _plain(np.arctan),
    "Sinh": _plain(np.sinh),
    "Cosh": _plain(np.cosh),
    "Asinh": _plain(np.arcsinh),
    "Acosh": _plain(np.arccosh),
    "Atanh": _plain(np.arctanh),
    "Sign": _plain(np.sign),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.rint),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "LeakyRelu": lambda a, x: np.where(x >= 0, x, a.get("alpha", 0.01) * x),
    "Elu": lambda a, x: _elu(x, a.get("alpha", 1.0)),
    "Selu": _selu,
    "Celu": _celu,
    "HardSigmoid": lambda a, x: np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1),
    "ThresholdedRelu": lambda a, x: np.where(x > a.get("alpha", 1.0), x, 0.0),
    "Shrink": _shrink,
})
"""Operators that steps have, by name: from attributes and float64 operands."""

_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"})
UNARY = tuple(sorted(set(PRIMITIVES) - _BINARY - {"Relu"}))
"""Operators of one operand whose node is a step as it stands."""


def _hard_swish(attributes: Mapping[str, Any]) -> tuple[Step, ...]:
    hard = MappingProxyType({"alpha": 1 / 6, "beta": 0.5})
    return Step(op="HardSigmoid", attributes=hard), Step(op="Mul", inputs=(0, 1))


def _swish(attributes: Mapping[str, Any]) -> tuple[Step, ...]:
    return (
        Step(op="Mul", inputs=(0, float(attributes.get("alpha", 1.0)))),
        Step(op="Sigmoid", inputs=(1,)),
        Step(op="Mul", inputs=(0, 2)),
    )


def _mish(attributes: Mapping[str, Any]) -> tuple[Step, ...]:
    return Step(op="Softplus"), Step(op="Tanh", inputs=(1,)), Step(op="Mul", inputs=(0, 2))


def _halved(i: int) -> tuple[Step, ...]:
    """0.5 * x * (1 + value i)."""
    return (
        Step(op="Add", inputs=(i, 1.0)),
        Step(op="Mul", inputs=(0, i + 1)),
        Step(op="Mul", inputs=(i + 2, 0.5)),
    )


def _gelu(attributes: Mapping[str, Any]) -> tuple[Step, ...]:
    mode = attributes.get("approximate", "none")
    if (mode.decode() if isinstance(mode, bytes) else mode) == "tanh":
        return (
            Step(op="Pow", inputs=(0, 3.0)),
            Step(op="Mul", inputs=(1, 0.044715)),
            Step(op="Add", inputs=(0, 2)),
            Step(op="Mul", inputs=(3, sqrt(2 / pi))),
            Step(op="Tanh", inputs=(4,)),
            *_halved(5),
        )
    return Step(op="Mul", inputs=(0, sqrt(0.5))), Step(op="Erf", inputs=(1,)), *_halved(2)


EXPANDED: Mapping[str, Callable[[Mapping[str, Any]], tuple[Step, ...]]] = MappingProxyType({
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Mish": _mish,
    "Gelu": _gelu,
})
"""Operators of one operand that several older ones make up (ONNX 14, 24, 18 and 20)."""


def scalar(name: str, graph: Graph) -> float | None:
    """The value of a constant of one element (or of several that are equal); else None."""
    values = graph.constants.get(name)
    if values is None or values.size == 0 or values.dtype.kind not in "fiu":
        return None
    first = values.reshape(-1)[0]
    return float(first) if bool((values == first).all()) else None


def expression_of(node: Node, graph: Graph) -> Expression | None:
    """The function of its one computed operand that `node` is, element by element; or None."""
    computed = [name for name in node.inputs if name and name not in graph.constants]
    if len(set(computed)) != 1:
        return None
    if node.op in UNARY:
        return Expression((Step(op=node.op, attributes=_numbers(node.attributes)),))
    if node.op in EXPANDED:
        return Expression(EXPANDED[node.op](node.attributes))
    inputs: list[int | float] = []
    for name in node.inputs:
        value = 0 if name == computed[0] else scalar(name, graph)
        if value is None:
            return None
        inputs.append(value)
    if node.op == "PRelu" and inputs[0] == 0 and isinstance(inputs[1], float):
        alpha = MappingProxyType({"alpha": inputs[1]})
        return Expression((Step(op="LeakyRelu", attributes=alpha),))
    if node.op in _BINARY:
        return Expression(_chain(node.op, inputs))
    return None


def _chain(op: str, inputs: Sequence[int | float]) -> tuple[Step, ...]:
    """A step for each operand behind the first."""
    if len(inputs) == 1:
        inputs = [inputs[0], inputs[0]]
        op = "Max"
    steps = [Step(op=op, inputs=(inputs[0], inputs[1]))]
    for value in inputs[2:]:
        steps.append(Step(op=op, inputs=(len(steps), value)))
    return tuple(steps)


def _numbers(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(
        {key: value for key, value in attributes.items() if isinstance(value, int | float)}
    )
