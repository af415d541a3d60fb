"""Has Python's garbage collector wait while very many objects are made."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_pausing = 0
_was_enabled = False


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Look for no cycles of garbage meanwhile, on any thread.

    Otherwise the collector would look at a vocabulary's hundred thousand tuples, or at openai's
    thousands of types, again and again while they are made. For the tuples, that takes longer than
    making them.
    """
    global _pausing, _was_enabled
    with _lock:
        if _pausing == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pausing += 1
    try:
        yield
    finally:
        with _lock:
            _pausing -= 1
            if _pausing == 0 and _was_enabled:
                gc.enable()
