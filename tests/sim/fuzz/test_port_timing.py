"""Drawn timings are ones that the built machine can be set to."""

import random
from fractions import Fraction

import pytest

from systol_hw.arch import Arch
from systol_sim.fuzz.covering import covering_machines
from systol_sim.fuzz.port_timing import draw_timing
from systol_sim.hardware.run_setup import register_writes
from systol_sim.random_programs.generate import generate


@pytest.mark.parametrize("arch", covering_machines(), ids=lambda arch: arch.name)
def test_timings_differ_and_fit_the_registers(arch: Arch) -> None:
    rng = random.Random(arch.name)
    program = generate(arch, 1, instructions=12).program
    rates: set[Fraction] = set()
    latencies = set()
    for _ in range(40):
        drawn = draw_timing(arch, rng)
        assert drawn.name == arch.name
        assert drawn.weight_port.width_bytes == arch.weight_port.width_bytes
        writes = register_writes(
            program, watchdog_cycles=6000, weight_port=drawn.weight_port,
            host_port=drawn.host_port,
        )
        assert all(value >= 0 for _, value in writes)
        rates.add(drawn.host_port.bytes_per_cycle)
        latencies.add(drawn.weight_port.latency_cycles)
    assert len(rates) >= 3 and len(latencies) >= 10
    assert min(rates) >= Fraction(1, 2)
