"""Models that mean harm: a clear error within seconds, in bounded memory."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from model_corpus import CORPUS
from model_mutations import mutated
from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx
from systol_hw.errors import SystolError


def model(text: str, *, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    graph = parser.parse_graph(
        f"g (float[1,4] x) => (float[A] y) {{ {text} z = Shape(y) }}"
        if "y =" not in text
        else f"g (float[1,4] x) => (float[A] y) {{ {text} }}"
    )
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tower(functions: int, calls: int) -> onnx.ModelProto:
    """Functions that each call the one before them `calls` times."""
    proto = model("y = Relu(x)")
    for level in range(functions):
        inner = [
            helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"])
            if level == 0
            else helper.make_node(f"F{level - 1}", [f"t{i}"], [f"t{i + 1}"], domain="own")
            for i in range(calls)
        ]
        proto.functions.append(
            helper.make_function(
                "own", f"F{level}", ["t0"], [f"t{calls}"], inner,
                [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
            )
        )  # fmt: skip
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[0].CopyFrom(helper.make_node(f"F{functions - 1}", ["x"], ["y"], domain="own"))
    return proto


def recursion() -> onnx.ModelProto:
    proto = tower(1, 1)
    proto.functions[0].node[0].CopyFrom(helper.make_node("F0", ["t0"], ["t1"], domain="own"))
    return proto


def loop(trips: int, condition: bool = True) -> onnx.ModelProto:
    proto = model("y = Relu(x)", n=np.int64(trips), t=np.array(condition))
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Identity", ["on"], ["still"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("on", TensorProto.BOOL, []),
         info("a", TensorProto.FLOAT, None)],
        [info("still", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, None)],
    )  # fmt: skip
    names = ["n" if trips else "", "t", "x"]
    proto.graph.node[0].CopyFrom(helper.make_node("Loop", names, ["y"], body=body))
    return proto


def chain(op: str, count: int) -> onnx.ModelProto:
    steps = (f"c{i} = {op}(c{i - 1}, c{i - 1})" for i in range(1, count))
    text = f"c0 = {op}(w, w) " + " ".join(steps)
    return model(f"{text} y = Add(x, c{count - 1})", w=np.ones((512, 512), dtype=np.float32))


BIG = np.array([1 << 28], dtype=np.int64)

HOSTILE: dict[str, Callable[[], onnx.ModelProto]] = {
    "range": lambda: model(
        "r = Range(a, b, c) y = Cast<to=1>(r)",
        a=np.int64(0), b=np.int64(1 << 40), c=np.int64(1)),
    "range that fits a tensor": lambda: model(
        "r = Range(a, b, c) f = Cast<to=1>(r) g = Exp(f) y = Add(x, g)",
        a=np.int64(0), b=np.int64(1 << 27), c=np.int64(1)),
    "fill and cast": lambda: model(
        "c = ConstantOfShape(s) f = Cast<to=11>(c) y = Add(x, f)", s=BIG),
    "fills": lambda: model(
        " ".join(f"c{i} = ConstantOfShape(s) n{i} = Neg(c{i})" for i in range(20))
        + " y = Add(x, n0)", s=BIG),
    "fill of any size": lambda: model(
        "c = ConstantOfShape(s) y = Add(x, c)", s=np.array([1 << 62, 1 << 62], dtype=np.int64)),
    "text": lambda: model("c = ConstantOfShape(s) t = Cast<to=8>(c) y = Cast<to=1>(t)", s=BIG),
    "tiles": lambda: model(
        "a = Tile(w, r) b = Tile(a, r) c = Tile(b, r) y = Add(x, c)",
        w=np.ones(1 << 10, dtype=np.float32), r=np.array([1 << 10])),
    "expansion": lambda: model(
        "a = Expand(w, s) b = Exp(a) y = Add(x, b)", w=np.ones(1, dtype=np.float32), s=BIG),
    "doubling": lambda: model(
        "c0 = Concat<axis=0>(w, w) "
        + " ".join(f"c{i} = Concat<axis=0>(c{i - 1}, c{i - 1})" for i in range(1, 40))
        + " y = Add(x, c39)", w=np.ones(4, dtype=np.float32)),
    "matrix products": lambda: chain("MatMul", 400),
    "integer products": lambda: model(
        "a = MatMul(w, w) f = Cast<to=1>(a) y = Add(x, f)",
        w=np.ones((3000, 3000), dtype=np.int64)),
    "outer product": lambda: model(
        "e = Einsum<equation=\"i,j->ij\">(w, w) y = Add(x, e)", w=np.ones(1 << 14, np.float32)),
    "one hot": lambda: model(
        "o = OneHot(i, d, v) y = Add(x, o)", i=np.arange(1 << 12),
        d=np.int64(1 << 20), v=np.array([0, 1], dtype=np.float32)),
    "pad": lambda: model(
        "p = Pad(w, n) y = Add(x, p)", w=np.ones(4, np.float32), n=np.array([1 << 27, 1 << 27])),
    "resize": lambda: model(
        'r = Resize<mode="cubic">(w, , s) y = Add(x, r)', w=np.ones((1, 1, 64, 64), np.float32),
        s=np.array([1, 1, 64, 64], np.float32)),
    "axes": lambda: model("u = Unsqueeze(x, a) y = Relu(u)", a=np.arange(100)),
    "functions": lambda: tower(40, 2),
    "wide functions": lambda: tower(5, 30),
    "recursion": recursion,
    "long loop": lambda: loop(1 << 40),
    "endless loop": lambda: loop(0),
    "nonzero": lambda: model(
        "c = ConstantOfShape<value = float[1] {1.0}>(s) n = NonZero(c) f = Cast<to=1>(n)"
        " y = Add(x, f)", s=BIG),
    "activation": lambda: model(
        "e = Expand(x, s) f = Exp(e) y = Add(f, e)", s=np.array([1 << 30, 4], dtype=np.int64)),
    "weights of no size": lambda: model(
        "a = Add(x, w) y = Relu(a)", w=np.zeros((0, 4), dtype=np.float32)),
}  # fmt: skip


def test_hostile_models_are_refused_in_time_and_memory(tmp_path: Path) -> None:
    for name, make in HOSTILE.items():
        (tmp_path / f"{name}.onnx").write_bytes(make().SerializeToString())
    script = Path(__file__).parent / "hostile_process.py"
    run = subprocess.run(
        [sys.executable, "-P", str(script), *map(str, sorted(tmp_path.glob("*.onnx")))],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert len(rows) == len(HOSTILE)
    for name, seconds, kind, message, megabytes in rows:
        assert kind in ("InputError", "UnsupportedModelError"), (name, kind, message)
        assert float(seconds) < 10, (name, seconds)
        assert float(megabytes) < 500, (name, megabytes)
        assert len(message) > 40, (name, message)


def test_thousands_of_nodes_of_one_name() -> None:
    count = 8000
    nodes = [
        helper.make_node("Neg" if i % 2 else "Abs", [f"t{i}"], [f"t{i + 1}"], name="same")
        for i in range(count)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(f"t{count}", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    begin = time.process_time()
    assert len(run_pipeline(import_onnx(proto)).nodes) == count
    # Quadratic work would take minutes; this takes about three seconds.
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("seed", range(4))
def test_mutated_models_give_only_our_errors(seed: int) -> None:
    chance = random.Random(seed)
    sources = [(item, onnx.load(item.path)) for item in chance.sample(CORPUS, 40)]
    passed = refused = 0
    for _ in range(250):
        item, proto = chance.choice(sources)
        damaged = mutated(proto, chance).SerializeToString()
        try:
            run_pipeline(import_onnx(damaged, item.shapes)).verify()
            passed += 1
        except SystolError as error:
            refused += 1
            assert len(str(error)) > 30
    assert passed > 25 and refused > 100
