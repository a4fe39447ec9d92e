"""The page about machine files, from `Arch` itself: keys, presets and a whole file."""

import dataclasses
import inspect
import re

from systol_hw.arch import ARCH_LIMITS, PORT_LIMITS, PRESETS, Arch, MemoryPort, dump_arch

_HEAD = """\
# Machines

<!-- Generated from systol_hw.arch by `python -m systol.docs_check --write`. -->

Wherever a command or `systol.compile` takes a machine, it takes the name of a preset or the path of
a TOML file. A file states every key that has no default. Unknown keys, and values that do not fit
each other, are refused with the rule that they break. The binary carries the machine that it was
compiled for, and no other machine runs it.
"""
_FILE = """\
## A file

This is `{name}`, whole; `systol_hw.arch.dump_arch` writes such a text for any `Arch`.

```toml
{text}```
"""
_ENTRY = re.compile(r"^(\S.*)\n((?:    .*\n?)+)", re.MULTILINE)


def machines_page() -> str:
    """The Markdown of docs/machines.md."""
    return "\n".join([
        _HEAD,
        "## Keys\n",
        _keys(Arch),
        "## Keys of `[weight_port]` and `[host_port]`\n",
        _keys(MemoryPort),
        "## Presets\n",
        _presets(),
        _FILE.format(name="edge16", text=dump_arch(PRESETS["edge16"])),
    ])  # fmt: skip


def _keys(cls: type) -> str:
    """A table of the parameters that the class's docstring explains, with their defaults."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("Parameters\n----------\n")[2]
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    limits = {**ARCH_LIMITS, **PORT_LIMITS}
    lines = ["| key | default | limits | meaning |", "|---|---|---|---|"]
    for names, meaning in _ENTRY.findall(text):
        keys = names.split(", ")
        given = [_default(defaults[key]) for key in keys]
        lines.append(
            f"| {', '.join(f'`{key}`' for key in keys)} | {', '.join(dict.fromkeys(given))} | "
            f"{', '.join(dict.fromkeys(_range(limits[k]) for k in keys if k in limits))} | "
            f"{' '.join(meaning.split())} |"
        )
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "none"


def _range(limits: tuple[int, int]) -> str:
    return "..".join(f"{limit:,}" for limit in limits)


def _presets() -> str:
    flat = {name: _flat(arch) for name, arch in PRESETS.items()}
    lines = [f"| key | {' | '.join(f'`{name}`' for name in flat)} |", "|---|" + "---:|" * len(flat)]
    for key in flat["edge16"]:
        lines.append(f"| `{key}` | {' | '.join(values[key] for values in flat.values())} |")
    return "\n".join(lines) + "\n"


def _flat(arch: Arch) -> dict[str, str]:
    """Keys, those of ports with the port's name before a dot, and values as text."""
    flat: dict[str, str] = {}
    for key, value in arch.to_dict().items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for name, item in inner:
            text = f"{item:,}" if isinstance(item, int) else str(item)
            flat[f"{key}.{name}" if name else key] = text
    del flat["name"]
    return flat
