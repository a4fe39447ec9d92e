"""Damaged and forged binaries: one clear error, whatever was done to the file."""

import dataclasses
import hashlib
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from hand_made import copy_model, f32, sandwich_model
from memory_peak import with_peak
from systol_compiler.binary import elf
from systol_compiler.binary.check import MAX_EMPTY_BYTES, MAX_TENSOR_BYTES, MAX_WINDOW_BYTES
from systol_compiler.binary.model import CompiledModel, ModelOutput
from systol_compiler.binary.network import Network
from systol_compiler.binary.reader import load, parse, read_sections
from systol_compiler.binary.writer import chunks
from systol_hw.errors import BinaryFormatError, InputError
from systol_hw.program import Window

GOOD = b"".join(bytes(chunk) for chunk in chunks(copy_model()))
WITH_HOST = b"".join(bytes(chunk) for chunk in chunks(sandwich_model(1)))


def seal(data: bytes) -> bytes:
    """`data` with the checksum that belongs to it: what a forger would write."""
    start, end = elf.DIGEST_OFFSET, elf.DIGEST_OFFSET + elf.DIGEST_BYTES
    digest = hashlib.sha256(data[:start] + bytes(elf.DIGEST_BYTES) + data[end:]).digest()
    return data[:start] + digest + data[end:]


def refuse(data: bytes, message: str | None = None) -> None:
    with pytest.raises(BinaryFormatError, match=message):
        parse(memoryview(data))


def section_of(data: bytes, name: str) -> tuple[int, int, int]:
    """Offset and size of a section, and the place of its table entry."""
    table, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    entries = [elf.SECTION.unpack_from(data, table + i * elf.SECTION.size) for i in range(count)]
    strings = data[entries[-1][4] :]
    for index, entry in enumerate(entries):
        if strings[entry[0] :].split(b"\0", 1)[0] == name.encode():
            return entry[4], entry[5], table + index * elf.SECTION.size
    raise KeyError(name)


def forge_manifest(change: Callable[[Any], None], data: bytes = GOOD) -> bytes:
    """A sealed file whose manifest was changed in place; it may only become shorter."""
    offset, size, entry = section_of(data, ".systol.manifest")
    values = json.loads(data[offset : offset + size])
    change(values)
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > size:  # make room: the report is not needed for what these tests do
        values["report"] = {}
        text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    grown = max(0, -(-(len(text) - size) // 64) * 64)
    if grown:
        data = _grow(data, offset + size, grown)
        entry += grown
    body = data[:offset] + text.ljust(size + grown, b" ") + data[offset + size + grown :]
    packed = struct.pack("<Q", size + grown)
    return seal(body[: entry + 32] + packed + body[entry + 40 :])


def _grow(data: bytes, at: int, count: int) -> bytes:
    """`data` with `count` bytes put in at `at`, and every later offset moved."""
    table, sections = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    result = bytearray(data[:at] + bytes(count) + data[at:])
    struct.pack_into("<Q", result, 40, table + count)
    for index in range(sections):
        place = table + count + index * elf.SECTION.size + 24
        (offset,) = struct.unpack_from("<Q", result, place)
        if offset >= at:
            struct.pack_into("<Q", result, place, offset + count)
    return bytes(result)


def test_the_files_that_the_tests_damage_are_good() -> None:
    assert parse(memoryview(GOOD)).name == "by hand"
    assert len(parse(memoryview(WITH_HOST)).segments) == 5
    assert seal(GOOD) == GOOD


def test_every_flip_of_a_byte_is_found() -> None:
    data = bytearray(GOOD)
    for index in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            data[index] ^= mask
            refuse(bytes(data))
            data[index] ^= mask


def test_every_truncation_and_any_addition_is_found() -> None:
    for length in range(len(GOOD)):
        refuse(GOOD[:length])
    for length in (1, 64, 4096):
        refuse(GOOD + bytes(length))
        refuse(seal(GOOD + bytes(length)))


def test_every_sealed_change_of_a_byte_is_an_error_or_another_whole_file() -> None:
    """With a right checksum, a byte of code or weights is just other code or weights."""
    for index in range(len(WITH_HOST)):
        data = bytearray(WITH_HOST)
        data[index] ^= 0x21
        sealed = seal(bytes(data))
        try:
            model = parse(memoryview(sealed))
        except BinaryFormatError:
            continue
        assert b"".join(bytes(chunk) for chunk in chunks(model)) == sealed


@given(st.data())
def test_sealed_random_damage_never_gives_another_exception(data: st.DataObject) -> None:
    damaged = bytearray(WITH_HOST)
    for _ in range(data.draw(st.integers(1, 6))):
        index = data.draw(st.integers(0, len(damaged) - 1))
        damaged[index] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 1, 64, 640]))
    sealed = seal(bytes(damaged[: len(damaged) - cut]))
    try:
        parse(memoryview(sealed))
    except BinaryFormatError:
        pass


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    refuse(data)
    refuse(GOOD[: elf.NOTE_OFFSET + elf.NOTE_BYTES] + data)


