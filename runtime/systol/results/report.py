"""Performance reports: one JSON schema, whichever executor made the counters.

The categories are those of Table 3 of the TPU paper, decided once for each cycle at the array's
entry. docs/counters.md, generated from the same tables, says what each figure means.

Ref: N. P. Jouppi et al., "In-Datacenter Performance Analysis of a Tensor Processing Unit", ISCA
2017, Table 3.
"""

import json
from pathlib import Path
from typing import Any

from systol.results.record import RunRecord, SegmentRun
from systol.version import version
from systol_compiler.layer_figures import layer_figures
from systol_hw.arch import TAGS, Arch
from systol_hw.atomic_file import replacing
from systol_hw.errors import InputError
from systol_hw.program import Program
from systol_hw.tables.counter_categories import CATEGORIES, STALL_CAUSES
from systol_hw.tables.counters import AMOUNTS, SCALARS, UNIT_STATES
from systol_hw.tables.faults import Unit
from systol_sim.results import Counters, RunResult

SCHEMA = "systol.counters/2"
_MAX_REPORT_BYTES = 64 << 20


def make_report(result: RunRecord) -> dict[str, Any]:
    """The report of a run, as JSON values.

    All figures are those of all runs together, but `layers`: they are of one run of each segment,
    exact, whichever backend counted (time depends neither on data nor on tags). `tags` has what
    the backend itself counted under each debug tag. `filled` items of the last run were copies:
    cycles and useful MACs count them, while figures by image count the images that were given.

    Raises
    ------
    InputError
        The backend counts no cycles.
    """
    model = result.model
    total = result.counters
    if total is None:
        raise InputError(
            f"the {result.backend.name} backend counts no cycles; take sim or rtl"
            if model.machine_segments
            else "the model runs on the host alone, so there are no counters"
        )
    arch = model.arch
    return {
        "schema": SCHEMA,
        "systol": version(),
        "model": model.name,
        "backend": result.backend.name,
        "arch": arch.to_dict(),
        "fingerprint": arch.fingerprint(),
        "batch": model.batch,
        "images": result.items,
        "runs": result.runs,
        "filled": result.filled,
        **_figures(total, arch, result.items),
        "host_seconds": result.host_seconds,
        "array": _array(total),
        "scalars": _scalars(total),
        "units": _units(total),
        "segments": [_segment(run) for run in result.segments],
        "layers": [
            {"segment": run.segment.name, **figures.to_json()}
            for run in result.segments
            for figures in layer_figures(run.segment)
        ],
        "tags": [tag for run in result.segments for tag in _tags(run)],
        "warnings": list(result.warnings),
    }


def report_program(program: Program, run: RunResult, backend: str) -> dict[str, Any]:
    """The report of one run of a program of one's own: as `make_report`, for one image, with
    neither layers nor segments.

    Raises
    ------
    InputError
        The backend counts no cycles.
    """
    total, arch = run.counters, program.arch
    if total is None:
        raise InputError(f"the {backend} backend counts no cycles; take sim or rtl")
    return {
        "schema": SCHEMA,
        "systol": version(),
        "model": "program",
        "backend": backend,
        "arch": arch.to_dict(),
        "fingerprint": arch.fingerprint(),
        "batch": None,
        "images": 1,
        "runs": 1,
        "filled": 0,
        **_figures(total, arch, 1),
        "host_seconds": 0.0,
        "array": _array(total),
        "scalars": _scalars(total),
        "units": _units(total),
        "segments": [],
        "layers": [],
        "tags": [
            {"tag": tag, "units": _units(total, tag)}
            for tag in range(TAGS)
            if total.states[:, tag].any()
        ],
        "warnings": [],
    }


def _scalars(counters: Counters) -> dict[str, Any]:
    return {
        s.name: {"value": int(counters.scalars[s.index]), "measure": s.measure} for s in SCALARS
    }


def _segment(run: SegmentRun) -> dict[str, Any]:
    cycles = None if run.counters is None else run.counters.cycles
    return {"segment": run.segment.name, "cycles": cycles}


def _figures(counters: Counters, arch: Arch, images: int) -> dict[str, Any]:
    cycles = counters.cycles
    useful = counters.amount(Unit.MATRIX, "useful_macs")
    return {
        "cycles": cycles,
        "cycles_per_image": cycles / images,
        "seconds": cycles / arch.clock_hz,
        "images_per_second": images * arch.clock_hz / cycles,
        "useful_mac_share": useful / (cycles * arch.macs_per_cycle),
    }


def _array(counters: Counters) -> dict[str, Any]:
    """Cycles by category, and reasons for the cycles without matrix work."""
    named = {
        category.name: sum(counters.state(Unit.MATRIX, state) for state in category.states)
        for category in CATEGORIES
    }
    causes = {
        cause.name: sum(counters.state(Unit.MATRIX, state) for state in cause.states)
        for cause in STALL_CAUSES
    }
    return {"categories": named, "non_matrix_causes": causes}


def _units(counters: Counters, tag: int | None = None) -> dict[str, Any]:
    """States in cycles and amounts with their measure, by unit; -1 (not known) is left out."""
    units: dict[str, Any] = {
        unit.name.lower(): {
            "states": {state.name: counters.state(unit, state.name, tag) for state in states},
            "amounts": {},
        }
        for unit, states in UNIT_STATES.items()
    }
    for index, amount in enumerate(AMOUNTS):
        if (counters.amounts[index] >= 0).all():
            units[amount.unit.name.lower()]["amounts"][amount.name] = {
                "value": counters.amount(amount.unit, amount.name, tag),
                "measure": amount.measure,
            }
    return units


def _tags(run: SegmentRun) -> list[dict[str, Any]]:
    """The counters of one segment by debug tag, for tags that charge anything."""
    counters = run.counters
    if counters is None:
        return []
    result = []
    for tag in range(TAGS):
        if not counters.states[:, tag].any():
            continue
        result.append(
            {
                "segment": run.segment.name,
                "tag": tag,
                "layers": list(run.segment.layers_of_tag(tag)),
                "units": _units(counters, tag),
            }
        )
    return result


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON; raises `InputError` if the file cannot be written."""
    with replacing(path) as stream:
        stream.write((json.dumps(value, indent=2) + "\n").encode())


def read_report(path: str | Path) -> dict[str, Any]:
    """A report from a file.

    Raises
    ------
    InputError
        The file cannot be read or holds no report of this schema.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            raise InputError(f"{path} has more than {_MAX_REPORT_BYTES} bytes: no counter report")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path} must be a report of schema {SCHEMA!r}, not {schema!r}; make one with "
            "`systol run ... --counters FILE`"
        )
    assert isinstance(value, dict)
    return value
