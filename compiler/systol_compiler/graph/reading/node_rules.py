"""ONNX's own rules of one node: a known operator, its attributes, the number of its operands."""

from functools import cache
from typing import Any

import onnx
from onnx import checker, defs

from systol_compiler.graph.tracing.scope import Scope, refuse_external
from systol_hw.errors import InputError


def unknown_operator(name: str, opset: int) -> str:
    """Why the operator set `opset` of the default domain has no operator `name`; "" if it has."""
    if defs.has(name, opset, ""):
        return ""
    text = f"operator set {opset} of ONNX has no operator {name!r}"
    began = _first_versions().get(name)
    if began is None:
        return f"{text}, nor has any other; write it with operators of ONNX"
    if began > opset:
        return f"{text}, which began in {began}; export the model with that one or a later"
    return f"{text} any more; convert the model with onnx.version_converter"


@cache
def _first_versions() -> dict[str, int]:
    """The operator set in which each operator of the default domain began."""
    found: dict[str, int] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in ("", "ai.onnx"):
            version = int(schema.since_version)
            found[schema.name] = min(version, found.get(schema.name, version))
    return found


class NodeRules:
    """Checks nodes where they stand, each by its own operator set."""

    def __init__(self, ir_version: int) -> None:
        self._ir_version = ir_version
        self._contexts: dict[int, Any] = {}

    def check(self, node: onnx.NodeProto, place: str, scope: Scope) -> None:
        """Check one node of an operator that its operator set has.

        Raises
        ------
        InputError
            It breaks a rule.
        """
        for item in node.attribute:
            for tensor in (item.t, *item.tensors):
                # The checker would look for the file, wherever it is said to lie.
                refuse_external(tensor, place)
        schema: Any = defs.get_schema(node.op_type, scope.opset, "")
        if schema.deprecated:
            self._check_types(node, place, scope, schema)
            return
        probe = node
        if any(item.ref_attr_name for item in node.attribute):
            probe = onnx.NodeProto()
            probe.CopyFrom(node)
            del probe.attribute[:]
            probe.attribute.extend(scope.resolved(node, place))
        try:
            checker.check_node(probe, self._context(scope.opset))
        except Exception as error:  # the checker raises classes of its own
            detail = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{place}: the model breaks a rule of ONNX: {detail}; export the model again and "
                "test it with onnx.checker.check_model"
            ) from error

    def _check_types(self, node: onnx.NodeProto, place: str, scope: Scope, schema: Any) -> None:
        """Attributes of operators such as GroupNormalization 18, which the checker refuses."""
        for item in scope.resolved(node, place):
            formal = schema.attributes.get(item.name)
            if formal is None or int(formal.type) != item.type:
                raise InputError(
                    f"{place}: the model breaks a rule of ONNX: attribute {item.name!r} is unknown "
                    "or of another type; export the model again"
                )

    def _context(self, opset: int) -> Any:
        if opset not in self._contexts:
            context = checker.C.CheckerContext()
            # A number of a stranger: the checker knows none beyond its own.
            context.ir_version = min(max(self._ir_version, 3), onnx.IR_VERSION)
            context.opset_imports = {"": opset}
            self._contexts[opset] = context
        return self._contexts[opset]
