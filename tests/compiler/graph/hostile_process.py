"""Imports the models that are its arguments; prints what came of each, its time and the memory."""

import sys
import time
from pathlib import Path

from systol_compiler.graph.passes import run_pipeline
from systol_compiler.graph.reading.importer import import_onnx


def peak_megabytes() -> float:
    """The most memory of this process. `getrusage` would tell the parent's, too, from before this
    program was loaded."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    for path in sys.argv[1:]:
        begin = time.process_time()
        try:
            run_pipeline(import_onnx(path))
            kind, message = "accepted", ""
        except Exception as error:  # what class it has is the question
            kind, message = type(error).__name__, str(error)
        seconds = time.process_time() - begin
        peak = peak_megabytes()
        text = " ".join(message.split())
        print(path, f"{seconds:.2f}", kind, text, f"{peak:.0f}", sep="\t")


if __name__ == "__main__":
    main()
