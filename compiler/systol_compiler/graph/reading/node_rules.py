"""ONNX's own rules of one node: a known operator, its attributes, the number of its operands."""

from typing import Any

import onnx
from onnx import checker, defs

from systol_compiler.graph.tracing.scope import Scope, refuse_external
from systol_hw.errors import InputError


class NodeRules:
    """Checks nodes where they stand, each by its own operator set."""

    def __init__(self, ir_version: int) -> None:
        self._ir_version = ir_version
        self._contexts: dict[int, Any] = {}

    def check(self, node: onnx.NodeProto, place: str, scope: Scope) -> None:
        """Check one node of the default domain.

        Raises
        ------
        InputError
            It breaks a rule.
        """
        if not defs.has(node.op_type, scope.opset, ""):
            raise InputError(
                f"{place}: the model breaks a rule of ONNX: no operator {node.op_type!r} in "
                f"operator set {scope.opset}; export the model again"
            )
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
