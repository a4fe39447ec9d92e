"""Opening files: weights stay where they lie, and nothing is read from elsewhere."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from systol_compiler.graph.reading.importer import import_onnx
from systol_compiler.graph.reading.model_file import open_model
from systol_compiler.graph.reading.wire import LEAST_KEPT, strip_weights
from systol_hw.errors import InputError, UnsupportedModelError

Array = np.ndarray[Any, Any]


def dense(*weights: Array) -> onnx.ModelProto:
    """A chain of MatMul by `weights`."""
    nodes = [
        helper.make_node("MatMul", [f"t{i}" if i else "x", f"w{i}"], [f"t{i + 1}"])
        for i in range(len(weights))
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, len(weights[0])])],
        [helper.make_tensor_value_info(f"t{len(weights)}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, f"w{i}") for i, value in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external(folder: Path, location: str, **entries: str) -> Path:
    """A model in `folder` whose weight of 64 x 64 lies elsewhere."""
    proto = dense(np.zeros((64, 64), dtype=np.float32))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_raw_weights_are_left_out_of_the_message() -> None:
    rng = np.random.default_rng(1)
    large, small = rng.normal(size=(64, 64)), rng.normal(size=(64, 2))
    data = dense(large.astype(np.float32), small.astype(np.float32)).SerializeToString()
    text, spans = strip_weights(memoryview(data))
    assert len(text) < len(data) - 16_000
    assert spans[0] is not None and spans[1] is None
    assert data[spans[0].start : spans[0].stop] == large.astype(np.float32).tobytes()
    assert onnx.load_model_from_string(text).graph.initializer[0].dims == [64, 64]


def test_weights_of_a_path_are_views_of_the_file(tmp_path: Path) -> None:
    weight = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)
    path = tmp_path / "model.onnx"
    path.write_bytes(dense(weight).SerializeToString())
    stored = open_model(path).weights["w0"]
    assert not stored.flags.owndata and not stored.flags.writeable
    np.testing.assert_array_equal(import_onnx(path).constants["w0"], weight)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
@pytest.mark.parametrize("raw", [True, False])
def test_floats_of_other_widths_become_float32(kind: int, raw: bool) -> None:
    values = (np.arange(4096) % 17 - 8).astype(np.float32) / 4
    proto = dense(np.zeros((64, 64), dtype=np.float32))
    proto.graph.node.insert(0, helper.make_node("Cast", ["h"], ["w0"], to=TensorProto.FLOAT))
    del proto.graph.initializer[:]
    if raw:
        stored = numpy_helper.from_array(values.reshape(64, 64))
        if kind == TensorProto.BFLOAT16:
            data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            data = values.astype(helper.tensor_dtype_to_np_dtype(kind)).tobytes()
        stored = helper.make_tensor("h", kind, [64, 64], data, raw=True)
    else:
        stored = helper.make_tensor("h", kind, [64, 64], values)
    proto.graph.initializer.append(stored)
    graph = import_onnx(proto.SerializeToString())
    assert graph.constants["w0"].dtype == np.float32
    np.testing.assert_array_equal(graph.constants["w0"].reshape(-1), values)


def test_memory_is_far_below_the_weights(tmp_path: Path) -> None:
    """Importing 256 MB of mapped weights takes a fraction of that."""
    path = tmp_path / "large.onnx"
    weight = np.ones((4096, 4096), dtype=np.float32)
    path.write_bytes(dense(weight, weight, weight, weight).SerializeToString())
    script = (
        "import sys\n"
        "from systol_compiler.graph.reading.importer import import_onnx\n"
        "from systol_compiler.graph.passes import run_pipeline\n"
        # Not getrusage: it would tell the parent's memory, too.
        "lines = lambda: open('/proc/self/status').read().splitlines()\n"
        "peak = lambda: next(int(x.split()[1]) for x in lines() if x[:6] == 'VmHWM:') // 1024\n"
        "before = peak()\n"
        "graph = run_pipeline(import_onnx(sys.argv[1]))\n"
        "print(len(graph.nodes), peak() - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    nodes, megabytes = map(int, run.stdout.split())
    assert nodes == 4 and megabytes < 60


def test_external_data_with_offset(tmp_path: Path) -> None:
    weight = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    (tmp_path / "weights.bin").write_bytes(b"12345" + weight.tobytes() + b"rest")
    path = external(tmp_path, "weights.bin", offset="5", length=str(weight.nbytes))
    stored = import_onnx(path).constants["w0"]
    np.testing.assert_array_equal(stored, weight)
    assert not stored.flags.owndata


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("../secret.bin", {}, "must lie in the model's own folder"),
        ("/etc/passwd", {}, "must lie in the model's own folder"),
        ("link.bin", {}, "must lie in the model's own folder"),
        ("inner/../../secret.bin", {}, "must lie in the model's own folder"),
        ("", {}, "must lie in the model's own folder"),
        ("missing.bin", {}, "missing.bin.*beside the model"),
        ("pipe", {}, "pipe.*not a regular file"),
        (".", {}, "must lie in the model's own folder"),
        ("short.bin", {}, "does not fit its stated shape"),
        ("short.bin", {"length": "16384"}, "has 100 bytes, but the tensor needs 16384"),
        ("short.bin", {"offset": "-4"}, "needs 104 from byte -4"),
        ("short.bin", {"offset": "x"}, "beside the model"),
        ("short.bin", {"offset": str(1 << 70), "length": "1"}, "from byte"),
    ],
)
def test_external_data_that_is_refused(
    tmp_path: Path, location: str, entries: dict[str, str], message: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16384))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(bytes(100))
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match=message):
        import_onnx(external(folder, location, **entries))


def test_external_data_inside_nodes_is_refused(tmp_path: Path) -> None:
    proto = dense(np.zeros((4, 4), dtype=np.float32))
    tensor = TensorProto(name="c", dims=[4, 4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"only initializers of the main graph may be"):
        import_onnx(path)


def test_external_data_inside_functions_is_refused(tmp_path: Path) -> None:
    proto = dense(np.zeros((4, 4), dtype=np.float32))
    tensor = TensorProto(name="c", dims=[4, 4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    proto.functions.append(
        helper.make_function(
            "own", "F", ["a"], ["b"],
            [helper.make_node("Constant", [], ["c"], value=tensor),
             helper.make_node("MatMul", ["a", "c"], ["b"])],
            [helper.make_opsetid("", 17)],
        )
    )  # fmt: skip
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].CopyFrom(helper.make_node("F", ["x"], ["t1"], domain="own"))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"external file"):
        import_onnx(path)


def test_damaged_structure_names_the_byte() -> None:
    data = bytearray(dense(np.zeros((64, 64), dtype=np.float32)).SerializeToString())
    with pytest.raises(InputError, match=r"not an ONNX file, or a damaged one"):
        import_onnx(bytes(data[: len(data) // 2]))
    with pytest.raises(InputError, match=r"no field can begin at byte 0"):
        import_onnx(b"\x0b" * 100)


def test_initializer_given_twice() -> None:
    proto = dense(np.zeros((4, 4), dtype=np.float32))
    proto.graph.initializer.append(proto.graph.initializer[0])
    with pytest.raises(InputError, match="tensor 'w0' is stored twice"):
        import_onnx(proto)


def test_text_and_complex_weights_are_refused() -> None:
    for kind in (TensorProto.STRING, TensorProto.COMPLEX64):
        proto = dense(np.zeros((4, 4), dtype=np.float32))
        proto.graph.initializer[0].data_type = kind
        with pytest.raises(UnsupportedModelError, match="elements must be numbers"):
            import_onnx(proto)


def test_raw_data_twice_counts_as_its_last_value() -> None:
    """As protobuf reads a field that is given twice."""
    first, last = np.zeros(LEAST_KEPT, np.float32), np.ones(LEAST_KEPT, np.float32)
    proto = dense(first.reshape(64, 64))
    tensor = proto.graph.initializer[0].SerializeToString()
    again = TensorProto(raw_data=last.tobytes()).SerializeToString()
    merged = tensor + again
    graph = proto.graph.SerializeToString()
    place = graph.index(tensor)

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    head = graph[:place]
    head = head[: len(head) - len(varint(len(tensor)))]
    graph = head + varint(len(merged)) + merged + graph[place + len(tensor) :]
    proto.ClearField("graph")
    data = proto.SerializeToString() + b"\x3a" + varint(len(graph)) + graph
    assert onnx.load_model_from_string(data).graph.initializer[0].raw_data == last.tobytes()
    np.testing.assert_array_equal(import_onnx(data).constants["w0"], last.reshape(64, 64))
