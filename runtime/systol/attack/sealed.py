"""Mutants of binaries whose seal is whole, so that what lies behind it is reached."""

import hashlib
import json
import random

from systol.attack.mutate import mutate_bytes, mutate_json
from systol_compiler.binary import elf

_MANIFEST = 2
"""Place of the manifest's section: behind the null section and the note."""


def mutate_binary(rng: random.Random, data: bytes) -> bytes:
    """A mutant of a binary: mostly of its manifest or of one section, with a checksum that fits."""
    kind = rng.randrange(10)
    if kind == 0:
        return mutate_bytes(rng, data)
    if kind <= 2:
        return sealed(mutate_bytes(rng, data[: elf.DIGEST_OFFSET]) + data[elf.DIGEST_OFFSET :]
                      if rng.random() < 0.2 else _behind(rng, data))
    entries, contents = _sections(data)
    place = _MANIFEST if kind <= 7 else rng.randrange(_MANIFEST, len(contents))
    if place == _MANIFEST:
        value = mutate_json(rng, json.loads(contents[place]))
        contents[place] = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    else:
        contents[place] = mutate_bytes(rng, contents[place])
    return sealed(_laid_out(data, entries, contents))


def _behind(rng: random.Random, data: bytes) -> bytes:
    """Changes behind the seal alone."""
    start = elf.DIGEST_OFFSET + elf.DIGEST_BYTES
    return data[:start] + mutate_bytes(rng, data[start:])


def sealed(data: bytes) -> bytes:
    """`data` with the checksum that belongs to it."""
    end = elf.DIGEST_OFFSET + elf.DIGEST_BYTES
    if len(data) < end:
        return data
    blank = data[: elf.DIGEST_OFFSET] + bytes(elf.DIGEST_BYTES) + data[end:]
    return data[: elf.DIGEST_OFFSET] + hashlib.sha256(blank).digest() + data[end:]


def _sections(data: bytes) -> tuple[list[list[int]], list[bytes]]:
    """The section table's entries, and each section's bytes."""
    header = elf.HEADER.unpack_from(data)
    table, count = header[6], header[12]
    entries = [list(elf.SECTION.unpack_from(data, table + n * elf.SECTION.size))
               for n in range(count)]
    return entries, [data[entry[4] : entry[4] + entry[5]] for entry in entries]


def _laid_out(data: bytes, entries: list[list[int]], contents: list[bytes]) -> bytes:
    """The file with these sections in their order, each at an offset as the writer aligns it."""
    found = bytearray(data[: elf.NOTE_OFFSET + elf.NOTE_BYTES])
    for entry, content in list(zip(entries, contents, strict=True))[_MANIFEST:]:
        found += bytes(-len(found) % elf.ALIGNMENT)
        entry[4], entry[5] = len(found), len(content)
        found += content
    found += bytes(-len(found) % elf.ALIGNMENT)
    table = len(found)
    for entry in entries:
        found += elf.SECTION.pack(*entry)
    header = elf.pack_header(section_table_offset=table, sections=len(entries))
    found[: len(header)] = header
    return bytes(found)
