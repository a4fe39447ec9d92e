"""Reads a lowered network's text."""

from collections.abc import Mapping
from typing import Final

from systol_compiler.nests.buffer import Buffer, Home
from systol_compiler.nests.matrix import MatrixNest
from systol_compiler.nests.nest import HEAD_FIELDS, Nest
from systol_compiler.nests.network import LoweredNetwork, planes_fit
from systol_compiler.nests.operand import Operand
from systol_compiler.nests.vector import VectorNest
from systol_compiler.text.arrays import Bytes
from systol_compiler.text.form import Reader
from systol_compiler.text.forms import made, read_fields
from systol_compiler.text.statement import read_head
from systol_compiler.text.tokens import Token

KINDS: Final[Mapping[str, type[Nest]]] = {kind.kind: kind for kind in (MatrixNest, VectorNest)}


def read_lowered(text: str, arrays: Mapping[str, Bytes] | None = None) -> LoweredNetwork:
    """The network of a text that `LoweredNetwork.text` gives; it is verified.

    `arrays` holds what the text refers to by digest.

    Raises
    ------
    InputError
        The text is none of a lowered network, with line and column.
    UnsupportedModelError
        An instruction field cannot hold a nest's figure.
    """
    reader = Reader(text, arrays)
    reader.expect("lowered")
    name = reader.string()
    reader.expect("images")
    reader.expect("=")
    images = reader.integer()
    reader.expect("{")
    buffers: dict[str, Buffer] = {}
    nests: list[Nest] = []
    places: list[Token] = []
    while not reader.accept("}"):
        token = reader.here
        if reader.accept("buffer"):
            buffer = _buffer(reader, token)
            if buffer.name in buffers:
                raise reader.error(f"two buffers are called {buffer.name!r}, the second", token)
            buffers[buffer.name] = buffer
        else:
            nests.append(_nest(reader))
            places.append(token)
    reader.of_kind("end", "the end of the text")
    for nest, token in zip(nests, places, strict=True):
        _check(reader, token, nest, buffers)
    network = LoweredNetwork(name=name, images=images, buffers=buffers, nests=tuple(nests))
    network.verify()
    return network


def _buffer(reader: Reader, token: Token) -> Buffer:
    values = {"name": reader.string()} | read_fields(reader, Buffer, ("name",))
    buffer = made(reader, token, Buffer, values)
    assert isinstance(buffer, Buffer)
    if buffer.plane_bytes < 1 or buffer.planes not in (1, 2):
        raise reader.error("one or two planes of at least one byte each are needed by this", token)
    if (buffer.home is Home.CONSTANT) != (buffer.data is not None):
        raise reader.error("constants, and nothing else, have data, unlike this", token)
    if buffer.data is not None and (
        buffer.data.dtype != "uint8" or buffer.data.size != buffer.size_bytes
    ):
        raise reader.error(f"its data must be {buffer.size_bytes} bytes of uint8, unlike in", token)
    return buffer


def _nest(reader: Reader) -> Nest:
    head = read_head(reader)
    kind = KINDS.get(head.word)
    if kind is None:
        raise reader.error(f"nests are {' or '.join(KINDS)}, not", head.token)
    values = {"name": head.name, "source_nodes": head.sources}
    values |= read_fields(reader, kind, HEAD_FIELDS)
    nest = made(reader, head.token, kind, values)
    assert isinstance(nest, Nest)
    return nest


def _check(reader: Reader, token: Token, nest: Nest, buffers: Mapping[str, Buffer]) -> None:
    """What lowering guarantees, and a text does not: operands that lie in buffers."""
    _check_operand(reader, token, nest.output, buffers, written=True)
    for operand in nest.reads:
        _check_operand(reader, token, operand, buffers, written=False)
    for name in nest.constants:
        if name not in buffers or buffers[name].home is not Home.CONSTANT:
            raise reader.error(f"no constant buffer is called {name!r}, which is read by", token)
    try:
        boxes = nest.needs(nest.domain)
        inside = all(
            0 <= low and high <= buffers[operand.buffer].plane_bytes
            for operand, box in zip(
                (nest.output, *nest.reads), (nest.domain, *boxes), strict=True
            )
            for low, high in (operand.span(box),)
        )
    except (ArithmeticError, IndexError, ValueError) as error:
        raise reader.error(f"the figures do not fit each other ({error}) of", token) from error
    if not inside:
        raise reader.error("an operand leaves its buffer, of", token)


def _check_operand(
    reader: Reader, token: Token, operand: Operand, buffers: Mapping[str, Buffer], *,
    written: bool,
) -> None:
    buffer = buffers.get(operand.buffer)
    if buffer is None:
        raise reader.error(f"no buffer is called {operand.buffer!r}, which is used by", token)
    if min(operand.lines, operand.positions, operand.width, len(operand.planes)) < 1:
        raise reader.error(f"an operand has no elements, {operand}, of", token)
    if not planes_fit(operand, buffer, written=written):
        raise reader.error(f"{buffer.name!r} has {buffer.planes} planes, unlike what is used by",
                           token)
