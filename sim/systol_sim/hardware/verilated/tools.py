"""The tools of a build as processes: bounded in time, none left behind."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from systol_hw.errors import DifferenceError, MissingToolError
from systol_hw.termination import begun_whole

COMPILER = "g++"
BUILD_SECONDS = 3600
"""What one build may take, from Verilog to library: fifteen times what the largest preset takes."""
_LAST_LINES = 5
"""How much of a failing compiler's output a message repeats."""


class Tools:
    """Runs the tools of one build, for no longer than `BUILD_SECONDS` together.

    No tool outlives the block. Verilator judges the Verilog, which is Systol's own. g++ compiles
    what Verilator wrote: if it fails, it is the one at fault, or has no memory or disk left.

    Parameters
    ----------
    log
        Where the output of a tool that fails is kept.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._end = time.monotonic() + BUILD_SECONDS
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "Tools":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def ended_early(self) -> Iterator[None]:
        """A block whose error ends the tools that run and begins no more, whatever the thread."""
        try:
            yield
        except BaseException:
            self._stop()
            raise

    @property
    def running(self) -> int:
        """How many tools run now."""
        return len(self._running)

    def _stop(self) -> None:
        with self._lock:
            self._ended.set()
            for process in self._running:
                process.kill()

    def call(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Run one tool to its end.

        Raises
        ------
        MissingToolError
            If it cannot be run, takes too long, or is g++ and fails.
        DifferenceError
            If Verilator fails.
        """
        tool = Path(command[0]).name
        try:
            with self._lock:
                if self._ended.is_set():
                    raise MissingToolError(f"the RTL was not built: {tool} was not begun")
                with begun_whole():
                    process = subprocess.Popen(
                        command, env=environment, stdout=subprocess.PIPE, text=True,
                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, errors="replace",
                    )  # fmt: skip
                    self._running.add(process)
        except OSError as error:
            raise MissingToolError(
                f"the RTL was not built: {command[0]} cannot be run: {error.strerror or error}"
            ) from error
        try:
            output, _ = process.communicate(timeout=max(0.0, self._end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise MissingToolError(
                f"the RTL was not built: {tool} did not end within the {BUILD_SECONDS} s that a "
                "build may take"
            ) from error
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            raise self._failed(tool, process.returncode, output)

    def _failed(self, tool: str, status: int, output: str) -> MissingToolError | DifferenceError:
        self._log.write_text(output, "utf-8")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        if tool == COMPILER:
            says = "\n  ".join(lines[-_LAST_LINES:]) or f"nothing, and ended with {status}"
            return MissingToolError(
                "the RTL was not built, for want of a C++ compiler that works: "
                f"{tool} says\n  {says}\nThe whole log is {self._log}"
            )
        errors = [line for line in lines if "rror" in line] or ["no message"]
        return DifferenceError(
            f"the RTL did not build: {tool} says {errors[0]!r}; the whole log is {self._log}"
        )
