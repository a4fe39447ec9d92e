"""Committed reference pages are fresh, and a stale one is shown and rewritten."""

import shutil
from pathlib import Path

import pytest

from systol import docs_check
from systol_hw.errors import InputError
from systol_sim.mutation.survivors import survivors_text

ROOT = Path(__file__).parents[2]


def test_committed_pages_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_check.main([]) == 0, capsys.readouterr().out


def test_stale_pages_are_shown_and_rewritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "tests").mkdir()
    page = tmp_path / "docs" / "isa.md"
    page.write_text(page.read_text().replace("`halt`", "`stop`"))
    assert docs_check.main(["--root", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "-| [`stop`](#halt)" in out and "+| [`halt`](#halt)" in out
    assert "--write" in err
    assert docs_check.main(["--root", str(tmp_path), "--write"]) == 0
    assert docs_check.main(["--root", str(tmp_path)]) == 0
    assert "`stop`" not in page.read_text()


def test_the_page_on_planted_mistakes_lists_the_explained_survivors(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "tests").mkdir()
    page = tmp_path / "docs" / "mutation.md"
    whole = page.read_text()
    first = survivors_text().splitlines(keepends=True)[0]
    page.write_text(whole.replace(first, ""))
    assert page.read_text() != whole
    assert docs_check.main(["--root", str(tmp_path)]) == 1
    assert docs_check.main(["--root", str(tmp_path), "--write"]) == 0
    assert page.read_text() == whole


def test_pins_come_from_micro_programs_and_tests(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "microprograms.md").write_text(
        "# M\n\n## 4. First\n\n```expect\ncycles 3\nload.busy[2] 1\n```\n"
        "\n## 9. Second\n\n```expect\nload.busy 1\nload.start 0\n```\n"
    )
    tests = tmp_path / "tests" / "sim"
    tests.mkdir(parents=True)
    module = tests / "test_a.py"
    module.write_text(
        "@pytest.mark.pins('load.busy', 'cycles')\n"
        "def test_b():\n    assert count('load.busy') == 1 and state != 'store.busy'\n"
        "@pytest.mark.pins\n"
        "@pytest.mark.parametrize(('name', 'value'), [('load.flight', 7), ('load.flight', 8)])\n"
        "def test_c(name, value):\n    assert count(name) == value\n"
    )
    pins = docs_check.find_pins(tmp_path)
    assert pins["load.busy"] == ["4", "9", "`test_a::test_b`"]
    assert pins["load.flight"] == ["`test_a::test_c`"]
    assert pins["cycles"] == ["4", "`test_a::test_b`"]
    # Expected to be zero, or only named.
    assert pins["load.start"] == pins["store.busy"] == []
    for mark, words in (("('load.bus')", "load.bus, which is no counter"),
                        ("", "counters, which neither the mark nor its parameters name")):
        module.write_text(f"@pytest.mark.pins{mark}\ndef test_d(): pass\n")
        with pytest.raises(InputError, match=words):
            docs_check.find_pins(tmp_path)


def test_something_pins_every_counter() -> None:
    assert [name for name, found in docs_check.find_pins(ROOT).items() if not found] == []
