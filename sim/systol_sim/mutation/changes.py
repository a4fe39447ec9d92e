"""Small wrong changes to Python sources, made mechanically: what a mutation test plants.

A candidate is one changed place in one module. What no program could notice is left out by
construction: text, annotations, decorators, imports, `assert`, `raise`, names given to signals,
figures of coverage, and the sizes of scratch arrays that need only be large enough.
"""

import ast
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RTL, SIM, CHECKER = "rtl", "sim", "checker"
TARGETS = (RTL, SIM, CHECKER)
PASSED, KILLED, NOT_BUILT = "passed", "killed", "not built"
SAME, EQUIVALENT = "same hardware", "equivalent"
"""Outcomes of a trial. `NOT_BUILT`: the RTL does not elaborate or compile, or the simulator cannot
be imported or compiled. `SAME`: the RTL's Verilog is that of the unchanged sources. `EQUIVALENT`:
nothing killed it, and the RTL was proved to be the same machine (`systol_hw.formal.equivalence`).
"""

FIRST_TEST = "test_microprograms"
LAST_TESTS = (
    "timing/test_streams", "timing/test_instruction_table", "values/test_values", "test_simulator",
)
"""Modules of `tests/sim` that a trial of the simulator runs, before all else and at its end."""
CHECKER_TESTS = (
    "sim/validity/test_footprint", "sim/validity/test_checker", "sim/validity/test_progress",
    "compiler/program/test_tokens", "sim/test_every_operation",
)
"""Modules of `tests` that a trial of the checker runs, the slowest last."""

_FOLDERS: Mapping[str, str] = {
    RTL: "hw/systol_hw/rtl", SIM: "sim/systol_sim", CHECKER: "sim/systol_sim",
}
# No hardware of a machine's own comes from these.
_NOT_HARDWARE = ("bus/", "emit", "contract/interfaces", "contract/widths")
# Of the simulator, what decides times and values; but neither names nor what only compiles.
_SIMULATOR = ("timing/", "values/")
_NO_DECISION = frozenset(
    {"timing/state/machine_state", "timing/state/table_columns", "values/compile_values"}
)
# What decides whether a program is valid.
_CHECKER = frozenset(
    f"validity/{name}" for name in ("checker", "footprint", "hazards", "ordering", "progress")
)


def modules(root: Path, target: str) -> tuple[str, ...]:
    """Where mutants are made: paths below the project's root, which take turns.

    Parameters
    ----------
    root
        The project's checkout.
    target
        `RTL`: every module of a machine's hardware; the shims to other buses are not part of one.
        `SIM`: what decides the simulator's times and values. `CHECKER`: what decides whether a
        program is valid.
    """
    folder = _FOLDERS[target]
    names = sorted(
        path.relative_to(root / folder).with_suffix("").as_posix()
        for path in (root / folder).rglob("*.py")
        if path.name != "__init__.py"
    )
    if target == SIM:
        chosen = [n for n in names if n.startswith(_SIMULATOR) and n not in _NO_DECISION]
    elif target == CHECKER:
        chosen = [name for name in names if name in _CHECKER]
    else:
        chosen = [name for name in names if not name.startswith(_NOT_HARDWARE)]
    return tuple(f"{folder}/{name}.py" for name in chosen)


_COMPARISONS: Mapping[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
}
_BINARIES: Mapping[type[ast.operator], tuple[str, str, str]] = {
    ast.BitAnd: ("&", "|", "logic swapped"), ast.BitOr: ("|", "&", "logic swapped"),
    ast.Add: ("+", "-", "sign swapped"), ast.Sub: ("-", "+", "sign swapped"),
}
_LIMITS = frozenset({"min", "max", "minimum", "maximum", "clip"})
_UNSEEN_KEYWORDS = frozenset({"name", "attrs", "src_loc_at", "reset_less"})
_UNSEEN_CONSTANTS = frozenset({"RING", "NEVER", "HISTORY", "WALKER_PLACES", "COVERAGE_NAMES"})
_MARK = re.compile(r"\s+")


