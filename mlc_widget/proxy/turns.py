"""Which requests may be at a worker together: one that may have killed others is there alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Who is at the worker, on one event loop. Any number at a time, or one suspect.

    A suspect waits until everyone else has gone. Suspects go one after another, before any others.
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
            one: Who.
            suspect: Whether it may be there only alone.
            at_once: Whether it need not wait any more; asked again after `reconsider`.
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
        """It is done at the worker, or has no worker any more. Idempotent."""
        if self._present.pop(one, None) is not None:
            self.reconsider()

    def reconsider(self) -> None:
        """Something changed for those who wait."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
