"""The `systol` command and `python -m systol`: answers an interrupt from the first moment."""

import os
import sys
import threading

if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    # `python -m` puts the working directory first on the path; what lies there is not Systol's.
    del sys.path[0]


def main() -> int:
    """Load the command line, which takes a second, and run it; returns the exit status."""
    try:
        from systol_hw.termination import end_in_order

        end_in_order()
        loaded = threading.Event()
        if sys.argv[1:2] == ["demo"]:
            threading.Thread(target=_say_loading, args=(loaded,), daemon=True).start()
        from systol.cli import main as run

        loaded.set()
        return run()
    except KeyboardInterrupt:
        print("systol: interrupted", file=sys.stderr)
        return 130


def _say_loading(loaded: threading.Event) -> None:
    """From a cold disk, loading takes longer than a newcomer waits without a word."""
    pace = 1.0
    while not loaded.wait(pace):
        print("loading ...", file=sys.stderr)
        pace = 4.0


if __name__ == "__main__":
    sys.exit(main())
