"""`python -P -m systol.attack --cases 5000 --seed S`: mutants of every kind of file."""

import argparse
import sys
import time
from pathlib import Path

from systol.attack.campaign import Tally, attack, describe, work
from systol.attack.doors import DOORS
from systol.console.terminal import plain_streams, print_table, say
from systol_hw.termination import end_in_order

_PACE_SECONDS = 30.0


def main() -> int:
    """Attack, print a table and what failed; the exit status is 1 if anything did."""
    if sys.argv[1:2] == ["--worker"]:
        door, seed, first, cases, folder = sys.argv[2:]
        work(door, int(seed), int(first), int(cases), Path(folder))
        return 0
    end_in_order()
    parser = argparse.ArgumentParser(
        prog="python -P -m systol.attack",
        description="Give mutants of every kind of file to the commands that read it. Each must "
        "be read or refused in bounded time and memory. Exit status 1 if one is not.",
    )
    parser.add_argument(
        "--cases", type=int, default=200, metavar="N", help="of each kind (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument(
        "--doors", default=",".join(DOORS), metavar="NAME,...", help=f"of {', '.join(DOORS)}"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where mutants that failed go")
    options = parser.parse_args()
    doors = options.doors.split(",")
    if not set(doors) <= set(DOORS):
        parser.error(f"--doors must be of {', '.join(DOORS)}")
    tallies: dict[str, Tally] = {}
    said = time.monotonic()
    with plain_streams():
        for door, tally in attack(doors, options.cases, options.seed, options.keep):
            tallies[door] = tally
            if time.monotonic() - said > _PACE_SECONDS:
                said = time.monotonic()
                say(f"{door}: {tally.cases:,} of {options.cases:,}, "
                    f"{len(tally.failures)} failed")  # fmt: skip
        print_table(
            ("file", "mutants", "past the first check", "accepted", "slowest", "peak", "failed"),
            describe(tallies),
        )
        for door, tally in tallies.items():
            for record in tally.failures:
                place = record.get("kept", f"seed {options.seed}")
                print(f"\n{door} {record['number']} ({place}): {record['failure']}")
                print(record.get("text", "").strip()[-600:])
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
