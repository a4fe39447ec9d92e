"""Preprocessing of images in one line of text, as the command line and a binary hold it."""

from pathlib import Path
from typing import Any, Final

from systol_compiler.calibrate.inputs.images import ImageFolder
from systol_hw.errors import InputError

NAMED: Final = {
    "imagenet": "resize=256,crop=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225",
    "unit": "mean=0,std=1",
}
"""Words that stand for usual preprocessing, and may stand before other settings."""
_FLAGS: Final = {
    "stretch": ("stretch", True),
    "unscaled": ("scaled", False),
    "gray": ("gray", True),
    "raw": ("raw", True),
    "BGR": ("order", "BGR"),
    "RGB": ("order", "RGB"),
    "NHWC": ("layout", "NHWC"),
    "NCHW": ("layout", "NCHW"),
}
_LARGEST: Final = 1 << 15
SYNTAX: Final = (
    "settings joined by commas: crop=H or HxW (needed), resize=N, mean=A/B/C, std=A/B/C, and the "
    f"words {', '.join(_FLAGS)}; or first one of {', '.join(NAMED)}"
)


def parse_preprocessing(text: str, folder: Path) -> ImageFolder:
    """The images of `folder` (or of any other place, by `ImageFolder.load`), as `text` says.

    For example ``imagenet``, ``crop=28,gray``, or ``imagenet,NHWC``.

    Raises
    ------
    InputError
        The text says something else than `SYNTAX`.
    """
    settings: dict[str, Any] = {}
    for word in ",".join(NAMED.get(word, word) for word in text.split(",")).split(","):
        if word in _FLAGS:
            name, value = _FLAGS[word]
            settings[name] = value
            continue
        name, equals, number = word.partition("=")
        if not equals or name not in _READERS:
            raise InputError(f"preprocessing {text!r}: {word!r} means nothing; write {SYNTAX}")
        try:
            settings[name] = _READERS[name](number)
        except ValueError as error:
            raise InputError(
                f"preprocessing {text!r}: {number!r} is no {name}; write {SYNTAX}"
            ) from error
    if "crop" not in settings:
        raise InputError(f"preprocessing {text!r} must say crop; write {SYNTAX}")
    return ImageFolder(path=folder, **settings)


def _pixels(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= value <= _LARGEST:
        raise ValueError(text)
    return value


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    return _pixels(height), _pixels(width if cross else height)


def _channels(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("/"))


_READERS: Final = {"crop": _size, "resize": _pixels, "mean": _channels, "std": _channels}
