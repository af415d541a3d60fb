"""Threads that may hang or die: ours around mlc_llm's calls, and mlc_llm's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def call_in_daemon(function: Callable[[], _T], name: str) -> asyncio.Future[_T]:
    """Call a function that may never return on a daemon thread.

    Threads inherit that: those which mlc_llm's constructor starts on it do not keep the process
    from ending, as they otherwise would.
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
        except Exception as error:
            set_outcome, outcome = future.set_exception, error
        except BaseException as error:  # an exit is not for the loop to take
            set_outcome, outcome = future.set_exception, RuntimeError(repr(error))
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, set_outcome, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class ThreadDeaths:
    """Remembers which threads, born after it was made, died of which exception.

    mlc_llm's threads have no one to tell. It hooks in before the hook that is there.
    """

    def __init__(self) -> None:
        self._before = frozenset(threading.enumerate())
        self._deaths: list[tuple[threading.Thread, BaseException | None]] = []
        self._previous = threading.excepthook
        threading.excepthook = self._hook

    def _hook(self, args: threading.ExceptHookArgs) -> None:
        if args.thread is not None and args.thread not in self._before:
            self._deaths.append((args.thread, args.exc_value))
        self._previous(args)

    def born(self) -> list[threading.Thread]:
        """Threads that are alive now and were not there before."""
        return [t for t in threading.enumerate() if t not in self._before]

    def first(self) -> BaseException | None:
        """What the first of them died of, if one has died."""
        return next((error for _, error in self._deaths), None)

    def of(self, thread: threading.Thread) -> BaseException | None:
        """What a thread died of, if it is known."""
        return next((error for dead, error in self._deaths if dead is thread), None)

    def close(self) -> None:
        """Stop listening."""
        if threading.excepthook == self._hook:
            threading.excepthook = self._previous
