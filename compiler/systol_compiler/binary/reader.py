"""Reads binaries from strangers: nothing in a file is believed before it is checked.

The checks, in order: the size; the identification and the format version; the checksum, which
finds every accident; the bounds of header, section table and sections; the manifest field by
field; and at last that the file is, byte for byte, the one that the writer makes of what was read.
The last one leaves a forger nothing to say: no hidden bytes, no overlaps, no second symbol table.
"""

import hashlib
import mmap
from pathlib import Path

import numpy as np

from systol_compiler.binary import elf
from systol_compiler.binary.manifest import MAX_MANIFEST_BYTES
from systol_compiler.binary.model import CompiledModel
from systol_compiler.binary.parse_manifest import parse_manifest
from systol_compiler.binary.writer import NOTE_CHUNK, unsealed_chunks
from systol_hw.errors import BinaryFormatError, InputError

_STEP = 1 << 20
_MAX_SECTION_NAME = 32
"""Characters; names may share their bytes, so that long ones would add up to more than the file."""
_REMEDY = "compile the model again, or fetch the file again"


def load(path: str | Path) -> CompiledModel:
    """The model in the binary `path`; code and weights are views of the mapped file.

    Raises
    ------
    InputError
        The file cannot be opened.
    BinaryFormatError
        The file is no binary of this version, or is damaged.
    """
    try:
        with Path(path).open("rb") as stream:
            if stream.seek(0, 2) == 0:
                raise BinaryFormatError(f"{path}: the file is empty; {_REMEDY}")
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return parse(memoryview(data))
    except BinaryFormatError as error:
        raise BinaryFormatError(f"{path}: {error}; {_REMEDY}") from error


def parse(data: memoryview) -> CompiledModel:
    """The model in the bytes of a binary; raises `BinaryFormatError`."""
    check_identity(data)
    check_digest(data)
    sections = read_sections(data)

    def contents(name: str) -> np.ndarray:
        if name not in sections:
            raise BinaryFormatError(f"there is no section {name}")
        section = sections[name]
        return np.frombuffer(data, np.uint8, count=section.size, offset=section.offset)

    manifest = contents(".systol.manifest")
    if manifest.size > MAX_MANIFEST_BYTES:
        raise BinaryFormatError(f"the manifest has more than {MAX_MANIFEST_BYTES} bytes")
    model = parse_manifest(manifest.tobytes(), contents)
    _check_canonical(data, model)
    return model


def check_identity(data: memoryview) -> None:
    """Check that this is a Systol binary of this version; raises `BinaryFormatError`."""
    if len(data) < elf.NOTE_OFFSET + elf.NOTE_BYTES or bytes(data[:4]) != b"\x7fELF":
        raise BinaryFormatError("not a Systol binary: it does not begin like an ELF file")
    if data[: elf.EI_NIDENT] != elf.pack_header(section_table_offset=0, sections=1)[:16]:
        version = data[8]
        if data[4:8] == bytes([2, 1, 1, elf.ABI_STANDALONE]) and version != elf.FORMAT_VERSION:
            raise BinaryFormatError(
                f"its format is version {version}; this Systol reads version {elf.FORMAT_VERSION}"
            )
        raise BinaryFormatError("not a Systol binary: its ELF identification is another machine's")
    note = data[elf.NOTE_OFFSET : elf.DIGEST_OFFSET]
    if note != elf.pack_note(bytes(elf.DIGEST_BYTES))[: -elf.DIGEST_BYTES]:
        raise BinaryFormatError("not a Systol binary, or damaged: its note is not where it belongs")


def check_digest(data: memoryview) -> None:
    """Check the SHA-256 of the whole file; raises `BinaryFormatError`."""
    end = elf.DIGEST_OFFSET + elf.DIGEST_BYTES
    hasher = hashlib.sha256(data[: elf.DIGEST_OFFSET])
    hasher.update(bytes(elf.DIGEST_BYTES))
    for start in range(end, len(data), _STEP):
        hasher.update(data[start : start + _STEP])
    if hasher.digest() != data[elf.DIGEST_OFFSET : end]:
        raise BinaryFormatError("damaged: its contents do not match its checksum")


def read_sections(data: memoryview) -> dict[str, elf.Section]:
    """The sections by name, in bounds and without overlap; raises `BinaryFormatError`."""
    header = elf.HEADER.unpack_from(data)
    table, count = header[6], header[12]
    if not 0 < count <= elf.MAX_SECTIONS:
        raise BinaryFormatError(f"it has {count} sections; 1..{elf.MAX_SECTIONS} are allowed")
    if data[: elf.HEADER.size] != elf.pack_header(section_table_offset=table, sections=count):
        raise BinaryFormatError("its ELF header has fields that no Systol binary has")
    if table + count * elf.SECTION.size != len(data):
        raise BinaryFormatError("its section table does not end where the file ends")
    entries = [
        elf.SECTION.unpack_from(data, table + index * elf.SECTION.size) for index in range(count)
    ]
    position = elf.HEADER.size
    for index, entry in enumerate(entries[1:], start=1):
        offset, size = entry[4], entry[5]
        if offset < position or size > table or offset > table - size:
            raise BinaryFormatError(
                f"section {index} (offset {offset}, {size} bytes) overlaps another part of the file"
            )
        position = offset + size
    strings = bytes(data[entries[-1][4] : entries[-1][4] + entries[-1][5]])
    sections: dict[str, elf.Section] = {}
    for entry in entries[1:]:
        end = strings.find(b"\0", entry[0], entry[0] + _MAX_SECTION_NAME + 1)
        name = strings[entry[0] : end].decode("ascii", "replace") if end >= 0 else ""
        if not name or name in sections:
            raise BinaryFormatError(
                "two sections have one name, or one has none, or has a name of more than "
                f"{_MAX_SECTION_NAME} characters"
            )
        sections[name] = elf.Section(
            name=name, type=entry[1], flags=entry[2], offset=entry[4], size=entry[5]
        )
    return sections


def _check_canonical(data: memoryview, model: CompiledModel) -> None:
    position = 0
    pieces = unsealed_chunks(model)
    # The checksum has been found right; hashing everything again would say no more.
    pieces[NOTE_CHUNK] = data[elf.NOTE_OFFSET : elf.NOTE_OFFSET + elf.NOTE_BYTES]
    for chunk in pieces:
        if not _equal(data[position : position + len(chunk)], memoryview(chunk)):
            raise BinaryFormatError(
                f"bytes {position}..{position + len(chunk) - 1} are not those that its contents "
                "call for"
            )
        position += len(chunk)
    if position != len(data):
        raise BinaryFormatError(f"{len(data) - position} bytes stand behind its end")


def _equal(a: memoryview, b: memoryview) -> bool:
    """Equality in steps: comparing arrays makes an array of the same size. What is a view of the
    file itself, as large weights are, need not be read again."""
    if len(a) == len(b) > 0 and _address(a) == _address(b):
        return True
    return len(a) == len(b) and all(
        np.array_equal(np.frombuffer(a[at : at + _STEP], np.uint8),
                       np.frombuffer(b[at : at + _STEP], np.uint8))
        for at in range(0, len(a), _STEP)
    )  # fmt: skip


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)
