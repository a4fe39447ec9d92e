"""Before compiling: where every node of a model would run, why, and at what cost."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from systol_compiler.compile import import_graph
from systol_compiler.graph.reading.importer import ModelSource
from systol_compiler.graph.reading.model_file import open_model
from systol_compiler.quantized.placement.partition import Partition, Place, partition
from systol_compiler.report import FOLDED, node_row, node_rows, source_nodes
from systol_hw.arch import Arch
from systol_hw.errors import UnsupportedModelError

OPEN: Final = "open"
"""Place of a node of a model that cannot be read because of others."""
PLACES: Final = ("machine", "host", FOLDED, "refused", OPEN)
_BLOCKER: Final = re.compile(r"(?:- )?node '(.*?)' \((\w*)\): (.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Inspection:
    """What becomes of a model.

    Attributes
    ----------
    name
        The model's.
    nodes
        Every node of the source, in its order, as JSON values: `node`, `operator`, `place` (one
        of `PLACES`), `reason`, `remedy`, `macs`, `bytes`.
    partition
        None where the model cannot be read.
    blockers
        What stands in the way of compiling, in full sentences.
    """

    name: str
    nodes: tuple[dict[str, Any], ...]
    partition: Partition | None
    blockers: tuple[str, ...]

    def __repr__(self) -> str:
        counts = {place: sum(row["place"] == place for row in self.nodes) for place in PLACES}
        places = ", ".join(f"{count} {place}" for place, count in counts.items() if count)
        return f"Inspection({self.name!r}, {len(self.nodes)} nodes: {places or 'none'})"

    def to_json(self, arch: Arch | None = None) -> dict[str, Any]:
        """As JSON values; with a machine, the least cycles of its products too."""
        macs = {
            place: sum(row["macs"] for row in self.nodes if row["place"] == place)
            for place in (Place.MACHINE, Place.HOST)
        }
        summary: dict[str, Any] = {
            place: sum(row["place"] == place for row in self.nodes) for place in PLACES
        }
        summary |= {"machine_macs": macs[Place.MACHINE], "host_macs": macs[Place.HOST]}
        values: dict[str, Any] = {
            "model": self.name, "nodes": list(self.nodes), "blockers": list(self.blockers),
            "summary": summary,
        }  # fmt: skip
        if self.partition is not None:
            parts, types = self.partition, self.partition.graph.types
            values |= {
                "inputs": {name: str(types[name]) for name in parts.graph.inputs},
                "outputs": {o.name: str(types[o.tensor]) for o in parts.graph.outputs},
                "crossings": [
                    {"tensor": c.tensor, "to": str(c.to), "elements": c.elements}
                    for c in parts.crossings
                ],
            }
            summary |= {"segments": len(parts.segments), "crossings": len(parts.crossings)}
        if arch is not None:
            least = -(-macs[Place.MACHINE] // arch.macs_per_cycle)
            summary |= {"arch": arch.name, "least_cycles": least}
        return values


def inspect_model(
    model: ModelSource,
    *,
    shapes: Mapping[str, int] | None = None,
    batch: int = 1,
    strict: bool = False,
) -> Inspection:
    """Place every node of `model`, refusing none. Parameters as of `import_graph` and `partition`.

    Raises
    ------
    InputError
        The model is damaged, or leaves a dimension open.
    """
    nodes = source_nodes(model)
    try:
        graph = import_graph(model, shapes=shapes, batch=batch)
    except UnsupportedModelError as error:
        return Inspection(
            name=open_model(model).model.graph.name,
            nodes=tuple(_blocked_rows(nodes, _sentences(error))),
            partition=None,
            blockers=tuple(_sentences(error)),
        )
    parts = partition(graph, strict=strict, refuse=False)
    # What strict compilation would refuse.
    kinds = (Place.REFUSED, Place.HOST) if strict else (Place.REFUSED,)
    refused = tuple(str(row) for row in parts.placed if row.place in kinds)
    return Inspection(
        name=parts.graph.name,
        nodes=tuple(node_rows(nodes, parts.placed)),
        partition=parts,
        blockers=refused,
    )


def _sentences(error: UnsupportedModelError) -> list[str]:
    """The blockers that an error lists, one a line behind its first."""
    head, *rest = str(error).split("\n- ")
    return rest or [head]


def _blocked_rows(
    nodes: Iterable[tuple[str, str]], blockers: Iterable[str]
) -> list[dict[str, Any]]:
    reasons = {found[1]: found[3] for text in blockers if (found := _BLOCKER.match(text))}
    rows: dict[str, dict[str, Any]] = {}
    for name, operator in nodes:
        if name in reasons:
            rows[name] = node_row(name, operator, Place.REFUSED, reasons[name])
        else:
            reason = "nothing is placed while something stands in the way"
            rows.setdefault(name, node_row(name, operator, OPEN, reason))
    return list(rows.values())
