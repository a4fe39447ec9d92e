"""The version of Systol."""

from importlib import metadata


def version() -> str:
    """The version of the installed package, or of the source tree it runs from."""
    try:
        return metadata.version("systol")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
