"""The progress of a load, taken from the compiler's log, the engine's log and the bytes read."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mlc_widget.api.progress import LoadReporter

_COMPILE: Final = (
    ("Compiling using commands below", 0.02, "Starting MLC's compiler"),
    ("Compiling with arguments", 0.05, "Starting MLC's compiler"),
    ("Creating model from", 0.08, "Building the model"),
    ("Exporting the model to TVM compiler", 0.12, "Exporting the model"),
    ("Running optimizations using TVM", 0.2, "Optimizing"),
    ("Running TVM Relax graph-level optimizations", 0.25, "Optimizing the graph"),
    ("Lowering to TVM TIR kernels", 0.35, "Making kernels"),
    ("Running TVM TIR-level optimizations", 0.45, "Optimizing kernels"),
    ("Running TVM Dlight low-level optimizations", 0.5, "Scheduling kernels"),
    ("Lowering to VM bytecode", 0.6, "Making the program"),
    ("Compiling external modules", 0.65, "Compiling kernels"),
    ("Compilation complete! Exporting to disk", 0.9, "Writing the library"),
    ("Using compiled model lib", 1.0, "Compiled"),
    ("Using cached model lib", 1.0, "Compiled before"),
)
"""Lines of the compiler's log in order, each with the fraction of the work done by then and the
text to report."""

_MEMORY: Final = re.compile(r"Estimated total single GPU memory usage: ([\d.]+) MB")
_STARTING: Final = ("Under mode", "The actual engine mode is", "Using library model")


class LoadPhases:
    """Turns log lines and byte counts into reports. Its methods may be called from any thread.

    Attributes:
        lines: The number of lines seen so far.
    """

    def __init__(self, report: LoadReporter, weight_bytes: int) -> None:
        self._report = report
        self._total = weight_bytes
        self._text = "Starting mlc_llm"
        self.lines = 0

    def compiler_line(self, line: str) -> None:
        """Take a line of the compiler's log."""
        self.lines += 1
        for sign, fraction, text in _COMPILE:
            if sign in line:
                self._report("compile", fraction, text)

    def engine_line(self, line: str) -> None:
        """Take a line of the engine's log."""
        self.lines += 1
        if found := _MEMORY.search(line):
            self._text = f"Loading weights (mlc_llm will use about {float(found[1]):,.0f} MB)"
        elif any(sign in line for sign in _STARTING):
            self._text = "Loading weights"

    def read_bytes(self, count: int | None) -> None:
        """Take the number of bytes read since the engine began to load; None if unknown."""
        if count is None or not self._total:
            self._report("load", 0.1, self._text)
            return
        done = min(count, self._total)
        self._report(
            "load",
            0.05 + 0.9 * done / self._total,
            self._text,
            bytes_done=done,
            bytes_total=self._total,
        )


def bytes_read() -> int | None:
    """The number of bytes that this process has read so far from anywhere; None if unknown."""
    try:
        for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


@contextlib.contextmanager
def engine_log(on_line: Callable[[str], None]) -> Iterator[None]:
    """Follow mlc_llm's log, from Python and from C++, while a model loads. It is still printed.

    C++ writes to file descriptor 2, so that is a pipe meanwhile. The pipe is read until the last
    process that inherited it has ended (tensor parallelism starts processes).
    """
    logger = logging.getLogger("mlc_llm")
    handler, level = _LineHandler(on_line), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    sys.stderr.flush()
    printed = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    crash_dumps = faulthandler.is_enabled()
    if crash_dumps:  # write dumps of a crash to the real stderr, not into the pipe
        faulthandler.enable(file=printed)
    threading.Thread(target=_tee, args=(read, printed, on_line), daemon=True).start()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        with contextlib.suppress(ValueError):  # a closed stream
            sys.stderr.flush()
        os.dup2(printed, 2)
        if crash_dumps:
            faulthandler.enable(file=2)


def _tee(read: int, printed: int, on_line: Callable[[str], None]) -> None:
    rest = b""
    while data := os.read(read, 65536):
        with contextlib.suppress(OSError):
            os.write(printed, data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            on_line(line.decode("utf-8", "replace"))
    os.close(read)
    os.close(printed)


class _LineHandler(logging.Handler):
    def __init__(self, on_line: Callable[[str], None]) -> None:
        super().__init__()
        self._on_line = on_line

    def emit(self, record: logging.LogRecord) -> None:
        self._on_line(record.getMessage())
