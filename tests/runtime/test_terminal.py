"""What is printed is shown by a terminal and never obeyed, and a build is never silent."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systol.cli import COMMANDS, build_parser, main
from systol.console import terminal
from systol.console.terminal import BuildStatus, plain_streams, print_table, say
from systol_hw.errors import InputError
from systol_hw.nearest import did_you_mean
from systol_hw.shown import printable, shown
from systol_sim.building import building, observed

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))
EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\rover\x08\u202egnp.exe\x00\u2028"


def obeyed(text: str) -> set[str]:
    """Characters of `text` that a terminal does not simply show."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - {"\n", "\t"}


@given(st.text())
def test_printable_leaves_nothing_to_obey_and_what_can_be_seen(text: str) -> None:
    found = printable(text)
    assert not obeyed(found)
    seen = "".join(c for c in text if c.isprintable())
    assert len(found) >= len(seen)
    if text.isprintable():
        assert found == text


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists))
def test_a_shown_value_is_short_and_obeyed_by_none(value: object) -> None:
    found = shown(value)
    assert len(found) <= 64 and not obeyed(found)


def test_values_that_python_does_not_write() -> None:
    assert shown(1 << 50_000) == "an integer of 50001 bits"
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) in ("a value that is nested too deeply", "[" * 60 + "...")


def test_every_way_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_streams():
        print(EVIL)
        say(EVIL)
        print_table((EVIL, "b"), [(EVIL, "2"), ("two\nlines", "3")], title=EVIL)
        sys.stderr.writelines([EVIL])
    captured = capsys.readouterr()
    assert not obeyed(captured.out) and not obeyed(captured.err)
    assert captured.out.count("title") == 4 and "two\\nlines" in captured.out
    print(EVIL)  # outside, streams are as they were
    assert obeyed(capsys.readouterr().out)


def test_rich_may_still_colour_its_own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    with plain_streams():
        print_table(("name", "n"), [(EVIL, "1")], title="tables")
    own = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert not obeyed(own) and own != screen.getvalue()


REPORT = {"schema": "systol.counters/2", "model": EVIL, EVIL: 1, "cycles": 5}


@pytest.mark.parametrize(
    "arguments",
    [["compare", "{report}", "{report}"], ["compare", "{evil}"], ["check", "{evil}"],
     ["check", "{text}"], ["run", "x.elf", "--input", "{evil}", EVIL], ["fuzz", "--machines", EVIL],
     [EVIL], ["run", EVIL, "--input", "x"], ["compare", "{report}", f"--{EVIL}"],
     ["disasm", "{text}"], ["asm", "{text}", "--into", EVIL, "-o", "{evil}"]],
    ids=lambda words: words[0].encode("unicode_escape").decode()[:12] + str(len(words)),
)  # fmt: skip
def test_commands_show_what_they_are_given(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"{report}": tmp_path / "r.json", "{text}": tmp_path / "t.txt"}
    places["{evil}"] = tmp_path / EVIL.replace("\0", "")
    places["{report}"].write_text(json.dumps(REPORT))
    places["{text}"].write_text(f".systol 1\n.arch nano\n{EVIL}\n", encoding="utf-8")
    words = [str(places[word]) if word in places else word for word in arguments]
    try:
        main(words)
    except SystemExit:
        pass
    except ValueError as error:
        assert "null" in str(error)
    captured = capsys.readouterr()
    assert (captured.out or captured.err) and not obeyed(captured.out + captured.err)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_a_terminal_of_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": "systol.counters/2", "model": "模型 ö \ud800"}))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "systol", "compare", str(path)],
        env={**os.environ, "PYTHONPATH": PATHS, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).strip().endswith("\\ud800")


def test_unknown_words_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for words, found in (
        (["compil"], "'compil' (did you mean compile"),
        (["run", "a", "--imput", "b", "--input", "c"], "--imput (did you mean --input "),
        (["run", "a", "--input", "b", "--backend", "sin"], "'sin' (did you mean sim?)"),
        (["zzz"], "'zzz'; there are "),
    ):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert found in " ".join(capsys.readouterr().err.split())
    found = did_you_mean("edge15", ["nano", "edge16", "edge32"])
    assert found == " (did you mean edge16 or edge32?)"
    assert did_you_mean("x", ["nano"]) == ""
    # Names may be a stranger's, and comparing takes the product of their lengths.
    assert did_you_mean("a" * 10**6, ["a" * 10**6, *(f"{n}" * 1000 for n in range(10**5))])
    assert "\x1b" not in did_you_mean("input", ["inp\x1but"])


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fuzz", "--prog", "1"])
    assert "did you mean --programs" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), InputError("a rule")])
def test_errors_that_are_not_bugs(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("systol.commands.compare.read_report", fail)
    assert main(["compare", "x"]) == InputError.exit_status
    assert "bug" not in capsys.readouterr().err


def test_a_build_speaks_at_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "PACE_SECONDS", 0.05)
    with observed(BuildStatus), building("the thing\x1b") as tell:
        assert "building the thing\\x1b, once ..." in capsys.readouterr().err
        tell("step", 3, 9)
        end = time.monotonic() + 30
        said = ""
        while "(step 3 of 9, " not in said and time.monotonic() < end:
            said += capsys.readouterr().err
    assert "(step 3 of 9, 0 s)" in said
    assert re.search(r"built the thing\\x1b in 0 s", capsys.readouterr().err)


def test_a_figure_is_no_text_and_a_text_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever JSON has, in the places of a report's figures."""
    values = [10**4000, 1e308, -1, True, None, "x", {}, {"value": [1]}, {"value": {"value": 2}},
              {"a": {"b": {"c": 3}}}, 0.0, 5]  # fmt: skip
    for number, value in enumerate(values):
        for other in values:
            a, b = tmp_path / "a.json", tmp_path / "b.json"
            a.write_text(json.dumps({"schema": "systol.counters/2", "x": value}))
            b.write_text(json.dumps({"schema": "systol.counters/2", "x": other}))
            assert main(["compare", str(a), str(b)]) == 0, (number, other)
    deep = "1"
    for _ in range(40):
        deep = f'{{"a": {deep}}}'
    a.write_text(f'{{"schema": "systol.counters/2", "x": {deep}}}')
    assert main(["compare", str(a)]) == InputError.exit_status
    assert "no counter report is nested as deeply" in capsys.readouterr().err


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_examples_that_parse(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of each example are arguments that there are; pipes and files are the shell's."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    _, found, examples = printed.partition("\nexamples:\n")
    assert found, printed
    examples, pages, place = examples.partition("\nThe pages are ")
    assert pages and place.strip().endswith("docs.")
    called = []
    for line in filter(None, examples.splitlines()):
        systol, *words = shlex.split(re.split(r" [|>] ", line)[0])
        assert systol == "systol", line
        called.append(build_parser().parse_args(words).command)
    assert command in called
