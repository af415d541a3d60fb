"""How much memory there is, and giving freed memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path


def give_back_memory() -> None:
    """Collect garbage and `trim`. This blocks for a moment."""
    gc.collect()
    trim()


def trim() -> None:
    """Have the C library return free memory to the system, if it can (glibc)."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if malloc_trim is not None:
            malloc_trim(0)


def total_memory() -> int | None:
    """Bytes of this machine's memory, or of its control group's if less; None if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max", or no control groups
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def weight_budget() -> int | None:
    """Bytes of weights that this machine has room for beside the system and a cache of tokens."""
    total = total_memory()
    return None if total is None else int(total * 0.7)