def test_another_version_says_so() -> None:
    data = bytearray(GOOD)
    data[8] = 1
    refuse(seal(bytes(data)), "its format is version 1; this Systol reads version 2")


def test_an_ordinary_elf_file_is_refused_by_name() -> None:
    data = bytearray(GOOD)
    data[7] = 0  # System V
    refuse(bytes(data), "not a Systol binary: its ELF identification")


@pytest.mark.parametrize(
    ("place", "form", "value", "message"),
    [
        (60, "<H", 0, "it has 0 sections"),
        (60, "<H", 65535, "it has 65535 sections"),
        (40, "<Q", 1 << 63, "section table does not end"),
        (40, "<Q", 0, "section table does not end"),
        (56, "<H", 1, "ELF header has fields"),
        (18, "<H", 62, "ELF header has fields"),
    ],
)
def test_hostile_headers(place: int, form: str, value: int, message: str) -> None:
    data = bytearray(GOOD)
    struct.pack_into(form, data, place, value)
    refuse(seal(bytes(data)), message)


@pytest.mark.parametrize("value", [0, 64, len(GOOD) - 1, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("field", [24, 32], ids=["offset", "size"])
@pytest.mark.parametrize("name", [".text.0", ".weights.0", ".systol.manifest", ".shstrtab"])
def test_hostile_sections(name: str, field: int, value: int) -> None:
    data = bytearray(GOOD)
    place = section_of(GOOD, name)[2] + field
    if struct.unpack_from("<Q", data, place)[0] != value:
        struct.pack_into("<Q", data, place, value)
        refuse(seal(bytes(data)))


def put(*path: str | int, value: object) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        if value is DELETE:
            del values[path[-1]]
        else:
            values[path[-1]] = value

    return change


DELETE = object()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("name", value=DELETE), "manifest has no name"),
        (put("extra", value=1), "manifest has an unknown key 'extra'"),
        (put("name", value=7), r"manifest.name must be a string, not '7'"),
        (put("name", value="\x1b[2J"), "must be printable"),
        (put("report", value=[]), "report must be an object"),
        (put("arch", "rows", value=5000), "rows must lie in 4..256"),
        (put("arch", "rows", value=4), "fingerprint"),
        (put("arch", "rows", value=True), "rows must be an integer"),
        (put("arch", "rows", value=8.0), "rows must be an integer"),
        (put("arch", "host_port", "bytes_per_cycle", value="1e999999999"), "must be a fraction"),
        (put("arch", "host_port", "bytes_per_cycle", value="1/00"), "must be a fraction"),
        (put("arch", "host_port", "width_bytes", value=1e999), "Infinity is no number"),
        (put("segments", value={}), "segments must be a list"),
        (put("segments", value=[]), "needs a segment"),
        (put("segments", 0, value=None), r"segments\[0\] must be an object"),
        (put("segments", 0, "kind", value="gpu"), "kind must be one of host, machine"),
        (put("segments", 0, "code_address", value=1), "multiple of 64"),
        (put("segments", 0, "weight_memory_bytes", value=1 << 40), "weight_memory_bytes must be"),
        (put("segments", 0, "weight_memory_bytes", value=1), "must fit weight memory"),
        (put("segments", 0, "weight_memory_bytes", value=1 << 31), f"may need {MAX_EMPTY_BYTES}"),
        (put("segments", 0, "windows", 0, "size_bytes", value=0), "size_bytes must be"),
        (put("segments", 0, "windows", 0, "size_bytes", value=1 << 31), f"need {MAX_WINDOW_BYTES}"),
        (put("segments", 0, "windows", 0, "size_bytes", value=3), "ends at byte 24"),
        (put("segments", 0, "windows", 0, "name", value="y"), "two windows have one name"),
        (put("segments", 0, "inputs", 0, "offset_bytes", value=-1), "offset_bytes must be"),
        (put("segments", 0, "inputs", 0, "order", value=[0, 1]), "is no order of the axes"),
        (put("segments", 0, "inputs", 0, "order", value=[0, 0, 1]), "is no order of the axes"),
        (put("segments", 0, "inputs", 0, "order", value=[0, 1, 9]), "integers in 0..7"),
        (put("segments", 0, "inputs", 0, "order", value=[True, 1, 2]), "integers in 0..7"),
        (put("segments", 0, "ranges", 0, value=[0, 0, 3]), "lists of 4 integers"),
        (put("segments", 0, "ranges", 0, value=[1, 0, 3, 1]), "of 1 layers and 16 tags"),
        (put("segments", 0, "ranges", 0, value=[0, 0, 3, 16]), "of 1 layers and 16 tags"),
        (put("segments", 0, "ranges", 0, value=[0, 0, 0, 1]), "has no instruction"),
        (put("segments", 0, "ranges", 0, value=[0, 2, 3, 1]), "ends at instruction 5 of 4"),
        (put("segments", 0, "ranges", 0, 0, value=0.0), "lists of 4 integers"),
        (put("segments", 0, "layers", 0, "source_nodes", value=[1]), "a list of strings"),
        (put("tensors", 0, "shape", value=[1 << 31, 1 << 31]), "a shape of at most"),
        (put("tensors", 0, "shape", value=[]), "no order of the axes|cannot hold"),
        (put("tensors", 0, "shape", value=[1 << 31]), f"may need {MAX_TENSOR_BYTES}"),
        (put("tensors", 0, "shape", value=[2] * 9), "at most 8 integers"),
        (put("tensors", 0, "shape", value=[2, 4, 3]), "cannot hold"),
        (put("tensors", 0, "scale", value=0.0), "a positive float32"),
        (put("tensors", 0, "scale", value=1e300), "a positive float32"),
        (put("tensors", 0, "scale", value=0.1), "a positive float32"),
        (put("tensors", 0, "width", value=12), "a width of 12 bits"),
        (put("tensors", 0, "width", value=16), "has zero point 3"),
        (put("tensors", 0, "source", value="z"), "reads 'x', which nothing before it gives"),
        (put("real", 0, "dtype", value="object"), "dtype must be one of bool"),
        (put("real", 1, "dtype", value="float64"), "holds it as float32"),
        (put("real", 0, "shape", value=[1 << 28]), f"may need {MAX_TENSOR_BYTES}"),
        (put("real", 0, "name", value="z"), "input 'x' has no type"),
        (put("inputs", value=[]), "needs an input"),
        (put("inputs", 0, "preprocessing", value=1), "must be a string"),
        (put("outputs", 0, "tensor", value="z"), "no tensor is called 'z'"),
        (put("outputs", 0, "labels", value=["a", "b"]), "has 2 labels"),
    ],
)
def test_hostile_manifests(change: Callable[[Any], None], message: str) -> None:
    refuse(forge_manifest(change), message)


