"""The `systol` command and `python -m systol`: answers an interrupt from the first moment."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    # `python -m` puts the working directory first on the path; what lies there is not Systol's.
    del sys.path[0]


def main() -> int:
    """Load the command line, which takes a second, and run it; returns the exit status."""
    try:
        from systol_hw.termination import end_in_order

        end_in_order()
        from systol.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("systol: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
