"""The file of a session while its answer is being written."""

from __future__ import annotations

import contextlib
import os
import threading

from mlc_widget.engine.sessions.session_file import MAX_SESSION_BYTES, MAX_SESSION_LINES


class SessionJournal:
    """The file of a session that is being written; it is locked until `close`.

    Args:
        fd: The file, at whose end it writes.
        nbytes: Its length.
        nlines: The number of its lines.
    """

    def __init__(self, fd: int, nbytes: int = 0, nlines: int = 0) -> None:
        self._fd: int | None = fd
        self._nbytes = nbytes
        self._nlines = nlines
        self._lock = threading.Lock()  # a reader that leaves closes it from another thread

    def append(self, lines: bytes) -> None:
        """Write whole lines. What a failure leaves of them is removed.

        Raises:
            OSError: The disk is full, or the journal is as large as may be.
        """
        with self._lock:
            if self._fd is None:
                raise OSError("the journal is closed")
            if self._nbytes + len(lines) > MAX_SESSION_BYTES:
                raise OSError(f"the journal would be larger than {MAX_SESSION_BYTES} bytes")
            added = lines.count(b"\n")
            if self._nlines + added > MAX_SESSION_LINES:
                raise OSError(f"the journal would have more than {MAX_SESSION_LINES} lines")
            rest = memoryview(lines)
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._nbytes)
                raise
            self._nbytes += len(lines)
            self._nlines += added

    def close(self) -> None:
        """Close and unlock it. Idempotent."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)
