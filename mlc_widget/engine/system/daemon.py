"""Calls that may never return, on daemon threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

_T = TypeVar("_T")

_IDLE: Final = 4
"""Threads that wait for further calls: to start one takes longer than most calls."""

_Calls: TypeAlias = SimpleQueue[tuple[str, Callable[[], None]]]

_idle: list[_Calls] = []
"""Of each thread that waits. Appending and popping are atomic."""


def _run(name: str, call: Callable[[], None]) -> None:
    """Make a call, which never raises, on a thread that waits, or on a new one of that name."""
    try:
        calls = _idle.pop()
    except IndexError:
        calls = SimpleQueue()
        threading.Thread(target=_work, args=(calls,), name=name, daemon=True).start()
    calls.put((name, call))


def _work(calls: _Calls) -> None:
    while True:
        threading.current_thread().name, call = calls.get()
        contextvars.Context().run(call)
        del call  # it may hold a request's text
        if len(_idle) >= _IDLE:
            return
        _idle.append(calls)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # the threads stayed in the other process


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

    _run(name, run)
    return future
