"""Imports the models that are its arguments; prints what came of each, its time and the memory."""

import resource
import sys
import time

from systol_compiler.graph.importer import import_onnx
from systol_compiler.graph.passes import run_pipeline


def main() -> None:
    for path in sys.argv[1:]:
        begin = time.process_time()
        try:
            run_pipeline(import_onnx(path))
            kind, message = "accepted", ""
        except Exception as error:  # what class it has is the question
            kind, message = type(error).__name__, str(error)
        seconds = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        text = " ".join(message.split())
        print(path, f"{seconds:.2f}", kind, text, f"{peak:.0f}", sep="\t")


if __name__ == "__main__":
    main()
