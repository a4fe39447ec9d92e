"""A folder of images as calibration data, with every step of the preprocessing stated."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from systol_hw.errors import InputError, MissingToolError

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_CHANNELS_MOST: Final = 3
_PIXELS_MOST: Final = 1 << 27


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """PNG and JPEG files of a folder, in the order of their names, as float32 (or bytes).

    An image is decoded to RGB, its shorter side brought to `resize` (both to `resize` where
    `stretch`) by bilinear interpolation, its middle `crop` cut out, divided by 255 if `scaled`,
    then `(x - mean) / std` taken by channel; the channels are in the order `order` and lie as
    `layout` says.

    Attributes
    ----------
    path
        The folder; sub-folders are not read.
    crop
        (height, width) of the result.
    resize
        Pixels of the shorter side before the crop; None leaves the image as it is.
    mean, std
        One value for all channels, or three in the order of `order` (the first one counts for
        `gray`), in units after scaling.
    gray
        One channel, luminance, instead of three.
    raw
        Bytes (uint8) for a model with its own normalization: mean, std and scaled do not count.
    """

    path: Path
    crop: tuple[int, int]
    resize: int | None = None
    stretch: bool = False
    scaled: bool = True
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    order: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    gray: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or (self.resize is not None and self.resize < 1):
            raise InputError(
                f"image folder: crop and resize must be positive, but are {self.crop} and "
                f"{self.resize}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, _CHANNELS_MOST) or not all(map(isfinite, values)):
                raise InputError(
                    f"image folder: {name} must be one or three numbers, but is {values}"
                )
        if not all(self.std):
            raise InputError("image folder: std must not be zero; 1 leaves values as they are")

    def files(self) -> list[Path]:
        """The images, by name.

        Raises
        ------
        InputError
            The folder does not exist, or has no PNG or JPEG file.
        """
        try:
            found = sorted(p for p in self.path.iterdir() if p.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise InputError(
                f"image folder {str(self.path)!r} cannot be read ({error}); give a folder"
            ) from error
        if not found:
            raise InputError(
                f"image folder {str(self.path)!r} must hold {', '.join(SUFFIXES)} files, but has "
                "none; give another folder"
            )
        return found

    def __iter__(self) -> Iterator[npt.NDArray[np.float32] | npt.NDArray[np.uint8]]:
        for file in self.files():
            yield self.load(file)

    def load(self, file: Path) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
        """One image, preprocessed: [C, H, W] or [H, W, C].

        Raises
        ------
        InputError
            The file is damaged, or smaller than the crop.
        MissingToolError
            Pillow is not installed.
        """
        pixels = self._pixels(file)
        height, width = pixels.shape[:2]
        if height < self.crop[0] or width < self.crop[1]:
            raise InputError(
                f"image {str(file)!r}: it must be at least as large as the crop {self.crop}, but "
                f"is {height} x {width}; give resize"
            )
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        pixels = pixels[top : top + self.crop[0], left : left + self.crop[1]]
        if self.order == "BGR":
            pixels = pixels[..., ::-1]
        if self.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        if self.raw:
            return np.ascontiguousarray(pixels)
        real = pixels.astype(np.float32)
        if self.scaled:
            real /= np.float32(255)
        channels = (-1, 1, 1) if self.layout == "NCHW" else (-1,)
        mean, std = (
            np.array(v[: 1 if self.gray else None], np.float32).reshape(channels)
            for v in (self.mean, self.std)
        )
        return np.ascontiguousarray((real - mean) / std)

    def _pixels(self, file: Path) -> npt.NDArray[np.uint8]:
        """[H, W, C] bytes, after resizing."""
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise MissingToolError(
                "reading images needs Pillow, which is not installed; pip install 'systol[images]'"
            ) from error
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as opened:
                if opened.width * opened.height > _PIXELS_MOST:
                    raise ValueError(f"more than {_PIXELS_MOST} pixels")
                upright = ImageOps.exif_transpose(opened)
                image = upright.convert("L" if self.gray else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(
                f"image {str(file)!r} cannot be decoded ({error}); remove or convert it"
            ) from error
        if self.resize is not None:
            size = self.resize, self.resize
            if not self.stretch:
                # Ref: torchvision.transforms.Resize: the longer side is cut to an integer.
                short = min(image.size)
                size = (
                    int(self.resize * image.width / short),
                    int(self.resize * image.height / short),
                )
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8)
        return pixels.reshape(*pixels.shape[:2], -1)
