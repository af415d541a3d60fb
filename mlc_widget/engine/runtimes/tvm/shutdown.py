"""The end of the process: threads leave native code before the interpreter is torn down.

A thread that returns to an interpreter which is being torn down is ended by unwinding its stack.
C++ code in between cannot be unwound and ends the process with ``std::terminate``, whatever the
exit status was to be. So models are stopped, loads are cancelled, and their threads are waited
for, within bounds, while the interpreter is still whole.
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
"""How long a model's last step may take."""
_COMPILE_S: Final = 15.0
"""How long a compilation may take, which cannot be cancelled."""


class Stoppable(Protocol):
    """A model that runs on a compute thread."""

    def stop(self) -> None:
        """End what runs, and the thread's work on the model, soon."""


_models: WeakKeyDictionary[Stoppable, Future[None]] = WeakKeyDictionary()
_loads: dict[threading.Thread, threading.Event] = {}


def model_runs(model: Stoppable, ended: Future[None]) -> None:
    """Have a model stopped at the end of the process; `ended` is done when its thread left it."""
    _models[model] = ended


def load_runs(thread: threading.Thread, cancelled: threading.Event) -> None:
    """Have a load cancelled at the end of the process, and its thread waited for."""
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
    _stop_models()  # a load may have come to its end meanwhile
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
    """A forked child has none of the threads."""
    _models.clear()
    _loads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
