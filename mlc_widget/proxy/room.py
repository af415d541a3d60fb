"""A bounded number of requests at a time; others wait in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Room(Generic[_T]):
    """Has so many places. On one event loop.

    Args:
        places: How many there are.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._present: set[_T] = set()
        self._waiting: OrderedDict[_T, asyncio.Future[None]] = OrderedDict()

    async def enter(self, one: _T) -> None:
        """Wait for a place, which is kept until `leave`. Call that also if this is cancelled."""
        if len(self._present) < self._places:
            self._present.add(one)
            return
        waiter = self._waiting[one] = asyncio.get_running_loop().create_future()
        await waiter

    def let_in(self, one: _T) -> None:
        """Let one that waits go on, even if there is no place; ignored if it does not wait."""
        waiter = self._waiting.pop(one, None)
        if waiter is not None:
            self._present.add(one)
            if not waiter.done():
                waiter.set_result(None)

    def leave(self, one: _T) -> None:
        """Give up a place, or the wait for one. Idempotent."""
        self._waiting.pop(one, None)
        self._present.discard(one)
        while self._waiting and len(self._present) < self._places:
            self.let_in(next(iter(self._waiting)))
