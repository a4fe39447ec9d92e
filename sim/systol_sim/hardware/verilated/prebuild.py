"""Models of the RTL, ahead of their use.

`python -P -m systol_sim.hardware.verilated.prebuild PRESET ...` builds them, one after
another, with a line on stderr for every step that takes a while; what is there already is left as
it is.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from systol_hw.arch import PRESETS
from systol_hw.errors import SystolError
from systol_sim.building import Say, observed
from systol_sim.hardware.verilated.build import model_library

_PACE_SECONDS = 15.0
"""How far apart the lines about one build are, at least."""


@contextmanager
def _lines(what: str) -> Iterator[Say]:
    """An observer of builds that writes lines."""
    began = time.monotonic()
    said = -_PACE_SECONDS

    def say(step: str, done: int, steps: int) -> None:
        nonlocal said
        passed = time.monotonic() - began
        if passed - said >= _PACE_SECONDS:
            said = passed
            share = f", {done} of {steps}" if steps > 1 else ""
            print(f"building {what}, once: {step}{share} ({passed:.0f} s)", file=sys.stderr)

    yield say
    print(f"built {what} in {time.monotonic() - began:.0f} s", file=sys.stderr)


def prebuild(names: list[str]) -> None:
    """Build the models of the presets `names` that are not there."""
    with observed(_lines):
        for name in names:
            model_library(PRESETS[name], packed=True)


if __name__ == "__main__":
    try:
        prebuild(sys.argv[1:])
    except SystolError as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(error.exit_status)
