"""Reads a memory plan's text: what lies where in the unified buffer, and when."""

from collections.abc import Sequence

from systol_compiler.plan.allocation import Allocation, Request
from systol_compiler.plan.fitting import GroupPlan
from systol_compiler.plan.memory_plan import MemoryPlan
from systol_compiler.text.form import Reader
from systol_compiler.text.forms import form_of, made, read_fields

_LIMIT = 1 << 40


def read_allocated(text: str, different: Sequence[GroupPlan]) -> MemoryPlan:
    """The plan of a text that a `MemoryPlan` prints as.

    `different` are the plans of its different groups, in the order in which they come first.
    `MemoryPlan.verify` checks that nothing overlaps.

    Raises
    ------
    InputError
        The text is none of a plan for these groups, with line and column.
    """
    reader = Reader(text)
    token = reader.expect("allocated")
    reader.expect("groups")
    groups = form_of(tuple[int, ...]).read(reader)
    if not groups or any(not 0 <= group < len(different) for group in groups):
        raise reader.error(f"groups lie in 0..{len(different) - 1}, unlike those of", token)
    reader.expect("peak")
    peak_bytes = reader.integer()
    values = read_fields(reader, MemoryPlan, ("groups", "allocation"))
    reader.expect("{")
    requests: list[Request] = []
    addresses: dict[str, int] = {}
    while not reader.accept("}"):
        start = reader.expect("request")
        name = reader.string()
        reader.expect("at")
        address = reader.integer()
        request = made(
            reader, start, Request, {"name": name} | read_fields(reader, Request, ("name",))
        )
        if name in addresses:
            raise reader.error(f"two requests are called {name!r}, the second", start)
        if not 0 <= address < _LIMIT or not 0 < request.size_bytes < _LIMIT:
            raise reader.error(f"addresses and sizes lie in 0..{_LIMIT - 1}, unlike in", start)
        requests.append(request)
        addresses[name] = address
    reader.of_kind("end", "the end of the text")
    plan = made(
        reader, token, MemoryPlan,
        values | {
            "groups": tuple(different[group] for group in groups),
            "allocation": Allocation(
                requests=tuple(requests), addresses=addresses, peak_bytes=peak_bytes
            ),
        },
    )
    assert isinstance(plan, MemoryPlan)
    return plan
