"""From a cold cache, the demo speaks at once and goes on, terminal or none."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST_SECONDS, GAP_SECONDS = 2.0, 5.0


@pytest.mark.slow
def test_the_demo_is_never_silent(tmp_path: Path) -> None:
    """Neither compiled machine code nor byte code is there.

    Where other work keeps the processors, what counts is the demo's own: a clock beside it, of a
    thread that would be woken as often, says how late things are.
    """
    paths = os.pathsep.join(str(ROOT / name) for name in ("hw", "sim", "compiler", "runtime"))
    environment = {
        **os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "bytes"), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    late = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal late
        before = time.monotonic()
        while not ended.wait(0.1):
            now = time.monotonic()
            late = max(late, now - before - 0.1)
            before = now

    threading.Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "systol", "demo", "--directory", str(tmp_path / "demo")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    gaps, last, said = [], began, b""
    while True:
        data = os.read(process.stdout.fileno(), 1 << 16)
        now = time.monotonic()
        if not data:
            break
        gaps.append(now - last)
        last, said = now, said + data
    ended.set()
    assert process.wait() == 0, said.decode()
    assert b"building the simulator" in said and b"int8, Systol" in said
    spare = 3 * late
    assert gaps[0] < FIRST_SECONDS + spare, (gaps, late, said.decode())
    assert max(gaps) < GAP_SECONDS + spare, (gaps, late, said.decode())
