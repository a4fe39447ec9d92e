"""Waveform files: which formats there are, and whether one can be written."""

import os
from pathlib import Path

from systol_hw.errors import InputError

__all__ = ["WAVE_FORMATS", "not_written", "waves_format"]

WAVE_FORMATS = ("vcd", "fst")
"""Formats, which are also the files' suffixes."""


def waves_format(path: Path, formats: tuple[str, ...] = WAVE_FORMATS) -> str:
    """The format that the name of a waveform file asks for.

    Nothing is written yet: what must be done before the first cycle can still fail, and an older
    file of that name stands until then. From there on the file is drawn into directly, so that a
    run that ends in a fault, is interrupted or crashes leaves what it had drawn.

    Raises
    ------
    InputError
        If `formats` has no such format, or the file cannot be written.
    """
    name = path.suffix.removeprefix(".")
    if name not in formats:
        endings = " or ".join(f".{item}" for item in formats)
        raise InputError(f"{path}: a waveform file must end in {endings}")
    if path.is_fifo():
        if name == "fst":
            raise InputError(f"{path} is a pipe, and an .fst file is not written in order")
        return name  # its reader would take a writer that comes and goes for the end
    target = path.resolve()  # of a link, it is the file at its end that is made and removed
    existed = target.exists()
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666))
        if not existed:
            target.unlink()
    except OSError as error:
        raise not_written(path, error) from error
    return name


def not_written(path: Path, error: OSError) -> InputError:
    """What to raise if writing the waveform file `path` failed."""
    return InputError(f"{path} cannot be written: {error.strerror or error}")
