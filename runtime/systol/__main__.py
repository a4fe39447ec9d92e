"""The `systol` command and `python -m systol`: answers an interrupt from the first moment."""

import sys


def main() -> int:
    """Load the command line, which takes a second, and run it; returns the exit status."""
    try:
        from systol.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("systol: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
