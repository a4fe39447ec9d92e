"""Runs a compiled model on a device: boundaries, machine segments, host segments."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from systol.device import Backend, Executor, WaveExecutor, find_backend
from systol_compiler.arithmetic import dequantize, quantize
from systol_compiler.model import Binding, CompiledModel, MachineSegment
from systol_compiler.old_quantized import HostOutput, HostSegment, QuantizeInput
from systol_hw.assembly import format_word
from systol_hw.counters import AMOUNTS
from systol_hw.errors import InputError, MachineFaultError
from systol_sim.checker import check
from systol_sim.results import Counters, RunResult

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int], None]
"""Called with the items done and all items."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentRun:
    """What the runs of one machine segment gave.

    Parameters
    ----------
    segment
        The segment.
    counters
        Sums over all runs (peaks: maxima); None where the device counts no cycles.
    first
        The result of the first run, but for windows and memories: those of all segments together
        may be more than the computer has.
    """

    segment: MachineSegment
    counters: Counters | None
    first: RunResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelResult:
    """The outcome of one call of `Session.run`.

    Parameters
    ----------
    outputs
        The model's outputs by name; the first dimension is the number of items given. Empty
        where only time was asked for (`Session.time`).
    segments
        Machine segments, in order.
    tensors
        The int8 tensors by name, where they were asked for: shape (items, ...).
    items, runs
        Items given, and times that the segments ran for them.
    host_seconds, machine_seconds
        Time spent in host segments, and in executing machine segments on this computer (which
        says nothing about the machine).
    """

    model: CompiledModel
    backend: Backend
    outputs: dict[str, Array]
    segments: tuple[SegmentRun, ...]
    tensors: dict[str, Array] = field(default_factory=dict)
    items: int
    runs: int
    host_seconds: float
    machine_seconds: float

    def __repr__(self) -> str:
        cycles = [run.counters.cycles for run in self.segments if run.counters is not None]
        parts = [
            f"{self.model.name!r} on {self.backend.name}",
            f"items={self.items}",
            *(f"{name}: {value.dtype.name}{list(value.shape)}"
              for name, value in self.outputs.items()),
            *([f"cycles={sum(cycles)}"] if cycles else []),
        ]  # fmt: skip
        return f"ModelResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        # A notebook's page is made of reports, which are made of results.
        from systol.notebook import result_html

        return result_html(self)


class Device:
    """A place to run models: `Device("sim").run(model, {"x": x})`.

    Parameters
    ----------
    backend
        A name in `systol.device.BACKENDS`.

    Raises
    ------
    InputError
        There is no such backend.
    MissingToolError
        It needs something that is not installed.
    """

    def __init__(self, backend: str = "sim") -> None:
        self.backend = find_backend(backend)
        self.executor: Executor = self.backend.open()

    def __repr__(self) -> str:
        return f"Device({self.backend.name!r})"

    def load(self, model: CompiledModel) -> "Session":
        """A session for many runs of `model`; see `Session`."""
        return Session(model, self)

    def run(self, model: CompiledModel, inputs: Mapping[str, Array]) -> ModelResult:
        """Run `model` once on `inputs`; see `Session.run`."""
        return self.load(model).run(inputs)