def test_deep_nesting_and_long_numbers_are_refused() -> None:
    offset, size, _ = section_of(GOOD, ".systol.manifest")
    for text in (b"[" * size, b"9" * size, b'{"a":' * (size // 5), b"\xff" * size):
        data = GOOD[:offset] + text.ljust(size) + GOOD[offset + size :]
        refuse(seal(data))


def test_sizes_that_are_small_by_themselves_are_added_up() -> None:
    model = copy_model()
    (segment,) = model.machine_segments
    program = segment.program

    def with_windows(last: int) -> CompiledModel:
        quarter = MAX_WINDOW_BYTES // 4
        sizes = (quarter - 24, quarter - 24, quarter, last)
        extra = tuple(Window(name=f"w{n}", size_bytes=size) for n, size in enumerate(sizes))
        larger = dataclasses.replace(program, windows=(*program.windows, *extra))
        changed = dataclasses.replace(segment, program=larger)
        return dataclasses.replace(model, segments=(changed,))

    with_windows(MAX_WINDOW_BYTES // 4)
    with pytest.raises(InputError, match=f"needs {MAX_WINDOW_BYTES + 1} bytes for the windows"):
        with_windows(MAX_WINDOW_BYTES // 4 + 1)
    halves = {
        name: dataclasses.replace(model.tensors["x"], name=name, shape=(1, MAX_TENSOR_BYTES // 2))
        for name in "ab"
    }
    with pytest.raises(InputError, match=f"needs {MAX_TENSOR_BYTES + 48} bytes for its quantized"):
        dataclasses.replace(model, tensors={**model.tensors, **halves})
    reals = {name: f32(MAX_TENSOR_BYTES // 8) for name in "ab"}
    with pytest.raises(InputError, match=f"needs {MAX_TENSOR_BYTES + 192} bytes for its tensors"):
        dataclasses.replace(model, real={**model.real, **reals})


def test_names_take_time_in_proportion_to_their_number() -> None:
    model = copy_model()
    outputs = tuple(ModelOutput(name=f"y{n}", tensor="y") for n in range(16_000))
    began = time.process_time()
    many = dataclasses.replace(model, outputs=outputs)
    # Comparing each name with each other takes 4 seconds.
    assert time.process_time() - began < 1
    with pytest.raises(InputError, match="two outputs are called 'y7'"):
        dataclasses.replace(many, outputs=(*outputs, outputs[7]))


def test_names_of_sections_that_share_their_bytes_take_no_memory() -> None:
    count, size = 1000, 1 << 16
    strings = b"a" * (size - 1) + b"\0"
    at = elf.NOTE_OFFSET + elf.NOTE_BYTES
    table = at + size
    entries = [
        elf.SECTION.pack(n, elf.SHT_PROGBITS, 0, 0, at, 0, 0, 0, elf.ALIGNMENT, 0)
        for n in range(count - 1)
    ]
    entries.append(elf.SECTION.pack(0, elf.SHT_STRTAB, 0, 0, at, size, 0, 0, elf.ALIGNMENT, 0))
    data = b"".join([
        elf.pack_header(section_table_offset=table, sections=count),
        elf.pack_note(bytes(elf.DIGEST_BYTES)), strings, *entries,
    ])  # fmt: skip

    def read() -> None:
        with pytest.raises(BinaryFormatError, match="or has a name"):
            read_sections(memoryview(data))

    assert with_peak(read)[1] < 2 << 20


def test_load_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "m.elf"
    with pytest.raises(InputError, match=r"m\.elf cannot be read: No such file"):
        load(path)
    path.touch()
    with pytest.raises(BinaryFormatError, match=r"m\.elf: the file is empty; compile the model"):
        load(path)
    path.write_bytes(GOOD[:-1])
    with pytest.raises(BinaryFormatError, match=r"m\.elf: damaged.*fetch the file again"):
        load(path)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)


def _with_host(change: Callable[[onnx.ModelProto], None]) -> bytes:
    """A sealed file whose last host graph was changed: what only a forger would write."""
    model = sandwich_model(1)
    graph = onnx.ModelProto()
    graph.ParseFromString(model.host_segments[-1].model)
    change(graph)
    forged = dataclasses.replace(
        model.host_segments[-1], model=graph.SerializeToString(deterministic=True)
    )
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    network = Network(**{**fields, "segments": (*model.segments[:-1], forged)})
    return b"".join(bytes(chunk) for chunk in chunks(network))


def _function_with_external_data(graph: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("", onnx.TensorProto.FLOAT, [1, 4, 2], np.zeros(8))
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside.bin")
    body = [helper.make_node("Constant", [], ["b"], value=tensor)]
    opsets = [helper.make_opsetid("", 17)]
    graph.functions.append(helper.make_function("local", "F", ["a"], ["b"], body, opsets))
    graph.opset_import.append(helper.make_opsetid("local", 1))
    graph.graph.node[0].op_type, graph.graph.node[0].domain = "F", "local"


def _function_in_a_foreign_domain(graph: onnx.ModelProto) -> None:
    body = [helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft")]
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    graph.functions.append(helper.make_function("", "F", ["a"], ["b"], body, opsets))


def _endless_loop(graph: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Exp", ["v"], ["w"])],
        "body",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, []),
         helper.make_tensor_value_info("v", 1, [1, 4, 2])],
        [helper.make_tensor_value_info("on", 9, []),
         helper.make_tensor_value_info("w", 1, [1, 4, 2])],
    )  # fmt: skip
    result = graph.graph.output[0].name
    del graph.graph.node[:]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1 << 62), "many"))
    graph.graph.node.append(
        helper.make_node("Loop", ["many", "", graph.graph.input[0].name], [result], body=body)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_function_with_external_data, "functions are not allowed"),
        (_function_in_a_foreign_domain, "functions are not allowed"),
        (_endless_loop, "Loop holds a graph"),
    ],
)
def test_forged_host_graphs_are_refused_at_load(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.elf"
    path.write_bytes(_with_host(change))
    with pytest.raises(BinaryFormatError, match=rf"m\.elf: host segment 'after': {message}"):
        load(path)


def test_the_forger_of_host_graphs_changes_nothing_by_itself() -> None:
    assert _with_host(lambda graph: None) == WITH_HOST
