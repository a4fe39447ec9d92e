"""The graph under construction: operators of one set come in, typed nodes or constants come out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx

from systol_compiler.graph.float_graph import Array, Node, TensorType
from systol_compiler.graph.folding import ConstantFolder
from systol_compiler.graph.inference import (
    FLOATS,
    TypeInference,
    as_float32,
    float32_attributes,
    size_of,
)
from systol_compiler.graph.names import FreshNames
from systol_compiler.graph.tracing.blockers import Blockers
from systol_compiler.graph.tracing.tensors import MAX_ELEMENTS, MAX_RANK
from systol_hw.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operator of operator set `OPSET`, about to be read; names are the graph's.

    Attributes
    ----------
    name, source
        The node's wished name, and the model's own node that it stands for.
    source_op
        The operator that the model's author wrote.
    attributes
        Integers, floats, strings, lists of them, and arrays for tensors.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str
    source: str
    source_op: str

    @property
    def place(self) -> str:
        """How messages name this node."""
        return f"node {self.name!r} ({self.source_op})"

    def input(self, position: int) -> str:
        """The input's name, or "" if it was left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def changed(self, **changes: Any) -> "Call":
        """This call with other parts."""
        return replace(self, **changes)


class Trace:
    """Nodes, constants and types read so far.

    Constants keep the element type that the model gave them while they are folded, so that sizes
    computed in float64 come out right; what a node reads becomes float32. `poisoned` tensors come
    from nodes that could not be read: what depends on them is passed over without a word.
    """

    def __init__(self, *, model_bytes: int, blockers: Blockers) -> None:
        self.blockers = blockers
        self.constants: dict[str, Array] = {}
        self.types: dict[str, TensorType] = {}
        self.nodes: list[Node] = []
        self.poisoned: set[str] = set()
        self.tensor_names = FreshNames()
        self.node_names = FreshNames()
        self._folder = ConstantFolder(model_bytes)
        self._inference = TypeInference()

    def constant(self, wish: str, value: Any) -> str:
        """Add a constant under a fresh name; returns the name."""
        name = self.tensor_names.take(wish)
        self.define(name, np.asarray(value))
        return name

    def define(self, name: str, value: Array) -> None:
        """Give the tensor `name` a known value."""
        self.constants[name] = value
        self.types[name] = TensorType(dtype=str(value.dtype), shape=value.shape)

    def value(self, name: str) -> Array | None:
        """The value of a tensor, if it is known."""
        return self.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that was read before."""
        return self.types[name].shape

    def type_proto(self, kind: TensorType) -> onnx.TypeProto:
        """A type in ONNX's own form."""
        return self._inference.proto(kind)

    def poison(self, names: Sequence[str]) -> None:
        """Mark the outputs of a node that could not be read."""
        self.poisoned.update(name for name in names if name)

    def refuse(self, call: Call, message: str) -> None:
        """Record that `call` cannot be read, and go on behind it."""
        self.blockers.add(f"{call.place}: {message}")
        self.poison(call.outputs)

    def emit(self, call: Call) -> None:
        """Read one operator: fold it, or append it as a node.

        Raises
        ------
        InputError
            Its operands contradict each other.
        """
        if call.op in ("Shape", "Size") and self._measure(call):
            return
        if all(not name or name in self.constants for name in call.inputs) and self._fold(call):
            return
        self._append(call)

    def _measure(self, call: Call) -> bool:
        """Shape and Size of a tensor are known without its value."""
        shape = self.types[call.inputs[0]].shape
        if call.op == "Size":
            self.define(call.outputs[0], np.array(size_of(self.types[call.inputs[0]])))
            return True
        begin, end = call.attributes.get("start", 0), call.attributes.get("end")
        self.define(call.outputs[0], np.array(shape[begin:end], dtype=np.int64))
        return True

    def _fold(self, call: Call) -> bool:
        inputs = [self.constants[name] if name else None for name in call.inputs]
        types = self._infer(call, self.types)
        for name in filter(None, call.outputs):
            if name in types and not self._fits(call, name, types[name]):
                return True
        wanted = [types.get(name) for name in call.outputs]
        results = self._folder.evaluate(call.place, call.op, inputs, wanted, call.attributes)
        if results is None:
            return False
        for name, value in zip(call.outputs, results, strict=True):
            if name:
                self.define(name, value)
        return True

    def _append(self, call: Call) -> None:
        attributes = float32_attributes(call.attributes)
        types = self._infer(call.changed(attributes=attributes), self._as_read(call))
        rank = len(self.types[call.inputs[0]].shape) if call.op in _SAME_RANK else None
        for name in filter(None, call.outputs):
            if name not in types or (rank is not None and len(types[name].shape) != rank):
                self.refuse(
                    call,
                    f"the shape of its output {name!r} must follow from the model's input shapes, "
                    "but does not; replace what it depends on by constants",
                )
                return
            if not self._fits(call, name, types[name]):
                return
        empty = [name for name in filter(None, call.outputs) if not size_of(types[name])]
        if empty:
            self._define_empty(call, empty, types)
            return
        for name in filter(None, call.outputs):
            self.types[name] = types[name]
        outputs = list(call.outputs)
        while outputs and not outputs[-1]:
            outputs.pop()
        inputs = list(call.inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        self.nodes.append(
            Node(
                name=self.node_names.take(call.name),
                op=call.op,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                attributes=attributes,
                sources=(call.source,),
                source_op=call.source_op if call.source_op != call.op else "",
            )
        )

    def _define_empty(self, call: Call, empty: Sequence[str], types: dict[str, TensorType]) -> None:
        """A tensor without elements is known, whatever it comes from."""
        if len(empty) < sum(1 for name in call.outputs if name):
            self.refuse(call, f"its output {empty[0]!r} has no elements, unlike others; remove it")
            return
        for name in empty:
            self.define(name, np.zeros(types[name].shape, dtype=types[name].dtype))

    def _as_read(self, call: Call) -> dict[str, TensorType]:
        """The inputs' types as a node sees them: floats of any width as float32."""
        found = {}
        for name in filter(None, call.inputs):
            kind = self.types[name]
            # The model's inputs keep their declared type; only a Cast reads them.
            found[name] = as_float32(kind) if name in self.constants else kind
        return found

    def _infer(self, call: Call, types: dict[str, TensorType]) -> dict[str, TensorType]:
        try:
            return self._inference.infer(
                call.op, call.inputs, call.outputs, call.attributes, types, self.constants
            )
        except Exception as error:  # inference raises several classes of its own
            detail = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{call.place}: shape inference found a contradiction: {call.op}: {detail}; export "
                "the model again and test it with onnx.checker.check_model"
            ) from error

    def _fits(self, call: Call, name: str, kind: TensorType) -> bool:
        """Whether a tensor of this type may exist; else the call is refused."""
        if kind.dtype not in _NUMBERS:
            self.refuse(
                call,
                f"elements of output {name!r} must be numbers, but are of type {kind.dtype}; keep "
                "text outside the model",
            )
            return False
        if (
            min(kind.shape, default=1) < 0
            or max(kind.shape, default=1) > MAX_ELEMENTS
            or size_of(kind) > MAX_ELEMENTS
            or len(kind.shape) > MAX_RANK
        ):
            self.refuse(
                call,
                f"output {name!r}: a tensor must have at most {MAX_ELEMENTS} elements and "
                f"{MAX_RANK} axes, but its shape is {str(list(kind.shape))[:200]}; bind "
                "smaller dimensions",
            )
            return False
        return True

    def finished_constants(self, used: set[str]) -> dict[str, Array]:
        """The constants that nodes or outputs read, float32 where they are floats."""
        result = {}
        for name, value in self.constants.items():
            if name in used:
                wide = value.dtype.name in FLOATS and value.dtype != np.float32
                with np.errstate(over="ignore"):  # the least float64 stands for minus infinity
                    result[name] = value.astype(np.float32) if wide else value
        return result


_SAME_RANK: Final = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool"})
"""Operators for which inference gives up on some absurd attributes halfway."""

_NUMBERS: Final = FLOATS | {
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "int4", "uint4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
}  # fmt: skip
