"""What this process can get no more of, such as memory, files or threads, and why.

Limits can be lowered while a process runs (`prlimit`). Then all that it is asked for may fail,
though another process could do it.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final

from mlc_widget.engine.system.imports import ran_out_of_memory

_NAMES: Final = ("AS", "DATA", "NOFILE", "NPROC", "FSIZE", "STACK")
_MEMORY: Final = 16 * 1024 * 1024
_FILES: Final = 8
"""What starting a process takes."""
_THREAD_S: Final = 5.0
_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EFBIG, errno.E2BIG}
)


def read_limits() -> Mapping[str, int]:
    """The soft limits of this process that work depends on; empty where there are none."""
    if sys.platform == "win32":
        return {}
    import resource

    return {
        name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        for name in _NAMES
        if hasattr(resource, f"RLIMIT_{name}")
    }


AT_START: Final = read_limits()
"""The limits when this module was imported."""


def lowered(since: Mapping[str, int] = AT_START) -> str:
    """Which limits are lower than they were; "" if none is."""
    return ", ".join(
        f"RLIMIT_{name} was lowered from {_told(before)} to {_told(now)}"
        for name, now in read_limits().items()
        if _size(now) < _size(before := since[name])
    )


def _size(limit: int) -> float:
    return float("inf") if limit < 0 else limit  # RLIM_INFINITY is -1 in Python


def _told(limit: int) -> str:
    return "unlimited" if limit < 0 else f"{limit:,}"


def ran_out(error: BaseException) -> bool:
    """Whether an error, or one that led to it, may be one of too little memory, files or threads.

    It may be another: EAGAIN is what a process that may not start gives, and so is other things.
    """
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if isinstance(link, OSError) and link.errno in _ERRORS:
            return True
        if isinstance(link, RuntimeError) and "start new thread" in str(link):
            return True
        if ran_out_of_memory(link):
            return True
        links += [link.__cause__, link.__context__]
    return False


def lacking() -> str:
    """What this process cannot get now, found out by trying; "" if it can get all. Takes no time.

    That is 16 MiB of memory, eight files, and a thread.
    """
    for what, take in _TRIALS.items():
        try:
            take()
        except (OSError, MemoryError, RuntimeError, ValueError) as error:
            return f"{what} ({str(error) or type(error).__name__})"
    return ""


def _take_memory() -> None:
    if sys.platform == "win32":
        mmap.mmap(-1, _MEMORY).close()
    else:  # private memory is what RLIMIT_DATA counts
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mmap.mmap(-1, _MEMORY, flags=flags).close()


def _take_files() -> None:
    with contextlib.ExitStack() as taken:
        for _ in range(_FILES):
            taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _take_thread() -> None:
    ran = threading.Lock()
    ran.acquire()
    _thread.start_new_thread(ran.release, ())  # `Thread.start` may wait for ever if this fails
    if not ran.acquire(timeout=_THREAD_S):
        raise RuntimeError("a new thread does not run")


_TRIALS: Final[Mapping[str, Callable[[], None]]] = {
    "memory": _take_memory,
    "open files": _take_files,
    "threads": _take_thread,
}
