"""Preprocessing of images, in a line of text."""

from pathlib import Path

import pytest

from systol_compiler.calibrate.inputs.images import ImageFolder
from systol_compiler.calibrate.inputs.preprocessing import parse_preprocessing
from systol_hw.errors import InputError

HERE = Path("images")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crop=28,gray", ImageFolder(path=HERE, crop=(28, 28), gray=True)),
        ("crop=32x48,NHWC,BGR,raw", ImageFolder(
            path=HERE, crop=(32, 48), layout="NHWC", order="BGR", raw=True)),
        ("imagenet", ImageFolder(
            path=HERE, crop=(224, 224), resize=256, mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225))),
        ("imagenet,crop=192,unscaled", ImageFolder(
            path=HERE, crop=(192, 192), resize=256, mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225), scaled=False)),
        ("resize=40,stretch,crop=40,mean=0.5,std=0.25", ImageFolder(
            path=HERE, crop=(40, 40), resize=40, stretch=True, mean=(0.5,), std=(0.25,))),
    ],
)  # fmt: skip
def test_what_is_written_is_meant(text: str, expected: ImageFolder) -> None:
    assert parse_preprocessing(text, HERE) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' means nothing"),
        ("resize=256", "must say crop"),
        ("crop=0", "'0' is no crop"),
        ("crop=1e9", "'1e9' is no crop"),
        ("crop=99999", "is no crop"),
        ("crop=28x", "'28x' is no crop"),
        ("crop=28,mean=a/b", "'a/b' is no mean"),
        ("crop=28,mean=1/2", "one or three numbers"),
        ("crop=28,std=0", "must not be zero"),
        ("crop=28,std=nan", "one or three numbers"),
        ("crop=28,blur", "'blur' means nothing; write settings joined by commas"),
    ],
)
def test_everything_else_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_preprocessing(text, HERE)
