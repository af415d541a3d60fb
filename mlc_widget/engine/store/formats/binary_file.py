"""A regular file that is read at any offset, even if another file replaces it meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from abc import abstractmethod
from pathlib import Path
from typing import Final

from mlc_widget.api.closing import Closing
from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.verification import FileIdentity

_FLAGS: Final = os.O_RDONLY | sum(
    # Non-blocking, so that opening a FIFO does not wait for a writer.
    getattr(os, name, 0)
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)


class BinaryFile(Closing):
    """An open file. Close it, or use it in ``with``.

    It is checked and read through one descriptor, from any thread.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size: Its size in bytes.
        mtime_ns: The time of its last change, in nanoseconds since 1970.
        identity: The state in which it was opened.

    Raises:
        ModelFormatError: It cannot be opened, or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = threading.Lock()
        try:
            self._fd = os.open(path, _FLAGS)
        except (OSError, ValueError) as error:
            raise ModelFormatError(
                f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}.",
                param=str(path),
            ) from error
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise self._wrong("it is not a regular file")
            self.size, self.mtime_ns = status.st_size, status.st_mtime_ns
            self.identity = FileIdentity.from_status(status)
            self._read()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _read(self) -> None:
        """Read what comes before the tensors; the file is open."""

    @abstractmethod
    def _wrong(self, what: str) -> ModelFormatError:
        """The error that says what is wrong with the file."""

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def fill(self, view: memoryview, at: int) -> None:
        """Read as many bytes as `view` holds, from an offset.

        Raises:
            ModelFormatError: The file has become shorter.
        """
        while view:
            count = self.read_at(view, at)
            if count == 0:
                raise self._wrong("it became shorter while it was read")
            view, at = view[count:], at + count

    def read_at(self, view: memoryview, at: int) -> int:
        """Read bytes at an offset into `view`; return their number, 0 at the file's end."""
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], at)
        with self._position:  # Windows has one position for all readers
            os.lseek(self._fd, at, os.SEEK_SET)
            part = os.read(self._fd, len(view))
        view[: len(part)] = part
        return len(part)

    def check_unchanged(self) -> None:
        """Raise ModelFormatError if the file was written to since it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise ModelFormatError(
                f"{self.path} was changed while it was read. Wait until the program that writes "
                "it (a download or a conversion) has finished, and load the model again.",
                param=str(self.path),
            )
