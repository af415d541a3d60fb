"""Whether this process can still get memory, files and threads, and if not, why.

The limits of a process can be lowered while it runs (`prlimit`). Then every request may fail in it,
while a new process could answer.
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
"""The number of files that starting a process opens."""
_THREAD_S: Final = 5.0
_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EFBIG, errno.E2BIG}
)


def read_limits() -> Mapping[str, int]:
    """The soft limits of this process that matter here; empty on systems without limits."""
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
        f"RLIMIT_{name} was lowered from {_text(before)} to {_text(now)}"
        for name, now in read_limits().items()
        if _size(now) < _size(before := since[name])
    )


def _size(limit: int) -> float:
    return float("inf") if limit < 0 else limit  # RLIM_INFINITY is -1 in Python


def _text(limit: int) -> str:
    return "unlimited" if limit < 0 else f"{limit:,}"


def ran_out(error: BaseException) -> bool:
    """Whether an error, or one of its causes, may come from too little memory, files or threads.

    The answer is not certain: EAGAIN, for example, has other causes too.
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
    """The resource that this process cannot get now, found by trying; "" if it can get all. Fast.

    It tries to get 16 MiB of memory, eight files and a thread.
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
    _thread.start_new_thread(ran.release, ())  # `Thread.start` may wait forever if this fails
    if not ran.acquire(timeout=_THREAD_S):
        raise RuntimeError("a new thread does not run")


_TRIALS: Final[Mapping[str, Callable[[], None]]] = {
    "memory": _take_memory,
    "open files": _take_files,
    "threads": _take_thread,
}
