"""Allocates aligned, zeroed memory for the kernels, and says how much memory is free."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from mlc_widget.api.errors import InsufficientMemoryError
from mlc_widget.engine.runtimes.base import DeviceUsage, ReplacedModels

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


def machine_free() -> tuple[int, str]:
    """The free memory, without any words on where it is."""
    return available_bytes(), ""


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """What a model needs of a device's memory, in bytes.

    Attributes:
        weights: The size of its weights.
        kv_cache: The size of its KV cache.
        activations: The maximum size of its activations.
        device: The device, such as ``cpu`` or ``cuda:0``.
        replaces: Models there that may be unloaded to make room.
        free: Gives the device's free memory, and where that is, such as ``on the NVIDIA H200``.
    """

    weights: int
    kv_cache: int
    activations: int
    device: str = "cpu"
    replaces: ReplacedModels | None = None
    free: Callable[[], tuple[int, str]] = machine_free

    def check(self) -> None:
        """Refuse a model that does not fit, even in place of those that it replaces.

        Raises:
            InsufficientMemoryError: It does not fit; the message has the numbers.
        """
        room = 0 if self.replaces is None else self.replaces.nbytes(self.device)
        self._check(room)

    def make_room(self) -> None:
        """Unload the models that it replaces, if it does not fit beside them.

        Raises:
            InsufficientMemoryError: It does not fit even then.
        """
        if self.replaces is not None and self._total > self.free()[0]:
            self.check()
            self.replaces.unload()
        self._check(0)

    @property
    def _total(self) -> int:
        return self.weights + self.kv_cache + self.activations

    def _check(self, room: int) -> None:
        free, where = self.free()
        if self._total > free + room:
            unloaded = room and " once the loaded model is unloaded"
            raise InsufficientMemoryError(
                f"The model needs {self._total:,} bytes ({self.weights:,} for weights, "
                f"{self.kv_cache:,} for the KV cache, {self.activations:,} for activations), but "
                f"only {free + room:,} are free{where and ' '}{where}{unloaded or ''}. Close other "
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
