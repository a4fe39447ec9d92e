"""Networks drawn at random: compiled, run and compared (`random_networks.py` is the campaign)."""

import pytest

from random_networks import run_network


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_random_network_is_exact_and_near_its_float_nodes(seed: int) -> None:
    assert run_network(seed) in ("compared", "host alone")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1200, 20))
def test_more_random_networks(first: int) -> None:
    for seed in range(first, first + 20):
        run_network(seed)
