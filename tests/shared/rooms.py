"""The product's rooms: `python tests/shared/rooms.py` fails for a full one, and for a circle.

A room is a folder of modules. One that holds more than `MOST_MODULES` has a second idea in it, and
modules that import each other in a circle are one module in several files. Which room may import
which is said in pyproject.toml and held by `lint-imports`.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES: Mapping[str, str] = {
    "systol_hw": "hw", "systol_sim": "sim", "systol_compiler": "compiler", "systol": "runtime",
}
"""The folder of each package of the product."""
MOST_MODULES = 16
"""Modules of a room, `__init__` and what stands in rooms of its own apart."""


def modules(root: Path, packages: Mapping[str, str] = PACKAGES) -> dict[str, Path]:
    """Every module of the product by its full name; a package's name is its `__init__`."""
    found = {}
    for package, folder in packages.items():
        for path in sorted((root / folder / package).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_sizes(found: Mapping[str, Path]) -> dict[str, int]:
    """How many modules stand directly in each room, by the room's full name."""
    rooms = (
        name.rpartition(".")[0] for name, path in found.items() if path.name != "__init__.py"
    )
    return dict(Counter(rooms))


def imports(found: Mapping[str, Path]) -> dict[str, set[str]]:
    """The modules that each module imports, wherever in it that is written."""
    return {
        name: set(_imported(ast.parse(path.read_text("utf-8")), found)) - {name}
        for name, path in found.items()
    }


def _imported(tree: ast.Module, found: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in found else node.module for name in inner]
        yield from (name for name in names if name in found)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules of which each imports every other one, directly or not; each sorted.

    Ref: Tarjan, Depth-first search and linear graph algorithms, 1972.
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            place = stack.index(name)
            group = sorted(stack[place:])
            del stack[place:]
            if len(group) > 1:
                groups.append(group)

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return groups


def complaints(root: Path, packages: Mapping[str, str] = PACKAGES) -> list[str]:
    """One line for each room that is too full, and for each circle."""
    found = modules(root, packages)
    lines = []
    for room, size in room_sizes(found).items():
        if size > MOST_MODULES:
            lines.append(
                f"{room} holds {size} modules, and a room may hold {MOST_MODULES}: divide it, or "
                "put the new module into a room of what it belongs to"
            )
    lines += [
        f"these import each other in a circle: {', '.join(group)}"
        for group in circles(imports(found))
    ]
    return lines


def main() -> int:
    """Say what is wrong; exit status 1 if anything is."""
    lines = complaints(ROOT)
    print("\n".join(lines) or "rooms: none too full, no import circle")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
