"""The bundled models and images are what data/README.md says, and damaged idx files are refused."""

import gzip
import hashlib
import re
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from systol import bundled
from systol_hw.errors import InputError

DATA = bundled.model_path("mnist_mlp").parent
MAX_TOTAL_BYTES = 2_000_000
Labelled = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def accuracy(model: str, labelled: Labelled) -> float:
    session = onnxruntime.InferenceSession(bundled.model_path(model))
    (logits,) = session.run(["logits"], {"image": labelled[0]})
    return float((logits.argmax(axis=1) == labelled[1]).mean())


def stated_accuracy(model: str) -> float:
    """The share of 10,000 that data/README.md states for `model`."""
    row = re.search(rf"`{model}\.onnx` \|.*?([\d.]+) %", (DATA / "README.md").read_text())
    assert row is not None
    return float(row[1]) / 100


def test_readme_states_the_sha256_of_every_bundled_file() -> None:
    readme = (DATA / "README.md").read_text()
    files = sorted(path for path in DATA.iterdir() if path.suffix in (".onnx", ".npz"))
    assert [path.name for path in files] == [
        "docs_text.npz",
        "docs_text.onnx",
        "mnist_calibration.npz",
        "mnist_cnn.onnx",
        "mnist_mlp.onnx",
        "mnist_test.npz",
        "mnist_vit.onnx",
    ]
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"`{path.name}` | `{digest}`" in readme
    assert sum(path.stat().st_size for path in files) <= MAX_TOTAL_BYTES


@pytest.mark.parametrize("name", bundled.MODEL_NAMES)
def test_models_are_valid_and_self_contained(name: str) -> None:
    model = onnx.load(bundled.model_path(name), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(onnx.external_data_helper.uses_external_data(w) for w in model.graph.initializer)
    (image,), (logits,) = model.graph.input, model.graph.output
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, shape) == ("image", ["N", 1, 28, 28])
    shape = [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim]
    assert (logits.name, shape) == ("logits", ["N", 10])


def test_models_hold_the_layers_they_promise() -> None:
    def operators(name: str) -> list[str]:
        return [node.op_type for node in onnx.load(bundled.model_path(name)).graph.node]

    assert operators("mnist_mlp") == ["Flatten", "Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    block = ["Conv", "BatchNormalization", "Relu", "MaxPool"]
    assert operators("mnist_cnn") == [*block, *block, "Flatten", "Gemm"]


@pytest.mark.parametrize("name", bundled.MODEL_NAMES)
def test_models_take_any_batch_and_do_not_mix_its_images(name: str) -> None:
    session = onnxruntime.InferenceSession(bundled.model_path(name))
    images = bundled.test_images()[0][:7]
    (together,) = session.run(None, {"image": images})
    alone = [session.run(None, {"image": image[np.newaxis]})[0][0] for image in images]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-4)


def test_images_have_the_stated_shapes_ranges_and_balance() -> None:
    calibration = bundled.calibration_images()
    images, labels = bundled.test_images()
    assert calibration.shape == (500, 1, 28, 28)
    assert images.shape == (1000, 1, 28, 28)
    assert labels.shape == (1000,) and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [100] * 10
    for array in (calibration, images):
        assert array.dtype == np.float32
        assert array.min() == 0 and array.max() == 1
        assert len(np.unique(array.reshape(len(array), -1), axis=0)) == len(array)


def test_calibration_images_are_not_test_images() -> None:
    seen = {image.tobytes() for image in bundled.calibration_images()}
    assert not any(image.tobytes() in seen for image in bundled.test_images()[0])


@pytest.mark.parametrize("name", bundled.MODEL_NAMES)
def test_accuracy_on_the_bundled_images_is_near_the_stated_one(name: str) -> None:
    # A thousand images: one standard deviation of the share is 0.3 points.
    assert accuracy(name, bundled.test_images()) == pytest.approx(stated_accuracy(name), abs=0.01)


def test_the_image_transformer_is_as_accurate_as_stated() -> None:
    session = onnxruntime.InferenceSession(DATA / "mnist_vit.onnx")
    images, labels = bundled.test_images()
    (logits,) = session.run(["logits"], {"image": images})
    share = float((logits.argmax(axis=1) == labels).mean())
    assert share == pytest.approx(stated_accuracy("mnist_vit"), abs=0.01)


def test_the_text_transformer_is_as_accurate_as_stated() -> None:
    session = onnxruntime.InferenceSession(DATA / "docs_text.onnx")
    with np.load(DATA / "docs_text.npz", allow_pickle=False) as archive:
        texts = archive["test"]
        assert archive["calibration"].shape == texts.shape == (256, 65)
    (logits,) = session.run(["logits"], {"tokens": texts[:, :-1].astype(np.int64)})
    share = float((logits.argmax(axis=-1) == texts[:, 1:]).mean())
    # Windows overlap: a quarter of them says less than a quarter of the characters would.
    assert share == pytest.approx(stated_accuracy("docs_text"), abs=0.02)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", bundled.MODEL_NAMES)
