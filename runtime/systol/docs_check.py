"""Checks that generated pages are fresh: `python -m systol.docs_check [--write]`.

The pages restate tables of the code. They are committed, so that they can be read without running
anything, and this check fails where they no longer say what the code says.
"""

import argparse
import ast
import difflib
import re
import sys
from collections.abc import Container, Sequence
from pathlib import Path

from systol_compiler.quantized.operators_page import supported_operators
from systol_hw.errors import InputError
from systol_hw.pages.address_map import address_map_page
from systol_hw.pages.counters import counter_names, counters_page
from systol_hw.pages.isa import isa_page
from systol_hw.pages.machines import machines_page
from systol_sim.mutation.survivors import survivors_text

_SECTION = re.compile(r"^## (\d+)\. ", re.MULTILINE)
_EXPECT = re.compile(r"^```expect\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SURVIVORS = "<!-- Generated from systol_sim.mutation.survivors to the end: do not edit. -->"
_SHOWN_PINS = 3
_PINS, _PARAMETERS = "pytest.mark.pins", "pytest.mark.parametrize"
_STALE = 1


def pages(root: Path) -> dict[Path, str]:
    """Every generated page of the source tree `root`, as it should be."""
    return {
        root / "docs" / "isa.md": isa_page(),
        root / "docs" / "counters.md": counters_page(find_pins(root)),
        root / "docs" / "machines.md": machines_page(),
        root / "docs" / "operators.md": supported_operators(),
        root / "docs" / "address_map.md": address_map_page(),
        root / "docs" / "mutation.md": _mutation_page(root),
    }


def _mutation_page(root: Path) -> str:
    """The page on planted mistakes: written by hand down to the list of survivors."""
    text = (root / "docs" / "mutation.md").read_text(encoding="utf-8")
    by_hand, _, _ = text.partition(_SURVIVORS)
    return f"{by_hand}{_SURVIVORS}\n\n{survivors_text()}"


def find_pins(root: Path) -> dict[str, list[str]]:
    """What pins each counter: micro-programs that expect a value of it, other than zero, and tests
    that say so (`pytest.mark.pins`).

    At most a few micro-programs are listed for each; they come first.

    Raises
    ------
    InputError
        If a test says that it pins what is no counter, or nothing.
    """
    pins: dict[str, list[str]] = {name: [] for name in counter_names()}
    text = (root / "docs" / "microprograms.md").read_text(encoding="utf-8")
    sections = _SECTION.split(text)[1:]
    for number, body in zip(sections[::2], sections[1::2], strict=True):
        for block in _EXPECT.findall(body):
            for line in block.splitlines():
                key, _, value = line.partition(" ")
                name = key.partition("[")[0]
                # A counter that never counts would meet a zero as well.
                if name in pins and value != "0" and number not in pins[name]:
                    pins[name].append(number)
    pins = {name: found[:_SHOWN_PINS] for name, found in pins.items()}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                test = f"{path.stem}::{function.name}"
                for name in _pinned(function, test, pins):
                    pins[name].append(f"`{test}`")
    return pins


def _pinned(function: ast.FunctionDef, test: str, counters: Container[str]) -> list[str]:
    """The counters whose values a test says it asserts."""
    marks = {ast.unparse(mark).partition("(")[0]: mark for mark in function.decorator_list}
    mark = marks.get(_PINS)
    if mark is None:
        return []
    if isinstance(mark, ast.Call):
        names = [ast.literal_eval(argument) for argument in mark.args]
    else:
        values = marks.get(_PARAMETERS, mark)
        words = [node.value for node in ast.walk(values) if isinstance(node, ast.Constant)]
        names = list(dict.fromkeys(word for word in words if word in counters))
    wrong = [name for name in names if name not in counters]
    if wrong or not names:
        raise InputError(
            f"{test} is marked as one that pins {wrong[0] if wrong else 'counters'}, which "
            f"{'is no counter' if wrong else 'neither the mark nor its parameters name'}: give "
            f"{_PINS} names of docs/counters.md, as in load.busy"
        )
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or rewrite the pages; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m systol.docs_check", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite stale pages")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[2], help="the source tree"
    )
    options = parser.parse_args(arguments)
    stale = False
    for path, text in pages(options.root).items():
        committed = path.read_text(encoding="utf-8") if path.exists() else ""
        if committed == text:
            continue
        name = path.relative_to(options.root)
        if options.write:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}", file=sys.stderr)
            continue
        stale = True
        difference = difflib.unified_diff(
            committed.splitlines(keepends=True), text.splitlines(keepends=True),
            f"{name} (committed)", f"{name} (generated)",
        )  # fmt: skip
        sys.stdout.writelines(difference)
    if stale:
        print(
            "generated pages are stale; run `python -m systol.docs_check --write`",
            file=sys.stderr,
        )
        return _STALE
    return 0


if __name__ == "__main__":
    sys.exit(main())
