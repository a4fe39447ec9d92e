"""The page about machine files says what a file needs."""

import dataclasses
import re
from pathlib import Path

from systol_hw.arch import PRESETS, Arch, MemoryPort, load_arch
from systol_hw.pages.machines import machines_page


def test_the_file_on_the_page_is_a_machine(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", machines_page(), re.DOTALL)
    (tmp_path / "a.toml").write_text(text)
    assert load_arch(tmp_path / "a.toml") == PRESETS["edge16"]


def test_every_key_has_its_line() -> None:
    page = machines_page()
    for cls in (Arch, MemoryPort):
        for field in dataclasses.fields(cls):
            lines = [
                line for line in page.splitlines() if re.match(rf"\| [^|]*`{field.name}`", line)
            ]
            default = "none" if field.default is dataclasses.MISSING else f"{field.default:,}"
            assert any(default in line.split("|")[2] for line in lines), field.name
    assert all(f"`{name}`" in page for name in PRESETS)
