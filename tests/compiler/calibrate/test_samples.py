"""Calibration data in every form."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from small_graphs import text_graph
from systol_compiler.calibrate.inputs.images import ImageFolder
from systol_compiler.calibrate.inputs.samples import CalibrationData, Samples, random_samples
from systol_compiler.graph.float_graph import Graph
from systol_hw.errors import InputError

PAIR = text_graph(
    "g (float[2, 3] a, int32[2, 4] b) => (float[2, 3] y, int32[2, 4] z) { y = Neg(a) z = Neg(b) }",
    canonical=False,
)
ONE = text_graph("g (float[1, 3] a) => (float[1, 3] y) { y = Neg(a) }", canonical=False)


def feeds(graph: Graph, data: CalibrationData | None, most: int = 100) -> list[tuple[float, int]]:
    samples = Samples(graph, data, "calibration", most)
    return [(float(f["a"][0, 0]), rows) for f, rows in samples.runs()]


def ramp(count: int) -> np.ndarray:
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1)


def test_samples_come_in_batches_and_the_last_is_filled_up() -> None:
    data = {"a": ramp(5), "b": np.zeros((5, 4), np.int32)}
    samples = Samples(PAIR, data, "calibration", 100)
    runs = list(samples.runs())
    assert [rows for _, rows in runs] == [2, 2, 1]
    assert [run["a"][:, 0].tolist() for run, _ in runs] == [[0, 1], [2, 3], [4, 0]]
    assert samples.count == 5
    assert runs[0][0]["b"].dtype == np.int32


def test_an_iterator_of_pieces_is_the_same_as_one_array() -> None:
    pieces = ({"a": ramp(7)[i : i + 3]} for i in range(0, 7, 3))
    assert feeds(ONE, pieces) == feeds(ONE, ramp(7)) == [(float(i), 1) for i in range(7)]


def test_an_endless_iterator_stops_and_says_so() -> None:
    def endless() -> Iterator[dict[str, np.ndarray]]:
        while True:
            yield {"a": ramp(1)}

    samples = Samples(ONE, endless(), "calibration", 10)
    assert len(list(samples.runs())) == 10
    assert "after 10 samples" in samples.note


def test_the_first_samples_can_be_had_again() -> None:
    samples = Samples(ONE, iter([{"a": ramp(50)}]), "calibration", 100)
    assert sum(rows for _, rows in samples.runs()) == 50
    assert [float(run["a"][0, 0]) for run, _ in samples.kept(4)] == [0, 1, 2, 3]


def test_npz_files_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=ramp(3))
    assert feeds(ONE, tmp_path / "data.npz") == [(0.0, 1), (1.0, 1), (2.0, 1)]
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="npz file"):
        feeds(ONE, tmp_path / "bad.npz")


def test_random_values_say_what_they_are_and_are_the_same_each_time() -> None:
    samples = Samples(PAIR, "random", "calibration", 100)
    first = list(samples.runs())
    assert "random" in samples.note and len(first) == 4
    again = list(Samples(PAIR, "random", "calibration", 100).runs())
    np.testing.assert_array_equal(first[0][0]["a"], again[0][0]["a"])


def test_random_indices_stay_inside_what_they_look_up() -> None:
    graph = text_graph(
        """g (int64[1, 9] ids) => (float[1, 9, 2] y) {
            i = Identity(ids)  e = Gather(table, i)  y = Neg(e)
        }""",
        {"table": np.zeros((37, 2), np.float32)},
        canonical=False,
    )
    values = random_samples(graph, 50, 0)["ids"]
    assert values.min() >= 0 and 30 < values.max() < 37


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "needs sample inputs"),
        ({"a": ramp(2)}, "name every input once"),
        ({"a": ramp(2)[:, :2], "b": np.zeros((2, 4), np.int32)}, "samples must be"),
        ({"a": ramp(2), "b": np.zeros((3, 4), np.int32)}, "same number of samples"),
        ({"a": ramp(2).astype(int), "b": np.zeros((2, 4), np.int32)}, "samples must be float32"),
        ({"a": ramp(2), "b": np.zeros((2, 4))}, "samples must be integers"),
        ({"a": ramp(2), "b": np.full((2, 4), 2**40)}, "must be integers in"),
        ({"a": ramp(2) * np.nan, "b": np.zeros((2, 4), np.int32)}, "must be finite"),
        ({"a": ramp(0), "b": np.zeros((0, 4), np.int32)}, "at least one"),
        (ramp(2), "has inputs"),
        (iter([]), "at least one sample"),
    ],
)
def test_wrong_data_is_refused(data: CalibrationData | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(Samples(PAIR, data, "calibration", 10).runs())


def images(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[8:12, 13:17, 2] = 255, 51, 102
    image.fromarray(pixels).save(folder / "b.png")
    image.fromarray(pixels[..., 0]).save(folder / "a.png")
    (folder / "notes.txt").write_text("no image")


def test_image_folders_are_preprocessed_as_stated(tmp_path: Path) -> None:
    images(tmp_path)
    folder = ImageFolder(
        path=tmp_path, crop=(4, 4), mean=(0.5, 0.2, 0.0), std=(0.5, 1.0, 2.0)
    )
    gray, colour = folder
    assert colour.shape == (3, 4, 4) and colour.dtype == np.float32
    np.testing.assert_allclose(colour[:, 0, 0], [1.0, 0.0, 0.2], atol=1e-6)
    np.testing.assert_allclose(gray[:, 0, 0], [1.0, 0.8, 0.5], atol=1e-6)
    turned = ImageFolder(path=tmp_path, crop=(4, 4), order="BGR", layout="NHWC", raw=True)
    assert turned.load(tmp_path / "b.png")[0, 0].tolist() == [102, 51, 255]
    small = ImageFolder(path=tmp_path, crop=(10, 10), resize=10, gray=True)
    assert small.load(tmp_path / "b.png").shape == (1, 10, 10)


def test_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    images(tmp_path)
    with pytest.raises(InputError, match="at least as large as the crop"):
        list(ImageFolder(path=tmp_path, crop=(64, 64)))
    (tmp_path / "0.png").write_bytes(b"\x89PNG no")
    with pytest.raises(InputError, match=r"0\.png.*cannot be decoded"):
        list(ImageFolder(path=tmp_path, crop=(4, 4)))
    with pytest.raises(InputError, match="has none"):
        list(ImageFolder(path=tmp_path / "..", crop=(4, 4)))
    with pytest.raises(InputError, match="cannot be read"):
        list(ImageFolder(path=tmp_path / "none", crop=(4, 4)))


def test_a_folder_calibrates_a_model(tmp_path: Path) -> None:
    images(tmp_path)
    graph = text_graph("g (float[1, 3, 4, 4] a) => (float[1, 3, 4, 4] y) { y = Neg(a) }")
    samples = Samples(graph, ImageFolder(path=tmp_path, crop=(4, 4)), "calibration", 10)
    assert [run["a"].shape for run, _ in samples.runs()] == [(1, 3, 4, 4)] * 2
