"""The check of the product's rooms finds what it is for."""

from pathlib import Path

from rooms import MOST_MODULES, ROOT, complaints


def _write(root: Path, texts: dict[str, str]) -> None:
    for place, text in texts.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_the_product_s_rooms() -> None:
    assert complaints(ROOT) == []


def test_a_room_that_is_too_full(tmp_path: Path) -> None:
    rooms = {"hw/p/__init__.py": "", "hw/p/full/__init__.py": ""}
    rooms |= {f"hw/p/full/m{number}.py": "" for number in range(MOST_MODULES)}
    _write(tmp_path, rooms)
    assert complaints(tmp_path, {"p": "hw"}) == []
    _write(tmp_path, {"hw/p/full/one_more.py": ""})
    (line,) = complaints(tmp_path, {"p": "hw"})
    assert line.startswith("p.full holds 17 modules, and a room may hold 16: ")


def test_circles_are_found_wherever_the_import_stands(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "hw/p/__init__.py": "",
            "hw/p/a.py": "from p import b\n",
            "hw/p/b.py": "import os\nfrom p.c import f\n",
            "hw/p/c.py": "def f():\n    import p.a\n",
            "hw/p/d.py": "from p.a import b\nimport p.c\n",
        },
    )
    assert complaints(tmp_path, {"p": "hw"}) == [
        "these import each other in a circle: p.a, p.b, p.c"
    ]
