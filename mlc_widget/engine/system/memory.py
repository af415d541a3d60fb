"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


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
