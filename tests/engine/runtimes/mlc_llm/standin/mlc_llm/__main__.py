"""``python -m mlc_llm compile``: a compiler's log, and a file."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mlc_llm.standin.faults import faults

STEPS = (
    "Compiling with arguments:",
    "Creating model from: LlamaConfig(hidden_size=64)",
    "Exporting the model to TVM compiler",
    "Running optimizations using TVM",
    "Running TVM Relax graph-level optimizations",
    "Lowering to TVM TIR kernels",
    "Running TVM TIR-level optimizations",
    "Running TVM Dlight low-level optimizations",
    "Lowering to VM bytecode",
    "Compiling external modules",
    "Compilation complete! Exporting to disk",
)


def main() -> None:
    arguments = sys.argv[1:]
    assert arguments[0] == "compile"
    trouble = faults()
    for step in STEPS:
        print(step, flush=True)
        time.sleep(trouble.compile_s / len(STEPS))
        if trouble.compile_hangs:
            time.sleep(3600)
        if trouble.compile_fails:
            raise KeyError(trouble.compile_fails)
    Path(arguments[arguments.index("--output") + 1]).write_bytes(b"library")


if __name__ == "__main__":
    main()
