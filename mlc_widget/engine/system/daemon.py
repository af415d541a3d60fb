"""Calls that may never return, on daemon threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


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
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, set_outcome, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
