"""Functions by table: correctly rounded of int8, close between knots of 16 bits."""

import numpy as np
import pytest

from node_cases import Case
from quantized_cases import lowered
from systol_compiler.nests.vector import Table as TableOperation
from systol_compiler.nests.vector import VectorNest
from systol_compiler.numbers.tensor import QTensor
from systol_compiler.quantized.ops.pointwise.expression import EXPANDED, UNARY, Expression, Step
from systol_compiler.quantized.ops.pointwise.table import Table, tabulated
from systol_hw.arch import PRESETS
from systol_hw.errors import InputError

SMOOTH = (
    "Atan", "Celu", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "LeakyRelu", "Mish",
    "Selu", "Sigmoid", "Sin", "Softplus", "Swish", "Tanh",
)
DOMAINS = {
    "Log": (0.1, 4.0), "Sqrt": (0.0, 4.0), "Reciprocal": (0.1, 4.0), "Acosh": (1.0, 4.0),
    "Acos": (-0.9, 0.9), "Asin": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Tan": (-1.5, 1.5),
}


def case(op: str, shape: tuple[int, ...] = (3, 100), **options: object) -> Case:
    low, high = DOMAINS.get(op, (-3.0, 2.0))
    return Case(op=op, inputs=(shape,), low=low, high=high, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", [op for op in (*UNARY, *EXPANDED) if op not in ("Abs", "Neg")])
def test_int8_results_are_correctly_rounded(op: str) -> None:
    checked = case(op).check(0.5001)
    assert checked.kinds == ["table"]


@pytest.mark.parametrize("op", ["Sigmoid", "Gelu", "Exp"])
def test_int8_to_16_bits_is_correctly_rounded(op: str) -> None:
    case(op, widths={"x0": 8, "y0": 16}).check(0.52)


@pytest.mark.parametrize("op", SMOOTH)
def test_16_bits_are_interpolated(op: str) -> None:
    checked = case(op, widths=16).check(3.2, export=3.2)
    assert checked.kinds == ["table"]


@pytest.mark.parametrize("op", ["Tanh", "Gelu", "Exp"])
def test_16_bits_to_int8_are_rounded_once(op: str) -> None:
    case(op, widths={"x0": 16, "y0": 8}).check(0.52)


@pytest.mark.parametrize("op", ["Floor", "Sign", "Round"])
def test_stepped_functions_of_16_bits_are_those_of_int8(op: str) -> None:
    checked = case(op, widths={"x0": 16, "y0": 8}).check(1000, export=None)
    assert checked.kinds == ["rescale", "table"]


@pytest.mark.parametrize(("op", "attributes"), [
    ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.5}), ("Selu", {"alpha": 1.2, "gamma": 0.9}),
    ("Celu", {"alpha": 2.0}), ("HardSigmoid", {"alpha": 0.25, "beta": 0.4}),
    ("ThresholdedRelu", {"alpha": 0.7}), ("Gelu", {"approximate": "tanh"}),
    ("Gelu", {"approximate": "none"}), ("Swish", {"alpha": 1.7}),
    ("Shrink", {"bias": 0.2, "lambd": 0.9}),
])
def test_attributes(op: str, attributes: dict[str, object]) -> None:
    case(op, attributes=attributes).check(0.5001)


def test_the_tables_of_the_two_gelus_differ() -> None:
    tables = [
        case("Gelu", attributes={"approximate": mode}, widths={"x0": 8, "y0": 16}).check().layers
        for mode in ("none", "tanh")
    ]
    first, second = (layers[0] for layers in tables)
    assert isinstance(first, Table) and isinstance(second, Table)
    assert (first.entries != second.entries).any()


@pytest.mark.parametrize("widths", [8, 16])
def test_a_clip_behind_it_is_part_of_the_table(widths: int) -> None:
    checked = case("Softplus", clip=(0.2, 1.5), widths=widths).check(1.3, export=1.3)
    assert checked.kinds == ["table"]
    codes, tensor = checked.codes["y0"], checked.graph.tensors["y0"]
    assert (codes.min(), codes.max()) == tuple(
        round(bound / tensor.scale) + tensor.zero_point for bound in (0.2, 1.5)
    )


def test_outside_of_the_domain_the_nearest_value_holds() -> None:
    source = QTensor(name="x", shape=(1,), scale=0.125, zero_point=0)
    output = QTensor(name="y", shape=(1,), scale=0.0625, zero_point=0)
    entries, _, _ = tabulated(Expression((Step(op="Sqrt"),)), source, output, -128, 127)
    assert (entries[:129] == 0).all() and entries[130] == round(np.sqrt(0.25) / 0.0625)
    poles, _, _ = tabulated(Expression((Step(op="Reciprocal"),)), source, output, -128, 127)
    assert poles[128] == 127


def test_one_table_serves_two_layers() -> None:
    checked = case("Tanh", shape=(1, 3)).check()
    (network,) = lowered(checked.graph, PRESETS["edge16"])
    (nest,) = network.nests
    assert isinstance(nest, VectorNest) and isinstance(nest.operation, TableOperation)
    assert network.buffers[nest.operation.table].size_bytes == 256


def test_a_wrong_table_is_refused() -> None:
    tensors = {
        name: QTensor(name=name, shape=(2,), scale=1.0, zero_point=0, width=width)
        for name, width in (("x", 16), ("y", 8))
    }
    layer = Table(
        name="layer", inputs=("x",), outputs=("y",), source_nodes=(), shift=8, zero_point=0,
        expression=Expression((Step(op="Tanh"),)), entries=np.zeros(256, np.int8), lo=-128, hi=127,
    )
    with pytest.raises(InputError, match=r"from 16 to 8 bits cannot have \(256,\) entries"):
        layer.verify(tensors)
