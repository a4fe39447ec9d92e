"""Where nodes go: the machine, the host, or nowhere; and in what order."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_graphs import text_graph
from systol_compiler.graph.float_graph import Graph, GraphOutput, Node, TensorType
from systol_compiler.quantized.build import LayerBuilder, MachineNode
from systol_compiler.quantized.operator import FLOAT32, Operator, Rule
from systol_compiler.quantized.placement.partition import Partition, Place, partition
from systol_hw.errors import UnsupportedModelError


def never(node: Node, builder: LayerBuilder) -> None:
    raise AssertionError("partitioning builds nothing")


def even_channels(node: Node, graph: Graph) -> str | None:
    """a Conv must have an even number of output channels."""
    channels = graph.types[node.inputs[1]].shape[0]
    return None if channels % 2 == 0 else f"{channels} channels"


OPERATORS: Mapping[str, Operator] = {
    "Conv": Operator(
        names=("Conv",), build=never, clips=True,
        rules=(FLOAT32, Rule(check=even_channels, remedy="add a channel")),
    ),
    "MatMul": Operator(names=("MatMul",), build=never, clips=True, biases=True),
    "Add": Operator(names=("Add",), build=never, clips=True),
    "Neg": Operator(names=("Neg",), build=never),
    "Softmax": Operator(names=("Softmax",), build=never, passes=8),
    "Transpose": Operator(names=("Transpose",), build=never, moves=True),
}
WEIGHTS = {
    "w": np.ones((4, 4, 1, 1), np.float32),
    "odd": np.ones((3, 4, 1, 1), np.float32),
    "m": np.ones((8, 8), np.float32),
    "b": np.arange(8, dtype=np.float32),
}


def place(body: str, *, strict: bool = False) -> Partition:
    graph = text_graph(body, WEIGHTS, canonical=False)
    return partition(graph, strict=strict, operators=OPERATORS)


def places(parts: Partition) -> dict[str, str]:
    return {row.op: str(row.place) for row in parts.placed}


IMAGE = "float[1, 4, 32, 32]"


def test_a_bias_and_a_clip_that_alone_read_a_result_join_its_operator() -> None:
    parts = place(
        """g (float[2, 8] x) => (float[2, 8] y) {
            h = MatMul(x, m)
            i = Add(h, b)
            y = Relu(i)
        }"""
    )
    (unit,) = parts.machine
    assert (unit.node.op, unit.output, unit.bias, unit.least) == ("MatMul", "y", "b", 0.0)
    assert unit.greatest == np.inf
    assert [row.place for row in parts.placed] == [Place.MACHINE] * 3
    assert "part of" in parts.placed[2].reason


@pytest.mark.parametrize(
    "body",
    [
        "h = MatMul(x, m)  y = Add(h, h)",  # twice the same, no constant
        "h = MatMul(x, m)  n = Neg(h)  y = Add(h, n)",
        "h = MatMul(x, m)  y = Add(h, x)",
    ],
)
def test_an_add_of_computed_values_is_no_bias(body: str) -> None:
    parts = place(f"g (float[2, 8] x) => (float[2, 8] y) {{ {body} }}")
    assert not any(unit.bias for unit in parts.machine)


def test_a_result_that_the_user_sees_keeps_its_own_tensor() -> None:
    parts = place(
        "g (float[2, 8] x) => (float[2, 8] h, float[2, 8] y) { h = MatMul(x, m) y = Add(h, b) }",
        strict=True,
    )
    assert [unit.output for unit in parts.machine] == ["h", "y"]


def test_a_broken_rule_sends_a_node_to_the_host_and_is_the_reason() -> None:
    parts = place(
        f"g ({IMAGE} x) => (float[1, 3, 32, 32] y) {{ h = Conv(x, w)  y = Conv(h, odd) }}"
    )
    first, second = parts.placed
    assert first.place is Place.MACHINE and first.macs == 4 * 4 * 32 * 32
    assert second.place is Place.HOST
    assert "even number of output channels" in second.reason and "3 channels" in second.reason
    assert second.remedy == "add a channel"


def test_integers_stay_on_the_host() -> None:
    parts = place(
        """g (int64[1, 8] ids) => (float[1, 8, 8] y) {
            n = Neg(ids)
            e = Gather(m, n)
            y = MatMul(e, m)
        }"""
    )
    assert places(parts) == {"Neg": "host", "Gather": "host", "MatMul": "machine"}
    assert "int64" in parts.placed[0].reason


def test_a_lone_cheap_node_between_host_nodes_is_not_worth_a_crossing() -> None:
    parts = place(
        f"""g ({IMAGE} x) => ({IMAGE} y) {{
            h = Conv(x, w)  a = Sin(h)  n = Neg(a)  s = Sin(n)  y = Conv(s, w)
        }}"""
    )
    assert places(parts)["Neg"] == "host"
    assert [len(segment) for segment in parts.segments] == [1, 3, 1]
    assert "not worth a crossing" in parts.placed[2].reason


def test_a_cheap_node_beside_the_machine_stays_there() -> None:
    parts = place(
        f"g ({IMAGE} x) => ({IMAGE} y) {{ h = Conv(x, w)  a = Neg(h)  y = Sin(a) }}"
    )
    assert places(parts) == {"Conv": "machine", "Neg": "machine", "Sin": "host"}


def test_a_softmax_goes_to_the_host_at_the_end_and_stays_in_the_middle() -> None:
    end = place("g (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, m)  y = Softmax(h) }")
    assert places(end) == {"MatMul": "machine", "Softmax": "host"}
    middle = place(
        """g (float[2, 8] x) => (float[2, 8] y) {
            h = MatMul(x, m)  s = Softmax(h)  y = MatMul(s, m)
        }"""
    )
    assert places(middle)["Softmax"] == "machine"


def test_moves_go_where_their_neighbours_are() -> None:
    on_host = place(
        """g (float[8, 8] x) => (float[8, 8] y) {
            a = Sin(x)  t = Transpose(a)  s = Sin(t)  y = MatMul(s, m)
        }"""
    )
    assert places(on_host)["Transpose"] == "host"
    on_machine = place(
        """g (float[8, 8] x) => (float[8, 8] y) {
            a = MatMul(x, m)  t = Transpose(a)  y = MatMul(t, m)
        }"""
    )
    assert places(on_machine)["Transpose"] == "machine"


def test_strict_keeps_on_the_machine_what_can_be_there_and_lists_all_that_cannot() -> None:
    parts = place(
        "g (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, m)  y = Softmax(h) }", strict=True
    )
    assert not parts.host
    with pytest.raises(UnsupportedModelError, match=r"2 must run there.*\(Sin\).*\(Cos\)"):
        place(
            "g (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, m) s = Sin(h) y = Cos(s) }",
            strict=True,
        )


def test_a_model_without_a_machine_node_runs_on_the_host() -> None:
    parts = place("g (float[2, 8] x) => (float[2, 8] y) { y = Sin(x) }")
    assert places(parts) == {"Sin": "host"} and not parts.machine and not parts.crossings
    assert not place("g (float[2, 8] x) => (float[2, 8] y) { y = Identity(x) }").machine
    with pytest.raises(UnsupportedModelError, match=r"1 must run there.*\(Sin\)"):
        place("g (float[2, 8] x) => (float[2, 8] y) { y = Sin(x) }", strict=True)


def last_of_its_model(node: Node, graph: Graph) -> str | None:
    """its result must not be an output"""
    shown = {output.tensor for output in graph.outputs}
    return node.outputs[0] if node.outputs[0] in shown else None


def test_strict_does_not_ask_preferences() -> None:
    table = {
        **OPERATORS,
        "Neg": Operator(
            names=("Neg",), build=never,
            rules=(Rule(check=last_of_its_model, remedy="compile with strict", preference=True),),
        ),
    }
    graph = text_graph(
        "g (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, m)  y = Neg(h) }", WEIGHTS,
        canonical=False,
    )
    parts = partition(graph, operators=table)
    assert places(parts) == {"MatMul": "machine", "Neg": "host"}
    assert parts.placed[1].reason == "its result must not be an output; found y"
    assert places(partition(graph, operators=table, strict=True)) == {
        "MatMul": "machine", "Neg": "machine"
    }


def test_a_model_of_cheap_nodes_alone_still_runs_on_the_machine() -> None:
    assert places(place("g (float[2, 8] x) => (float[2, 8] y) { y = Neg(x) }")) == {
        "Neg": "machine"
    }


def test_what_nothing_can_run_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="random"):
        place(
            """g (float[2, 8] x) => (float[2, 8] y) {
                r = RandomNormalLike(x)  h = Add(x, r)  y = MatMul(h, m)
            }"""
        )


def test_crossings_are_listed_with_their_direction() -> None:
    parts = place(
        "g (float[2, 8] x) => (float[2, 8] y) { h = MatMul(x, m)  s = Sin(h)  y = MatMul(s, m) }"
    )
    assert [(c.tensor, str(c.to)) for c in parts.crossings] == [
        ("x", "machine"), ("h", "host"), ("s", "machine"), ("y", "host"),
    ]  # fmt: skip


def random_graph(choices: list[tuple[str, list[int]]]) -> Graph:
    """A graph whose node i reads the tensors that `choices[i]` picks among those before it."""
    kind = TensorType(dtype="float32", shape=(8, 8))
    nodes, tensors = [], ["x"]
    for index, (op, picks) in enumerate(choices):
        inputs = [tensors[pick % len(tensors)] for pick in picks]
        inputs = inputs[:2] if op == "Add" else inputs[:1]
        if op == "MatMul":
            inputs.append("m")
        name = f"t{index}"
        nodes.append(
            Node(name=name, op=op, inputs=tuple(inputs), outputs=(name,), sources=(name,))
        )
        tensors.append(name)
    read = {name for node in nodes for name in node.inputs}
    outputs = [name for name in tensors[1:] if name not in read]
    return Graph(
        name="random", opset=21, inputs=("x",), nodes=tuple(nodes),
        outputs=tuple(GraphOutput(name=name, tensor=name) for name in outputs),
        constants={"m": np.eye(8, dtype=np.float32)},
        types=dict.fromkeys([*tensors, "m"], kind),
    )


NODES = st.lists(
    st.tuples(
        st.sampled_from(["MatMul", "Add", "Neg", "Sin", "Softmax", "Transpose"]),
        st.lists(st.integers(0, 20), min_size=2, max_size=2),
    ),
    min_size=1,
    max_size=9,
)


@given(NODES)
@settings(max_examples=150)
def test_random_graphs_run_in_an_order_that_respects_them(
    choices: list[tuple[str, list[int]]],
) -> None:
    graph = random_graph([("MatMul", [0, 0]), *choices])
    parts = partition(graph, operators=OPERATORS)
    defined = {"x", "m"}
    for unit in parts.units:
        node = unit.node if isinstance(unit, MachineNode) else unit
        assert defined.issuperset(node.inputs)
        defined.update(node.outputs if isinstance(unit, Node) else [unit.output])
    assert {output.tensor for output in graph.outputs} <= defined
    assert [row.name for row in parts.placed] == [node.name for node in graph.nodes]
    assert all(row.place is Place.HOST for row in parts.placed if row.op == "Sin")
    assert all(row.place is Place.MACHINE for row in parts.placed if row.op == "MatMul")


@given(NODES)
@settings(max_examples=100)
def test_no_order_of_the_same_placement_alternates_less(
    choices: list[tuple[str, list[int]]],
) -> None:
    graph = random_graph([("MatMul", [0, 0]), *choices[:5]])
    parts = partition(graph, operators=OPERATORS)
    units = [
        (isinstance(u, MachineNode), u.node.inputs, u.output) if isinstance(u, MachineNode)
        else (False, u.inputs, u.outputs[0])
        for u in parts.units
    ]
    best = len(units)
    for order in itertools.permutations(units):
        defined = {"x", "m"}
        for _, inputs, output in order:
            if not defined.issuperset(inputs):
                break
            defined.add(output)
        else:
            sides = [side for side, _, _ in order]
            best = min(best, 1 + sum(a != b for a, b in itertools.pairwise(sides)))
    assert len(parts.segments) == best


def test_partitioning_takes_time_in_proportion_to_the_nodes() -> None:
    chain = [("Neg", [i, i]) if i % 3 else ("MatMul", [i, i]) for i in range(3000)]
    graph = random_graph(chain)
    assert len(partition(graph, operators=OPERATORS).machine) == 3000
