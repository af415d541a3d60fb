"""The GPU's memory for activations: TVM's pool, which all models of the process share.

A step gives its activations back as soon as its kernels are started. So steps must be started one
after the other, on one stream; and a CUDA graph, which keeps addresses of that memory, is good only
until the pool gives memory back to the system.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

lock = threading.Lock()
"""Held while the kernels of a step are started, and while the pool may give memory back."""

_epoch = 0


def epoch() -> int:
    """Changes when memory of the pool may have gone; to be asked under the `lock`."""
    return _epoch


def shrink(give_back: Callable[[], object]) -> None:
    """Call what makes the pool give memory back, between two steps."""
    global _epoch
    with lock:
        _epoch += 1
        give_back()
