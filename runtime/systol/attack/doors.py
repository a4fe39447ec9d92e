"""The doors that strangers' files come in by: what is mutated, and which command reads it."""

import io
import json
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from systol import bundled
from systol.attack.mutate import mutate_bytes, mutate_json, mutate_message, mutate_text
from systol.attack.sealed import mutate_binary
from systol.selftest import tiny_input, tiny_model
from systol_hw.arch import PRESETS, dump_arch
from systol_hw.isa import OPERATION_BY_NAME
from systol_hw.program_text import format_program
from systol_sim.fuzz.campaign import fuzz
from systol_sim.random_programs.generate import generate

SIZE_LIMIT = 400_000
"""Bytes of the largest seed."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """One kind of file.

    Parameters
    ----------
    name
    suffix
        Of the mutants' files.
    seeds
        Good files, made once in a folder that stays.
    mutant
        Makes a mutant of one of them.
    command
        The words of `systol` that read a file, given its path and that folder.
    shallow
        What the first check of a header says: a mutant that passes it is counted as deep.
    """

    name: str
    suffix: str
    seeds: Callable[[Path], list[bytes]]
    mutant: Callable[[random.Random, bytes], bytes]
    command: Callable[[random.Random, Path, Path], list[str]]
    shallow: str = r"\Z."


def _binary_seeds(folder: Path) -> list[bytes]:
    path = folder / "seed.elf"
    tiny_model().save(path)
    return [path.read_bytes()]


def _check(rng: random.Random, path: Path, folder: Path) -> list[str]:
    return ["disasm", str(path), "--code"] if rng.random() < 0.3 else ["check", str(path)]


def _onnx_seeds(folder: Path) -> list[bytes]:
    paths = sorted(bundled.model_path("mnist_cnn").parent.glob("*.onnx"))
    return [path.read_bytes() for path in paths if path.stat().st_size <= SIZE_LIMIT]


def _onnx_mutant(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    model = onnx.ModelProto.FromString(data)
    mutate_message(rng, model)
    return bytes(model.SerializeToString())


def _arrays_seeds(folder: Path) -> list[bytes]:
    tiny_model().save(folder / "tiny.elf")
    seeds = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, x=tiny_input())
        seeds.append(stream.getvalue())
    stream = io.BytesIO()
    np.save(stream, tiny_input())
    return [*seeds, stream.getvalue()]


_HEADER = re.compile(rb"\{'descr'[^\n]*\n")


def _arrays_mutant(rng: random.Random, data: bytes) -> bytes:
    """Bytes, or the text of an array's header, its length kept true."""
    kind = rng.randrange(3)
    if kind == 0:
        return mutate_bytes(rng, data)
    if data[:2] == b"PK":
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
            for member in old.infolist():
                inner = old.read(member)
                name = rng.choice((member.filename, member.filename, "../x.npy", "x", "é\x1b.npy"))
                method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
                for _ in range(rng.choice((1, 1, 2))):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        new.writestr(name, _arrays_mutant(rng, inner), method)
        packed = stream.getvalue()
        return mutate_bytes(rng, packed) if kind == 1 else packed
    match = _HEADER.search(data)
    if match is None:
        return mutate_bytes(rng, data)
    words = ("'<f4'", "'|O'", "'<U9'", "(1 << 62,)", "(2L,)", "None", "True", "(-1,)", "'V8'")
    text = mutate_text(rng, match[0].decode("latin-1"), words).encode("utf-8", "replace")[:60_000]
    return data[:8] + struct.pack("<H", len(text)) + text + data[match.end() :]


def _toml_mutant(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    words = ("rows", "[host_port]", "[[a]]", "a.b.c", "1979-05-27", "inf", '"""', "true", "# x")
    return mutate_text(rng, data.decode(), words).encode("utf-8", "surrogatepass")


def _texts(folder: Path) -> list[bytes]:
    programs = [generate(PRESETS["nano"], seed, instructions=20).program for seed in range(3)]
    return [format_program(program).encode() for program in programs]


def _text_mutant(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.15:
        return mutate_bytes(rng, data)
    words = (*OPERATION_BY_NAME, ".arch", ".window", ".bytes", ".code", ".weight_image", ".word",
             "wait=load", "signal=store", "2147483648", "0xffffffff", "drain=1")  # fmt: skip
    return mutate_text(rng, data.decode(), words).encode("utf-8", "surrogatepass")


def _json_mutant(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    return json.dumps(mutate_json(rng, json.loads(data))).encode()


def _report_seeds(folder: Path) -> list[bytes]:
    from systol.execution.session import Device
    from systol.results.report import make_report

    report = make_report(Device("sim").run(tiny_model(), {"x": tiny_input()}))
    data = json.dumps(report).encode()
    (folder / "report.json").write_bytes(data)
    return [data]


def _state_seeds(folder: Path) -> list[bytes]:
    path = folder / "state.json"
    fuzz(3, 0, state=path)
    return [path.read_bytes()]


DOORS: dict[str, Door] = {
    door.name: door
    for door in (
        Door(
            name="elf", suffix=".elf", seeds=_binary_seeds, mutant=mutate_binary, command=_check,
            shallow=r"not a Systol binary|its format is version|the file is empty|checksum",
        ),
        Door(
            name="onnx", suffix=".onnx", seeds=_onnx_seeds, mutant=_onnx_mutant,
            command=lambda rng, path, folder: ["inspect", str(path)],
            shallow=r"is not an ONNX file|cannot be read",
        ),
        Door(
            name="npz", suffix=".npz", seeds=_arrays_seeds, mutant=_arrays_mutant,
            command=lambda rng, path, folder: [
                "run", str(folder / "tiny.elf"), "--input", str(path)
            ],
        ),
        Door(
            name="toml", suffix=".toml",
            seeds=lambda folder: [dump_arch(arch).encode() for arch in PRESETS.values()],
            mutant=_toml_mutant,
            command=lambda rng, path, folder: ["machines", "show", str(path)],
        ),
        Door(name="text", suffix=".txt", seeds=_texts, mutant=_text_mutant, command=_check),
        Door(
            name="counters", suffix=".json", seeds=_report_seeds, mutant=_json_mutant,
            command=lambda rng, path, folder: [
                "compare", str(path), *([str(folder / "report.json")] if rng.random() < 0.5 else [])
            ],
        ),
        Door(
            name="state", suffix=".json", seeds=_state_seeds, mutant=_json_mutant,
            command=lambda rng, path, folder: [
                "fuzz", "--programs", "1", "--state", str(path), "--resume"
            ],
        ),
    )
}  # fmt: skip
"""By name."""


@cache
def seeds_of(name: str, folder: Path) -> list[bytes]:
    """The seeds of the door called `name`, made once."""
    return DOORS[name].seeds(folder)
