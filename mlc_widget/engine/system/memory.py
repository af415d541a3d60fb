"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back_memory() -> None:
    """Collect garbage, and then as `trim`; blocks for a moment."""
    gc.collect()
    trim()


def trim() -> None:
    """Make the C library let go of what is free, where it can be told to (glibc)."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if malloc_trim is not None:
            malloc_trim(0)
