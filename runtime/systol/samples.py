"""Samples from files: arrays by input name, folders of such files, images, or random values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systol.array_files import Array, read_arrays
from systol_compiler.calibrate.inputs.images import SUFFIXES, ImageFolder
from systol_compiler.calibrate.inputs.preprocessing import parse_preprocessing
from systol_compiler.calibrate.inputs.samples import RANDOM, CalibrationData
from systol_hw.errors import InputError

_ARRAYS = (".npz", ".npy")


def open_samples(place: str | Path, preprocessing: str = "") -> CalibrationData:
    """What `place` holds: samples by input name, one array for a model's only input, images, or
    the word "random".

    Parameters
    ----------
    place
        An .npz or .npy file, a folder of such files (joined in the order of their names), or a
        folder of PNG and JPEG images.
    preprocessing
        How images become items (`calibrate.preprocessing.SYNTAX`).

    Raises
    ------
    InputError
        A file cannot be read, files do not fit each other, or images come without preprocessing.
    """
    if str(place) == RANDOM:
        return RANDOM
    path = Path(place)
    if not path.is_dir():
        return _unnamed(read_arrays(path, ""))
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    files = [path / name for name in names if name.endswith(_ARRAYS)]
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    if images and not files:
        return _images(path, preprocessing)
    if not files:
        raise InputError(
            f"{path} holds no samples: no file ends in {', '.join((*_ARRAYS, *SUFFIXES))}"
        )
    return _join(path, files)


def read_inputs(
    place: str | Path, names: Sequence[str], preprocessing: str = ""
) -> dict[str, Array]:
    """Inputs of a model by name: arrays from a file, or an image or a folder of images.

    Parameters
    ----------
    names
        The model's inputs; one array or images are for a model of one.
    preprocessing
        How images become items.

    Raises
    ------
    InputError
        A file cannot be read or holds something else.
    """
    only = names[0] if len(names) == 1 else None
    images = image_files(place, preprocessing)
    if images is None:
        return read_arrays(place, only, names)
    if only is None:
        raise InputError(f"images are for a model of one input, not of {', '.join(names)}")
    return {only: images}


def image_files(place: str | Path, preprocessing: str) -> Array | None:
    """The image at `place`, or all images of the folder, as items [n, ...]; None if it is neither.

    Raises
    ------
    InputError
        An image is damaged, or there is no preprocessing.
    """
    path = Path(place)
    if path.suffix.lower() in SUFFIXES:
        return _images(path.parent, preprocessing).load(path)[None]
    if path.is_dir():
        return np.stack(list(_images(path, preprocessing)))
    return None


def _images(folder: Path, preprocessing: str) -> ImageFolder:
    if not preprocessing:
        raise InputError(
            f"{folder} holds images: say with --preprocess how they become the model's input"
        )
    return parse_preprocessing(preprocessing, folder)


def _join(folder: Path, files: list[Path]) -> dict[str, Array] | Array:
    parts: dict[str, list[Array]] = {}
    for file in files:
        for name, array in read_arrays(file, "").items():
            parts.setdefault(name, []).append(array)
    try:
        return _unnamed({name: np.concatenate(arrays) for name, arrays in parts.items()})
    except ValueError as error:
        raise InputError(f"the files of {folder} do not fit each other: {error}") from error


def _unnamed(arrays: dict[str, Array]) -> dict[str, Array] | Array:
    """One array without a name, which the compiler takes for a model's only input, or `arrays`."""
    return arrays[""] if set(arrays) == {""} else arrays
