"""What may have been meant by a name that nothing has."""

import difflib
from collections.abc import Iterable
from itertools import islice

from systol_hw.shown import printable

_MOST_CHARACTERS, _MOST_NAMES = 64, 200
"""What is compared: names of strangers may be long and many, and comparing takes the product."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean a or b?)"`, or nothing where no name is near."""
    names = [item[:_MOST_CHARACTERS] for item in islice(known, _MOST_NAMES)]
    close = difflib.get_close_matches(name[:_MOST_CHARACTERS], names, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(map(printable, close))}?)" if close else ""
