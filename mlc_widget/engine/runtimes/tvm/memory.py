"""Allocates aligned, zeroed memory for the kernels, and says how much memory is free."""

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
from mlc_widget.engine.runtimes.base import DeviceUsage

Array = npt.NDArray[Any]

ALIGNMENT = 64
HUGE_PAGE = 1 << 21
"""The size of a huge page in bytes on x86-64, and on arm64 with pages of 4 KiB."""


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A zeroed array at a 64-byte boundary, as compiled code requires.

    The system allocates only memory that is written.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def large_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike, *, huge: bool = False) -> Array:
    """Like `aligned_zeros`, for megabytes; on Linux the array is aligned to a huge page.

    Args:
        shape: The shape of the array.
        dtype: Its dtype.
        huge: Use huge pages from the first write on, if the system has them. They are faster to
            read; see `HugePages` for when not to use them.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned_zeros(shape, dtype)
    # Python's anonymous maps are shared by default, and shared maps get no huge pages.
    memory = mmap.mmap(-1, nbytes + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    if huge and nbytes >= HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE, start, nbytes // HUGE_PAGE * HUGE_PAGE)
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def as_tensor(array: Array) -> Any:
    """The same memory as a `tvm.runtime.Tensor`, which keeps the array alive."""
    import tvm_ffi

    return tvm_ffi.from_dlpack(array)


def available_bytes() -> int:
    """The memory that is still free, in bytes: the machine's, or less under a control group."""
    return min([int(psutil.virtual_memory().available), *_cgroup_room()])


def usage(model: int) -> DeviceUsage:
    """The CPU and this machine's memory, of which a model takes `model` bytes."""
    return DeviceUsage(
        "cpu",
        memory=int(psutil.virtual_memory().total),
        free=available_bytes(),
        model=model,
    )


def require(
    weights: int, kv_cache: int, activations: int, *, free: int | None = None, where: str = ""
) -> None:
    """Refuse a model that does not fit into memory.

    Args:
        weights: The size of its weights, in bytes.
        kv_cache: That of its KV cache.
        activations: That of its activations, at most.
        free: The memory that is free; None for the machine's.
        where: Where that is, for the message, such as ``on the NVIDIA H200``.

    Raises:
        InsufficientMemoryError: It does not fit; the message has the numbers.
    """
    need, have = weights + kv_cache + activations, available_bytes() if free is None else free
    if need > have:
        raise InsufficientMemoryError(
            f"The model needs {need:,} bytes ({weights:,} for weights, {kv_cache:,} for the KV "
            f"cache, {activations:,} for activations), but only {have:,} are free"
            f"{where and ' '}{where}. Close other "
            "programs, lower max_total_sequence_length, or choose a smaller model."
        )


def _cgroup_room() -> list[int]:
    """The bytes left under the limits of this process's control groups (Linux, version 2)."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        current = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        reclaimable = int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return []
    return [] if limit == "max" else [max(0, int(limit) - current + reclaimable)]
