"""Locks on open files, which the system drops when the file is closed or its process ends.

Unlike a lock of the `filelock` package, such a lock is on the file itself, and a process that was
started inherits it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_LOCKED_AT: Final = 2**31 - 2  # on Windows, a locked byte cannot be read


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock a file, unless another open file has locked it; returns whether it did.

    Args:
        fd: The open file.
        shared: Whether others may hold a shared lock on it, too; not on Windows.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, _LOCKED_AT, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(path: Path, fd: int) -> bool:
    """Whether an open file is still the one at this path."""
    if sys.platform == "win32":
        return True  # an open file cannot be removed
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False
