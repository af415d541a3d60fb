"""One line that tells how far something is, with speed and time left, where a person looks."""

from __future__ import annotations

import time
from typing import Final, TextIO

_INTERVAL_S: Final = 0.1


class ProgressLine:
    """A line that is written over and over on a terminal; nothing is shown elsewhere.

    Args:
        text: What is being done.
        stream: Where to write.
    """

    def __init__(self, text: str, stream: TextIO) -> None:
        self._text, self._stream = text, stream
        self._shown = stream.isatty()
        self._started = time.monotonic()
        self._last = 0.0
        self._width = 0

    def show(self, done: int, total: int) -> None:
        """Show bytes done and bytes in all."""
        now = time.monotonic()
        if not self._shown or (done < total and now - self._last < _INTERVAL_S):
            return
        self._last = now
        line = f"{self._text}: {done / max(1, total):4.0%} of {total / 1e6:.0f} MB"
        if done and (took := now - self._started) > 1:
            speed = done / took
            line += f", {speed / 1e6:.0f} MB/s, {(total - done) / speed:.0f} s left"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def end(self) -> None:
        """End the line, so that what follows starts a new one. Idempotent."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0
