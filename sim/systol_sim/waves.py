"""Waveform files: which formats there are."""

from pathlib import Path

from systol_hw.errors import InputError

__all__ = ["WAVE_FORMATS", "waves_format"]

WAVE_FORMATS = ("vcd", "fst")
"""Formats, which are also the files' suffixes."""


def waves_format(path: Path, formats: tuple[str, ...] = WAVE_FORMATS) -> str:
    """The format that the name of a waveform file asks for; the file is made, empty.

    Raises
    ------
    InputError
        If `formats` has no such format, or the file cannot be written.
    """
    name = path.suffix.removeprefix(".")
    if name not in formats:
        endings = " or ".join(f".{item}" for item in formats)
        raise InputError(f"{path}: a waveform file must end in {endings}")
    try:
        path.write_bytes(b"")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return name
