"""Which requests may run at the same time: one that may have killed workers runs alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Lets any number of requests run at a time, or one suspect. On one event loop.

    A suspect waits until all others have left. Suspects run one after another, before any others.
    """

    def __init__(self) -> None:
        self._present: dict[_T, bool] = {}  # whether it is a suspect
        self._suspects: list[_T] = []  # those that wait, in order
        self._waiters: set[asyncio.Future[None]] = set()

    async def enter(
        self, one: _T, *, suspect: bool, at_once: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait for a turn, which lasts until `leave`.

        Args:
            one: The request.
            suspect: Whether it must run alone.
            at_once: Whether it no longer needs to wait; called again after `reconsider`.
        """
        if one in self._present:
            return
        if suspect:
            self._suspects.append(one)
        try:
            while not (at_once() or self._may(one, suspect)):
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)
            self._present[one] = suspect
        finally:
            if suspect:
                self._suspects.remove(one)
                self.reconsider()

    def _may(self, one: _T, suspect: bool) -> bool:
        if suspect:
            return not self._present and self._suspects[0] is one
        return not self._suspects and not any(self._present.values())

    def leave(self, one: _T) -> None:
        """End a turn: the request is done at the worker, or the worker has died. Idempotent."""
        if self._present.pop(one, None) is not None:
            self.reconsider()

    def reconsider(self) -> None:
        """Have all that wait check their `at_once` again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
