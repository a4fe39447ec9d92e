"""Minimum cuts against all cuts."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from systol_compiler.quantized.placement.min_cut import UNBOUNDED, MinCut

ARCS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), max_size=18
)


@given(ARCS)
def test_the_cut_is_minimal_and_keeps_what_it_can_with_the_source(
    arcs: list[tuple[int, int, int]],
) -> None:
    cut = MinCut(6)
    for start, end, capacity in arcs:
        cut.arc(start, end, capacity)
    sides = cut.reached(0, 1)
    assert sides[0] and not sides[1]

    def cost(sides: list[bool]) -> int:
        return sum(c for a, b, c in arcs if sides[a] and not sides[b])

    every = [[True, False, *rest] for rest in itertools.product([True, False], repeat=4)]
    best = min(map(cost, every))
    assert cost(sides) == best
    assert all(sum(sides) >= sum(other) for other in every if cost(other) == best)


def test_long_chains_need_no_recursion() -> None:
    cut = MinCut(20_000)
    for place in range(2, 19_999):
        cut.arc(place, place + 1, 5)
    cut.arc(0, 2, UNBOUNDED)
    cut.arc(19_999, 1, 3)
    assert sum(cut.reached(0, 1)) == 19_999
