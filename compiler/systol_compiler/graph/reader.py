"""Reads a model's nodes in order: names, functions, branches and loops are resolved on the way.

What comes out is a flat list of nodes of one operator set, their types and the constants. Work is
bounded by the number of nodes read, whatever functions call each other and loops repeat.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import onnx
from onnx import checker, defs

from systol_compiler.graph.adapters import adapt
from systol_compiler.graph.expansion import function_body, is_expanded
from systol_compiler.graph.operand_rules import check_given, check_operands
from systol_compiler.graph.scope import Scope, inline_tensor, refuse_external, require_text
from systol_compiler.graph.trace import Call, Trace
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
        self._trace = trace
        self._functions = {(item.domain, item.name, item.overload): item for item in functions}
        self._ir_version = ir_version
        self._read = 0
        self._contexts: dict[int, Any] = {}

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
            self._read += 1
            if self._read > MAX_READ or scope.depth > MAX_DEPTH:
                raise self._too_many(_place(node, name[:200]))
            inputs = self._inputs(node, nodes, scope)
            self._check_outputs(node, name, scope)
            if any(used in self._trace.poisoned for used in inputs):
                self._poison(node, name, scope)
                continue
            self._read_one(node, name, inputs, scope)

    def _too_many(self, place: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{place}: a model may have at most {MAX_READ} nodes and {MAX_DEPTH} levels when all "
            "functions and loops are written out; simplify it before export"
        )

    def _inputs(
        self, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], scope: Scope
    ) -> tuple[str, ...]:
        found = []
        for used in node.input:
            name = scope.find(used) if used else ""
            if name is None:
                raise _undefined(node, used, nodes)
            found.append(name)
        return tuple(found)

    def _check_outputs(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        for result in node.output:
            if result and result in scope.names:
                raise InputError(
                    f"{_place(node, name)}: tensor {result!r} is defined twice; rename one of "
                    "the two"
                )

    def _poison(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        self._trace.poison(self._define_outputs(node, scope))

    def _define_outputs(self, node: onnx.NodeProto, scope: Scope) -> tuple[str, ...]:
        """Fresh tensors of the graph for the node's outputs; "" where one is left out."""
        outputs = []
        for result in node.output:
            if not result:
                outputs.append("")
                continue
            wish = f"{scope.prefix}/{result}" if scope.prefix else result
            scope.names[result] = self._trace.tensor_names.take(wish)
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
        if node.domain not in _DEFAULT_DOMAINS:
            self._trace.blockers.add(
                f"{_place(node, name)}: operators must be of the default ONNX domain, but this "
                f"one is of {node.domain!r}; export without custom operators"
            )
            self._poison(node, name, scope)
            return
        if node.op_type in _REFUSED:
            self._trace.blockers.add(f"{_place(node, name)}: {_REFUSED[node.op_type]}")
            self._poison(node, name, scope)
            return
        if node.op_type in ("If", "Loop"):
            attributes = {item.name: item for item in scope.resolved(node, _place(node, name))}
            read = self._read_if if node.op_type == "If" else self._read_loop
            found = read(node, name, source, inputs, attributes, scope)
            if found is None:
                self._poison(node, name, scope)
            else:
                self._alias(node, found, scope)
            return
        self._check(node, name, scope)
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
        check_given(call, defs.get_schema(node.op_type, scope.opset, ""))
        self.read_call(call, scope)

    def read_call(self, call: Call, scope: Scope) -> None:
        """Read one operator of the scope's operator set, expanding it where it has no own form."""
        for adapted in adapt(self._trace, call, scope.opset):
            check_operands(self._trace, adapted)
            if not is_expanded(adapted):
                self._trace.emit(adapted)
                continue
            body = function_body(adapted, self._trace)
            if body is None:
                self._trace.refuse(
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
                if found in self._trace.poisoned:
                    self._trace.poison([wanted])
                    continue
                self._trace.emit(
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

    def _results(self, outputs: Sequence[str], scope: Scope, name: str) -> list[str]:
        found = [scope.find(result) for result in outputs]
        for result, tensor in zip(outputs, found, strict=True):
            if tensor is None:
                raise InputError(
                    f"node {name!r}: its output {result!r} is defined by nothing inside; export "
                    "the model again"
                )
        return [tensor or "" for tensor in found]

    def _read_constant(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        place = _place(node, name)
        values = scope.attribute_values(node, place)
        (output,) = self._define_outputs(node, scope)
        kind, value = next(iter(values.items()), ("", None))
        if kind.startswith("value_string") or kind not in (
            "value", "value_float", "value_floats", "value_int", "value_ints"
        ):  # fmt: skip
            self._trace.blockers.add(
                f"{place}: a constant must hold numbers, found {kind or 'nothing'!r}; keep text "
                "outside the model"
            )
            self._trace.poison([output])
            return
        dtype = np.float32 if "float" in kind else np.int64
        self._trace.define(
            output, np.asarray(value) if kind == "value" else np.array(value, dtype=dtype)
        )

    def _read_if(
        self,
        node: onnx.NodeProto,
        name: str,
        source: str,
        inputs: tuple[str, ...],
        attributes: dict[str, onnx.AttributeProto],
        scope: Scope,
    ) -> list[str] | None:
        condition = self._trace.value(inputs[0]) if inputs else None
        if condition is None or condition.size != 1:
            self._trace.blockers.add(
                f"{_place(node, name)}: which branch runs must follow from the model's input "
                "shapes, but its condition depends on data; export a traced model without it"
            )
            return None
        key = "then_branch" if condition.reshape(-1)[0] else "else_branch"
        branch = self._graph(attributes, key, _place(node, name))
        inner = scope.inner(name, source)
        self._read_body(branch, inner, _place(node, name))
        return self._results([value.name for value in branch.output], inner, name)

    def _read_loop(
        self,
        node: onnx.NodeProto,
        name: str,
        source: str,
        inputs: tuple[str, ...],
        attributes: dict[str, onnx.AttributeProto],
        scope: Scope,
    ) -> list[str] | None:
        place = _place(node, name)
        body = self._graph(attributes, "body", place)
        carried = list(inputs[2:])
        scans = len(body.output) - 1 - len(carried)
        if scans < 0 or len(body.input) != 2 + len(carried):
            raise InputError(
                f"{place}: its body must take and give the {len(carried)} tensors that it carries; "
                "export the model again"
            )
        trips = self._known(inputs[0] if inputs else "")
        going = self._known(inputs[1] if len(inputs) > 1 else "")
        if isinstance(trips, int) and self._read + trips * max(len(body.node), 1) > MAX_READ:
            raise self._too_many(place)
        seen: list[list[str]] = [[] for _ in range(scans)]
        trip = 0
        while True:
            if trips is _UNKNOWN or going is _UNKNOWN:
                self._trace.blockers.add(
                    f"{place}: the number of its trips must follow from the model's input shapes, "
                    "but depends on data; export the model unrolled"
                )
                return None
            if (trips is not None and trip >= trips) or going is False or going == 0:
                break
            inner = scope.inner(f"{name}/{trip}", source)
            number = self._trace.constant(f"{name}/{trip}", np.array(trip, dtype=np.int64))
            begins = inputs[1] if len(inputs) > 1 and inputs[1] else ""
            begins = begins or self._trace.constant(f"{name}/{trip}/on", np.array(True))
            inner.names.update(
                zip((value.name for value in body.input), (number, begins, *carried), strict=True)
            )
            self._read_body(body, inner, place)
            results = self._results([value.name for value in body.output], inner, name)
            if any(result in self._trace.poisoned for result in results):
                return None
            going = self._known(results[0])
            carried = results[1 : 1 + len(carried)]
            for scan, result in zip(seen, results[1 + len(carried) :], strict=True):
                scan.append(result)
            trip += 1
            self._read += 1
            if self._read > MAX_READ:
                raise self._too_many(place)
        if scans and not trip:
            self._trace.blockers.add(
                f"{place}: it makes no trip, so that its scanned outputs are empty; remove it"
            )
            return None
        return [*carried, *(self._stack(scan, name, source) for scan in seen)]

    def _stack(self, scan: Sequence[str], name: str, source: str) -> str:
        """What a loop scans, along a new first axis."""
        call = Call(op="Concat", inputs=(), outputs=(), name=name, source=source, source_op="Loop")
        axes = self._trace.constant(f"{name}.axes", np.array([0], dtype=np.int64))
        parts = []
        for tensor in scan:
            parts.append(self._trace.tensor_names.take(f"{name}.part"))
            self._trace.emit(
                call.changed(op="Unsqueeze", inputs=(tensor, axes), outputs=(parts[-1],))
            )
        result = self._trace.tensor_names.take(f"{name}.scan")
        self._trace.emit(
            call.changed(inputs=tuple(parts), outputs=(result,), attributes={"axis": 0})
        )
        return result

    def _known(self, name: str) -> Any:
        """A scalar's value, None where it was left out, or `_UNKNOWN`."""
        if not name:
            return None
        value = self._trace.value(name)
        return _UNKNOWN if value is None or value.size != 1 else value.reshape(-1)[0].item()

    def _graph(
        self, attributes: dict[str, onnx.AttributeProto], key: str, place: str
    ) -> onnx.GraphProto:
        if key not in attributes or not attributes[key].HasField("g"):
            raise InputError(f"{place}: it has no {key!r}; export the model again")
        return attributes[key].g

    def _read_body(self, graph: onnx.GraphProto, scope: Scope, place: str) -> None:
        if graph.sparse_initializer:
            raise UnsupportedModelError(
                f"{place}: sparse initializers are not supported; store the tensor densely"
            )
        for tensor in graph.initializer:
            wish = f"{scope.prefix}/{tensor.name}"
            scope.names[tensor.name] = self._trace.constant(wish, inline_tensor(tensor, place))
        self.read_nodes(graph.node, scope)

    def _check(self, node: onnx.NodeProto, name: str, scope: Scope) -> None:
        """ONNX's own rules of one node: known operator, attributes, number of operands."""
        if not defs.has(node.op_type, scope.opset, ""):
            raise InputError(
                f"{_place(node, name)}: the model breaks a rule of ONNX: no operator "
                f"{node.op_type!r} in operator set {scope.opset}; export the model again"
            )
        for item in node.attribute:
            for tensor in (item.t, *item.tensors):
                # The checker would look for the file, wherever it is said to lie.
                refuse_external(tensor, _place(node, name))
        schema: Any = defs.get_schema(node.op_type, scope.opset, "")
        if schema.deprecated:
            # Such as GroupNormalization 18: still defined, but the checker refuses it.
            for item in scope.resolved(node, _place(node, name)):
                formal = schema.attributes.get(item.name)
                if formal is None or int(formal.type) != item.type:
                    raise InputError(
                        f"{_place(node, name)}: the model breaks a rule of ONNX: attribute "
                        f"{item.name!r} is unknown or of another type; export the model again"
                    )
            return
        context = self._contexts.get(scope.opset)
        if context is None:
            context = self._contexts[scope.opset] = checker.C.CheckerContext()
            context.ir_version = max(self._ir_version, 3)
            context.opset_imports = {"": scope.opset}
        probe = node
        if any(item.ref_attr_name for item in node.attribute):
            probe = onnx.NodeProto()
            probe.CopyFrom(node)
            del probe.attribute[:]
            probe.attribute.extend(scope.resolved(node, _place(node, name)))
        try:
            checker.check_node(probe, context)
        except Exception as error:  # the checker raises classes of its own
            detail = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{_place(node, name)}: the model breaks a rule of ONNX: {detail}; export the "
                "model again and test it with onnx.checker.check_model"
            ) from error


_UNKNOWN: Final = object()


def _place(node: onnx.NodeProto, name: str) -> str:
    return f"node {(name or node.name)!r} ({node.op_type})"


def _undefined(node: onnx.NodeProto, used: str, nodes: Sequence[onnx.NodeProto]) -> InputError:
    """A node reads what nothing before it defines: a cycle, or nothing at all."""
    for other in nodes:
        if used in other.output:
            return InputError(
                f"node {node.name!r} ({node.op_type}): nodes must be in topological order, but "
                f"it reads {used!r}, which node {other.name!r} ({other.op_type}) only defines at "
                "or after it; break the cycle, or sort the nodes"
            )
    return InputError(
        f"node {node.name!r} ({node.op_type}): the model breaks a rule of ONNX: it reads tensor "
        f"{used!r}, which nothing defines; export the model again"
    )
