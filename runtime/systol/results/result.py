"""The outcome of a run as its user meets it: with reports, traces and tables at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from systol.results.layer_csv import write_layers_csv
from systol.results.notebook import result_html
from systol.results.record import RunRecord
from systol.results.report import make_report
from systol.results.tables import Table, sections
from systol.results.trace import make_trace


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelResult(RunRecord):
    """What `Device.run` and `Session.run` give. Attributes as of `RunRecord`.

    >>> import systol
    >>> from systol.selftest import tiny_input, tiny_model
    >>> result = systol.Device("sim").run(tiny_model(), tiny_input())
    >>> sorted(result.outputs)
    ['y']
    >>> result.report["cycles"] == result.cycles
    True
    """

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """The performance report: JSON values (docs/counters.md).

        Raises
        ------
        InputError
            The backend counts no cycles, or the model runs on the host alone.
        """
        return make_report(self)

    def trace(self) -> dict[str, Any]:
        """The first run of every machine segment, for Perfetto; raises as `report`."""
        return make_trace(self)

    def tables(self) -> list[Table]:
        """The report's tables: heading row and rows of text; raises as `report`."""
        return sections(self.report)

    def write_csv(self, path: str | Path) -> None:
        """Write each layer's figures as comma-separated values, plain numbers; raises as `report`,
        and `InputError` if the file cannot be written."""
        write_layers_csv(path, self.report)

    def __repr__(self) -> str:
        parts = [
            f"{self.model.name!r} on {self.backend.name}",
            f"items={self.items}",
            *(f"{name}: {value.dtype.name}{list(value.shape)}"
              for name, value in self.outputs.items()),
            *([f"cycles={self.cycles}"] if self.cycles is not None else []),
            *([f"{len(self.warnings)} warning(s)"] if self.warnings else []),
        ]  # fmt: skip
        return f"ModelResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        return result_html(self)
