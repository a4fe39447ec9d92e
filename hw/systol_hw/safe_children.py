"""Child processes that run no code from the working directory.

Python puts that directory first on the path of `-m` and `-c`: a file there that is called like a
package would run in its place. `-P` prevents it for the processes that are started here; other
libraries start theirs without.

Ref: Python, "Command line and environment", `-P` and PYTHONSAFEPATH.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "PYTHONSAFEPATH"


@contextmanager
def safe_children() -> Iterator[None]:
    """A block in which other libraries start Python: it leaves the working directory alone."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
