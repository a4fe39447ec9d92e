"""The mutants that nothing finds and that are no mistakes, each with the reason.

`systol_sim.mutation.campaign` fails for a survivor that is not in `EXPLAINED`, and docs/mutation.md
shows the list. An entry names its mutant by the text of the changed line, not by its number: a
change elsewhere in the module leaves it alone, and a change of the line calls for a new
explanation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from systol_hw.errors import InputError
from systol_sim.mutation.changes import CHECKER, RTL, SIM, Mutant, module_of, mutants_of


@dataclass(frozen=True, kw_only=True)
class Survivor:
    """A survivor that is explained.

    Parameters
    ----------
    target
        Of the mutant.
    path
        Of the module, below the project's root.
    text
        The line on which the change begins, without the spaces around it.
    before, after
        The source text that is changed, and what replaces it.
    occurrence
        Which one of the module's mutants that agree in all of these, from 1, in source order.
    why
        What the change does, and why no program can notice it.
    """

    target: str
    path: str
    text: str
    before: str
    after: str
    occurrence: int = 1
    why: str

    def mutant(self, root: Path) -> Mutant:
        """The mutant of the sources below `root`.

        Raises
        ------
        InputError
            If there is none: the line has changed since it was explained.
        """
        source = (root / self.path).read_text("utf-8")
        lines = source.splitlines()
        same = [
            m for m in mutants_of(self.path, self.target, source)
            if (lines[m.line - 1].strip(), m.before, m.after)
            == (self.text, self.before, self.after)
        ]
        if len(same) < self.occurrence:
            raise InputError(
                f"{self.path} has no {_ordinal(self.occurrence)}mutant {self.before!r} -> "
                f"{self.after!r} in the line {self.text!r}, which "
                "systol_sim.mutation.survivors explains: try the mutants of that line again, "
                "and mend or drop the explanation"
            )
        return same[self.occurrence - 1]


EXPLAINED: tuple[Survivor, ...] = (
    Survivor(
        target=RTL,
        path="hw/systol_hw/rtl/walk/address_check.py",
        text="bits = bits_for(size - 1)",
        before="1",
        after="0",
        why="the sum of an address and a length is a bit wider, and the test of the bits above it "
        "a bit narrower. They differ for an access of no bytes alone, of which there is none; the "
        "proof does not know that.",
    ),
    Survivor(
        target=SIM,
        path="sim/systol_sim/timing/state/instruction_bounds.py",
        text="high = np.clip(self.end - 1, 0, arch.ub_bytes - 1) // arch.bank_bytes",
        before="1",
        after="2",
        occurrence=2,
        why="an address is clipped before its bank is taken: the last two bytes lie in one bank.",
    ),
    Survivor(
        target=SIM,
        path="sim/systol_sim/timing/streams/transfers.py",
        text="ends = m.beats[(m.store_out - 1) & (HISTORY - 1), B_ENDS_BURST]",
        before="1",
        after="2",
        occurrence=2,
        why="whether a burst ended is read from the beat before the last one: it decides who owns "
        "the port in the cycle behind a window alone, in which only Store has a beat.",
    ),
    Survivor(
        target=SIM,
        path="sim/systol_sim/timing/cycle/buffers.py",
        text="m.claims_out = max(m.claims_out, m.claims_in - RING)",
        before="max(m.claims_out, m.claims_in - RING)",
        after="(m.claims_out)",
        why="claims of a bank that the ring has no place for are not forgotten: an older claim is "
        "looked at first only if the matrix has claimed banks exactly a multiple of 2,048 times, "
        "and a few more, before anything looks at them.",
    ),
    Survivor(
        target=CHECKER,
        path="sim/systol_sim/validity/footprint.py",
        text="if self.space != other.space or self.first > other.last or other.first > self.last:",
        before="self.first > other.last or other.first > self.last",
        after="self.first > other.last and other.first > self.last",
        why="regions that lie apart are no longer recognized beforehand, and the search that "
        "follows finds no place that both have.",
    ),
    Survivor(
        target=CHECKER,
        path="sim/systol_sim/validity/progress.py",
        text="self.left: dict[Unit, int] = dict.fromkeys(UNITS, 0)",
        before="0",
        after="1",
        why="the tiles that a unit has left are set when it becomes active, and not looked at "
        "before.",
    ),
)
"""Every survivor that is explained, by target."""


def explained(root: Path) -> dict[Mutant, Survivor]:
    """The explained survivors as mutants of the sources below `root`.

    Raises
    ------
    InputError
        If an explanation fits no mutant any more.
    """
    return {survivor.mutant(root): survivor for survivor in EXPLAINED}


def survivors_text() -> str:
    """The explanations as a Markdown list."""
    return "".join(f"{item}\n" for item in _items())


def _items() -> Iterator[str]:
    for survivor in EXPLAINED:
        which = _ordinal(survivor.occurrence) if survivor.occurrence > 1 else ""
        before, after = (" ".join(text.split()) for text in (survivor.before, survivor.after))
        yield (
            f"- `{module_of(survivor.path)}`, `{survivor.text}`: the {which}`{before}` becomes "
            f"`{after}`; {survivor.why}"
        )


def _ordinal(number: int) -> str:
    return {1: "", 2: "second ", 3: "third "}.get(number, f"{number}th ")
