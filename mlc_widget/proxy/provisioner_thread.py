"""A thread for a kernel provisioner, whose calls may block while they wait for another machine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


class ProvisionerThread:
    """Makes calls on an event loop of its own, one thread per worker.

    On the home loop, an ``ssh`` that waits for a host that is down would hold all engines.
    """

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()
        threading.Thread(target=self._serve, name="mlc_widget-provisioner", daemon=True).start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)  # whoever waits for one is told
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    def submit(self, call: Callable[[], Awaitable[_T]]) -> concurrent.futures.Future[_T]:
        """Make a call there."""

        async def made() -> _T:
            return await call()

        return asyncio.run_coroutine_threadsafe(made(), self._loop)

    async def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call there, and wait for it here; cancelling the wait cancels it."""
        return await asyncio.wrap_future(self.submit(call))

    def close(self) -> None:
        """End the thread after the step it is at; calls that wait are cancelled. Idempotent.

        Nothing can be run after that.
        """
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._loop.stop)
