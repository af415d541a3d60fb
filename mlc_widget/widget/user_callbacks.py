"""Runs the user's callbacks on the user's loop or a thread of their own, never on ours."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

_log = logging.getLogger(__name__)
_Call: TypeAlias = tuple[contextvars.Context, Callable[..., Any], tuple[Any, ...]]


class UserCallbacks:
    """Calls functions in order, on the event loop that was running when this was made.

    In a notebook that is the kernel's loop, so callbacks wait for the running cell. Without a loop,
    or after it was closed, a daemon thread calls them. Exceptions are logged.
    """

    def __init__(self) -> None:
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._guard = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._draining = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def call(
        self, function: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> None:
        """Schedule a call, from any thread; the result of a coroutine function is awaited.

        Args:
            function: The function.
            args: Its arguments.
            context: The context variables for the call; they decide to which cell it prints.
        """
        call = (context or contextvars.Context(), function, args)
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._carry_out, call)
                return
            except RuntimeError:  # its loop is closed
                self._loop = None
        with self._guard:
            self._waiting.append(call)
            if self._draining:
                return
            self._draining = True
        threading.Thread(target=self._drain, name="mlc_widget callbacks", daemon=True).start()

    def _carry_out(self, call: _Call) -> None:
        context, function, args = call
        context = context.copy()
        try:
            result = context.run(function, *args)
        except Exception:
            _log.exception("a callback failed: %r", function)
            return
        if inspect.isawaitable(result):
            guarded = _guarded(result, function)
            task = asyncio.get_running_loop().create_task(guarded, context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _drain(self) -> None:
        while True:
            with self._guard:
                if not self._waiting:
                    self._draining = False
                    return
                context, function, args = self._waiting.popleft()
            try:
                result = context.copy().run(function, *args)
                if inspect.isawaitable(result):
                    asyncio.run(_guarded(result, function))
            except Exception:
                _log.exception("a callback failed: %r", function)


async def _guarded(result: Any, function: Callable[..., Any]) -> None:
    try:
        await result
    except Exception:
        _log.exception("a callback failed: %r", function)
