"""Threads that run compiled code.

TVM keeps a pool of workers for each thread that calls it, and never ends it. So a thread that has
run a model is kept for the next model with the same number of workers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

from mlc_widget.engine.system.cpus import usable_cpus

_lock = threading.Lock()
_idle: dict[int, list[ComputeThread]] = {}
_all: list[ComputeThread] = []
_largest = 0


_SMALL: Final = 50_000_000
"""Models with fewer parameters finish a step before a second core has woken up."""


def default_threads(parameters: int) -> int:
    """The best number of workers on this machine for a model with this many parameters.

    One of two or more cores is left to the notebook.
    """
    return 1 if parameters < _SMALL else max(1, min(_cores(), 16) - 1)


def has_second_core(parameters: int) -> bool:
    """Whether there is exactly one core besides that of such a model's only worker.

    Then `divided_steps` may use it for a while; the workers of more cores are enough.
    """
    return parameters >= _SMALL and _cores() == 2


def _cores() -> int:
    """The number of cores that this process may use, also in a container with a limit."""
    import psutil

    usable = usable_cpus()
    return min(usable, psutil.cpu_count(logical=False) or usable)


class ComputeThread:
    """A thread with a pool of `workers`, of which it is one. Use `take` to get one."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._work: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"mlc_widget-tvm-{workers}", daemon=True
        )
        self._thread.start()
        _all.append(self)

    @classmethod
    def take(cls, workers: int) -> ComputeThread:
        """Take an idle thread with that many workers, or a new one."""
        with _lock:
            idle = _idle.get(workers)
            return idle.pop() if idle else cls(workers)

    def run(self, work: Callable[[], None]) -> Future[None]:
        """Run `work`, which must not raise, and then keep the thread for another `take`.

        Returns:
            A future that is done when the thread has released `work` and all that it held.
        """
        ended: Future[None] = Future()
        ended.set_running_or_notify_cancel()  # so that nobody can cancel it
        self._work.put((work, ended))
        return ended

    def end(self) -> threading.Thread:
        """Have the thread end once it has nothing to do; return it."""
        self._work.put(None)
        return self._thread

    def _run(self) -> None:
        _make_pool(self.workers)
        while (job := self._work.get()) is not None:
            work, ended = job
            del job
            work()
            del work
            with _lock:
                _idle.setdefault(self.workers, []).append(self)
            ended.set_result(None)
            del ended


def end_all() -> list[threading.Thread]:
    """Have all compute threads end once they have nothing to do; return them."""
    with _lock:
        _idle.clear()
        ending, _all[:] = list(_all), []
    return [thread.end() for thread in ending]


def _make_pool(workers: int) -> None:
    """Make this thread's pool of workers.

    TVM reads the pool's size from the environment when it makes the pool; later it only reads
    whether more than one worker is wanted.
    """
    import tvm_ffi

    global _largest
    with _lock:
        _largest = max(_largest, workers)
        os.environ["TVM_BIND_THREADS"] = "0"
        os.environ["TVM_NUM_THREADS"] = str(workers)
        tvm_ffi.get_global_func("runtime.config_threadpool")(0, workers)
        os.environ["TVM_NUM_THREADS"] = str(_largest)


def _forget() -> None:
    """Forget all threads, as a forked child has none of them, nor one that holds the lock."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
