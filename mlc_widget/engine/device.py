"""Describes the device that an engine computes on."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence

from mlc_widget._version import __version__
from mlc_widget.api.errors import ModelNotLoadedError
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.model import LoadedModel


def resident_bytes() -> int | None:
    """The memory that this process uses now, in bytes; None if the system does not report it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # Linux
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


async def describe_device(runtime: str, models: Sequence[LoadedModel]) -> JSONDict:
    """Runtime, device and versions; memory in bytes of the machine, this process and the device.

    Unknown values are None. ``device_name`` is its maker's name of the device that the models
    compute on, ``device_memory_bytes`` and ``device_memory_free_bytes`` are its memory, and
    ``model_memory_bytes`` is what all loaded models take of it.
    """
    first = models[0].runtime if models else None
    usages = []
    for model in models:
        with contextlib.suppress(ModelNotLoadedError):  # unloaded meanwhile
            usages.append(await model.runtime.device_usage())
    usage = usages[0] if usages else None
    sizes = [u.model for u in usages if u.model is not None]
    try:
        memory: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory = None
    return {
        "runtime": first.name if first else runtime,
        "device": usage.device if usage else None,
        "device_name": usage.name if usage else None,
        "device_memory_bytes": usage.memory if usage else None,
        "device_memory_free_bytes": usage.free if usage else None,
        "model_memory_bytes": sum(sizes) if sizes else None,
        "batch_invariant": first.capabilities.batch_invariant if first else None,
        "request_fields": sorted(first.capabilities.request_fields) if first else None,
        "machine": platform.machine(),
        "memory_bytes": memory,
        "memory_used_bytes": resident_bytes(),
        "mlc_widget": __version__,
        "python": platform.python_version(),
    }
