"""The models and images that come with the package, and a reader for the full MNIST files.

What is bundled, where it came from and how accurate it is stands in `data/README.md`, beside the
files. Nothing here uses the network.

Ref: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits" (the idx
file format: big-endian magic number, big-endian dimensions, raw bytes).
"""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from systol_hw.errors import InputError

Uint8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

MODEL_NAMES = ("mnist_cnn", "mnist_mlp")
"""Names that `model_path` knows."""

_DATA = Path(__file__).with_name("data")
_SIDE = 28
_CLASSES = 10
_IDX_PREFIX = {"train": "train", "test": "t10k"}
_IMAGE_MAGIC = 0x0803  # unsigned bytes, three dimensions
_LABEL_MAGIC = 0x0801  # unsigned bytes, one dimension
_MAX_ITEMS = 1_000_000  # refuses a damaged header before anything of that size is read


def model_path(name: str) -> Path:
    """Path of a bundled float32 ONNX model.

    Parameters
    ----------
    name : str
        One of `MODEL_NAMES`; a trailing ``.onnx`` is accepted. Every model takes ``image``
        (float32 [N, 1, 28, 28], 0 to 1) and gives ``logits`` (float32 [N, 10]).

    Raises
    ------
    InputError
        The name is not a bundled model's.
    """
    stem = name.removesuffix(".onnx")
    if stem not in MODEL_NAMES:
        raise InputError(
            f"no bundled model is called {name!r}; the bundled models are {', '.join(MODEL_NAMES)}"
        )
    return _DATA / f"{stem}.onnx"


def calibration_images() -> Float32Array:
    """Images to calibrate a quantizer with: float32 [500, 1, 28, 28], 0 to 1.

    Fifty of each digit from MNIST's *training* set, so that no test image shapes a scale.
    """
    with np.load(_DATA / "mnist_calibration.npz", allow_pickle=False) as archive:
        return to_model_input(archive["images"])


def test_images() -> tuple[Float32Array, Int64Array]:
    """Labelled images of MNIST's *test* set.

    Returns
    -------
    images : float32 [1000, 1, 28, 28], 0 to 1
        One hundred of each digit, in the test set's order.
    labels : int64 [1000]
        The digit each image shows, 0 to 9.
    """
    with np.load(_DATA / "mnist_test.npz", allow_pickle=False) as archive:
        return to_model_input(archive["images"]), archive["labels"].astype(np.int64)


# The name is the natural one for a user; pytest must not take it for a test.
test_images.__test__ = False  # type: ignore[attr-defined]


def to_model_input(images: Uint8Array) -> Float32Array:
    """Grey bytes as the bundled models want them.

    Parameters
    ----------
    images : uint8 [n, 28, 28]
        0 is background, 255 is full ink.

    Returns
    -------
    float32 [n, 1, 28, 28]
        ``byte / 255`` in float32, so 0 to 1.

    Raises
    ------
    InputError
        The array has another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE):
        raise InputError(
            f"images must be uint8 [n, {_SIDE}, {_SIDE}], not {images.dtype} {list(images.shape)}"
        )
    return images[:, np.newaxis].astype(np.float32) / np.float32(255)


def load_mnist_idx(
    directory: Path | str, split: Literal["train", "test"] = "test"
) -> tuple[Uint8Array, Int64Array]:
    """Read one half of MNIST, or of a data set in its format, from idx files.

    Parameters
    ----------
    directory
        Holds ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` (split ``train``) or
        the two files that start with ``t10k`` (split ``test``), each plain or with ``.gz``.
    split
        Which half to read.

    Returns
    -------
    images : uint8 [n, 28, 28]
    labels : int64 [n]
        0 to 9.

    Raises
    ------
    InputError
        A file is missing, is not an idx file of this kind, is shorter or longer than its header
        says, has images of another size, or the two files disagree.
    """
    if split not in _IDX_PREFIX:
        raise InputError(f"split must be 'train' or 'test', not {split!r}")
    prefix = _IDX_PREFIX[split]
    image_path = _find(Path(directory), f"{prefix}-images-idx3-ubyte")
    label_path = _find(Path(directory), f"{prefix}-labels-idx1-ubyte")
    images = _read_idx(image_path, _IMAGE_MAGIC, (_SIDE, _SIDE))
    labels = _read_idx(label_path, _LABEL_MAGIC, ())
    if len(images) != len(labels):
        raise InputError(
            f"every image needs one label: {image_path} holds {len(images)} images and "
            f"{label_path} {len(labels)} labels; take both from the same copy of the data set"
        )
    if labels.size and labels.max() >= _CLASSES:
        raise InputError(
            f"labels must be 0 to {_CLASSES - 1}: {label_path} holds {labels.max()} "
            f"at position {labels.argmax()}; fetch the file again"
        )
    return images, labels.astype(np.int64)


def _find(directory: Path, name: str) -> Path:
    for candidate in (directory / name, directory / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"no file {name} or {name}.gz in {directory}; name the directory that holds MNIST's "
        f"idx files"
    )


def _read_idx(path: Path, magic: int, item_shape: tuple[int, ...]) -> Uint8Array:
    """The bytes of one idx file, uint8 [n, *item_shape]; never reads past what it declares."""
    header = struct.Struct(f">{2 + len(item_shape)}I")  # magic, count, shape
    item_bytes = int(np.prod(item_shape, dtype=np.int64))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(header.size)
            if len(head) < header.size:
                raise InputError(
                    f"{path} ends inside its {header.size}-byte header; fetch the file again"
                )
            found, count, *shape = header.unpack(head)
            if found != magic:
                raise InputError(
                    f"{path} starts with {found:#010x} where an idx file of this kind has "
                    f"{magic:#010x}; check that the file is MNIST's and not still compressed"
                )
            if tuple(shape) != item_shape:
                raise InputError(f"{path} declares items of {shape}, not {list(item_shape)}")
            if count > _MAX_ITEMS:
                raise InputError(
                    f"{path} declares {count} items, more than {_MAX_ITEMS}; fetch the file again"
                )
            # One byte more than declared, to notice a file that is too long.
            body = stream.read(count * item_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}; fetch the file again") from error
    if len(body) != count * item_bytes:
        surplus = len(body) > count * item_bytes
        raise InputError(
            f"{path} declares {count} items, {count * item_bytes} bytes, and holds "
            f"{'more' if surplus else len(body)}; fetch the file again"
        )
    return np.frombuffer(body, np.uint8).reshape(count, *item_shape)
