"""The whole machine: a top that only connects."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from systol_hw.arch import ALL_WINDOWS, Arch
from systol_hw.rtl.contract.interfaces import MemorySignature
from systol_hw.rtl.contract.widths import (
    ADDRESS_BITS,
    CAUSE_BITS,
    CYCLE_BITS,
    GROUP_BITS,
    STATE_BITS,
    TAG_BITS,
    TOKEN_UNITS,
    UNIT_BITS,
)
from systol_hw.rtl.control.dispatch import VALUE_BITS, Dispatch
from systol_hw.rtl.control.fetch import Fetch
from systol_hw.rtl.control.supervisor import Supervisor
from systol_hw.rtl.control.tokens import TokenCounters
from systol_hw.rtl.control.unit_frame import UnitFrame
from systol_hw.rtl.counters import Counters
from systol_hw.rtl.matrix.engine import MatrixEngine
from systol_hw.rtl.memory.accumulators import Accumulators
from systol_hw.rtl.memory.memory_port import MemoryPort
from systol_hw.rtl.memory.unified_buffer import UnifiedBuffer
from systol_hw.rtl.transfer.engines import LoadEngine, StoreEngine
from systol_hw.rtl.vector.engine import VectorEngine
from systol_hw.rtl.weights.engine import WeightsEngine
from systol_hw.tables import registers
from systol_hw.tables.counters import AMOUNTS, COUNTER_BITS
from systol_hw.tables.faults import Unit
from systol_hw.tables.registers import CODE_LENGTH_BITS, REGISTERS

__all__ = ["ConfigurationRegisters", "Machine"]


class ConfigurationRegisters(Component):
    """The registers of `systol_hw.tables.registers`, written one at a time.

    Members
    -------
    write, address, data : In
        Write `data` to register `address`.
    <name> : Out
        Every register.
    """

    def __init__(self, arch: Arch):
        values = registers.reset_values(arch)
        super().__init__(
            {
                "write": In(1),
                "address": In(registers.ADDRESS_BITS),
                "data": In(registers.DATA_BITS),
            }
            | {r.name: Out(r.width, init=values[r.name]) for r in REGISTERS}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        with m.If(self.write), m.Switch(self.address):
            for register in REGISTERS:
                with m.Case(register.address):
                    m.d.sync += getattr(self, register.name).eq(self.data)
        return m


class Machine(Component):
    """A Systol machine.

    Parameters
    ----------
    arch : Arch
    packed : bool
        Recipe of the array's products, see `systol_hw.rtl.matrix.array`; the function is the same.

    Members
    -------
    config_write, config_address, config_data : In
        Register writes; ignored while `busy`.
    start : In(1)
        Begin a run; ignored while `busy`.
    busy, running, halted, faulted : Out(1)
        `running` in the cycles of the run; then one of the last two until the next start.
    fault_cause, fault_unit, fault_pc, fault_cycle : Out
        With `faulted`.
    interrupt_valid, interrupt_value : Out
        The interrupt instruction in the cycle of its execution, sync_host in that of its report.
    sync_valid : Out(1), sync_ack : In(1)
        From the report of a sync_host on the program waits until `sync_ack` in a cycle with
        `sync_valid`.
    status : Out(32)
        The status word (`set_config`).
    weight, host : Out(MemorySignature)
        The external memories.
    read_group, read_tag, read_code, read_data
        Counters (`Counters`), eight cycles after a run's end.
    inspect_address, inspect_ub, inspect_accumulators
        While not running, one cycle after the address: the unified-buffer row at that byte
        address, and the accumulator row of that number.
    trace_starts, trace_ends : Out(6), trace_<unit>_start_pc, trace_<unit>_end_pc : Out
        An instruction starts or ends in this cycle, by unit, and which.
    """

    def __init__(self, arch: Arch, *, packed: bool):
        self.arch = arch
        self.packed = packed
        members: dict[str, Any] = {
            "config_write": In(1),
            "config_address": In(registers.ADDRESS_BITS),
            "config_data": In(registers.DATA_BITS),
            "start": In(1),
            "busy": Out(1),
            "running": Out(1),
            "halted": Out(1),
            "faulted": Out(1),
            "fault_cause": Out(CAUSE_BITS),
            "fault_unit": Out(UNIT_BITS),
            "fault_pc": Out(CODE_LENGTH_BITS),
            "fault_cycle": Out(CYCLE_BITS),
            "interrupt_valid": Out(1),
            "interrupt_value": Out(16),
            "sync_valid": Out(1),
            "sync_ack": In(1),
            "status": Out(VALUE_BITS),
            "weight": Out(MemorySignature(width_bytes=arch.weight_port.width_bytes)),
            "host": Out(MemorySignature(width_bytes=arch.host_port.width_bytes)),
            "read_group": In(GROUP_BITS),
            "read_tag": In(TAG_BITS),
            "read_code": In(STATE_BITS),
            "read_data": Out(COUNTER_BITS),
            "inspect_address": In(ADDRESS_BITS),
            "inspect_ub": Out(8 * arch.ub_width_bytes),
            "inspect_accumulators": Out(32 * arch.columns),
            "trace_starts": Out(len(Unit)),
            "trace_ends": Out(len(Unit)),
        }
        for unit in Unit:
            members[f"trace_{unit.name.lower()}_start_pc"] = Out(CODE_LENGTH_BITS)
            members[f"trace_{unit.name.lower()}_end_pc"] = Out(CODE_LENGTH_BITS)
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        arch = self.arch
        m.submodules.registers = config = ConfigurationRegisters(arch)
        m.submodules.supervisor = supervisor = Supervisor(arch)
        m.submodules.counters = counters = Counters(arch)
        # The buffers keep their contents, and can be looked at, while the core is in reset.
        m.submodules.unified_buffer = buffer = UnifiedBuffer(arch)
        m.submodules.accumulators = accumulators = Accumulators(arch)

        core = Module()
        m.submodules.core = ResetInserter(~supervisor.running)(core)
        core.submodules.fetch = fetch = Fetch(arch)
        core.submodules.dispatch = dispatch = Dispatch(arch)
        core.submodules.tokens = tokens = TokenCounters(arch)
        frames: dict[Unit, UnitFrame] = {}
        for unit in TOKEN_UNITS:
            frames[unit] = UnitFrame(arch, unit)
            core.submodules[f"{unit.name.lower()}_frame"] = frames[unit]
        engines: dict[Unit, Any] = {
            Unit.LOAD: LoadEngine(arch),
            Unit.STORE: StoreEngine(arch),
            Unit.WEIGHTS: WeightsEngine(arch),
            Unit.MATRIX: MatrixEngine(arch, self.packed),
            Unit.VECTOR: VectorEngine(arch),
        }
        for unit in TOKEN_UNITS:
            engine = engines[unit]
            core.submodules[f"{unit.name.lower()}_engine"] = engine
            connect(core, frames[unit].engine, engine.engine)

        self._connect_configuration(m, config, supervisor, fetch, dispatch, engines)
        self._connect_dispatch(m, fetch, dispatch, frames, tokens)
        self._connect_buffers(m, supervisor.running, buffer, accumulators, engines)
        ports = self._connect_ports(m, config, supervisor, fetch, engines)
        self._connect_counters(m, supervisor, counters, fetch, dispatch, frames, engines, ports)
        self._connect_supervisor(m, supervisor, dispatch, frames, tokens)
        return m

    def _connect_configuration(
        self,
        m: Module,
        config: ConfigurationRegisters,
        supervisor: Supervisor,
        fetch: Fetch,
        dispatch: Dispatch,
        engines: Mapping[Unit, Any],
    ) -> None:
        m.d.comb += [
            config.write.eq(self.config_write & ~self.busy),
            config.address.eq(self.config_address),
            config.data.eq(self.config_data),
            supervisor.watchdog_cycles.eq(config.watchdog_cycles),
            fetch.code_address.eq(config.code_address),
            fetch.code_length.eq(config.code_length),
            dispatch.code_length.eq(config.code_length),
            dispatch.sync_latency.eq(config.host_latency),
        ]
        windows = Cat(getattr(config, f"window_bytes_{i}") for i in range(ALL_WINDOWS))
        for unit in (Unit.LOAD, Unit.STORE, Unit.WEIGHTS):
            m.d.comb += engines[unit].weight_bytes.eq(config.weight_bytes)
        for unit in (Unit.LOAD, Unit.STORE):
            m.d.comb += engines[unit].window_bytes.eq(windows)

    def _connect_dispatch(
        self,
        m: Module,
        fetch: Fetch,
        dispatch: Dispatch,
        frames: Mapping[Unit, UnitFrame],
        tokens: TokenCounters,
    ) -> None:
        m.d.comb += [
            dispatch.word.eq(fetch.word),
            dispatch.visible.eq(fetch.visible),
            dispatch.pc.eq(fetch.pc),
            fetch.advance.eq(dispatch.advance),
            dispatch.full.eq(Cat(frame.full for frame in frames.values())),
            dispatch.quiet.eq(Cat(frame.quiet for frame in frames.values())),
            self.interrupt_valid.eq(self.running & dispatch.interrupt),
            self.interrupt_value.eq(dispatch.interrupt_value),
            self.sync_valid.eq(self.running & dispatch.sync_valid),
            dispatch.sync_ack.eq(self.sync_ack),
        ]
        for unit, frame in frames.items():
            m.d.comb += [
                frame.push.eq(dispatch.push[unit - 1]),
                frame.push_word.eq(fetch.word),
                frame.push_pc.eq(fetch.pc),
                frame.push_tag.eq(dispatch.tag),
                frame.available.eq(tokens.available[unit - 1]),
                tokens.consume[unit - 1].eq(frame.consume),
                tokens.give[unit - 1].eq(frame.give),
            ]

    def _connect_buffers(
        self,
        m: Module,
        running: Signal,
        buffer: UnifiedBuffer,
        accumulators: Accumulators,
        engines: Mapping[Unit, Any],
    ) -> None:
        vector = engines[Unit.VECTOR]
        connect(m, engines[Unit.LOAD].ub, buffer.load_write)
        connect(m, engines[Unit.STORE].ub, buffer.store)
        connect(m, engines[Unit.WEIGHTS].ub, buffer.weights)
        connect(m, engines[Unit.MATRIX].ub, buffer.matrix)
        connect(m, vector.ub_a, buffer.vector_a)
        connect(m, vector.ub_write, buffer.vector_write)
        connect(m, engines[Unit.MATRIX].accumulators, accumulators.matrix)
        connect(m, engines[Unit.WEIGHTS].tile, engines[Unit.MATRIX].tile)
        # Reads of the lowest rank give way to the inspection of a stopped machine.
        b, row = buffer.vector_b, accumulators.vector
        m.d.comb += [
            b.request.eq(vector.ub_b.request | ~running),
            b.address.eq(Mux(running, vector.ub_b.address, self.inspect_address)),
            b.length.eq(Mux(running, vector.ub_b.length, self.arch.ub_width_bytes)),
            vector.ub_b.grant.eq(b.grant),
            vector.ub_b.data.eq(b.data),
            self.inspect_ub.eq(b.data),
            row.request.eq(vector.accumulators.request | ~running),
            row.row.eq(Mux(running, vector.accumulators.row, self.inspect_address)),
            vector.accumulators.grant.eq(row.grant),
            vector.accumulators.data.eq(row.data),
            self.inspect_accumulators.eq(row.data),
        ]

    def _connect_ports(
        self,
        m: Module,
        config: ConfigurationRegisters,
        supervisor: Supervisor,
        fetch: Fetch,
        engines: Mapping[Unit, Any],
    ) -> dict[str, MemoryPort]:
        load, store = engines[Unit.LOAD], engines[Unit.STORE]
        requesters = {
            "weight": {
                "fetch": fetch.beat,
                "weights": engines[Unit.WEIGHTS].weight,
                "load": load.weight,
                "store": store.weight,
            },
            "host": {"load": load.host, "store": store.host},
        }
        # Reset only once nothing is outstanding from an earlier run.
        ports_module = Module()
        reset = Signal()
        m.submodules.ports = ResetInserter(reset)(ports_module)
        ports = {}
        for name, beats in requesters.items():
            memory = {"weight": self.arch.weight_port, "host": self.arch.host_port}[name]
            port = MemoryPort(
                width_bytes=memory.width_bytes,
                requesters={unit: beat.signature for unit, beat in beats.items()},
                max_latency_cycles=registers.latency_limit(memory.latency_cycles),
            )
            ports_module.submodules[name] = ports[name] = port
            for unit, beat in beats.items():
                connect(ports_module, beat, getattr(port, unit))
            connect(ports_module, port.memory, flipped(getattr(self, name)))
            m.d.comb += [
                port.run.eq(supervisor.running),
                port.beat_cost.eq(getattr(config, f"{name}_beat_cost")),
                port.credit_income.eq(getattr(config, f"{name}_credit_income")),
                port.credit_cap.eq(getattr(config, f"{name}_credit_cap")),
                port.latency.eq(getattr(config, f"{name}_latency")),
            ]
        m.d.comb += [
            supervisor.drained.eq(Cat(port.idle for port in ports.values()).all()),
            reset.eq(supervisor.clearing & supervisor.drained),
        ]
        return ports

    def _connect_counters(
        self,
        m: Module,
        supervisor: Supervisor,
        counters: Counters,
        fetch: Fetch,
        dispatch: Dispatch,
        frames: Mapping[Unit, UnitFrame],
        engines: Mapping[Unit, Any],
        ports: Mapping[str, MemoryPort],
    ) -> None:
        m.d.comb += [
            counters.running.eq(supervisor.running),
            counters.cycle.eq(supervisor.cycle),
            counters.clear.eq(supervisor.clearing),
            counters.clear_address.eq(supervisor.clear_address),
            counters.late.eq(ports["weight"].late + ports["host"].late + dispatch.sync_late),
            counters.read_group.eq(self.read_group),
            counters.read_tag.eq(self.read_tag),
            counters.read_code.eq(self.read_code),
            self.read_data.eq(counters.read_data),
            counters.state_control.eq(dispatch.state),
            counters.tag_control.eq(dispatch.tag),
            counters.level_peak_weight_fifo.eq(engines[Unit.WEIGHTS].used),
            counters.level_peak_store_buffer.eq(engines[Unit.STORE].buffered),
            counters.level_peak_vector_rows.eq(engines[Unit.VECTOR].held_rows),
        ]
        for unit, frame in frames.items():
            name = unit.name.lower()
            m.d.comb += [
                getattr(counters, f"state_{name}").eq(frame.state),
                getattr(counters, f"tag_{name}").eq(frame.state_tag),
                getattr(counters, f"level_peak_queue_{name}").eq(frame.level),
            ]
        for amount in AMOUNTS:
            if amount.unit is Unit.CONTROL:
                granted = fetch.beat.request & fetch.beat.grant
                value: Any = Mux(granted, self.arch.weight_port.width_bytes, 0)
                tag = dispatch.tag
            else:
                frame = frames[amount.unit]
                value = getattr(frame.engine, f"amount_{amount.name}")
                tag = frame.active_tag
                if (amount.unit, amount.name) == (Unit.MATRIX, "overflows"):
                    # Sums arrive after later instructions may have started.
                    tag = frame.engine.retire_tag
            m.d.comb += [
                getattr(counters, f"amount_{amount.group}").eq(value),
                getattr(counters, f"amount_tag_{amount.group}").eq(tag),
            ]

    def _connect_supervisor(
        self,
        m: Module,
        supervisor: Supervisor,
        dispatch: Dispatch,
        frames: Mapping[Unit, UnitFrame],
        tokens: TokenCounters,
    ) -> None:
        units = frames.values()
        m.d.comb += [
            supervisor.start.eq(self.start),
            supervisor.halt.eq(dispatch.halt),
            supervisor.illegal.eq(dispatch.illegal),
            supervisor.unsupported.eq(dispatch.unsupported),
            supervisor.configure.eq(dispatch.configure),
            supervisor.config_value.eq(dispatch.config_value),
            supervisor.pc.eq(dispatch.pc),
            supervisor.address_fault.eq(Cat(frame.address_fault for frame in units)),
            supervisor.active_pc.eq(Cat(frame.active_pc for frame in units)),
            supervisor.token_overflow.eq(tokens.overflow),
            supervisor.end_pc.eq(Cat(frame.end_pc for frame in units)),
            supervisor.progress.eq(
                dispatch.advance | Cat((frame.started, frame.ended) for frame in units).any()
            ),
            self.trace_starts.eq(Cat(dispatch.started, (frame.started for frame in units))),
            self.trace_ends.eq(Cat(dispatch.ended, (frame.ended for frame in units))),
            self.trace_control_start_pc.eq(dispatch.pc),
            self.trace_control_end_pc.eq(dispatch.pc),
        ]
        for unit, frame in frames.items():
            m.d.comb += [
                getattr(self, f"trace_{unit.name.lower()}_start_pc").eq(frame.start_pc),
                getattr(self, f"trace_{unit.name.lower()}_end_pc").eq(frame.end_pc),
            ]
        for name in (
            "busy", "running", "halted", "faulted", "fault_cause", "fault_unit", "fault_pc",
            "fault_cycle", "status",
        ):  # fmt: skip
            m.d.comb += getattr(self, name).eq(getattr(supervisor, name))
