"""The last lines of a worker's output, for error messages."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Final

_KEPT_BYTES: Final = 64 * 1024
_SHOWN_LINES: Final = 12


class OutputTail:
    """A pipe that is read as the worker writes, keeping the last 64 KiB.

    Give `write_fd` to the process, then `close_writer`. The thread ends when the last process that
    holds the pipe does.
    """

    def __init__(self) -> None:
        read, self.write_fd = os.pipe()
        self._kept = bytearray()
        self._lock = threading.Lock()
        # A thread, not the loop: event loops cannot watch pipes on every system.
        self._thread = threading.Thread(
            target=self._read, args=(read,), name="mlc_widget-output", daemon=True
        )
        self._thread.start()

    def _read(self, read: int) -> None:
        with open(read, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                with self._lock:
                    self._kept += data
                    del self._kept[:-_KEPT_BYTES]

    def close_writer(self) -> None:
        """Close this process's copy of the writing end, once the worker has its own."""
        os.close(self.write_fd)

    def wait(self, timeout: float) -> None:
        """Block until everything has been read, for at most `timeout` seconds."""
        self._thread.join(timeout)

    def text(self) -> str:
        """The last lines, as an addition to an error message; empty if there are none."""
        with self._lock:
            return last_output(bytes(self._kept))


def last_lines(file: Path) -> bytes:
    """The end of a file; empty if it cannot be read."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - _KEPT_BYTES))
        return opened.read(_KEPT_BYTES)
    return b""


def last_output(output: bytes) -> str:
    """The last lines of an output, as an addition to an error message; empty if it is."""
    lines = output.decode("utf-8", "replace").rstrip().splitlines()
    if not lines:
        return ""
    return "\nIts last output:\n" + "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])
