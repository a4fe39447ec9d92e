"""Mutants are what they should be, and a command that misbehaves is found out."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from systol.attack import campaign
from systol.attack.campaign import Tally, attack, describe, mutant
from systol.attack.doors import DOORS, seeds_of
from systol.attack.mutate import mutate_json
from systol.attack.sealed import sealed
from systol.cli import main
from systol_compiler.binary import elf
from systol_compiler.binary.reader import check_digest, check_identity, parse

ROOT = Path(__file__).parents[3]
PATHS = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds")


def test_there_is_a_door_for_every_kind_of_file() -> None:
    assert set(DOORS) == {"elf", "onnx", "npz", "toml", "text", "counters", "state"}


@pytest.mark.parametrize("door", DOORS)
def test_seeds_are_good_files_and_mutants_differ(door: str, folder: Path) -> None:
    seeds = seeds_of(door, folder)
    path = folder / f"good{DOORS[door].suffix}"
    for seed in seeds:
        path.write_bytes(seed)
        assert main(DOORS[door].command(random.Random(0), path, folder)) == 0
    found = [mutant(door, 3, number, folder)[0] for number in range(40)]
    again = [mutant(door, 3, number, folder)[0] for number in range(40)]
    assert found == again
    assert len(set(found)) > 30 and len(set(found) & set(seeds)) < 10


def test_most_binaries_pass_the_seal(folder: Path) -> None:
    passed = 0
    for number in range(200):
        data = memoryview(mutant("elf", 4, number, folder)[0])
        try:
            check_identity(data)
            check_digest(data)
            passed += 1
        except Exception as error:
            assert type(error).__name__ == "BinaryFormatError"
    assert passed > 100


def test_a_binary_that_is_laid_out_anew_is_the_same(folder: Path) -> None:
    """Its manifest unchanged, the mutant's way of writing is the writer's."""
    from systol.attack.sealed import _laid_out, _sections

    (seed,) = seeds_of("elf", folder)
    assert sealed(_laid_out(seed, *_sections(seed))) == seed
    damaged = seed[: elf.DIGEST_OFFSET] + bytes(32) + seed[elf.DIGEST_OFFSET + 32 :]
    assert sealed(damaged) == seed and parse(memoryview(sealed(damaged)))


def test_many_models_are_still_models(folder: Path) -> None:
    good = 0
    for number in range(60):
        try:
            onnx.ModelProto.FromString(mutant("onnx", 5, number, folder)[0])
            good += 1
        except Exception as error:
            assert type(error).__name__ == "DecodeError"
    assert good > 30


def test_json_mutants_leave_the_original() -> None:
    value = {"a": [1, 2.5, {"b": None}], "c": "x"}
    text = json.dumps(value)
    rng = random.Random(1)
    kinds = {json.dumps(mutate_json(rng, value)) for _ in range(300)}
    assert json.dumps(value) == text and len(kinds) > 100


MISBEHAVIOURS = {
    "raise KeyError(5)": "status KeyError: 5",
    "raise SystemExit('text')": "status text",
    "return 70": "status 70",
    "return 10": "status 10",
    "print('Traceback (most recent call last):'); return 3": "a traceback",
    "print('\\x1b[31m'); return 3": "characters that a terminal obeys",
    "x = bytearray(700 << 20); x[::4096] = x[::4096]; return 0": r"took \d+ MiB",
    "end = time.process_time() + 0.7\n    while time.process_time() < end: pass\n    return 0":
        "took 1 s",
    "print('refused'); return 3": "",
    "return 0": "",
}  # fmt: skip


@pytest.mark.parametrize("body", MISBEHAVIOURS)
def test_a_command_that_misbehaves_is_found_out(body: str, folder: Path) -> None:
    expected = MISBEHAVIOURS[body]
    # Processor time is short only where it is what is found: memory takes time of its own.
    seconds = 0.5 if expected == "took 1 s" else 60
    program = (
        "import sys, time\nimport systol.cli\nfrom pathlib import Path\n"
        "from systol.attack import campaign\n"
        f"def main(words):\n    {body}\n"
        f"systol.cli.main = main\ncampaign.SECONDS = {seconds}\n"
        "campaign.work('toml', 0, 0, 1, Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(folder)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": PATHS}, check=True, timeout=600,
    )  # fmt: skip
    announced, record = (json.loads(line) for line in done.stdout.splitlines())
    assert announced == {"number": 0, "bytes": record["bytes"]}
    if "MiB" in expected:
        assert record["failure"].startswith("took ") and record["failure"].endswith(" MiB")
    else:
        assert record["failure"] == expected


@pytest.mark.parametrize(
    ("end", "failure"),
    [("os._exit(3)", "did not come back (3)"), ("os.abort()", "did not come back (-6)"),
     ("time.sleep(1000)", "did not come back (-9)")],
)  # fmt: skip
def test_a_process_that_does_not_come_back_is_a_failure(
    end: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "SECONDS", 0.5)
    program = (
        "import os, time\nprint('{\"number\": 0, \"bytes\": 1}\\n{\"number\": 0, \"failure\": \"\"}"
        f"\\n{{\"number\": 1, \"bytes\": 1}}', flush=True)\n{end}\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE)
    first, second = campaign._replies(process)
    assert first["failure"] == "" and second["number"] == 1 and second["failure"] == failure


def test_a_worker_that_does_not_begin_is_no_result() -> None:
    process = subprocess.Popen([sys.executable, "-c", "exit(1)"], stdout=subprocess.PIPE)
    with pytest.raises(RuntimeError, match="status 1 before its first case"):
        list(campaign._replies(process))


def test_what_failed_is_kept_and_counted(tmp_path: Path, folder: Path) -> None:
    tally = Tally()
    record = {"number": 2, "failure": "status 70", "status": 70, "deep": True, "seconds": 1.5}
    campaign._keep(record, "toml", 9, folder, tmp_path)
    tally.add(record)
    tally.add({"number": 3, "failure": "", "status": 0, "deep": True, "peak": 5 << 20})
    assert Path(str(record["kept"])).read_bytes() == mutant("toml", 9, 2, folder)[0]
    assert describe({"toml": tally}) == [
        ("toml", "2", "100 %", "50 %", "1.5 s", "5 MiB", "1")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("door", ["npz", "toml", "text", "counters", "state"])
def test_no_mutant_does_harm(door: str, tmp_path: Path) -> None:
    """The first of `make attack`, which goes on with other seeds."""
    found: dict[str, Tally] = dict(attack([door], 60, 20, tmp_path))
    assert found[door].cases == 60
    assert found[door].failures == []
