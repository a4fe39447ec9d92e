"""Runs the formal proofs: `python -m systol_hw.formal [NAME ...] [--mutants]`."""

import argparse
import sys
from collections.abc import Sequence

from systol_hw.errors import SystolError
from systol_hw.formal.proof import prove, timed
from systol_hw.formal.proofs import PROOFS


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove everything, or what is named; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m systol_hw.formal", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="proofs; all if none is named")
    parser.add_argument("--mutants", action="store_true", help="refute the mutants as well")
    options = parser.parse_args(arguments)
    known = {proof.name: proof for proof in PROOFS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no proof is called {unknown[0]!r}; there are {', '.join(known)}")
    failures = 0
    for name in options.names or known:
        proof = known[name]
        outcome, seconds = timed(proof)
        method = f"{proof.depth} cycles" if proof.bounded else f"{proof.depth}-induction"
        print(f"{name:24} {method:14} {outcome:14} {seconds:6.1f} s", flush=True)
        failures += outcome != "proved"
        for mutant in proof.mutants if options.mutants else ():
            outcome = prove(proof, mutant=mutant)
            print(f"{'':24} {outcome:14} {mutant.old!r} -> {mutant.new!r}", flush=True)
            failures += outcome != "refuted"
    print(f"{failures} not as they must be" if failures else "all as they must be")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SystolError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
