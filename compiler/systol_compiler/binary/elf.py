"""The part of ELF64 that Systol's binaries use: little-endian, sections, one symbol table.

Written out here because a writer needs no more, and because the reader must hold any file to these
limits before it believes a single number in it.

Ref: Tool Interface Standard, "Executable and Linking Format (ELF) Specification" 1.2; System V
Application Binary Interface, "Object Files" (the 64-bit structures).
"""

import struct
from dataclasses import dataclass

EI_NIDENT = 16
MACHINE = 0x5359
"""`e_machine`: an unregistered number, the letters "SY"."""
ABI_STANDALONE = 255
FORMAT_VERSION = 2
"""Version of the layout and of the manifest; docs/binary.md says when it grows."""

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
NOTE_HEADER = struct.Struct("<III8s")
NOTE_NAME = b"Systol\0\0"  # seven bytes with the terminator, padded to eight
NOTE_TYPE = 1
NOTE_BODY = struct.Struct("<II32s")
"""Format version, zero, SHA-256 of the file with these 32 bytes zero."""
NOTE_OFFSET = HEADER.size
NOTE_BYTES = NOTE_HEADER.size + NOTE_BODY.size
DIGEST_OFFSET = NOTE_OFFSET + NOTE_BYTES - 32
DIGEST_BYTES = 32

ET_EXEC = 2
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE = 1, 2, 3, 7
SHF_ALLOC, SHF_EXECINSTR = 2, 4
STB_GLOBAL_FUNC = (1 << 4) | 2
ALIGNMENT = 64
"""Of every section's offset: code and weights can be used where they lie in a mapped file."""
NOTE_ALIGNMENT = 4
MAX_SECTIONS = 1024


@dataclass(frozen=True, kw_only=True)
class Section:
    """One entry of the section header table, its name resolved."""

    name: str
    type: int
    flags: int = 0
    offset: int = 0
    size: int = 0
    link: int = 0
    info: int = 0
    entry_size: int = 0


def pack_header(*, section_table_offset: int, sections: int) -> bytes:
    """The ELF header: an executable without segments whose last section names the others."""
    ident = b"\x7fELF" + bytes([2, 1, 1, ABI_STANDALONE, FORMAT_VERSION])
    return HEADER.pack(
        ident.ljust(EI_NIDENT, b"\0"),
        ET_EXEC,
        MACHINE,
        1,
        0,
        0,
        section_table_offset,
        0,
        HEADER.size,
        0,
        0,
        SECTION.size,
        sections,
        sections - 1,
    )


def pack_section(section: Section, name_offset: int) -> bytes:
    """One entry of the section header table."""
    alignment = {0: 0, SHT_NOTE: NOTE_ALIGNMENT}.get(section.type, ALIGNMENT)
    return SECTION.pack(
        name_offset,
        section.type,
        section.flags,
        0,
        section.offset,
        section.size,
        section.link,
        section.info,
        alignment,
        section.entry_size,
    )


def pack_note(digest: bytes) -> bytes:
    """The note, whose place in the file is fixed: format version and checksum."""
    header = NOTE_HEADER.pack(len(NOTE_NAME) - 1, NOTE_BODY.size, NOTE_TYPE, NOTE_NAME)
    return header + NOTE_BODY.pack(FORMAT_VERSION, 0, digest)


def pack_strings(strings: list[str]) -> tuple[bytes, list[int]]:
    """A string table and the offset of each string in it; equal ones share it, "" is at 0."""
    table, places = bytearray(1), {"": 0}
    for string in strings:
        if string not in places:
            places[string] = len(table)
            table += string.encode() + b"\0"
    return bytes(table), [places[string] for string in strings]