def module_of(path: str) -> str:
    """A module's path below its package, without the suffix."""
    bare = Path(path).with_suffix("")
    return "/".join(bare.parts[2:]) or bare.stem


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One wrong change.

    Parameters
    ----------
    target
        `"rtl"`, `"sim"` or `"checker"`.
    path
        Of the module, below the project's root.
    line
        Where the change begins, from 1.
    operator
        What kind of change it is.
    before, after
        The source text from `offset`, in characters from the module's start, and what replaces it.
    """

    target: str
    path: str
    line: int
    operator: str
    before: str
    after: str
    offset: int

    @property
    def module(self) -> str:
        """The changed module, as `module_of` has it."""
        return module_of(self.path)

    @property
    def place(self) -> str:
        """Module and line."""
        return f"{self.module}:{self.line}"

    @property
    def change(self) -> str:
        """The change on one line."""
        before, after = (_MARK.sub(" ", text) for text in (self.before, self.after))
        return f"{before} -> {after}"

    def apply(self, source: str) -> str:
        """The module's source with the change in it."""
        end = self.offset + len(self.before)
        assert source[self.offset : end] == self.before, f"{self.place} is not what it was"
        return source[: self.offset] + self.after + source[end:]

    def as_record(self) -> dict[str, Any]:
        """The mutant as JSON has it."""
        return asdict(self)


def mutants_of(path: str, target: str, source: str) -> list[Mutant]:
    """All mutants of one module, in source order; every one parses and differs from the source."""
    finder = _Finder(path, target, source)
    finder.visit(ast.parse(source))
    return list(
        dict.fromkeys(sorted(finder.found, key=lambda m: (m.offset, m.operator, m.after)))
    )


def select(root: Path, target: str, seed: int) -> Iterator[Mutant]:
    """All mutants of `target` below `root`, in an order that `seed` decides.

    Modules take turns, and within a module the kinds of change do: any first part is spread over
    all of both. Equal sources and seeds give equal orders.
    """
    rng = random.Random(f"{target}/{seed}")
    paths = list(modules(root, target))
    rng.shuffle(paths)
    queues = [
        _by_operator(mutants_of(path, target, (root / path).read_text("utf-8")), rng)
        for path in paths
    ]
    for turn in itertools.zip_longest(*queues):
        yield from (mutant for mutant in turn if mutant is not None)


