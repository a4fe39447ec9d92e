"""The page of supported operators, in Markdown, from the operators' own rules."""

from systol_compiler.quantized.operator import Operator, registry


def supported_operators() -> str:
    """docs/operators.md: every operator of the machine, with what a node must keep to run there."""
    lines = [
        "# Supported operators",
        "",
        (
            "What the machine runs, in the forms to which models are brought on import (functions "
            "and other operators are written out as these). A node that breaks a rule, and every "
            "operator that is not listed, runs on the host by ONNX Runtime, anywhere in the graph: "
            "`systol inspect MODEL` says which, why, and what it costs; `--strict` refuses them. A "
            "preference says where a node costs less: `--strict` does not ask it, and puts on the "
            "machine whatever keeps the other rules."
        ),
    ]
    operators = registry()
    seen: set[int] = set()
    for name in sorted(operators):
        operator = operators[name]
        if id(operator) not in seen:
            seen.add(id(operator))
            lines += _section(operator)
    return "\n".join([*lines, ""])


def _section(operator: Operator) -> list[str]:
    lines = ["", f"## {', '.join(operator.names)}", ""]
    facts = []
    if operator.moves:
        facts.append("Moves values only: often nothing is done for it.")
    if operator.clips:
        facts.append("A Clip (Relu) behind it costs nothing.")
    if operator.biases:
        facts.append("An Add of constants behind it, one a channel, costs nothing.")
    if operator.scales:
        facts.append("Of computed operands: a Mul by a number behind it costs nothing.")
    lines += [f"- {fact}" for fact in facts]
    for rule in operator.rules:
        text = rule.text
        if rule.preference:
            lines.append(f"- Preference: {text}.")
        else:
            lines.append(f"- {text[0].upper()}{text[1:]}. Otherwise: {rule.remedy}.")
    if not facts and not operator.rules:
        lines.append("- No rules.")
    return lines
