"""Reads a model's nodes in order: names, functions, branches and loops are resolved on the way.

What comes out is a flat list of nodes of one operator set, their types and the constants. Work is
bounded by the number of nodes read, whatever functions call each other and loops repeat.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

import numpy as np
import onnx
from onnx import defs

from systol_compiler.graph.adapters.by_operator import adapt
from systol_compiler.graph.adapters.operand_rules import check_given, check_operands
from systol_compiler.graph.reading.control_flow import Entry, read_if, read_loop
from systol_compiler.graph.reading.expansion import function_body, is_expanded
from systol_compiler.graph.reading.node_rules import NodeRules, unknown_operator
from systol_compiler.graph.tracing.scope import Scope, require_text
from systol_compiler.graph.tracing.trace import Call, Trace
from systol_hw.errors import InputError, UnsupportedModelError

MAX_READ: Final = 30_000
"""Nodes read altogether, those of functions, branches and loops each time they are entered."""

MAX_DEPTH: Final = 64
"""Functions, branches and loops inside each other."""

_DEFAULT_DOMAINS: Final = ("", "ai.onnx")

_REFUSED: Final = {
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
         "Bernoulli"),
        "random values differ from run to run; remove the operator before export",
    ),
    **dict.fromkeys(
        ("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
         "SequenceLength", "SequenceMap", "SplitToSequence", "ConcatFromSequence"),
        "sequences of tensors are not supported; export with tensors of known number",
    ),
    **dict.fromkeys(
        ("Optional", "OptionalGetElement", "OptionalHasElement"),
        "optional values are not supported; export without them",
    ),
    **dict.fromkeys(
        ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"),
        "elements must be numbers, but this operator works on text; keep text outside the model",
    ),
    "Scan": "this kind of loop is not supported; export the model unrolled",
}  # fmt: skip


class Reader:
    """Turns nodes of any operator set into calls of `trace`."""

    def __init__(
        self, trace: Trace, functions: Sequence[onnx.FunctionProto], ir_version: int
    ) -> None:
        self.trace = trace
        self._functions = {(item.domain, item.name, item.overload): item for item in functions}
        self._rules = NodeRules(ir_version)
        self._read = 0

    def read_nodes(self, nodes: Sequence[onnx.NodeProto], scope: Scope) -> None:
        """Read `nodes` in order; their outputs become names of `scope`.

        Raises
        ------
        InputError
            A node breaks a rule of ONNX.
        UnsupportedModelError
            More nodes are entered than may be. Everything else of the kind goes to the blockers.
        """
        for index, node in enumerate(nodes):
            require_text(f"node {index}", node.op_type, node.domain, node.name, node.overload)
            require_text(f"node {index}", *node.input, *node.output)
            own = node.name or f"{node.op_type}_{index}"
            name = f"{scope.prefix}/{own}" if scope.prefix else own
            self.spend(1, _place(node, name[:200]), scope)
            inputs = self._inputs(node, name, nodes, scope)
            self._check_outputs(node, name, scope)
            refused = self._refused(node, scope)
            if refused:
                self.trace.blockers.add(f"{_place(node, name)}: {refused}")
            if refused or any(used in self.trace.poisoned for used in inputs):
                self._poison(node, name, scope)
                continue
            self._read_one(node, name, inputs, scope)

    def spend(self, nodes: int, place: str, scope: Scope) -> None:
        """Count nodes against what a model may have.

        Raises
        ------
        UnsupportedModelError
            There are too many, or too many levels.
        """
        self._read += nodes
        if self._read > MAX_READ or scope.depth > MAX_DEPTH:
            raise UnsupportedModelError(
                f"{place}: a model may have at most {MAX_READ} nodes and {MAX_DEPTH} levels when "
                "all functions and loops are written out; simplify it before export"
            )

    def _inputs(
        self, node: onnx.NodeProto, name: str, nodes: Sequence[onnx.NodeProto], scope: Scope
    ) -> tuple[str, ...]:
        found = []
        for used in node.input:
            tensor = scope.find(used) if used else ""
            if tensor is None:
                raise _undefined(_place(node, name), used, nodes)
            found.append(tensor)
        return tuple(found)

    def _refused(self, node: onnx.NodeProto, scope: Scope) -> str:
        """Why no node of this operator is read, whatever its operands; or nothing."""
        if (node.domain, node.op_type, node.overload) in self._functions:
            return ""
        if node.domain not in _DEFAULT_DOMAINS:
            return (
                f"operators must be of the default ONNX domain, but this one is of "
                f"{node.domain!r}; export without custom operators"
            )
        if node.op_type in _REFUSED:
            return _REFUSED[node.op_type]
        return unknown_operator(node.op_type, scope.opset)

    def _check_outputs(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        for result in node.output:
            if result and result in scope.names:
                raise InputError(
                    f"{_place(node, name)}: tensor {result!r} is defined twice; rename one of "
                    "the two"
                )

    def _poison(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        self.trace.poison(self._define_outputs(node, scope))

    def _define_outputs(self, node: onnx.NodeProto, scope: Scope) -> tuple[str, ...]:
        """Fresh tensors of the graph for the node's outputs; "" where one is left out."""
        outputs = []
        for result in node.output:
            if not result:
                outputs.append("")
                continue
            wish = f"{scope.prefix}/{result}" if scope.prefix else result
            scope.names[result] = self.trace.tensor_names.take(wish)
            outputs.append(scope.names[result])
        return tuple(outputs)

    def _read_one(
        self, node: onnx.NodeProto, name: str, inputs: tuple[str, ...], scope: Scope
    ) -> None:
        source = scope.source or name
        function = self._functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            attributes = {item.name: item for item in scope.resolved(node, _place(node, name))}
            outputs = self._call_function(function, inputs, attributes, name, source, scope)
            self._alias(node, outputs, scope)
            return
        if node.op_type in ("If", "Loop"):
            entry = Entry(
                place=_place(node, name),
                name=name,
                source=source,
                inputs=inputs,
                attributes={item.name: item for item in scope.resolved(node, _place(node, name))},
                scope=scope,
            )
            found = read_if(self, entry) if node.op_type == "If" else read_loop(self, entry)
            if found is None:
                self._poison(node, name, scope)
            else:
                self._alias(node, found, scope)
            return
        self._rules.check(node, _place(node, name), scope)
        if node.op_type == "Constant":
            self._read_constant(node, name, scope)
            return
        call = Call(
            op=node.op_type,
            inputs=inputs,
            outputs=self._define_outputs(node, scope),
            attributes=scope.attribute_values(node, _place(node, name)),
            name=name,
            source=source,
            source_op=node.op_type,
        )
        check_given(self.trace, call, defs.get_schema(node.op_type, scope.opset, ""))
        self.read_call(call, scope)

    def read_call(self, call: Call, scope: Scope) -> None:
        """Read one operator of the scope's operator set, expanding it where it has no own form."""
        for adapted in adapt(self.trace, call, scope.opset):
            check_operands(self.trace, adapted)
            if not is_expanded(adapted):
                self.trace.emit(adapted)
                continue
            body = function_body(adapted, self.trace)
            if body is None:
                self.trace.refuse(
                    call,
                    "the operator has no form that is supported, and ONNX defines it by no others; "
                    "write it with elementary operators",
                )
                continue
            function, attributes = body
            outputs = self._call_function(
                function, adapted.inputs, attributes, call.name, call.source, scope
            )
            for wanted, found in zip(adapted.outputs, outputs, strict=False):
                if not wanted or not found:
                    continue
                if found in self.trace.poisoned:
                    self.trace.poison([wanted])
                    continue
                self.trace.emit(
                    call.changed(op="Identity", inputs=(found,), outputs=(wanted,), attributes={})
                )

    def _alias(self, node: onnx.NodeProto, found: Sequence[str], scope: Scope) -> None:
        """Let the node's outputs be names of tensors that exist."""
        found = found[: len(node.output)]
        for result, name in zip_longest(node.output, found, fillvalue=""):
            if result and not name:
                raise InputError(
                    f"{_place(node, node.name)}: output {result!r} is given by nothing inside; "
                    "export the model again"
                )
            if result:
                scope.names[result] = name

    def _call_function(
        self,
        function: onnx.FunctionProto,
        inputs: Sequence[str],
        attributes: dict[str, onnx.AttributeProto],
        name: str,
        source: str,
        scope: Scope,
    ) -> list[str]:
        """Read a function's body; the tensors of its outputs."""
        given = {item.name: item for item in function.attribute_proto} | attributes
        require_text(f"function {function.name!r}", *function.input, *function.output)
        formal = dict(zip(function.input, inputs, strict=False))
        opsets = {item.domain: int(item.version) for item in function.opset_import}
        inner = Scope(
            names={key: formal.get(key, "") for key in function.input},
            opsets=dict(scope.opsets) | opsets,
            attributes=given,
            prefix=name,
            source=source,
            depth=scope.depth + 1,
        )
        self.read_nodes(function.node, inner)
        # Optional outputs may be missing; whoever reads one will find it undefined.
        return [inner.find(result) or "" for result in function.output]

    def _read_constant(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        place = _place(node, name)
        values = scope.attribute_values(node, place)
        (output,) = self._define_outputs(node, scope)
        kind, value = next(iter(values.items()), ("", None))
        if kind.startswith("value_string") or kind not in (
            "value", "value_float", "value_floats", "value_int", "value_ints"
        ):  # fmt: skip
            self.trace.blockers.add(
                f"{place}: a constant must hold numbers, found {kind or 'nothing'!r}; keep text "
                "outside the model"
            )
            self.trace.poison([output])
            return
        dtype = np.float32 if "float" in kind else np.int64
        self.trace.define(
            output, np.asarray(value) if kind == "value" else np.array(value, dtype=dtype)
        )


def _place(node: onnx.NodeProto, name: str) -> str:
    return f"node {(name or node.name)!r} ({node.op_type})"


def _undefined(place: str, used: str, nodes: Sequence[onnx.NodeProto]) -> InputError:
    """A node reads what nothing before it defines: a cycle, or nothing at all."""
    for index, other in enumerate(nodes):
        if used in other.output:
            by = _place(other, other.name or f"{other.op_type}_{index}")
            return InputError(
                f"{place}: nodes must be in topological order, but it reads {used!r}, which {by} "
                "only defines at or after it; break the cycle, or sort the nodes"
            )
    return InputError(
        f"{place}: the model breaks a rule of ONNX: it reads tensor {used!r}, which nothing "
        "defines; export the model again"
    )
