"""Runs a compiled model on a device: boundaries, machine segments, host segments."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast, overload

import numpy as np
from numpy.typing import ArrayLike

from systol.device import Executor, WaveExecutor, find_backend
from systol.execution.host import HostRunner
from systol.execution.inputs import Batch, by_name, check_inputs
from systol.execution.ranges import InputRangeWarning, RangeWatch
from systol.execution.values import RunValues
from systol.program_run import ProgramResult, run_program
from systol.results.record import SegmentRun, add_counters, without_values
from systol.results.result import ModelResult
from systol_compiler.binary.model import CompiledModel, MachineSegment
from systol_compiler.numbers.limits import Array
from systol_hw.errors import InputError, MachineFaultError
from systol_hw.isa.assembly import format_word
from systol_hw.program import Program
from systol_sim.results import Counters, RunResult
from systol_sim.validity.checker import check

Progress = Callable[[int, int], None]
"""Called with the items done and all items."""


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

    @overload
    def run(
        self, model: CompiledModel, inputs: Mapping[str, ArrayLike] | ArrayLike
    ) -> ModelResult: ...

    @overload
    def run(
        self, model: Program, inputs: Mapping[str, ArrayLike] | ArrayLike | None = None
    ) -> ProgramResult: ...

    def run(
        self,
        model: CompiledModel | Program,
        inputs: Mapping[str, ArrayLike] | ArrayLike | None = None,
    ) -> ModelResult | ProgramResult:
        """Run `model` once on `inputs`: a compiled model, see `Session.run`; or a program of one's
        own on what its host windows hold, see `systol.program_run.run_program`."""
        if isinstance(model, Program):
            return run_program(model, inputs, backend=self.backend)
        if inputs is None:
            raise InputError(
                f"the model needs its inputs, {', '.join(item.name for item in model.inputs)}; for "
                "cycles alone there is `Device.load(model).time()`"
            )
        return self.load(model)._run(inputs, depth=3)


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
        self._host = {segment.name: HostRunner(segment) for segment in model.host_segments}

    def __repr__(self) -> str:
        return f"Session({self.model.name!r} on {self.device.backend.name})"

    def run(
        self,
        inputs: Mapping[str, ArrayLike] | ArrayLike,
        *,
        keep_tensors: bool = False,
        progress: Progress | None = None,
        waves: Path | None = None,
    ) -> ModelResult:
        """Run all items of `inputs`, a batch at a time.

        Parameters
        ----------
        inputs
            One array for every input of the model, by name; one array alone for a model of one
            input. Where all of the model's inputs and outputs begin with one dimension
            (`CompiledModel.batch`), it counts items: arrays may have any number of them, and the
            last run is filled up with copies, whose results are dropped. Items are taken as
            independent. Otherwise arrays have exactly the model's shapes.
        keep_tensors
            Return the quantized tensors that cross between segments, too.
        waves
            Where to draw the waveforms of the first machine segment's first run.

        Warns
        -----
        InputRangeWarning
            Values lie far outside the range that the model was calibrated for.

        Raises
        ------
        InputError
            An input is missing, unknown, or of another shape or type; or the device draws no
            waveforms, or not such a file; or a host segment fails.
        MachineFaultError
            The machine stopped with a fault.
        """
        return self._run(inputs, keep_tensors, progress, waves, depth=3)

    def _run(
        self,
        inputs: Mapping[str, ArrayLike] | ArrayLike,
        keep_tensors: bool = False,
        progress: Progress | None = None,
        waves: Path | None = None,
        *,
        depth: int,
    ) -> ModelResult:
        """As `run`; warnings name the place `depth` calls up."""
        if waves is not None:
            self.device.backend.require_waves()
        items = check_inputs(self.model, by_name(self.model, inputs))
        runs = _Runs(self, keep_tensors, waves)
        done = 0
        for batch in items.batches():
            runs.run(batch)
            done += batch.items
            if progress is not None:
                progress(done, items.count)
        filled = 0 if items.size is None else items.runs * items.size - items.count
        result = runs.result(items.count, items.runs, filled)
        for text in result.warnings:
            warnings.warn(text, InputRangeWarning, stacklevel=depth)
        return result

    def time(self) -> ModelResult:
        """Times and counters of one run, without inputs and outputs.

        The machine's time never depends on data, so they are those of any run; amounts that
        depend on values are not known. Host segments do not run.

        Raises
        ------
        InputError
            The backend counts no cycles, or there is no machine segment.
        MachineFaultError
            The machine stopped with a fault.
        """
        self.device.backend.require_cycles()
        if not self.model.machine_segments:
            raise InputError("the model runs on the host alone; there are no cycles to count")
        began = time.perf_counter()
        segments = []
        for segment in self.model.machine_segments:
            result = self.device.executor(segment.program, {}, values=False)
            _check_fault(segment, result)
            assert result.counters is not None
            counters = without_values(result.counters)
            first = replace(result, windows=[], memories={})
            segments.append(SegmentRun(segment=segment, counters=counters, first=first))
        return ModelResult(
            model=self.model,
            backend=self.device.backend,
            outputs={},
            segments=tuple(segments),
            items=self.model.batch or 1,
            runs=1,
            host_seconds=0.0,
            machine_seconds=time.perf_counter() - began,
        )

    def run_host(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the host segment `name`."""
        return self._host[name].run(feeds)


