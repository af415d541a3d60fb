"""Limits how often a function is called, without losing the last call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Throttle:
    """Calls `function` at once when poked, and at most once per `interval_s` after that.

    Belongs to one event loop's thread.
    """

    def __init__(self, function: Callable[[], object], interval_s: float) -> None:
        self._function = function
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None
        self._poked = False

    def poke(self) -> None:
        """Request a call."""
        self._poked = True
        if self._timer is None:
            self._fire()

    def flush(self) -> None:
        """Make the requested call now, if there is one."""
        self.cancel()
        if self._poked:
            self._poked = False
            self._function()

    def cancel(self) -> None:
        """Stop the timer; a requested call stays due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if not self._poked:
            return
        self._poked = False
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._fire)
        self._function()
