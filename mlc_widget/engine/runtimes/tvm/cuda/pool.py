"""TVM's pool of GPU memory for activations, which all models of the process share.

A step returns its activations to the pool as soon as its kernels have been started. So steps must
be started one after the other, on one stream. A CUDA graph, which contains addresses of that
memory, is valid only until the pool gives memory back to the system.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

lock = threading.Lock()
"""Held while the kernels of a step are started, and while the pool gives memory back."""

_epoch = 0


def epoch() -> int:
    """A number that changes when the pool may have given memory back; call it with the `lock`."""
    return _epoch


def shrink(give_back: Callable[[], object]) -> None:
    """Call a function that has the pool give memory back, between two steps."""
    global _epoch
    with lock:
        _epoch += 1
        give_back()