class _Runs:
    """What is collected over the runs of one call."""

    def __init__(self, session: Session, keep_tensors: bool, waves: Path | None) -> None:
        self._session, self._model = session, session.model
        self._keep, self._waves = keep_tensors, waves
        self._watch = RangeWatch(self._model.tensors)
        self._outputs: dict[str, list[Array]] = {}
        self._kept: dict[str, list[Array]] = {}
        self._first: dict[str, RunResult] = {}
        self._counters: dict[str, Counters | None] = {}
        self._host_seconds = self._machine_seconds = 0.0

    def run(self, batch: Batch) -> None:
        """All segments, in order."""
        values = RunValues(self._model, batch.arrays, batch.items, self._watch)
        for segment in self._model.segments:
            if isinstance(segment, MachineSegment):
                self._machine(segment, values)
                continue
            feeds = {name: values.real(name) for name in segment.inputs}
            began = time.perf_counter()
            values.give(self._session.run_host(segment.name, feeds))
            self._host_seconds += time.perf_counter() - began
        for output in self._model.outputs:
            value = values.own_real(output.tensor)
            self._outputs.setdefault(output.name, []).append(value)
        if self._keep:
            for name, codes in values.codes.items():
                self._kept.setdefault(name, []).append(values.own(codes))

    def _machine(self, segment: MachineSegment, values: RunValues) -> None:
        contents = values.window_contents(segment)
        executor, program = self._session.device.executor, segment.program
        began = time.perf_counter()
        if self._waves is None:
            result = executor(program, contents, values=True)
        else:
            drawing = cast(WaveExecutor, executor)
            result = drawing(program, contents, values=True, waves=self._waves)
            self._waves = None
        self._machine_seconds += time.perf_counter() - began
        _check_fault(segment, result)
        values.take_windows(segment, result.windows)
        if segment.name not in self._first:
            self._first[segment.name] = replace(result, windows=[], memories={})
        earlier = self._counters.get(segment.name)
        self._counters[segment.name] = add_counters(earlier, result.counters)

    def result(self, items: int, runs: int, filled: int) -> ModelResult:
        """Everything together."""
        return ModelResult(
            model=self._model,
            backend=self._session.device.backend,
            outputs={name: _joined(parts) for name, parts in self._outputs.items()},
            segments=tuple(
                SegmentRun(
                    segment=s, counters=self._counters[s.name], first=self._first[s.name]
                )
                for s in self._model.machine_segments
            ),
            tensors={name: _joined(parts) for name, parts in self._kept.items()},
            items=items,
            runs=runs,
            filled=filled,
            host_seconds=self._host_seconds,
            machine_seconds=self._machine_seconds,
            warnings=self._watch.warnings(),
        )


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _check_fault(segment: MachineSegment, result: RunResult) -> None:
    """Raise `MachineFaultError`, with instruction and layer, if the run ended with a fault."""
    fault = result.fault
    if fault is None:
        return
    text = f"segment {segment.name!r} stopped: {fault}"
    if fault.pc < len(segment.program.code):
        layer = segment.layer_at(fault.pc)
        text += f" ({format_word(segment.program.code[fault.pc].tobytes())}"
        text += f"; layer {layer.layer!r})" if layer else ")"
    raise MachineFaultError(text)
