"""Memory that the kernels read: aligned, zeroed, given back when dropped; and how much there is."""

from __future__ import annotations

import contextlib
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from mlc_widget.api.errors import InsufficientMemoryError

Array = npt.NDArray[Any]

ALIGNMENT = 64
HUGE_PAGE = 1 << 21
"""Bytes of one on x86-64, and on arm64 with pages of 4 KiB."""


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A zeroed array at a 64-byte boundary, which is what compiled code assumes.

    Memory that is never written is never taken from the system.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def large_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike, *, huge: bool = False) -> Array:
    """As `aligned_zeros`, for megabytes: begins where a huge page may (Linux).

    Args:
        shape: Of the array.
        dtype: Of the array.
        huge: Take huge pages from the first write on, if the system has them, for all but the
            rest that fills none. They are faster to read; see `HugePages` for when not to.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned_zeros(shape, dtype)
    # Python's anonymous maps are shared ones unless told otherwise, and these get no huge pages.
    memory = mmap.mmap(-1, nbytes + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    if huge and nbytes >= HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, start, nbytes // HUGE_PAGE * HUGE_PAGE)
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def as_tensor(array: Array) -> Any:
    """The same memory as a `tvm.runtime.Tensor`, which keeps the array alive."""
    import tvm_ffi

    return tvm_ffi.from_dlpack(array)


def available_bytes() -> int:
    """Memory that can still be used here: the machine's, or the control group's if less."""
    return min([int(psutil.virtual_memory().available), *_cgroup_room()])


def require(weights: int, kv_cache: int, activations: int) -> None:
    """Refuse what does not fit.

    Raises:
        InsufficientMemoryError: With the numbers.
    """
    need, have = weights + kv_cache + activations, available_bytes()
    if need > have:
        raise InsufficientMemoryError(
            f"The model needs {need:,} bytes ({weights:,} for weights, {kv_cache:,} for the KV "
            f"cache, {activations:,} for activations) and {have:,} are free. Close other "
            "programs, lower max_total_sequence_length, or choose a smaller model."
        )


def _cgroup_room() -> list[int]:
    """Bytes left under the limit of this process's control group (Linux, version 2)."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        current = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        reclaimable = int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return []
    return [] if limit == "max" else [max(0, int(limit) - current + reclaimable)]
