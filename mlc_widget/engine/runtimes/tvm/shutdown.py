"""Stops all threads in native code before the interpreter shuts down.

A thread that returns from native code while the interpreter is being torn down is ended by
unwinding its stack. C++ frames cannot be unwound, and end the process with ``std::terminate``
instead of its exit status. So at exit, models are stopped, loads are cancelled, and their threads
are waited for, for a limited time.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from concurrent.futures import Future, wait
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from mlc_widget.engine.runtimes.tvm import threads

_STEP_S: Final = 5.0
"""Seconds to wait for a model's last step."""
_COMPILE_S: Final = 15.0
"""Seconds to wait for a compilation, which cannot be cancelled."""


class Stoppable(Protocol):
    """A model that runs on a compute thread."""

    def stop(self) -> None:
        """Have all sequences and the thread's work on the model end soon."""


_models: WeakKeyDictionary[Stoppable, Future[None]] = WeakKeyDictionary()
_loads: dict[threading.Thread, threading.Event] = {}


def model_runs(model: Stoppable, ended: Future[None]) -> None:
    """Register a model, to be stopped at exit; `ended` is done when its thread has left it."""
    _models[model] = ended


def load_runs(thread: threading.Thread, cancelled: threading.Event) -> None:
    """Register a load, to be cancelled at exit."""
    for other in [t for t in _loads if not t.is_alive() and t.ident is not None]:
        _loads.pop(other, None)
    _loads[thread] = cancelled


@atexit.register
def end_all() -> None:
    """End all loads, models and compute threads."""
    loads = list(_loads.items())
    for _, cancelled in loads:
        cancelled.set()
    _stop_models()
    _join([thread for thread, _ in loads], _COMPILE_S)
    _stop_models()  # a load may have finished meanwhile
    _join(threads.end_all(), _STEP_S)


def _stop_models() -> None:
    models = list(_models.items())
    for model, _ in models:
        model.stop()
    wait([ended for _, ended in models], timeout=_STEP_S)


def _join(running: list[threading.Thread], within: float) -> None:
    deadline = time.monotonic() + within
    for thread in running:
        if thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))


def _forget() -> None:
    """Forget all threads, as a forked child has none of them."""
    _models.clear()
    _loads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
