"""Writes a compiled model as an ELF file. One model has exactly one file."""

import hashlib
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from systol_compiler.binary import elf
from systol_compiler.binary.manifest import dump_manifest
from systol_compiler.binary.network import MachineSegment, Network
from systol_hw.arch import INSTRUCTION_BYTES
from systol_hw.atomic_file import replacing

Chunk: TypeAlias = bytes | memoryview
NOTE_CHUNK = 1
"""Place of the note among the pieces of a file."""
_LOCAL_SYMBOLS = 1
"""The null symbol: ELF wants local symbols first, and their number in `sh_info`."""


def save(model: Network, path: str | Path) -> None:
    """Write `model` to `path` (docs/binary.md); a crash leaves the old file or none.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    with replacing(path) as stream:
        for chunk in chunks(model):
            stream.write(chunk)


def chunks(model: Network) -> list[Chunk]:
    """The bytes of the file of `model`, piece by piece; large pieces are views, not copies."""
    pieces = unsealed_chunks(model)
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    pieces[NOTE_CHUNK] = elf.pack_note(hasher.digest())
    return pieces


def unsealed_chunks(model: Network) -> list[Chunk]:
    """As `chunks`, with zeros for the checksum.

    Header, note, then the other sections in order, each padded; the section table last.
    """
    contents: list[tuple[elf.Section, Chunk]] = [
        (elf.Section(name=".systol.manifest", type=elf.SHT_PROGBITS), dump_manifest(model))
    ]
    symbols, names = [elf.SYMBOL.pack(0, 0, 0, 0, 0, 0)], []
    for index, segment in enumerate(model.segments):
        if not isinstance(segment, MachineSegment):
            contents.append((_data(f".onnx.{index}"), segment.model))
            continue
        text_number = len(contents) + 2  # behind the null section and the note
        program = segment.program
        text = _data(f".text.{index}", elf.SHF_ALLOC | elf.SHF_EXECINSTR)
        contents.append((text, _view(program.code.reshape(-1))))
        weights = _data(f".weights.{index}", elf.SHF_ALLOC)
        contents.append((weights, _view(program.weight_image)))
        for item in segment.layers:
            names.append((item.layer, text_number, item.first, item.count))
    strings, offsets = elf.pack_strings([name for name, *_ in names])
    for (_, text_section, first, count), offset in zip(names, offsets, strict=True):
        symbols.append(
            elf.SYMBOL.pack(
                offset,
                elf.STB_GLOBAL_FUNC,
                0,
                text_section,
                first * INSTRUCTION_BYTES,
                count * INSTRUCTION_BYTES,
            )
        )
    contents.append(
        (
            elf.Section(
                name=".symtab",
                type=elf.SHT_SYMTAB,
                link=len(contents) + 3,
                info=_LOCAL_SYMBOLS,
                entry_size=elf.SYMBOL.size,
            ),
            b"".join(symbols),
        )
    )
    contents.append((elf.Section(name=".strtab", type=elf.SHT_STRTAB), strings))
    all_names = ["", ".note.systol", *(section.name for section, _ in contents), ".shstrtab"]
    section_names, name_offsets = elf.pack_strings(all_names)
    contents.append((elf.Section(name=".shstrtab", type=elf.SHT_STRTAB), section_names))

    note = elf.Section(
        name=".note.systol", type=elf.SHT_NOTE, offset=elf.NOTE_OFFSET, size=elf.NOTE_BYTES
    )
    table = [elf.Section(name="", type=0), note]
    pieces: list[Chunk] = []
    position = elf.NOTE_OFFSET + elf.NOTE_BYTES
    for section, content in contents:
        padding = -position % elf.ALIGNMENT
        pieces += [bytes(padding), content]
        position += padding
        table.append(
            elf.Section(
                name=section.name,
                type=section.type,
                flags=section.flags,
                offset=position,
                size=len(content),
                link=section.link,
                info=section.info,
                entry_size=section.entry_size,
            )
        )
        position += len(content)
    padding = -position % elf.ALIGNMENT
    header = elf.pack_header(section_table_offset=position + padding, sections=len(table))
    packed = [
        elf.pack_section(section, offset)
        for section, offset in zip(table, name_offsets, strict=True)
    ]
    note_content = elf.pack_note(bytes(elf.DIGEST_BYTES))
    return [header, note_content, *pieces, bytes(padding), b"".join(packed)]


def _view(array: npt.NDArray[np.uint8]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).data)


def _data(name: str, flags: int = 0) -> elf.Section:
    return elf.Section(name=name, type=elf.SHT_PROGBITS, flags=flags)
