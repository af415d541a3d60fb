"""Calls that may never return, on daemon threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_AT_ONCE: Final = 4
"""Short calls that run at a time; more would only take turns."""
_SHORT_S: Final = 0.05
"""A call that takes longer than this no longer keeps others from running."""
_IDLE: Final = 4
"""Threads that wait for further calls: to start one takes longer than most calls."""


@dataclass(eq=False, slots=True)
class _Call:
    """A call that waits for a thread.

    Attributes:
        run: Makes the call; never raises.
        name: What its thread is called meanwhile.
        fail: Ends it with an error, as it gets no thread.
    """

    run: Callable[[], None]
    name: str
    fail: Callable[[Exception], None]


class _DaemonThreads:
    """Threads that run one call after another. Any number of calls may never return."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._calls: deque[_Call] = deque()
        self._began: dict[threading.Thread, float] = {}  # the call that each is running
        self._idle = self._starting = 0

    def run(self, call: _Call) -> None:
        """Have a thread run a call: at once, or within `_SHORT_S` if `_AT_ONCE` are running.

        Raises:
            RuntimeError: no thread can be started.
        """
        with self._changed:
            self._calls.append(call)
            if self._idle >= len(self._calls):
                self._changed.notify()
                return
            since = time.monotonic() - _SHORT_S
            short = sum(began > since for began in self._began.values()) + self._starting
        if short < _AT_ONCE:
            self._start_for(call)
        else:
            asyncio.get_running_loop().call_later(_SHORT_S, self._start_late_for, call)

    def _start_late_for(self, call: _Call) -> None:
        try:
            self._start_for(call)
        except RuntimeError as error:
            call.fail(error)

    def _start_for(self, call: _Call) -> None:
        """Start a thread, unless the call has one by now."""
        with self._changed:
            if call not in self._calls:
                return
            self._starting += 1
        try:
            threading.Thread(target=self._work, name=call.name, daemon=True).start()
        except BaseException:
            with self._changed:
                self._starting -= 1
                with contextlib.suppress(ValueError):  # another thread has taken it
                    self._calls.remove(call)
            raise

    def _work(self) -> None:
        thread = threading.current_thread()
        with self._changed:
            self._starting -= 1
        while True:
            with self._changed:
                self._began.pop(thread, None)
                while not self._calls:
                    if self._idle >= _IDLE:
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                call = self._calls.popleft()
                self._began[thread] = time.monotonic()
            thread.name = call.name
            contextvars.Context().run(call.run)
            del call  # it may hold a request's text while the thread is idle


_threads = _DaemonThreads()


def _after_fork() -> None:
    global _threads
    _threads = _DaemonThreads()  # the threads stayed in the other process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def call_in_daemon(function: Callable[[], _T], name: str) -> asyncio.Future[_T]:
    """Call a function that may never return on a daemon thread.

    Threads that it starts are daemons, too, so none keeps the process from ending.

    Returns:
        A future of the result. If the function raises a `BaseException` that is not an
        `Exception`, such as the panic of native code, the future raises a `RuntimeError` instead.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        set_outcome: Callable[[Any], None] = future.set_result
        outcome: Any
        try:
            outcome = function()
        except StopIteration as error:  # futures do not accept it
            set_outcome, outcome = future.set_exception, RuntimeError(repr(error))
        except Exception as error:
            set_outcome, outcome = future.set_exception, error
        except BaseException as error:
            set_outcome, outcome = future.set_exception, RuntimeError(repr(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, set_outcome, outcome)

    _threads.run(_Call(run, name, lambda error: settle(future.set_exception, error)))
    return future
