"""Ends a process whose notebook was killed, even if that process itself is stuck."""

from __future__ import annotations

import contextlib
import os
import subprocess
import weakref
from pathlib import Path
from typing import Final

# `read` fails at the end of the pipe, which comes when the last process that holds it is gone.
_SCRIPT: Final = (
    'read -r line || { kill -s KILL -- "$1"; [ -z "$2" ] || rm -rf -- "$2"; } 2>/dev/null'
)


class ParentWatch:
    """A shell that waits for this process to end and then kills another and removes its files.

    A worker watches its parent, too, but cannot do so while native code holds the interpreter's
    lock, and nothing of it is left to clean up if both are killed at once. POSIX only.

    Args:
        pid: The process to kill; less than 0 for the process group of that number.
        directory: Its files.
    """

    def __init__(self, pid: int, directory: Path | None = None) -> None:
        read, self._write = os.pipe()  # not inherited by other children
        try:
            self._process = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _SCRIPT,
                    "mlc_widget-parent-watch",
                    str(pid),
                    str(directory or ""),
                ],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # the terminal's Ctrl-C is not for it
                cwd="/",
            )
        except BaseException:
            os.close(self._write)
            raise
        finally:
            os.close(read)
        _watches.add(self)

    def _after_fork(self) -> None:
        """In a forked process, which may outlive its parent: do not hold the pipe."""
        with contextlib.suppress(OSError):
            os.close(self._write)

    def dismiss(self) -> None:
        """End the shell: the process has ended."""
        _watches.discard(self)
        with contextlib.suppress(OSError):
            os.write(self._write, b"done\n")
        os.close(self._write)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)


_watches: weakref.WeakSet[ParentWatch] = weakref.WeakSet()


def _close_inherited_pipes() -> None:
    for watch in list(_watches):
        watch._after_fork()
    _watches.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_pipes)
