"""A GPU by its number, and what CUDA says of its name and memory."""

from __future__ import annotations

from mlc_widget.engine.runtimes.base import DeviceUsage


def index_of(device: str) -> int:
    """The number of a GPU in the option ``device``: 1 for ``cuda:1``, 0 without a number."""
    return int(device.partition(":")[2] or 0)


def usage(index: int, model: int | None = None) -> DeviceUsage:
    """A GPU with its memory now, of which a model takes `model` bytes."""
    import tvm

    there = tvm.cuda(index)
    return DeviceUsage(
        f"cuda:{index}",
        name=there.device_name,
        memory=there.total_global_memory,
        free=there.available_global_memory,
        model=model,
    )
