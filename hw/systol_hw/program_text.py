"""A whole `Program` as text: what a reproducer of a difference is kept and sent as.

Directives first, then the code::

    .systol 1
    .arch nano                            ; a preset, or the machine as one line of JSON
    .window input 4096
    .weight_memory 8192                   ; bytes
    .weight_image 1024                    ; bytes; the lines below fill it, the rest is zero
    .bytes 0x40 0102ff...
    .code_address 0x1000
    .code
    read_host run_bytes=64 signal=matrix
    halt

Names of windows are JSON strings where they hold more than letters, digits, `_`, `.`, `/` and `-`.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from systol_hw.arch import INSTRUCTION_BYTES, MEMORY_LIMIT_BYTES, PRESETS, Arch
from systol_hw.errors import InputError, SystolError
from systol_hw.isa.assembly import Word, assemble_line, disassemble_code, nearest, parse_number
from systol_hw.json_file import parse_json
from systol_hw.program import Program, Window

TEXT_VERSION = 1
"""Version of this text form; stated by its first line."""
_BYTES_PER_LINE = 32
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_./-]+\Z")
# A word is a JSON string, a JSON object (to the line's last brace), or what has no blank in it.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_PLAIN = re.compile(r'[^\s;"{]+')
_BLANKS = re.compile(r"\s*")


def format_program(program: Program) -> str:
    """Text that `parse_program` turns back into an equal program."""
    lines = [f".systol {TEXT_VERSION}", f".arch {_format_arch(program.arch)}"]
    for window in program.windows:
        plain = _PLAIN_NAME.match(window.name)
        lines.append(
            f".window {window.name if plain else json.dumps(window.name)} {window.size_bytes}"
        )
    lines.append(f".weight_memory {program.weight_memory_bytes}")
    image = program.weight_image
    lines.append(f".weight_image {image.size}")
    for start in range(0, image.size, _BYTES_PER_LINE):
        chunk = image[start : start + _BYTES_PER_LINE]
        if chunk.any():
            lines.append(f".bytes {start:#x} {chunk.tobytes().hex()}")
    lines += [f".code_address {program.code_address:#x}", ".code"]
    return "\n".join(lines) + "\n" + disassemble_code(program.code)


def parse_program(text: str) -> Program:
    """The program of a text.

    Raises
    ------
    InputError
        With line, column and the offending text.
    ConfigurationError, InvalidProgramError
        Where the text is well formed and the machine or the program is not.
    """
    draft = _Draft()
    code: list[bytes] = []
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        words = _words(line, number)
        if not words:
            continue
        head = words[0]
        if in_code:
            code.append(assemble_line(words))
        elif head.text == ".code":
            in_code = True
        else:
            directive = _DIRECTIVES.get(head.text)
            if directive is None:
                known = [*_DIRECTIVES, ".code"]
                raise head.error(f"unknown directive ({nearest(head.text, known)})")
            directive.apply(draft, _arguments(words, directive.arguments))
    if not in_code:
        raise InputError("a program text needs a line .code, and its instructions behind it")
    return draft.program(b"".join(code))


@dataclass(kw_only=True)
class _Draft:
    """What the directives have said so far."""

    version: int | None = None
    arch: Arch | None = None
    windows: list[Window] = field(default_factory=list)
    weight_memory_bytes: int | None = None
    image: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    code_address: int | None = None

    def program(self, code: bytes) -> Program:
        for value, name in (
            (self.version, ".systol"),
            (self.arch, ".arch"),
            (self.weight_memory_bytes, ".weight_memory"),
            (self.code_address, ".code_address"),
        ):
            if value is None:
                raise InputError(f"a program text needs a line {name} before .code")
        assert self.arch is not None
        assert self.weight_memory_bytes is not None and self.code_address is not None
        return Program(
            arch=self.arch,
            code=np.frombuffer(code, np.uint8).reshape(-1, INSTRUCTION_BYTES),
            weight_image=self.image,
            weight_memory_bytes=self.weight_memory_bytes,
            code_address=self.code_address,
            windows=tuple(self.windows),
        )


@dataclass(frozen=True, kw_only=True)
class _Directive:
    arguments: int
    apply: Callable[[_Draft, Sequence[Word]], None]


def _version(draft: _Draft, words: Sequence[Word]) -> None:
    draft.version = parse_number(words[0])
    if draft.version != TEXT_VERSION:
        raise words[0].error(f"this Systol reads text version {TEXT_VERSION}, not")


def _arch(draft: _Draft, words: Sequence[Word]) -> None:
    word = words[0]
    if not word.text.startswith("{"):
        if word.text not in PRESETS:
            raise word.error(f"unknown preset ({nearest(word.text, PRESETS)})")
        draft.arch = PRESETS[word.text]
        return
    try:
        draft.arch = Arch.from_dict(parse_json(word.text))
    except ValueError as error:
        raise word.error(f"not JSON ({error})") from error
    except SystolError as error:
        raise word.error(f"not a machine ({error})") from error


def _window(draft: _Draft, words: Sequence[Word]) -> None:
    name = words[0].text
    if name.startswith('"'):
        try:
            name = parse_json(name)
        except ValueError as error:
            raise words[0].error(f"not a JSON string ({error})") from error
    draft.windows.append(Window(name=name, size_bytes=_size(words[1])))


def _weight_memory(draft: _Draft, words: Sequence[Word]) -> None:
    draft.weight_memory_bytes = _size(words[0])


def _weight_image(draft: _Draft, words: Sequence[Word]) -> None:
    draft.image = np.zeros(_size(words[0]), np.uint8)


def _bytes(draft: _Draft, words: Sequence[Word]) -> None:
    start = _size(words[0])
    try:
        data = bytes.fromhex(words[1].text)
    except ValueError as error:
        raise words[1].error("expected pairs of hexadecimal digits, found") from error
    if start + len(data) > draft.image.size:
        raise words[0].error(
            f"{len(data)} bytes do not fit the weight image of {draft.image.size} bytes at"
        )
    draft.image[start : start + len(data)] = np.frombuffer(data, np.uint8)


def _code_address(draft: _Draft, words: Sequence[Word]) -> None:
    draft.code_address = _size(words[0])


_DIRECTIVES = {
    ".systol": _Directive(arguments=1, apply=_version),
    ".arch": _Directive(arguments=1, apply=_arch),
    ".window": _Directive(arguments=2, apply=_window),
    ".weight_memory": _Directive(arguments=1, apply=_weight_memory),
    ".weight_image": _Directive(arguments=1, apply=_weight_image),
    ".bytes": _Directive(arguments=2, apply=_bytes),
    ".code_address": _Directive(arguments=1, apply=_code_address),
}


def _words(line: str, number: int) -> list[Word]:
    """The words of a line without its comment, in one pass over it."""
    words: list[Word] = []
    place = 0
    while True:
        blanks = _BLANKS.match(line, place)
        assert blanks is not None
        place = blanks.end()
        if place == len(line) or line[place] == ";":
            return words
        end = _end_of_word(line, place)
        if end <= place:
            rest = Word(text=line[place:], line=number, column=place + 1)
            raise rest.error("what begins here does not end in this line")
        words.append(Word(text=line[place:end], line=number, column=place + 1))
        place = end


def _end_of_word(line: str, place: int) -> int:
    """Where the word that begins at `place` ends; 0 if it does not."""
    if line[place] == "{":
        return line.rfind("}", place) + 1
    match = (_STRING if line[place] == '"' else _PLAIN).match(line, place)
    return match.end() if match else 0


def _arguments(words: Sequence[Word], count: int) -> Sequence[Word]:
    if len(words) != count + 1:
        raise words[0].error(f"{count} values must follow, not {len(words) - 1}, after")
    return words[1:]


def _size(word: Word) -> int:
    value = parse_number(word)
    if not 0 <= value <= MEMORY_LIMIT_BYTES:
        raise word.error(f"must lie in 0..{MEMORY_LIMIT_BYTES}, not")
    return value


def _format_arch(arch: Arch) -> str:
    if PRESETS.get(arch.name) == arch:
        return arch.name
    return json.dumps(arch.to_dict(), sort_keys=True, separators=(",", ":"))