def test_accuracy_on_the_full_test_set_is_the_stated_one(name: str, mnist_full: Labelled) -> None:
    # Float sums in another order may turn one image that sits on the fence, not two.
    assert accuracy(name, mnist_full) == pytest.approx(stated_accuracy(name), abs=1.5e-4)


@pytest.mark.slow
@pytest.mark.data
def test_bundled_test_images_are_the_first_hundred_of_each_digit(mnist_full: Labelled) -> None:
    images, labels = mnist_full
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == d)[:100] for d in range(10)]))
    bundled_images, bundled_labels = bundled.test_images()
    np.testing.assert_array_equal(bundled_images, images[chosen])
    np.testing.assert_array_equal(bundled_labels, labels[chosen])


def test_model_path_names_the_models_there_are() -> None:
    assert bundled.model_path("mnist_cnn.onnx") == bundled.model_path("mnist_cnn")
    with pytest.raises(InputError, match=r"'resnet'.*mnist_cnn, mnist_mlp"):
        bundled.model_path("resnet")
    with pytest.raises(InputError, match="no bundled model"):
        bundled.model_path("../mnist_mlp")


def test_to_model_input_refuses_what_is_not_grey_bytes() -> None:
    with pytest.raises(InputError, match=r"not float32 \[2, 28, 28\]"):
        bundled.to_model_input(np.zeros((2, 28, 28), np.float32))
    with pytest.raises(InputError, match=r"not uint8 \[2, 1, 28, 28\]"):
        bundled.to_model_input(np.zeros((2, 1, 28, 28), np.uint8))


# idx files


IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([7, 0, 9], np.uint8)
IMAGE_FILE = "t10k-images-idx3-ubyte"
LABEL_FILE = "t10k-labels-idx1-ubyte"
IMAGE_HEADER = struct.pack(">4I", 0x0803, 3, 28, 28)
LABEL_HEADER = struct.pack(">2I", 0x0801, 3)


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    """A directory with a well-formed test split of three images."""
    (tmp_path / IMAGE_FILE).write_bytes(IMAGE_HEADER + IMAGES.tobytes())
    (tmp_path / LABEL_FILE).write_bytes(LABEL_HEADER + LABELS.tobytes())
    return tmp_path


def test_idx_files_are_read(idx: Path) -> None:
    images, labels = bundled.load_mnist_idx(idx, "test")
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == [7, 0, 9] and labels.dtype == np.int64


def test_compressed_idx_files_are_read(idx: Path) -> None:
    for name in (IMAGE_FILE, LABEL_FILE):
        (idx / f"{name}.gz").write_bytes(gzip.compress((idx / name).read_bytes(), mtime=0))
        (idx / name).unlink()
    images, labels = bundled.load_mnist_idx(str(idx))
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGE_FILE, b"", "ends inside its 16-byte header"),
        (IMAGE_FILE, IMAGE_HEADER[:15], "ends inside its 16-byte header"),
        # The time of compression stays out: test processes must collect the same names.
        (IMAGE_FILE, gzip.compress(IMAGE_HEADER, mtime=0), "0x1f8b.*still compressed"),
        (IMAGE_FILE, LABEL_HEADER + bytes(8), "0x00000801 where .* 0x00000803"),
        (IMAGE_FILE, struct.pack(">4I", 0x0803, 3, 28, 27) + bytes(3 * 28 * 27), r"\[28, 27\]"),
        (IMAGE_FILE, struct.pack(">4I", 0x0803, 2**32 - 1, 28, 28), "declares 4294967295 items"),
        (IMAGE_FILE, IMAGE_HEADER + IMAGES.tobytes()[:-1], "2352 bytes, and holds 2351"),
        (IMAGE_FILE, IMAGE_HEADER + IMAGES.tobytes() + b"\0", "holds more"),
        (LABEL_FILE, LABEL_HEADER + b"\7\0", "3 items, 3 bytes, and holds 2"),
        (LABEL_FILE, struct.pack(">2I", 0x0801, 2) + b"\7\0", "3 images and .* 2 labels"),
        (LABEL_FILE, LABEL_HEADER + b"\7\12\1", "0 to 9: .* holds 10 at position 1"),
    ],
)
def test_damaged_idx_files_are_refused_by_name(
    idx: Path, name: str, content: bytes, message: str
) -> None:
    (idx / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        bundled.load_mnist_idx(idx)
    assert str(idx / name) in str(caught.value)


def test_damaged_compression_is_refused(idx: Path) -> None:
    whole = gzip.compress((idx / IMAGE_FILE).read_bytes(), mtime=0)
    (idx / IMAGE_FILE).unlink()
    damaged = idx / f"{IMAGE_FILE}.gz"
    for content in (whole[:-20], b"not gzip", whole[:20] + bytes(20) + whole[40:]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            bundled.load_mnist_idx(idx)
        assert str(damaged) in str(caught.value)


def test_missing_files_and_splits_are_named(idx: Path) -> None:
    with pytest.raises(InputError, match="no file train-images-idx3-ubyte"):
        bundled.load_mnist_idx(idx, "train")
    with pytest.raises(InputError, match="'train' or 'test', not 'valid'"):
        bundled.load_mnist_idx(idx, "valid")  # type: ignore[arg-type]