def _by_operator(mutants: Sequence[Mutant], rng: random.Random) -> Iterator[Mutant]:
    kinds: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        kinds.setdefault(mutant.operator, []).append(mutant)
    for members in kinds.values():
        rng.shuffle(members)
    names = sorted(kinds)
    rng.shuffle(names)
    queues = [kinds[name] for name in names]
    mixed = [m for turn in itertools.zip_longest(*queues) for m in turn if m is not None]
    return iter(mixed)


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a module; subtrees that nothing could notice are not visited."""

    def __init__(self, path: str, target: str, source: str) -> None:
        self.path, self.target, self.source = path, target, source
        self.hardware = target == RTL
        self.found: list[Mutant] = []
        starts = [0]
        for text in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(text))
        self.starts = starts
        self.lines = source.splitlines(keepends=True)

    # Places in the source.

    def _offset(self, line: int, column: int) -> int:
        # The parser counts columns in bytes of UTF-8.
        text = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(text)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self.source[start:end]

    def _add(self, operator: str, start: int, end: int, after: str) -> None:
        before = self.source[start:end]
        if before == after:
            return
        line = self.source.count("\n", 0, start) + 1
        self.found.append(
            Mutant(
                target=self.target, path=self.path, line=line, operator=operator,
                before=before, after=after, offset=start,
            )
        )

    def _replace(self, operator: str, node: ast.expr | ast.stmt, after: str) -> None:
        self._add(operator, *self._span(node), after)

    def _swap(self, operator: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Change the operator between two operands, and keep what stands around it."""
        start, end = self._span(left)[1], self._span(right)[0]
        between = re.sub(r"#[^\n]*", lambda found: " " * len(found[0]), self.source[start:end])
        at = between.find(old)
        if at >= 0:
            # The operands stay in `before`, so that a table can be read.
            first, last = self._span(left)[0], self._span(right)[1]
            changed = (
                self.source[first : start + at] + new + self.source[start + at + len(old) : last]
            )
            # A bracket that only opens or closes inside would not be a whole expression.
            if self.source[first:last].count("(") == self.source[first:last].count(")"):
                self._add(operator, first, last, changed)
            else:
                self._add(operator, start + at, start + at + len(old), new)

    # What is left out.

    def visit_Import(self, node: ast.Import) -> None:
        pass

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_arguments(self, node: ast.arguments) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in _UNSEEN_KEYWORDS:
            self.visit(node.value)

    # What is changed.

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {n.id for target in node.targets for n in ast.walk(target)
                 if isinstance(n, ast.Name)}
        if names & {"coverage", "__all__"} or names & _UNSEEN_CONSTANTS:
            return
        if any(name.startswith("C_") for name in names):
            return
        if not self.hardware and isinstance(node.targets[0], ast.Subscript):
            self._replace("statement dropped", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        domain = ast.unparse(node.target)
        if domain.startswith(("coverage[", "m.coverage[")):
            return
        if domain in ("m.d.comb", "m.d.sync"):
            if isinstance(node.value, ast.List):
                self._drop_members(node.value)
            elif domain == "m.d.sync":
                self._replace("statement dropped", node, "pass")
        elif not self.hardware:
            self._replace("statement dropped", node, "pass")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        # A rule that is not reported, or an access that is not noted.
        if self.target == CHECKER and isinstance(node.value, (ast.Call, ast.Yield, ast.YieldFrom)):
            self._replace("statement dropped", node, "pass")
        self.generic_visit(node)

    def _drop_members(self, statements: ast.List) -> None:
        for member in statements.elts:
            if isinstance(member, ast.Call) and len(statements.elts) > 1:
                start, end = self._span(member)
                following = self.source[end:].lstrip()
                if following.startswith(","):
                    end = self.source.index(",", end) + 1
                    self._add("statement dropped", start, end, "")

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right, kind in zip(operands, operands[1:], node.ops, strict=False):
            if type(kind) in _COMPARISONS:
                self._swap("comparison swapped", left, right, *_COMPARISONS[type(kind)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _BINARIES:
            old, new, operator = _BINARIES[type(node.op)]
            self._swap(operator, node.left, node.right, old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._swap("logic swapped", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        text = self._text(node.operand)
        simple = isinstance(node.operand, (ast.Name, ast.Attribute, ast.Constant, ast.Call))
        self._replace("negation lost", node, text if simple else f"({text})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self._replace("constant off by one", node, str(node.value + 1))
            if node.value:
                self._replace("constant off by one", node, str(node.value - 1))

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "skip":
            self._replace("condition negated", node.test, f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._replace("condition negated", node.test, f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).rpartition(".")[2]
        arguments = node.args
        if name in _LIMITS and len(arguments) >= 2:
            self._replace("limit lost", node, f"({self._text(arguments[0])})")
        elif self.hardware and name in ("If", "Elif") and arguments:
            self._replace("condition negated", arguments[0], f"({self._text(arguments[0])}) == 0")
        elif self.hardware and name == "Mux" and len(arguments) == 3:
            chosen, yes, no = (self._text(argument) for argument in arguments)
            self._replace("choice swapped", node, f"Mux({chosen}, {no}, {yes})")
        elif self.hardware and name == "eq" and len(arguments) == 1:
            text = self._text(arguments[0])
            if not isinstance(arguments[0], ast.Constant):
                self._replace("low bit dropped", arguments[0], f"({text}) & ~1")
        self.generic_visit(node)
