"""Loads weights from their packed copy in the cache, and has one made after a load from files."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import mmap
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlc_widget.engine.runtimes.tvm.cache import sources_digest
from mlc_widget.engine.runtimes.tvm.huge_pages import madvise
from mlc_widget.engine.runtimes.tvm.memory import Array
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.weights import (
    Parameters,
    arrays_in,
    load_weights,
    packed_bytes,
    weight_memory,
)
from mlc_widget.engine.store.gguf_cache import readers_digest
from mlc_widget.engine.store.packed_weights import CopyTask, PackedWeights, is_worthwhile
from mlc_widget.engine.store.verification import wait_for_tick
from mlc_widget.engine.store.weight_source import WeightSource

logger = logging.getLogger(__name__)

_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ of Linux 5.14, which `mmap` lacks."""
_PIECE: Final = 32 << 20
"""The number of bytes to read into memory at a time; a load can be cancelled in between."""
_LARGE: Final = 512 << 20
"""The size in bytes from which steps were measured to take a third longer if the file is mapped in
small pages. Larger weights are copied to anonymous memory, which `HugePages` improves later."""
_PAGE: Final = 4096
_AREA: Final = re.compile("([0-9a-f]+)-([0-9a-f]+) ")
_FAULTS: Final = (errno.EFAULT, errno.EIO, getattr(errno, "EHWPOISON", errno.EIO))
"""The system's errors for pages that cannot be read."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Weights in memory.

    Attributes:
        arrays: One array for each parameter.
        mapped: Whether they are in a mapped copy, rather than in this process's own memory.
        unsaved: The copy to be made of them, if there should be one.
        memory: All of them, in one array of bytes, if they are to be saved.
    """

    arrays: list[Array]
    mapped: bool
    unsaved: PackedWeights | None
    memory: Array | None

    def save(self, busy: Callable[[], bool]) -> CopyTask | None:
        """Start a thread that writes the copy, and pauses while `busy`; None if none is due."""
        if self.unsaved is None or self.memory is None:
            return None
        from mlc_widget.engine.runtimes.tvm import shutdown

        task = CopyTask(self.unsaved, self.memory.data, busy)
        shutdown.load_runs(task.thread, task.stopped)
        task.thread.start()
        return task


def load_packed(
    parameters: Parameters,
    source: WeightSource,
    config: Mapping[str, Any],
    options: TVMOptions,
    compiled: Callable[[str], Any],
    progress: Callable[[int, int], None],
    *,
    stay: bool = True,
) -> LoadedWeights:
    """Map the packed copy of a model's weights, or read and pack them as `load_weights` does.

    Args:
        parameters: The model's parameters, already checked.
        source: The model's weights.
        config: The model's configuration.
        options: The runtime's options.
        compiled: Finds a function in the model's compiled code, by its name.
        progress: Called with the bytes done and the total; an exception from it ends the work.
        stay: Whether the kernels read the weights where they are. Otherwise they go on to a GPU.
    """
    copy = _copy_of(parameters, source, config, options)
    if copy is not None and (mapped := copy.open()) is not None:
        memory = np.frombuffer(mapped, np.uint8)
        try:
            _bring_in(memory, progress)
        except OSError as error:
            logger.info("The packed weights cannot be read: %s", error)
        else:
            if not stay or memory.nbytes < _LARGE or _in_huge_pages(memory):
                return LoadedWeights(arrays_in(memory, parameters), True, None, None)
            own = weight_memory(parameters)
            np.copyto(own, memory)
            return LoadedWeights(arrays_in(own, parameters), False, None, None)
    # If a file changes from now on, its time must change, too: it tells which copies are valid.
    if copy is not None and not all(wait_for_tick(i) for i in source.identities().values()):
        copy = None
    memory = weight_memory(parameters)
    arrays = load_weights(parameters, source, compiled, progress, memory)
    return LoadedWeights(arrays, False, copy, memory if copy else None)


def _copy_of(
    parameters: Parameters, source: WeightSource, config: Mapping[str, Any], options: TVMOptions
) -> PackedWeights | None:
    """The place of a model's copy, whether it exists or not; None if copies are not to be used."""
    nbytes = packed_bytes(parameters)
    if (
        options.weight_cache_mode == "disable"
        or options.verify == "always"  # a copy has no published sums to compare
        or not is_worthwhile(nbytes)
    ):
        return None
    made_from = source.identities()
    if not made_from:
        return None
    layout = {
        "parameters": [[name, layout.record()] for name, layout in parameters],
        "source": type(source).__name__,
        "model_type": config.get("model_type"),
        "quantization": config.get("quantization"),
    }
    versions = {"kernels": sources_digest(), "readers": readers_digest()}
    text = json.loads(json.dumps(layout, default=str))
    return PackedWeights(made_from, text, versions, nbytes, options.cache_dir)


def _in_huge_pages(memory: Array) -> bool:
    """Whether nearly all of a mapped file is in huge pages; False where the system does not say."""
    start, kilobytes, inside = memory.ctypes.data, 0, False
    try:
        with open("/proc/self/smaps", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if (head := _AREA.match(line)) is not None:
                    inside = int(head[1], 16) <= start < int(head[2], 16)
                elif inside and line.startswith("FilePmdMapped:"):
                    kilobytes += int(line.split()[1])
    except (OSError, ValueError):
        return False
    return kilobytes * 1024 >= 0.9 * memory.nbytes


def _bring_in(memory: Array, progress: Callable[[int, int], None]) -> None:
    """Read all of a mapped file into memory, so that no step waits for the disk.

    Raises:
        OSError: The file cannot be read.
    """
    start, total = memory.ctypes.data, memory.nbytes
    advise = hasattr(mmap, "MADV_HUGEPAGE")  # on Linux
    for at in range(0, total, _PIECE):
        size = min(_PIECE, total - at)
        if advise and not madvise(range(start + at, start + at + size), _POPULATE_READ):
            if ctypes.get_errno() in _FAULTS:
                raise OSError(ctypes.get_errno(), "the file cannot be read")
            advise = False
        if not advise:
            memory[at : at + size : _PAGE].max()
        progress(at + size, total)