class Session:
    """A model, checked and ready on a device.

    Raises
    ------
    InvalidProgramError
        The static checker refuses a machine segment's program.
    InputError
        ONNX Runtime refuses a host segment.
    """

    def __init__(self, model: CompiledModel, device: Device) -> None:
        self.model = model
        self.device = device
        for segment in model.machine_segments:
            check(segment.program)
        self._host = {s.name: _host_session(s) for s in model.host_segments}

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        keep_tensors: bool = False,
        progress: Progress | None = None,
        waves: Path | None = None,
    ) -> ModelResult:
        """Run all items of `inputs`, a batch at a time.

        Parameters
        ----------
        inputs
            One array of real numbers for every input of the model, by name. The first dimension
            counts items and may be any number from 1; the others are the model's. The last batch
            is filled up with zeros, whose results are dropped: items are taken as independent.
        keep_tensors
            Return the int8 tensors too.
        waves
            Where to draw the waveforms of the first machine segment's first run.

        Raises
        ------
        InputError
            An input is missing, unknown, or of another shape or type; or the device draws no
            waveforms, or not such a file.
        MachineFaultError
            The machine stopped with a fault.
        """
        if waves is not None and not self.device.backend.waves:
            raise InputError(
                f"the {self.device.backend.name} backend has no signals to draw; take rtl or "
                "amaranth for waveforms"
            )
        items, arrays = self._check_inputs(inputs)
        batch = self.model.batch
        collected: dict[str, list[Array]] = {}
        kept: dict[str, list[Array]] = {}
        first: dict[str, RunResult] = {}
        sums: dict[str, Counters | None] = {}
        host_seconds = machine_seconds = 0.0
        for start in range(0, items, batch):
            count = min(batch, items - start)
            tensors = {
                item.tensor: _quantize_input(item, arrays[item.name][start : start + count])
                for item in self.model.inputs
            }
            on_host: dict[str, Array] = {}
            for segment in self.model.segments:
                began = time.perf_counter()
                if isinstance(segment, HostSegment):
                    on_host.update(self._run_host(segment, tensors))
                    host_seconds += time.perf_counter() - began
                    continue
                result = self._run_machine(segment, tensors, waves)
                waves = None
                machine_seconds += time.perf_counter() - began
                if segment.name not in first:
                    first[segment.name] = replace(result, windows=[], memories={})
                earlier = sums.get(segment.name)
                sums[segment.name] = add_counters(earlier, result.counters)
            for output in self.model.outputs:
                if isinstance(output, HostOutput):
                    value = on_host[output.name]
                else:
                    steps = tensors[output.tensor].transpose(output.permutation)
                    # Of the batch only the items that were given become real numbers.
                    steps = steps.reshape(output.source_shape)[:count]
                    value = dequantize(steps, output.scale, output.zero_point)
                collected.setdefault(output.name, []).append(value[:count])
            if keep_tensors:
                for name, tensor in tensors.items():
                    kept.setdefault(name, []).append(tensor[:count])
            if progress is not None:
                progress(start + count, items)
        return ModelResult(
            model=self.model,
            backend=self.device.backend,
            outputs={name: np.concatenate(parts) for name, parts in collected.items()},
            segments=tuple(
                SegmentRun(segment=s, counters=sums[s.name], first=first[s.name])
                for s in self.model.machine_segments
            ),
            tensors={name: np.concatenate(parts) for name, parts in kept.items()},
            items=items,
            runs=-(-items // batch),
            host_seconds=host_seconds,
            machine_seconds=machine_seconds,
        )

    def time(self) -> ModelResult:
        """Times and counters of one run on a full batch, without inputs and outputs.

        The machine's time never depends on data, so they are those of any run; amounts that
        depend on values (saturations, overflows) are not known. The simulator computes no values
        for it. Host segments do not run.

        Raises
        ------
        InputError
            The device counts no cycles.
        MachineFaultError
            The machine stopped with a fault.
        """
        self.device.backend.require_cycles()
        began = time.perf_counter()
        segments = []
        for segment in self.model.machine_segments:
            result = self.device.executor(segment.program, {}, values=False)
            _check_fault(segment, result)
            assert result.counters is not None
            counters = _without_values(result.counters)
            first = replace(result, windows=[], memories={})
            segments.append(SegmentRun(segment=segment, counters=counters, first=first))
        return ModelResult(
            model=self.model,
            backend=self.device.backend,
            outputs={},
            segments=tuple(segments),
            items=self.model.batch,
            runs=1,
            host_seconds=0.0,
            machine_seconds=time.perf_counter() - began,
        )

    def _check_inputs(self, inputs: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
        """Number of items, and the arrays as float32."""
        expected = {item.name: item.source_shape for item in self.model.inputs}
        for name in inputs:
            if name not in expected:
                raise InputError(
                    f"the model has no input {name!r}; its inputs are {', '.join(expected)}"
                )
        arrays: dict[str, Array] = {}
        for name, shape in expected.items():
            wanted = f"float32 [n{''.join(f', {size}' for size in shape[1:])}]"
            if name not in inputs:
                raise InputError(f"input {name!r} is missing; give it as {wanted}")
            array = np.asarray(inputs[name])
            if array.dtype.kind not in "fiub":
                raise InputError(f"input {name!r} must be {wanted}, not of type {array.dtype}")
            if array.ndim != len(shape) or array.shape[1:] != shape[1:] or len(array) == 0:
                raise InputError(f"input {name!r} must be {wanted}, not {list(array.shape)}")
            arrays[name] = array.astype(np.float32, copy=False)
        counts = {len(array) for array in arrays.values()}
        if len(counts) > 1:
            raise InputError(f"inputs must have equal first dimensions, not {sorted(counts)}")
        return counts.pop(), arrays

    def _run_machine(
        self, segment: MachineSegment, tensors: dict[str, Array], waves: Path | None
    ) -> RunResult:
        program = segment.program
        # As far as the inputs reach: what lies behind them in a window is zero, and an executor
        # need not touch it.
        ends: dict[str, int] = {}
        for binding in segment.inputs:
            end = binding.offset_bytes + tensors[binding.tensor].nbytes
            ends[binding.window] = max(end, ends.get(binding.window, 0))
        contents: dict[str, Array] = {name: np.zeros(end, np.uint8) for name, end in ends.items()}
        for binding in segment.inputs:
            tensor = np.ascontiguousarray(tensors[binding.tensor])
            _bytes_of(contents[binding.window], binding, tensor.nbytes)[:] = tensor.view(
                np.uint8
            ).reshape(-1)
        executor = self.device.executor
        if waves is None:
            result = executor(program, contents, values=True)
        else:
            result = cast(WaveExecutor, executor)(program, contents, values=True, waves=waves)
        _check_fault(segment, result)
        windows = {
            window.name: data for window, data in zip(program.windows, result.windows, strict=True)
        }
        for binding in segment.outputs:
            shape = self.model.tensors[binding.tensor].shape
            size = int(np.prod(shape))
            data = _bytes_of(windows[binding.window], binding, size).view(np.int8)
            tensors[binding.tensor] = data.reshape(shape).copy()
        return result

    def _run_host(self, segment: HostSegment, tensors: Mapping[str, Array]) -> dict[str, Array]:
        names = [output.name for output in segment.outputs]
        feeds = {name: tensors[name] for name in segment.inputs}
        try:
            values = self._host[segment.name].run(names, feeds)
        except Exception as error:  # ONNX Runtime's own classes have no public base
            raise InputError(f"host segment {segment.name!r} failed: {error}") from error
        for output, value in zip(segment.outputs, values, strict=True):
            if value.shape != output.source_shape:
                raise InputError(
                    f"host segment {segment.name!r} gave {output.name!r} of shape "
                    f"{list(value.shape)}, not {list(output.source_shape)}; compile the model again"
                )
        return dict(zip(names, values, strict=True))


def add_counters(a: Counters | None, b: Counters | None) -> Counters | None:
    """Counters of two runs together: sums, but the greater of two peaks. None counts nothing."""
    if a is None or b is None:
        return a if b is None else b
    scalars = np.maximum(a.scalars, b.scalars)
    scalars[:2] = a.scalars[:2] + b.scalars[:2]  # cycles and late cycles; the others are peaks
    # A row of -1 stands for "not known" and must stay that.
    known = (a.amounts >= 0) & (b.amounts >= 0)
    return Counters(
        states=a.states + b.states,
        amounts=np.where(known, a.amounts + b.amounts, -1),
        scalars=scalars,
    )


def _quantize_input(item: QuantizeInput, values: Array) -> Array:
    """The int8 tensor of one batch; `values` may hold fewer items than the batch."""
    try:
        given = quantize(values, item.scale, item.zero_point)
    except InputError as error:
        raise InputError(f"input {item.name!r}: {error}") from error
    # The missing items are zero, whose step is the zero point.
    full = np.full(item.source_shape, item.zero_point, np.int8)
    full[: len(given)] = given
    return np.ascontiguousarray(full.transpose(item.permutation))


def _bytes_of(window: Array, binding: Binding, size: int) -> Array:
    return window[binding.offset_bytes : binding.offset_bytes + size]


def _without_values(counters: Counters) -> Counters:
    """Counters of which those that depend on values are not known (-1)."""
    depends = [amount.depends_on_values for amount in AMOUNTS]
    amounts = np.where(np.array(depends)[:, None], -1, counters.amounts)
    return replace(counters, amounts=amounts)


def _check_fault(segment: MachineSegment, result: RunResult) -> None:
    """Raise `MachineFaultError`, with instruction and layer, if the run ended with a fault."""
    fault = result.fault
    if fault is None:
        return
    text = f"segment {segment.name!r} stopped: {fault}"
    if fault.pc < len(segment.program.code):
        layers = [la.layer for la in segment.layers if la.first <= fault.pc < la.first + la.count]
        text += f" ({format_word(segment.program.code[fault.pc].tobytes())}"
        text += f"; layer {layers[0]!r})" if layers else ")"
    raise MachineFaultError(text)


def _host_session(segment: HostSegment) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are about its own optimizations
    try:
        return onnxruntime.InferenceSession(
            segment.model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own classes have no public base
        raise InputError(
            f"host segment {segment.name!r} cannot run here: {error}; compile the model again "
            "with this installation's ONNX Runtime"
        ) from error
